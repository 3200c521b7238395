"""Batches as a pure function: `batch(step)` depends on the seed, the stage and the step, on nothing else.

So a resumed run sees the batches it would have seen, and many processes split the batch of one.

G samples of the batch over all processes, B = G / processes of this one, n observation frames at the
offsets [0, k1 … kH] and those of the past, T actions, S and A state and action size.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridpolicy.errors import ConfigurationError, DatasetError
from hybridpolicy.training import augmentation
from hybridpolicy.training.cache import FrameCache, Progress, open_cache
from hybridpolicy.training.config import AugmentationConfig, DatasetSource
from hybridpolicy.training.decode import resolve_root
from hybridpolicy.training.outcomes import outcome_labels

Batch = dict[str, Any]

_BOOKKEEPING = ("index", "episode_index", "timestamp")
_NOT_SAMPLED = ("frame_index", "task_index", "action", *_BOOKKEEPING)
_CHOICE, _FRAMES, _IMAGES, _GOALS = range(4)  # what a random stream is for


@dataclass(frozen=True)
class Window:
    """What is gathered around a sampled frame, as offsets in frames; the first observation offset is 0.

    waypoint_offsets: where only the state is gathered, as `waypoints`.
    change_offsets: where only the frames are gathered, as `ahead.<camera key>`.
    goal: also gather the frames of a random later moment of the episode, as `goal.<camera key>`.
    """

    observation_offsets: tuple[int, ...]
    action_offsets: tuple[int, ...]
    waypoint_offsets: tuple[int, ...] = ()
    change_offsets: tuple[int, ...] = ()
    goal: bool = False

    def __post_init__(self) -> None:
        if not self.observation_offsets or self.observation_offsets[0] != 0:
            raise ConfigurationError(
                f"window: observation_offsets = {self.observation_offsets}; the first must be 0, the present"
            )


@dataclass(frozen=True)
class BatchPlan:
    """How batches are drawn. first_step and first_sample: steps and samples of the run before this stage."""

    window: Window
    batch_size: int
    seed: int = 0
    stage: int = 0
    first_step: int = 0
    first_sample: int = 0
    num_processes: int = 1
    rank: int = 0
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def __post_init__(self) -> None:
        if self.batch_size % self.num_processes:
            raise ConfigurationError(
                f"stage {self.stage}: batch_size = {self.batch_size} does not split over "
                f"{self.num_processes} processes; it counts all of them together, give a multiple"
            )

    @property
    def rows(self) -> slice:
        """This process's part of the batch."""
        size = self.batch_size // self.num_processes
        return slice(self.rank * size, (self.rank + 1) * size)

    def stream(self, step: int, purpose: int) -> np.random.Generator:
        """Random numbers for one purpose of one step; streams never overlap."""
        key = np.array([self.seed, self.stage], dtype=np.uint64)
        counter = np.array([0, 0, purpose, step], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))


class _Pool:
    """Rows to draw from: evenly, or in proportion to `weights` (N,) of all rows of the dataset."""

    def __init__(self, rows: NDArray[np.int64], weights: NDArray[np.float64] | None) -> None:
        self._rows = rows
        self._upper = None if weights is None else np.cumsum(weights[rows])

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        if self._upper is None:
            return self._rows[rng.integers(0, len(self._rows), count)]
        found = np.searchsorted(self._upper, rng.random(count) * self._upper[-1], side="right")
        return self._rows[np.minimum(found, len(self._rows) - 1)]


class SourceReader:
    """Gathers windows out of one dataset's arrays. `rows`: those drawn from, of the chosen episodes."""

    def __init__(self, source: DatasetSource, cache: FrameCache, window: Window) -> None:
        self.source = source
        self.cache = cache
        self._window = window
        self._frames = {name: torch.from_numpy(frames) for name, frames in sorted(cache.frames.items())}
        self._columns = {k: torch.from_numpy(v) for k, v in cache.columns.items() if k not in source.drop}
        lengths = cache.episode_to - cache.episode_from
        self._first_row = np.repeat(cache.episode_from, lengths)
        self._last_row = np.repeat(cache.episode_to - 1, lengths)
        self.rows = self._sampled_rows()
        self._outcomes = self._label_outcomes()
        weights = self._frame_weights()
        onsets = self.rows[self.rows - self._first_row[self.rows] < source.onset_frames]
        self._all = _Pool(self.rows, weights)
        drawn = weights is None or bool(weights[onsets].any())
        self._onsets = _Pool(onsets, weights) if drawn else self._all  # never a frame that weighs nothing

    def _label_outcomes(self) -> tuple[Tensor, Tensor] | None:
        if not self.source.outcomes:
            return None
        cache, chunk = self.cache, len(self._window.action_offsets)
        labels, known = outcome_labels(
            self.source.outcomes,
            cache.columns,
            cache.episode_from,
            cache.episode_to,
            chunk,
            str(cache.source),
        )
        return torch.from_numpy(labels), torch.from_numpy(known)

    def _frame_weights(self) -> NDArray[np.float64] | None:
        """(N,), or None where frames are drawn evenly."""
        path = self.source.frame_weights
        if path is None:
            return None
        try:
            weights = np.asarray(np.load(path), dtype=np.float64)
        except (OSError, ValueError) as error:
            raise DatasetError(f"frame_weights {path}: unreadable ({error}); compute them again") from error
        wanted = (self.cache.num_frames,)
        usable = weights.shape == wanted and bool(np.isfinite(weights).all()) and weights.min() >= 0
        if not usable or not weights[self.rows].any():
            raise DatasetError(
                f"frame_weights {path}: shape {weights.shape}; {self.cache.source} needs {wanted}, finite, 0 "
                "or more, and above 0 in an episode that is sampled. Compute them again for this dataset"
            )
        return weights

    def _sampled_rows(self) -> NDArray[np.int64]:
        chosen = self.source.episodes or range(self.cache.num_episodes)
        unknown = [episode for episode in chosen if not 0 <= episode < self.cache.num_episodes]
        if unknown:
            raise DatasetError(
                f"{self.cache.source}: no episodes {unknown}; it has 0 … {self.cache.num_episodes - 1}"
            )
        return np.concatenate(
            [np.arange(self.cache.episode_from[e], self.cache.episode_to[e]) for e in chosen]
        )

    def left_out(self) -> "SourceReader | None":
        """The same source sampling from the episodes this one does not; None if it samples from all."""
        rest = tuple(sorted(set(range(self.cache.num_episodes)) - set(self.source.episodes)))
        if not self.source.episodes or not rest:
            return None
        source = replace(self.source, episodes=rest, frame_weights=None)  # losses are compared evenly
        return SourceReader(source, self.cache, self._window)

    @property
    def cameras(self) -> list[str]:
        return list(self._frames)

    @property
    def has_actions(self) -> bool:
        return "action" in self._columns

    @property
    def imitated(self) -> bool:
        """Its actions are there, and to be learned."""
        return self.has_actions and self.source.imitate

    def draw_rows(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """(count,) dataset rows of the chosen episodes, evenly or by weight, but for the onset share."""
        rows = self._all.draw(rng, count)
        if not self.source.onset_share:
            return rows
        at_onset = rng.random(count) < self.source.onset_share
        return np.where(at_onset, self._onsets.draw(rng, count), rows)

    def gather(
        self, rows: NDArray[np.int64], *, world: bool, goals: NDArray[np.float64] | None = None
    ) -> Batch:
        """Windows around `rows` (B,), as LeRobot's loader gives them; without `world`, no later frames.

        Frames outside the episode repeat its edge and are marked in `<key>_is_pad`.

        Args:
            goals: (B,) in [0, 1), where the goal is between the next frame and the episode's last; or None.
        """
        offsets = [offset for offset in self._window.observation_offsets if world or offset <= 0]
        near, is_pad = self._clamp(rows, offsets)
        batch: Batch = {}
        for name, frames in self._frames.items():
            batch[name] = frames.index_select(0, near.flatten()).unflatten(0, near.shape)
            batch[f"{name}_is_pad"] = is_pad
        present = torch.from_numpy(rows)
        for name, column in self._columns.items():
            if name.startswith("observation."):
                batch[name] = column[near]
                batch[f"{name}_is_pad"] = is_pad
            elif name in _BOOKKEEPING or name not in _NOT_SAMPLED:
                batch[name] = column[present]
        if self.has_actions:
            near, batch["action_is_pad"] = self._clamp(rows, self._window.action_offsets)
            batch["action"] = self._columns["action"][near]
            batch["imitate"] = self.source.imitate
        if self.imitated:  # where the arm will be is a thing to do, too
            if self._window.waypoint_offsets and "observation.state" in self._columns:
                near, _ = self._clamp(rows, self._window.waypoint_offsets)
                batch["waypoints"] = self._columns["observation.state"][near]
            if self._window.change_offsets:
                near, _ = self._clamp(rows, self._window.change_offsets)
                for name, frames in self._frames.items():
                    batch[f"ahead.{name}"] = frames.index_select(0, near.flatten()).unflatten(0, near.shape)
        if goals is not None:
            left = self._last_row[rows] - rows
            later = torch.from_numpy(rows + np.minimum(1 + (goals * left).astype(np.int64), left))
            batch |= {f"goal.{name}": frames[later].unsqueeze(1) for name, frames in self._frames.items()}
        if self._outcomes is not None:
            batch["outcome.labels"], batch["outcome.known"] = (column[present] for column in self._outcomes)
        if "task" not in self.source.drop and self.cache.tasks:
            batch["task"] = [self.cache.tasks[i] for i in self.cache.columns["task_index"][rows]]
        return batch

    def rows_ahead(self, rows: NDArray[np.int64], offset: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(B,) rows `offset` frames later, kept inside the episode; and (B,) which of them really are."""
        near, is_pad = self._clamp(rows, (offset,))
        return near[:, 0].numpy(), ~is_pad[:, 0].numpy()

    def _clamp(self, rows: NDArray[np.int64], offsets: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows at `offsets`, (B, n), kept inside the episode; and which of them were outside."""
        wanted = rows[:, None] + np.array(offsets, dtype=np.int64)
        near = np.clip(wanted, self._first_row[rows, None], self._last_row[rows, None])
        return torch.from_numpy(near), torch.from_numpy(near != wanted)


class MixtureLoader:
    """Batches of one stage: each micro-batch from one source, drawn by weight."""

    def __init__(
        self,
        readers: Sequence[SourceReader],
        plan: BatchPlan,
        needs_future: Callable[[int], bool] | None = None,
    ) -> None:
        """`needs_future(step of the run)` says whether a batch carries the future frames; None: always.

        Batches without actions to learn always do: nothing else is to be learned from them.
        """
        self.readers = list(readers)
        self.plan = plan
        self._needs_future = needs_future or (lambda step: True)
        weights = np.array([reader.source.weight for reader in self.readers], dtype=np.float64)
        self._upper = np.cumsum(weights / weights.sum())

    def held_out(self) -> "MixtureLoader | None":
        """Batches of the episodes that the sources leave out, pictures unchanged, futures always; or None.

        A source leaves episodes out if it names those it samples from.
        """
        readers = [rest for reader in self.readers if (rest := reader.left_out()) is not None]
        if not readers:
            return None
        plan = replace(self.plan, stage=self.plan.stage + 1000, augmentation=AugmentationConfig())
        return MixtureLoader(readers, plan)

    def choose(self, step: int) -> SourceReader:
        """The source of the micro-batch of `step`, the same on every process."""
        position = np.searchsorted(self._upper, self.plan.stream(step, _CHOICE).random(), side="right")
        return self.readers[min(int(position), len(self.readers) - 1)]

    def batch(self, step: int) -> Batch:
        """This process's part of the batch of `step` (counted within the stage). Images are uint8.

        Besides LeRobot's keys: `sample_index` (B,) int64, the running number of the sample in the run, and
        `embodiment`, the tag of the source.
        """
        plan, reader = self.plan, self.choose(step)
        rows = reader.draw_rows(plan.stream(step, _FRAMES), plan.batch_size)[plan.rows]
        world = not reader.imitated or self._needs_future(plan.first_step + step)
        goals = plan.stream(step, _GOALS).random(plan.batch_size)[plan.rows] if plan.window.goal else None
        batch = reader.gather(rows, world=world, goals=goals)
        if plan.augmentation.enabled:
            rng = plan.stream(step, _IMAGES)
            past = sum(offset < 0 for offset in plan.window.observation_offsets)
            for name in reader.cameras:
                numbers = augmentation.draw(plan.augmentation, rng, plan.batch_size).rows(plan.rows)
                batch[name] = augmentation.apply(plan.augmentation, batch[name], numbers, past=past)
                # Compared with the context frame, or to be reached from it: changed as it is.
                for key in (f"ahead.{name}", f"goal.{name}"):
                    if key in batch:
                        batch[key] = augmentation.apply(plan.augmentation, batch[key], numbers, others=0)
        first = plan.first_sample + step * plan.batch_size
        batch["sample_index"] = torch.arange(first + plan.rows.start, first + plan.rows.stop)
        batch["embodiment"] = reader.source.embodiment
        return batch


def open_readers(
    sources: Sequence[DatasetSource],
    window: Window,
    cache_dir: Path,
    *,
    cameras: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> list[SourceReader]:
    """Readers of `sources`, decoding those not yet in `cache_dir`. `cameras` where a source names none.

    Raises:
        DatasetError, CacheError: see `open_cache`.
    """
    readers = []
    for source in sources:
        root = resolve_root(source.root, source.repo_id)
        wanted = source.cameras or tuple(cameras)
        cache = open_cache(root, cache_dir, cameras=wanted, image_size=image_size, progress=progress)
        readers.append(SourceReader(source, cache, window))
    return readers


class Prefetcher:
    """Iterates `load(first) … load(stop - 1)`, computed ahead in one thread.

    An error of `load` is raised where its batch would have come. Leave it with `with`: the thread ends.
    """

    def __init__(self, load: Callable[[int], Batch], first: int, stop: int, depth: int = 2) -> None:
        self._load, self._first, self._stop = load, first, stop
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=depth)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        while self._thread.is_alive():
            try:
                self._ready.get(timeout=0.05)  # the thread may be waiting for room
            except queue.Empty:
                continue

    def _fill(self) -> None:
        # This thread would otherwise own as many OpenMP threads as the training step and fight it for the
        # cores: on two cores a step took 1.5 times as long (torch keeps the number per thread).
        torch.set_num_threads(1)
        try:
            for step in range(self._first, self._stop):
                if self._closing.is_set():
                    return
                self._ready.put(self._load(step))
            self._ready.put(None)
        except BaseException as error:  # noqa: BLE001 — raised again by the consumer, whatever it is
            self._ready.put(error)

    def __iter__(self) -> Iterator[Batch]:
        while (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
