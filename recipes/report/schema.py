"""The keys of a report, and the only way to write one.

A report is a plain dict, so that it survives JSON. Rates are in [0, 1], low and high are the ends of a 95 %
Wilson interval (`hybridpolicy.stats.wilson_interval`), times carry their unit in the key. What was not
measured is left out: no zero, no NaN, no null stands for it.
"""

# No `from __future__ import annotations`: on Python 3.12 it would hide NotRequired from __required_keys__.
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from hybridpolicy.files import write_whole
from recipes.report.bars import Bar, judge_bars
from recipes.report.checking import ReportError, missing_keys, plain, type_problems


class Rate(TypedDict):
    """A success rate in [0, 1] over `episodes`, with its Wilson interval."""

    rate: float
    low: float
    high: float
    episodes: int


class TaskRate(Rate):
    """`label` is what people read in place of the task's key."""

    label: NotRequired[str]


class Success(Rate):
    """Over all tasks, and for each; the episodes of the tasks add up."""

    by_task: dict[str, TaskRate]


class TwoStage(Rate):
    """The "… then …" instruction, which `success` does not count."""

    instruction: NotRequired[str]


class Language(TypedDict):
    """Does the instruction decide what happens?

    followed             share of episodes that do the task the *given* instruction names, when it was swapped
    swapped_success      share that still do the original task; `swapped_high` is its upper bound
    paraphrase_success   success on phrasings held out of training
    absent_motion        motion when the target is absent, in `absent_motion_unit`;
                         `present_motion` is the same measure when the target is there
    """

    followed: float
    swapped_success: float
    swapped_high: float
    paraphrase_success: float
    absent_motion: float
    followed_low: NotRequired[float]
    followed_high: NotRequired[float]
    swapped_low: NotRequired[float]
    paraphrase_low: NotRequired[float]
    paraphrase_high: NotRequired[float]
    present_motion: NotRequired[float]
    absent_motion_unit: NotRequired[str]
    swapped_episodes: NotRequired[int]
    paraphrase_episodes: NotRequired[int]
    absent_episodes: NotRequired[int]


class World(TypedDict):
    """How well the future is imagined.

    skill               1 − change-weighted error / error of copying the last latent; 0 is no better than that
    skill_by_offset     the same per future offset; keys are offsets in frames, as text: {"4": 0.41}
    probe_r2            R² of a linear probe from real latents to object positions
    probe_r2_imagined   the same probe on imagined latents
    rank                effective rank of the latents, of `width`
    fps                 frames a second, which turns the offsets into seconds
    """

    skill: float
    skill_by_offset: dict[str, float]
    probe_r2: float
    probe_r2_imagined: float
    rank: float
    width: NotRequired[int]
    fps: NotRequired[float]


class Stage2(TypedDict):
    """Trunk and action expert on demonstrations."""

    samples: NotRequired[int]
    seconds: NotRequired[float]


class Stage1(TypedDict):
    """The world prior; `share_not_demonstrations` in [0, 1] of its samples are other than demonstrations."""

    share_not_demonstrations: float
    samples: NotRequired[int]
    seconds: NotRequired[float]


class Percentiles(TypedDict):
    """As `hybridpolicy.stats.p50_p95` gives them."""

    p50: float
    p95: float


class Latency(TypedDict):
    """Milliseconds for one chunk, for each `imagine` the coupling offers."""

    never: NotRequired[Percentiles]
    always: NotRequired[Percentiles]


class Serial(Rate):
    """The policy over the arm's serial port, as `hybridpolicy arm run` drives it.

    rate_hz          of the control process; missed: of its `cycles`, those over half a period late
    late_p99_ms      how late the cycles began
    within_budget    success within the ticks that direct simulation allows; `rate` allows more time
    """

    rate_hz: float
    cycles: int
    missed: int
    late_p99_ms: float
    within_budget: float
    latency_ms: NotRequired[Percentiles]


class Throughput(TypedDict):
    """Samples a second of wall time."""

    samples_per_s: float


class LoaderThroughput(Throughput):
    """`lerobot_samples_per_s`: LeRobot's own loader on the same data in the same run."""

    lerobot_samples_per_s: NotRequired[float]


class Phase(TypedDict):
    """A part of the wall time, in the order it ran."""

    name: str
    seconds: float


class NextStep(TypedDict):
    """A command that the reader may copy."""

    title: str
    command: str


class Report(TypedDict):
    """Every key a report may have. Which of them one run must have is `required` of `write_report_json`."""

    recipe: NotRequired[str]
    title: NotRequired[str]
    wall_s: NotRequired[float]
    train_minutes: NotRequired[float]
    train_core_minutes: NotRequired[float]
    command: NotRequired[str]
    machine: NotRequired[str]
    git: NotRequired[str]
    seed: NotRequired[int]
    started: NotRequired[str]
    success: NotRequired[Success]
    two_stage: NotRequired[TwoStage]
    imagining: NotRequired[Rate]
    serial: NotRequired[Serial]
    language: NotRequired[Language]
    world: NotRequired[World]
    stage1: NotRequired[Stage1]
    stage2: NotRequired[Stage2]
    latency_ms: NotRequired[Latency]
    train: NotRequired[Throughput]
    loader: NotRequired[LoaderThroughput]
    params: NotRequired[int]
    peak_memory_mib: NotRequired[float]
    options: NotRequired[list[str]]
    phases: NotRequired[list[Phase]]
    bars: NotRequired[list[Bar]]
    next_steps: NotRequired[list[NextStep]]
    details: NotRequired[dict[str, Any]]


SUCCESS_KEYS = tuple(f"success.{key}" for key in ("rate", "low", "high", "episodes", "by_task"))
METAWORLD_KEYS = (*SUCCESS_KEYS, "train_minutes", "command")
QUICKSTART_KEYS = (
    "wall_s",
    *SUCCESS_KEYS,
    *(f"language.{key}" for key in sorted(Language.__required_keys__)),
    *(f"world.{key}" for key in sorted(World.__required_keys__)),
    "stage1.share_not_demonstrations",
    *(f"latency_ms.{imagine}.{point}" for imagine in ("never", "always") for point in ("p50", "p95")),
    "train.samples_per_s",
    "loader.samples_per_s",
    "params",
    "peak_memory_mib",
)
RESULT_KEYS = (*QUICKSTART_KEYS, "command", "machine", "git")  # what docs/results/*.json must say as well


def check_report(report: Mapping[str, Any], required: Sequence[str] = QUICKSTART_KEYS) -> dict[str, Any]:
    """`report` with plain Python numbers, ready for JSON.

    Raises:
        ReportError: a required key is missing; a key is unknown; a value has another type or is not finite;
            a rate is outside its interval; the episodes of the tasks do not add up; a bar's verdict is not
            what its numbers say. All problems of a kind are listed at once.
    """
    checked: dict[str, Any] = plain(report)
    missing = missing_keys(checked, required)
    if missing:
        raise ReportError(
            f"report: {len(missing)} of {len(required)} required keys are missing: {', '.join(missing)}. "
            "Measure them, or pass `required` without them."
        )
    problems = type_problems(checked, Report) or [*_rate_problems(checked), *_bar_problems(checked)]
    if problems:
        raise ReportError("report: " + "; ".join(problems))
    return checked


def write_report_json(
    path: str | os.PathLike[str], report: Mapping[str, Any], required: Sequence[str] = QUICKSTART_KEYS
) -> Path:
    """Path of the checked report, written whole or not at all. Raises as `check_report`."""
    text = json.dumps(check_report(report, required), indent=2, ensure_ascii=False, allow_nan=False)
    return write_whole(path, text + "\n")


def _rate_problems(report: dict[str, Any]) -> list[str]:
    success = report.get("success", {})
    rates = {f"success.by_task.{name}": rate for name, rate in success.get("by_task", {}).items()}
    rates |= {key: report[key] for key in ("success", "two_stage", "imagining", "serial") if key in report}
    problems = []
    for key, rate in rates.items():
        # Rounding to a few digits before writing must not be refused.
        if not -1e-3 <= rate["low"] - 1e-3 <= rate["rate"] <= rate["high"] + 1e-3 <= 1 + 2e-3:
            problems.append(
                f"{key} has rate {rate['rate']:g} in [{rate['low']:g}, {rate['high']:g}]; needed is "
                "0 ≤ low ≤ rate ≤ high ≤ 1, use hybridpolicy.stats.wilson_interval"
            )
    by_task = success.get("by_task", {})
    episodes = sum(rate["episodes"] for rate in by_task.values())
    if by_task and episodes != success["episodes"]:
        problems.append(
            f"success.episodes is {success['episodes']}, its tasks add up to {episodes}; "
            "count each episode once"
        )
    return problems


def _bar_problems(report: dict[str, Any]) -> list[str]:
    bars = report.get("bars", [])
    return [
        f"bars: {bar['key']} says {bar.get('value')}, passed {bar.get('passed')}, its numbers say "
        f"{judged.get('value')}, {judged['passed']}; make bars with judge_bars, last"
        for bar, judged in zip(bars, judge_bars(report, bars), strict=True)
        if (bar.get("value"), bar.get("passed")) != (judged.get("value"), judged["passed"])
    ]
