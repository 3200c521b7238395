"""How fast batches arrive: this project's loader against LeRobot's own, on the same data and windows."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lerobot.datasets import LeRobotDataset

from hybridpolicy.training.config import AugmentationConfig, DatasetSource
from hybridpolicy.training.loader import BatchPlan, MixtureLoader, Window, open_readers


@dataclass(frozen=True)
class LoaderMeasurement:
    """Samples per second of both loaders, one process without workers, and what was asked of them."""

    samples_per_s: float
    lerobot_samples_per_s: float
    batch_size: int
    num_cameras: int
    num_observation_frames: int
    num_actions: int
    build_s: float

    @property
    def ratio(self) -> float:
        return self.samples_per_s / self.lerobot_samples_per_s


def measure_loader(
    source: DatasetSource,
    window: Window,
    cache_dir: Path,
    *,
    batch_size: int = 64,
    budget_s: float = 4.0,
    image_size: tuple[int, int] | None = None,
    augmentation: AugmentationConfig | None = None,
) -> LoaderMeasurement:
    """Both loaders for at most about `budget_s` seconds each, after one batch of warming up.

    LeRobot's has no workers, random order, uint8 images and the pyav backend; its future frames are those of
    `window`. build_s is the one-off time to open (and, the first time, to decode) the frame cache.

    Raises:
        DatasetError, CacheError: see `open_readers`.
    """
    started = time.perf_counter()
    readers = open_readers([source], window, cache_dir, image_size=image_size)
    build_s = time.perf_counter() - started
    plan = BatchPlan(window, batch_size, augmentation=augmentation or AugmentationConfig())
    loader = MixtureLoader(readers, plan)
    cache = readers[0].cache
    return LoaderMeasurement(
        samples_per_s=_rate(map(loader.batch, itertools.count()), batch_size, budget_s),
        lerobot_samples_per_s=_rate(
            _stock_batches(cache.source, cache.fps, window, batch_size), batch_size, budget_s
        ),
        batch_size=batch_size,
        num_cameras=len(readers[0].cameras),
        num_observation_frames=len(window.observation_offsets),
        num_actions=len(window.action_offsets),
        build_s=build_s,
    )


def _stock_batches(root: Path, fps: int, window: Window, batch_size: int) -> Iterator[Any]:
    plain = LeRobotDataset(root.name, root=root, video_backend="pyav")
    observed = [key for key in plain.features if key.startswith("observation.")]
    deltas = {key: [offset / fps for offset in window.observation_offsets] for key in observed}
    if "action" in plain.features:
        deltas["action"] = [offset / fps for offset in window.action_offsets]
    dataset = LeRobotDataset(
        root.name, root=root, delta_timestamps=deltas, video_backend="pyav", return_uint8=True
    )
    generator = torch.Generator().manual_seed(0)
    while True:
        yield from torch.utils.data.DataLoader(dataset, batch_size, shuffle=True, generator=generator)


def _rate(batches: Iterator[Any], batch_size: int, budget_s: float) -> float:
    next(batches)
    started = time.perf_counter()
    count, elapsed_s = 0, 0.0
    while elapsed_s < budget_s:
        next(batches)
        count, elapsed_s = count + 1, time.perf_counter() - started
    return count * batch_size / elapsed_s
