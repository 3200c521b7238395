"""Bars: promises about single numbers of a report, and whether they are kept."""

# No `from __future__ import annotations`: on Python 3.12 it would hide NotRequired from __required_keys__.
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from recipes.report.checking import ReportError, find


class Bar(TypedDict):
    """A promise about one number of the report, `key` being its dotted path; one of the two limits is given.

    `judge_bars` adds what was measured; `passed` is false when the number was not measured at all.
    """

    label: str
    key: str
    at_least: NotRequired[float]
    at_most: NotRequired[float]
    value: NotRequired[float]
    passed: NotRequired[bool]


def at_least(label: str, key: str, limit: float) -> Bar:
    """The promise that the number at `key` is `limit` or more."""
    return {"label": label, "key": key, "at_least": limit}


def at_most(label: str, key: str, limit: float) -> Bar:
    """The promise that the number at `key` is `limit` or less."""
    return {"label": label, "key": key, "at_most": limit}


_SUCCESS = "Success over all instructions"
_COMMON = (
    at_most("Success under a swapped instruction, upper bound", "language.swapped_high", 0.15),
    at_least("World skill over copying the last latent", "world.skill", 0.3),
    at_least("Object positions read from latents (R²)", "world.probe_r2", 0.5),
    at_least("Stage 1 samples other than demonstrations", "stage1.share_not_demonstrations", 0.5),
)
QUICKSTART_BARS = (
    at_most("Wall time, from a ready environment", "wall_s", 720.0),
    at_least(_SUCCESS, "success.rate", 0.85),
    *_COMMON,
)
TWIN_BARS = (at_least(_SUCCESS, "success.rate", 0.90), *_COMMON)
METAWORLD_BARS = (
    at_least("Mean success over the eight tasks", "success.rate", 0.70),
    at_most("Training time", "train_minutes", 40.0),
)


def judge_bars(report: Mapping[str, Any], bars: Sequence[Bar] = QUICKSTART_BARS) -> list[Bar]:
    """`bars` with `value` and `passed`, for `report["bars"]`; a bar whose number is absent is not passed.

    Raises:
        ReportError: a bar has no limit or both.
    """
    return [_judge(report, bar) for bar in bars]


def _judge(report: Mapping[str, Any], bar: Bar) -> Bar:
    limits = sorted({"at_least", "at_most"} & bar.keys())
    if len(limits) != 1:
        raise ReportError(f"bar {bar['key']!r} has limits {limits}; give one of at_least and at_most")
    result: Bar = {**bar, "passed": False}
    result.pop("value", None)
    value = find(report, bar["key"])
    if value is not None:
        result["value"] = value
        result["passed"] = bool(value >= bar["at_least"] if "at_least" in bar else value <= bar["at_most"])
    return result
