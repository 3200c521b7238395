"""The simulated SO-101 under moving light and cameras, without a privileged loss (over an hour)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from embodiments.so101.twin.variation import Variation
from hybridpolicy.training.config import TrainConfig
from recipes.report.bars import TWIN_BARS
from recipes.so101_quickstart import imitated, resized
from recipes.so101_quickstart import recipe as quickstart
from recipes.twin.job import Budget, run_job

BUDGET = Budget(
    demonstrations=6000, play=800, held_out=100, success=240, swapped=120, paraphrase=96, absent=48,
    two_stage=48, decoder_steps=1500,
)  # fmt: skip
VARIATION = Variation(num_colours=3, light_strength=0.6, camera_jitter=0.5)


def recipe(root: str = "outputs/so101_twin") -> TrainConfig:
    """The quickstart, longer, on harder scenes, and without the loss on simulated object positions."""
    config = quickstart(root)
    seen = BUDGET.demonstrations - BUDGET.held_out
    world, policy = config.stages
    return replace(
        config,
        name="so101_twin",
        policy=replace(
            config.policy,
            objects_weight=0.0,
            objects_count=0,
            text_dropout=0.03,
            state_dropout=0.03,
            camera_dropout=0.03,
            rtc_share=0.1,
            waypoint_weight=4.0,
            change_weight=24.0,
            change_offsets=[8, 16],
            world_share=0.4,
            world_weight=0.5,
        ),
        stages=[resized(world, 60_000, seen), resized(imitated(policy), 760_000, seen)],
        ema_decay=0.998,
    )


def run(output: Path, *, seed: int = 0, progress: Any, config: TrainConfig | None = None) -> Path:
    """Records, trains, evaluates and reports; returns the path of the page."""
    command = "hybridpolicy train --recipe so101_twin"
    return run_job(config or recipe(str(output)), output, BUDGET, VARIATION, seed=seed, progress=progress,
                   bars=TWIN_BARS, command=command)  # fmt: skip
