"""Rounds of collecting, judging and retraining on the simulated SO-101 (collect, heads, weights, plan)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from embodiments.so101.twin.variation import Variation
from hybridpolicy.training.config import TrainConfig
from recipes.so101_quickstart import recipe as quickstart
from recipes.so101_quickstart import resized
from recipes.twin.improvement import Improvement, run_improvement
from recipes.twin.job import Budget

BUDGET = Budget(
    demonstrations=320, play=100, held_out=20, success=0, swapped=0, paraphrase=0, absent=0, two_stage=0
)
PLAN = Improvement()


def recipe(root: str = "outputs/self_improvement") -> TrainConfig:
    """The quickstart on fewer demonstrations, with outcome heads, and actions that can be drawn K times."""
    config = quickstart(root)
    world, policy = config.stages
    demonstrated = [
        replace(source, outcomes="demonstrations") if source.imitate else source for source in policy.sources
    ]
    return replace(
        config,
        name="self_improvement",
        policy=replace(config.policy, action_law="flow", action_steps=4, outcome_weight=0.3),
        stages=[
            resized(world, 10_000, BUDGET.demonstrations - BUDGET.held_out),
            resized(replace(policy, sources=demonstrated), 96_000, BUDGET.demonstrations - BUDGET.held_out),
        ],
    )


def run(output: Path, *, seed: int = 0, progress: Any, config: TrainConfig | None = None) -> Path:
    """Runs all rounds; returns the path of improvement.json."""
    return run_improvement(
        config or recipe(str(output)), output, BUDGET, PLAN, Variation(), seed=seed, progress=progress
    )
