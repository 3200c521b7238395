"""The simulated SO-101 under moving light and cameras, without a privileged loss (about an hour)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from embodiments.so101.twin.variation import Variation
from hybridpolicy.training.config import AugmentationConfig, DatasetSource, TrainConfig
from recipes.report.bars import TWIN_BARS
from recipes.so101_quickstart import recipe as quickstart
from recipes.twin.job import Budget, run_job

BUDGET = Budget(
    demonstrations=1600, play=800, held_out=60, success=240, swapped=120, paraphrase=96, absent=48,
    two_stage=48, decoder_steps=1500,
)  # fmt: skip
VARIATION = Variation(num_colours=3, light_strength=0.6, camera_jitter=0.5)


def recipe(root: str = "outputs/so101_twin") -> TrainConfig:
    """The quickstart, longer, on harder scenes, and without the loss on simulated object positions."""
    config = quickstart(root)
    seen = tuple(range(BUDGET.demonstrations - BUDGET.held_out))
    world, policy = config.stages
    return replace(
        config,
        name="so101_twin",
        policy=replace(
            config.policy,
            objects_weight=0.0,
            objects_count=0,
            text_dropout=0.05,
            state_dropout=0.05,
            camera_dropout=0.05,
            rtc_share=0.1,
            waypoint_weight=4.0,
        ),
        stages=[
            replace(world, samples=80_000, sources=[_with_episodes(s, seen) for s in world.sources]),
            replace(policy, samples=800_000, sources=[_policy_source(s, seen) for s in policy.sources]),
        ],
        ema_decay=0.998,
        augmentation=AugmentationConfig(brightness=0.2, contrast=0.2, saturation=0.1),
    )


def _with_episodes(source: DatasetSource, seen: tuple[int, ...]) -> DatasetSource:
    return replace(source, episodes=seen) if source.episodes else source


def _policy_source(source: DatasetSource, seen: tuple[int, ...]) -> DatasetSource:
    """More of the moments of decision than with a privileged loss: they alone teach which block is meant."""
    return replace(_with_episodes(source, seen), onset_share=0.5)


def run(output: Path, *, seed: int = 0, progress: Any, config: TrainConfig | None = None) -> Path:
    """Records, trains, evaluates and reports; returns the path of the page."""
    command = "hybridpolicy train --recipe so101_twin"
    return run_job(config or recipe(str(output)), output, BUDGET, VARIATION, seed=seed, progress=progress,
                   bars=TWIN_BARS, command=command)  # fmt: skip
