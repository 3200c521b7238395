"""The same scenes in direct simulation and over the serial bus: what the wire, the servos and time cost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from embodiments.so101.twin.scenario import draw_scenarios
from embodiments.so101.twin.variation import Variation
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.stats import paired_rates
from recipes.arm.deploy import Deployment, deploy_on_twin
from recipes.arm.view import View
from recipes.job import git_revision, machine
from recipes.twin import suites


def compare_on_twin(
    policy: str | Path,
    episodes: int,
    seed: int,
    *,
    imagine: str | None,
    rate_hz: float,
    error_deg: float,
    view: View,
    progress: Any,
    command: str = "",
) -> dict[str, Any]:
    """Both sides, each success with its Wilson interval, and serial − direct with its paired interval.

    The serial side is counted twice: within the ticks direct simulation allows, and within a longer time; a
    real arm's limits make it slower, which the first counts and the second does not. progress: factory of
    progress bars, as `recipes.commands.progress.progress`.
    """
    scenarios = draw_scenarios(episodes, seed, suites.FAMILIES, Variation())
    actor = Actor.load(policy, imagine)
    with progress("direct simulation", episodes, "episodes") as bar:
        played = suites.play(actor, scenarios, progress=bar.update)
    weights = actor.policy.base_hash()
    del actor  # two cores: the direct side leaves before the arm moves
    started = time.perf_counter()
    deployed = deploy_on_twin(
        policy,
        episodes,
        seed,
        imagine=imagine,
        rate_hz=rate_hz,
        error_deg=error_deg,
        keep_frames=False,
        view=view,
    )
    return {
        "policy": {"path": str(policy), "base": weights},
        "seed": seed,
        **_sides(played, deployed),
        "serial_s": time.perf_counter() - started,
        "machine": machine(),
        "git": git_revision(),
        "command": command,
    }


def _sides(played: list[suites.Played], deployed: Deployment) -> dict[str, Any]:
    """Both successes, their differences, and every pair."""
    episodes = deployed.run.episodes
    direct = [one.success[0] for one in played]
    budget = deployed.figures["success_within_budget"]["budget_ticks"]
    return {
        "episodes": len(episodes),
        "direct": suites.rate(direct) | {"mean_ticks": _mean([p.steps for p in played if p.success[0]])},
        "serial": deployed.figures,
        "difference": _difference([e.success for e in episodes], direct),
        "difference_within_budget": _difference([e.success and e.ticks <= budget for e in episodes], direct),
        "pairs": [
            {
                "seed": scenario.seed,
                "family": scenario.family,
                "direct": one.success[0],
                "serial": other.success,
                "direct_ticks": one.steps,
                "serial_ticks": other.ticks,
            }
            for scenario, one, other in zip(deployed.scenarios, played, episodes, strict=True)
        ],
    }


def _difference(serial: list[bool], direct: list[bool]) -> dict[str, float]:
    """serial − direct over the same scenes."""
    found = paired_rates(serial, direct)
    return {"value": found.value, "low": found.low, "high": found.high}


def _mean(values: list[int]) -> float | None:
    return sum(values) / len(values) if values else None
