"""Study: does stage 1 give the policy its eyes? With and without it, with and without a privileged loss."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from embodiments.so101.twin.variation import Variation
from hybridpolicy.training.config import TrainConfig
from recipes.so101_quickstart import BUDGET as QUICKSTART
from recipes.so101_quickstart import imitated, resized
from recipes.so101_quickstart import recipe as quickstart
from recipes.twin.study import Variant, check_base, run_study

SEEDS = (0, 1, 2)
# So many that no scene is seen often enough to be learned by heart.
BUDGET = replace(QUICKSTART, demonstrations=3000, held_out=60)
SAMPLES, SHARE = 80_000, 0.25  # of a cell; and the share of stage 1, where there is one
COMMAND = "hybridpolicy train --recipe stage1_study"


def recipe(root: str = "outputs/stage1_study") -> TrainConfig:
    """The quickstart's data and sizes, tuned for learning without a privileged loss, as `so101_twin` is."""
    config = quickstart(root)
    seen, prior = BUDGET.demonstrations - BUDGET.held_out, round(SAMPLES * SHARE)
    world, policy = config.stages
    return replace(
        config,
        name="stage1_study",
        policy=replace(
            config.policy,
            waypoint_weight=4.0,
            change_weight=24.0,
            change_offsets=[8, 16],
            world_share=0.4,
            world_weight=0.5,
        ),
        stages=[resized(world, prior, seen), resized(imitated(policy), SAMPLES - prior, seen)],
    )


def variants(config: TrainConfig) -> list[Variant]:
    """The four cells. Without stage 1, its samples are demonstrations too: every cell sees equally many.

    Raises:
        ConfigurationError: `config` sets the privileged loss or other stages.
    """
    check_base(config, recipe(), ("objects_weight", "objects_count"))
    world, policy = config.stages
    stages = {
        "with": [world, policy],
        "without": [replace(policy, samples=world.samples + policy.samples)],
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
