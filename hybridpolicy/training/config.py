"""What a training run is: dataset sources, stages, and the run around them. Checked once, never mutated.

A variant of a recipe is `dataclasses.replace(recipe(), ...)`, which checks again.
"""

import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import draccus
from lerobot.configs.policies import PreTrainedConfig

from hybridpolicy.errors import CheckpointError, ConfigurationError, allowed

RECIPE_FILE = "train_recipe.json"
DROPPABLE = ("action", "observation.state", "task")
OUTCOMES = ("", "demonstrations", "recorded")
PRECISIONS = ("fp32", "bf16")
TARGET_MODES = ("independent", "same", "none")


def _check(where: str, name: str, value: object, ok: bool, rule: str) -> None:
    if not ok:
        raise ConfigurationError(f"{where}: {name} = {value!r}; {rule}")


def _check_choice(where: str, name: str, value: str, choices: Sequence[str]) -> None:
    _check(where, name, value, value in choices, allowed(value, choices))


def _is_count(value: object, minimum: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _is_between(value: float, low: float, high: float) -> bool:
    return math.isfinite(value) and low <= value <= high


@dataclass(frozen=True)
class DatasetSource:
    """One LeRobotDataset v3, and what is read of it.

    root: folder of the dataset; empty to take `repo_id` from the hub.
    weight: chance of a micro-batch to come from here, relative to the other sources of the stage.
    drop: columns treated as not recorded, any but pictures; ("action", "observation.state", "task") makes it
        action-free video.
    cameras: observation keys to read; empty reads every camera the policy has.
    episodes: episodes to sample from; empty samples from all.
    onset_share: share of samples drawn from the first `onset_frames` frames of an episode, where the arm does
        not yet give away what was asked. Drawn evenly, those frames are rare, and a policy learns to read the
        arm's heading instead of the instruction.
    outcomes: what is known of how episodes ended, for the outcome heads. "demonstrations": all in success,
        and nothing of risk; "recorded": by the columns next.success and outcome.event; empty: nothing.
    imitate: False where the actions are not what to do, as of failed tries and of play: what was
        done is then shown to the world prior and to the outcome heads, and inferred from what followed.
    frame_weights: a .npy file, one number of 0 or more for each frame of the dataset, which are drawn in
        proportion. Computed once, before training (`training.advantage`). None draws evenly.
    """

    root: str
    repo_id: str | None = None
    weight: float = 1.0
    drop: tuple[str, ...] = ()
    embodiment: str = "arm"
    cameras: tuple[str, ...] = ()
    episodes: tuple[int, ...] = ()
    onset_share: float = 0.0
    onset_frames: int = 3
    outcomes: str = ""
    frame_weights: str | None = None
    imitate: bool = True

    def __post_init__(self) -> None:
        where = f"dataset source {self.root or self.repo_id!r}"
        _check(
            where,
            "root",
            self.root,
            bool(self.root or self.repo_id),
            "give a folder, or a repo_id of the hub",
        )
        ok = math.isfinite(self.weight) and self.weight > 0
        _check(where, "weight", self.weight, ok, "must be above 0; leave the source out to switch it off")
        for column in self.drop:
            if not column.startswith("observation.") or column.startswith("observation.image"):
                _check_choice(where, "drop", column, DROPPABLE)
        _check(where, "onset_share", self.onset_share, _is_between(self.onset_share, 0, 1), "allowed 0 … 1")
        _check_choice(where, "outcomes", self.outcomes, OUTCOMES)
        _check(where, "onset_frames", self.onset_frames, _is_count(self.onset_frames), "must be 1 or more")


@dataclass(frozen=True)
class StageConfig:
    """A stretch of training with its own sources and learning rate.

    samples, batch_size: counted over all processes together.
    trunk_lr_scale: multiplies the learning rate of parameter groups named "trunk".
    warmup_fraction: share of the stage in which the learning rate rises; a cosine to 0 follows.
    max_minutes: ends the stage early. The schedule then follows whichever is further, samples or time, so
        the run is no longer a function of the seed alone; None keeps it deterministic.
    """

    name: str
    samples: int
    batch_size: int
    lr: float
    sources: list[DatasetSource]
    trunk_lr_scale: float = 1.0
    warmup_fraction: float = 0.05
    weight_decay: float = 1e-2
    grad_clip: float = 1.0
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        where = f"stage {self.name!r}"
        for name in ("samples", "batch_size"):
            _check(where, name, getattr(self, name), _is_count(getattr(self, name)), "must be 1 or more")
        _check(where, "lr", self.lr, self.lr > 0 and math.isfinite(self.lr), "must be above 0, e.g. 1e-3")
        _check(where, "sources", self.sources, bool(self.sources), "give at least one DatasetSource")
        ok = _is_between(self.trunk_lr_scale, 0, 100)
        _check(where, "trunk_lr_scale", self.trunk_lr_scale, ok, "allowed 0 … 100")
        ok = _is_between(self.warmup_fraction, 0, 1)
        _check(where, "warmup_fraction", self.warmup_fraction, ok, "allowed 0 … 1")
        _check(
            where, "weight_decay", self.weight_decay, _is_between(self.weight_decay, 0, 10), "allowed 0 … 10"
        )
        _check(where, "grad_clip", self.grad_clip, self.grad_clip > 0, "must be above 0")
        ok = self.max_minutes is None or self.max_minutes > 0
        _check(where, "max_minutes", self.max_minutes, ok, "must be above 0, or null for no limit")

    @property
    def num_steps(self) -> int:
        """Optimizer steps that see at least `samples` samples."""
        return math.ceil(self.samples / self.batch_size)


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of training images; all zero switches it off.

    brightness, contrast, saturation: half width of a factor around 1, drawn per sample and view, in [0, 1).
    shift_px: largest shift in pixels along each axis, edges repeated.
    targets: future frames are changed "independent"ly of the context frame, the "same" way, or not ("none").
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    shift_px: int = 0
    targets: str = "independent"

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            _check("augmentation", name, value, 0 <= value < 1, "allowed 0 (off) … below 1")
        _check("augmentation", "shift_px", self.shift_px, _is_count(self.shift_px, 0), "must be 0 or more")
        _check_choice("augmentation", "targets", self.targets, TARGET_MODES)

    @property
    def enabled(self) -> bool:
        return max(self.brightness, self.contrast, self.saturation, self.shift_px) > 0


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run.

    ema_decay: of the averaged weights that are exported as the policy; 0 exports the last weights.
    save_every_samples: a checkpoint each time this many samples were seen, and one at the end of a stage.
    log_every: optimizer steps averaged into one line of metrics.jsonl.
    validate_every_samples: about how often the losses on the episodes a source leaves out are measured, into
        the next line; 0 never. A loss that falls while its held-out one rises is a scene learned by heart.
    keep_last: number of newest checkpoints kept on disk.
    """

    name: str
    policy: PreTrainedConfig
    stages: list[StageConfig]
    seed: int = 0
    output_dir: str = "outputs/train"
    precision: str = "fp32"
    save_every_samples: int = 50_000
    log_every: int = 50
    validate_every_samples: int = 20_000
    ema_decay: float = 0.999
    cache_dir: str = "outputs/cache"
    keep_last: int = 2
    adam_betas: tuple[float, float] = (0.9, 0.95)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def __post_init__(self) -> None:
        where = f"recipe {self.name!r}"
        _check(where, "stages", self.stages, bool(self.stages), "give at least one StageConfig")
        names = [stage.name for stage in self.stages]
        _check(where, "stages", names, len(set(names)) == len(names), "every stage needs its own name")
        _check(where, "seed", self.seed, _is_count(self.seed, 0), "must be 0 or more")
        _check_choice(where, "precision", self.precision, PRECISIONS)
        for name in ("save_every_samples", "log_every", "keep_last"):
            _check(where, name, getattr(self, name), _is_count(getattr(self, name)), "must be 1 or more")
        every = self.validate_every_samples
        _check(where, "validate_every_samples", every, _is_count(every, 0), "must be 0 (never) or more")
        _check(where, "ema_decay", self.ema_decay, 0 <= self.ema_decay < 1, "allowed 0 (off) … below 1")
        ok = len(self.adam_betas) == 2 and all(0 <= beta < 1 for beta in self.adam_betas)
        _check(where, "adam_betas", self.adam_betas, ok, "give two numbers in 0 … below 1")

    @property
    def total_samples(self) -> int:
        """Samples of all stages, each rounded up to whole batches."""
        return sum(stage.num_steps * stage.batch_size for stage in self.stages)


def encode_recipe(config: TrainConfig) -> dict[str, Any]:
    """The resolved configuration as plain JSON values."""
    encoded: dict[str, Any] = draccus.encode(config)
    return encoded


def save_recipe(config: TrainConfig, path: Path) -> None:
    """Writes the resolved configuration to `path` as JSON."""
    path.write_text(json.dumps(encode_recipe(config), indent=2) + "\n")


def load_recipe(path: Path) -> TrainConfig:
    """The configuration saved by `save_recipe`; `path` may be the file or a folder that holds it.

    Raises:
        CheckpointError: there is no such file, or it is not a recipe.
    """
    file = path / RECIPE_FILE if path.is_dir() else path
    importlib.import_module("hybridpolicy.configuration_hybrid")  # registers the policy type with draccus
    try:
        config: TrainConfig = draccus.decode(TrainConfig, json.loads(file.read_text()))
    except FileNotFoundError as error:
        raise CheckpointError(f"no recipe at {file}; give a checkpoint's pretrained_model folder") from error
    except (json.JSONDecodeError, draccus.utils.DecodingError) as error:
        raise CheckpointError(
            f"{file} is not a recipe of this version: {error}; train again, or fix it"
        ) from error
    return config
