"""Eight Meta-World tasks from Meta-World's own scripted experts: one policy, 40 demonstrations a task."""

from pathlib import Path
from typing import Any

from embodiments.metaworld.env import EnvSettings
from embodiments.metaworld.recording import record_metaworld
from embodiments.metaworld.rendering import RenderSettings
from embodiments.metaworld.tasks import MT8
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.evaluation import evaluate_policy
from hybridpolicy.training.config import AugmentationConfig, DatasetSource, StageConfig, TrainConfig
from recipes.job import Phases, describe_run, train
from recipes.report.bars import METAWORLD_BARS, judge_bars
from recipes.report.html import write_report_html
from recipes.report.metrics import read_metrics
from recipes.report.schema import METAWORLD_KEYS, write_report_json

DEMONSTRATIONS, EPISODES = 40, 20  # a task
HELD_OUT = 1  # of these demonstrations, to measure on
NOISE = 0.4  # of the executed hand motion; the expert's own action is the label
VIEW = "workspace"  # the corner2 camera, cropped to where the tasks happen
EVALUATION_SEED = 1000


def recipe(root: str = "outputs/metaworld_mt8") -> TrainConfig:
    """One stage on demonstrations: the data is too small for a stage of its own on video."""
    # Recorded task by task; the last of each are only measured on.
    seen = [n for n in range(DEMONSTRATIONS * len(MT8)) if n % DEMONSTRATIONS < DEMONSTRATIONS - HELD_OUT]
    return TrainConfig(
        name="metaworld_mt8",
        policy=HybridConfig(
            device="cpu",
            embodiment="sawyer_metaworld",
            action_convention="absolute",
            coupling="joint",
            chunk_size=6,
            n_action_steps=1,
            rtc_max_delay=3,
            waypoint_weight=2.0,
            waypoint_offsets=[3, 6, 9, 12],
            world_offsets=[3, 6],
            tokens_per_view=8,
            num_keypoints=64,
        ),
        stages=[
            StageConfig(
                name="policy",
                samples=450_000,
                batch_size=32,
                lr=1e-3,
                sources=[
                    DatasetSource(f"{root}/data/mt8", embodiment="sawyer_metaworld", episodes=tuple(seen))
                ],
            )
        ],
        output_dir=f"{root}/train",
        cache_dir=f"{root}/cache",
        precision="bf16",
        save_every_samples=100_000,
        validate_every_samples=100_000,
        ema_decay=0.998,
        augmentation=AugmentationConfig(shift_px=1, brightness=0.1, contrast=0.1),
    )


def run(output: Path, *, seed: int = 0, progress: Any, config: TrainConfig | None = None) -> Path:
    """Records, trains and evaluates on layouts never trained on; returns the path of the report page."""
    config = config or recipe(str(output))
    phases, root = Phases(output / "phases.json"), Path(config.stages[-1].sources[0].root)
    settings = EnvSettings(RenderSettings(view=VIEW))
    with phases.phase("record", continues=True):
        if not (root / "meta" / "info.json").is_file():
            with progress("recording mt8", DEMONSTRATIONS * len(MT8), "episodes") as bar:
                record_metaworld(root, "mt8", DEMONSTRATIONS, seed=seed, settings=settings,
                                 action_noise=NOISE, progress=bar.update)  # fmt: skip
    with phases.phase("train", continues=True):
        summary = train(config)
    phases.at_least("train", summary.seconds)
    with phases.phase("evaluate"), progress("evaluating mt8", EPISODES * len(MT8), "episodes") as bar:
        result = evaluate_policy(str(summary.policy_path), "hybrid_metaworld", tasks=tuple(MT8),
                                 episodes=EPISODES * len(MT8), seed=EVALUATION_SEED, progress=bar.update,
                                 view=VIEW)  # fmt: skip
    report = {
        **result,
        **describe_run(config, summary),
        "title": "Eight Meta-World tasks, one policy",
        "command": "hybridpolicy train --recipe metaworld_mt8",
        "seed": seed,
        "wall_s": phases.wall_s,
        "phases": phases.seconds,
    }
    report["bars"] = judge_bars(report, METAWORLD_BARS)
    write_report_json(output / "report.json", report, METAWORLD_KEYS)
    return write_report_html(output / "report.html", report, metrics=read_metrics(summary.metrics))
