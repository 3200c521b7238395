"""Record, train in two stages and evaluate the simulated SO-101 on two cores in twelve minutes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from embodiments.so101.twin.language import LEXICON
from embodiments.so101.twin.variation import Variation
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.training.config import AugmentationConfig, DatasetSource, StageConfig, TrainConfig
from recipes.twin.job import Budget, run_job

BUDGET = Budget(
    demonstrations=1000, play=400, held_out=40,
    success=96, swapped=96, paraphrase=48, absent=24, two_stage=24, serial=2,
)  # fmt: skip
ACTION_FREE = ("action", "observation.state", "task")


def recipe(root: str = "outputs/quickstart") -> TrainConfig:
    """World prior on action-free video, then trunk and expert on demonstrations."""
    demonstrations, play = f"{root}/data/demonstrations", f"{root}/data/play"
    seen = tuple(range(BUDGET.demonstrations - BUDGET.held_out))
    taught = DatasetSource(demonstrations, weight=0.9, embodiment="so101", episodes=seen, onset_share=0.4)
    return TrainConfig(
        name="so101_quickstart",
        policy=HybridConfig(
            device="cpu",
            embodiment="so101",
            fps=10.0,
            action_convention="relative",
            coupling="joint",
            chunk_size=8,
            n_action_steps=2,
            world_offsets=[4, 8],
            lexicon=[*LEXICON, ","],
            world_share=0.5,
            world_weight=0.75,
            text_dropout=0.02,  # in ten minutes every sample counts
            state_dropout=0.02,
            camera_dropout=0.02,
            rtc_share=0.05,
            waypoint_weight=1.5,
            waypoint_offsets=[4, 8, 12, 16, 20],
            objects_weight=1.0,
            objects_count=4,
        ),
        stages=[
            StageConfig(
                name="world",
                samples=20_000,
                batch_size=32,
                lr=1e-3,
                sources=[
                    DatasetSource(play, weight=0.6, drop=ACTION_FREE, embodiment="so101"),
                    DatasetSource(
                        demonstrations, weight=0.4, drop=ACTION_FREE, embodiment="so101", episodes=seen
                    ),
                ],
            ),
            StageConfig(
                name="policy",
                samples=126_000,
                batch_size=32,
                lr=1e-3,
                sources=[
                    taught,
                    # Aimless, so that what follows depends on what is done and not on what was asked.
                    DatasetSource(play, weight=0.1, drop=("task",), embodiment="so101", imitate=False),
                ],
            ),
        ],
        output_dir=f"{root}/train",
        cache_dir=f"{root}/cache",
        precision="bf16",
        save_every_samples=60_000,
        ema_decay=0.995,
        augmentation=AugmentationConfig(brightness=0.1, contrast=0.1),
    )


def imitated(stage: StageConfig) -> StageConfig:
    """`stage` with what is to be imitated alone; shares add up to 1."""
    kept = [source for source in stage.sources if source.imitate]
    whole = sum(source.weight for source in kept)
    return replace(stage, sources=[replace(source, weight=source.weight / whole) for source in kept])


def resized(stage: StageConfig, samples: int, demonstrations: int) -> StageConfig:
    """`stage` with as many samples, of the first `demonstrations` episodes where it takes a part of them."""
    seen = tuple(range(demonstrations))
    sources = [replace(source, episodes=seen) if source.episodes else source for source in stage.sources]
    return replace(stage, samples=samples, sources=sources)


def run(output: Path, *, seed: int = 0, progress: Any, config: TrainConfig | None = None) -> Path:
    """Records, trains, evaluates and reports; returns the path of the page."""
    return run_job(config or recipe(str(output)), output, BUDGET, Variation(), seed=seed, progress=progress)
