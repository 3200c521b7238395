"""Study: does stage 1 give the policy its eyes? With and without it, with and without a privileged loss."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from embodiments.so101.twin.variation import Variation
from hybridpolicy.training.config import TrainConfig
from recipes.so101_quickstart import BUDGET
from recipes.so101_quickstart import recipe as quickstart
from recipes.twin.study import Variant, run_study

SEEDS = (0, 1, 2)
SHARE = 0.25  # of all samples, where there is a stage 1
COMMAND = "hybridpolicy train --recipe stage1_study"


def recipe(root: str = "outputs/stage1_study") -> TrainConfig:
    """The quickstart's data, policy and samples; the study's variants are changes of it."""
    return replace(quickstart(root), name="stage1_study")


def variants(config: TrainConfig) -> list[Variant]:
    """The four cells. Without stage 1, its samples are demonstrations too: every cell sees equally many."""
    world, policy = config.stages
    total = world.samples + policy.samples
    first = round(total * SHARE)
    stages = {
        "with": [replace(world, samples=first), replace(policy, samples=total - first)],
        "without": [replace(policy, samples=total)],
    }
    losses = {
        "with": replace(config.policy, objects_weight=1.0, objects_count=4),
        "without": replace(config.policy, objects_weight=0.0, objects_count=0),
    }
    return [
        Variant({"stage1": stage1, "privileged": privileged},
                replace(config, stages=stages[stage1], policy=losses[privileged]))
        for stage1 in stages
        for privileged in losses
    ]  # fmt: skip


def run(output: Path, *, seed: int = 0, progress: Any, config: TrainConfig | None = None) -> Path:
    """Trains and evaluates all cells, `SEEDS` counted from `seed`; returns the path of study.json."""
    return run_study(
        "Does stage 1 give the policy its eyes?",
        COMMAND,
        variants(config or recipe(str(output))),
        [seed + each for each in SEEDS],
        output,
        BUDGET,
        Variation(),
        progress,
    )
