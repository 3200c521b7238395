"""A trained policy on the simulated arm, over its serial port, judged by the arm's own table."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embodiments.so101.serial_twin.client import TwinProcess
from embodiments.so101.twin.scenario import MAX_STEPS, Scenario, draw_scenarios
from embodiments.so101.twin.variation import Variation
from hybridpolicy.stats import p50_p95, wilson_interval
from recipes.arm.judge import TableJudge
from recipes.arm.launch import RunResult, run_policy, with_start
from recipes.arm.session import EpisodeResult
from recipes.arm.setup import RunSettings
from recipes.arm.view import PlainView, View
from recipes.report.media import EpisodeClip
from recipes.twin.suites import FAMILIES, SEED, task_label

LONGEST_S = 10.0  # two and a half times what direct simulation allows: slower is told apart from never
TICKS_PER_S = 10


@dataclass
class Deployment:
    """What a policy did over the bus: figures for a report, and its episodes with their scenes."""

    figures: dict[str, Any]
    scenarios: list[Scenario]
    run: RunResult

    def clips(self, fps: float) -> list[EpisodeClip]:
        """The episodes whose pictures were kept."""
        shown = zip(self.scenarios, self.run.episodes, strict=True)
        return [_clip(scenario, episode, fps) for scenario, episode in shown if episode.frames]


def deploy_on_twin(
    policy: str | Path,
    episodes: int = 2,
    seed: int = SEED,
    *,
    variation: Variation | None = None,
    imagine: str | None = None,
    rate_hz: float = 100.0,
    error_deg: float = 0.0,
    record: Path | None = None,
    keep_frames: bool = True,
    duration_s: float = LONGEST_S,
    view: View | None = None,
) -> Deployment:
    """Starts a simulated arm, plays `episodes` held-out scenes on it and ends it again.

    seed: of the first scene; the others follow, families in turn, as `suites.draw_suites`. error_deg: how
    badly the arm's owner calibrated it; 0 is the arm of the recordings. duration_s: of an episode. A fault
    of the arm, as when it presses on the table, costs its episode and stands there as its reason.
    """
    scenarios = draw_scenarios(episodes, seed, FAMILIES, variation)
    folder = Path(tempfile.mkdtemp(prefix="hybridpolicy-arm-"))
    try:
        with TwinProcess(folder / "so101", seed=seed, error_deg=error_deg) as twin:
            settings = RunSettings(
                port=twin.port,
                policy=str(policy),
                robot_id=str(twin.info["id"]),
                rate_hz=rate_hz,
                imagine=imagine,
                episodes=episodes,
                duration_s=duration_s,
                record=record,
            )
            run = run_policy(
                with_start(settings),
                view or PlainView(quiet=True),
                judge=TableJudge(twin, scenarios),
                consent=None,
                keep_frames=keep_frames,
                clear_faults=True,
            )
            bus = twin.ask("status")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures = figures_of(run) | {
        "rate_hz": rate_hz,
        "error_deg": error_deg,
        "twin_scheduling": bus["scheduling"],
    }
    return Deployment(figures, scenarios, run)


def figures_of(run: RunResult) -> dict[str, Any]:
    """Success with its interval, within the direct budget and in all; latency, deadlines, pauses."""
    episodes = run.episodes
    assert run.last_state is not None
    counters = run.last_state.counters
    within = [episode.success and episode.ticks <= MAX_STEPS for episode in episodes]
    seconds = [e.ticks / TICKS_PER_S for e in episodes if e.success]
    latencies = np.array([ms for episode in episodes for ms in episode.latencies_ms])
    return {
        "success": _rate([episode.success for episode in episodes]),
        "success_within_budget": _rate(within) | {"budget_ticks": MAX_STEPS},
        "seconds_to_success": float(np.mean(seconds)) if seconds else None,
        "episodes": [
            {
                "task": episode.task,
                "success": episode.success,
                "ticks": episode.ticks,
                "reason": episode.reason,
                "plans": episode.plans,
                "pauses": [{"why": why, "seconds": seconds} for why, seconds in episode.pauses],
            }
            for episode in episodes
        ],
        "latency_ms": p50_p95(latencies) if len(latencies) else None,
        "cycles": run.last_state.cycle,
        "missed": counters.missed,
        "late_p99_ms": counters.late_p99_us / 1e3,
        "late_max_ms": counters.late_max_us / 1e3,
        "clamped": counters.clamped,
        "slowed": counters.slowed,
        "rejected": counters.rejected,
        "lost_replies": counters.lost_replies,
    }


def _rate(outcomes: Sequence[bool]) -> dict[str, Any]:
    interval = wilson_interval(sum(outcomes), len(outcomes))
    return {"rate": interval.value, "low": interval.low, "high": interval.high, "episodes": len(outcomes)}


def _clip(scenario: Scenario, episode: EpisodeResult, fps: float) -> EpisodeClip:
    cameras = {name: np.stack(pictures) for name, pictures in episode.frames.items()}
    outcome = "success" if episode.success else episode.reason
    return EpisodeClip(
        f"{task_label(scenario.task)} (serial port)",
        episode.task,
        episode.success,
        episode.ticks,
        cameras,
        fps,
        outcome,
    )
