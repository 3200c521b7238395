"""Record the twin into LeRobotDatasets: demonstrations by the expert, and play without a task.

Columns are those `lerobot-record` writes for an SO-101 follower, plus `privileged.*` columns that only a
simulator can know; they are not under `observation.`, so LeRobot never feeds them to a policy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from embodiments.dataset_writer import EncodedEpisode, create_metadata, finish_dataset
from embodiments.partial_folder import PartialFolder
from embodiments.so101.constants import JOINT_NAMES, SO101, TWIN_RATE_HZ
from embodiments.so101.twin.episode_record import EpisodeRecord
from embodiments.so101.twin.language import COLOURS, FAMILIES
from embodiments.so101.twin.shards import NoiseSettings, ShardRequest
from embodiments.so101.twin.simulation import CAMERAS
from embodiments.so101.twin.variation import Variation
from embodiments.so101.twin.workers import WorkerProcess

logger = logging.getLogger(__name__)
EPISODES_PER_SHARD = 50
DEFAULT_WEIGHTS: Mapping[str, float] = {"touch": 0.25, "push": 0.33, "bin": 0.32, "absent": 0.10}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RecordingSummary:
    """What was recorded. `attempts` and `failures` are per family; failed attempts are not in the dataset."""

    root: Path
    repo_id: str
    num_episodes: int
    num_frames: int
    attempts: Mapping[str, int]
    failures: Mapping[str, int]

    @property
    def success_rate(self) -> float:
        """Recorded share of all attempts."""
        return self.num_episodes / max(1, sum(self.attempts.values()))


def dataset_features(image_size: int) -> dict[str, dict[str, Any]]:
    """LeRobot's feature dictionary of a twin recording."""
    joints = {"dtype": "float32", "shape": (len(JOINT_NAMES),), "names": list(JOINT_NAMES)}
    shape = (image_size, image_size, 3)
    features: dict[str, dict[str, Any]] = {
        f"observation.images.{camera}": {
            "dtype": "video",
            "shape": shape,
            "names": ["height", "width", "channels"],
        }
        for camera in CAMERAS
    }
    features["observation.state"] = dict(joints)
    features["action"] = dict(joints)
    objects = [f"{colour}.{axis}" for colour in COLOURS for axis in ("x", "y")]
    features["privileged.objects"] = {"dtype": "float32", "shape": (len(objects),), "names": objects}
    features["privileged.present"] = {"dtype": "float32", "shape": (len(COLOURS),), "names": list(COLOURS)}
    named = ["x", "y", "present"]
    features["privileged.target"] = {"dtype": "float32", "shape": (len(named),), "names": named}
    return features


def record_demonstrations(
    root: str | Path,
    num_episodes: int,
    seed: int = 0,
    variation: Variation | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    noise: NoiseSettings | None = None,
    image_size: int = 96,
    workers: int = 2,
    repo_id: str = "local/so101_twin",
    progress: Progress | None = None,
) -> RecordingSummary:
    """Record `num_episodes` successful expert episodes; families are drawn by `weights`.

    `action` is the expert's action for the recorded state, also within noise bursts. The result depends on
    the arguments but not on `workers`. Raises FileExistsError if `root` exists, ValueError for a family.
    """
    weights = dict(weights or DEFAULT_WEIGHTS)
    unknown = sorted(set(weights) - set(FAMILIES))
    if unknown or not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise ValueError(f"recording: weights {weights} must give numbers above 0 to some of {FAMILIES}")
    total = sum(weights.values())
    plan = _Plan(
        kind="demonstration",
        families=tuple(weights),
        weights=tuple(value / total for value in weights.values()),
        seed=seed,
        variation=variation or Variation(),
        noise=noise or NoiseSettings(),
        image_size=image_size,
        play_ticks=0,
    )
    return _record(Path(root), repo_id, num_episodes, plan, workers, progress)


def record_play(
    root: str | Path,
    num_episodes: int,
    seed: int = 0,
    variation: Variation | None = None,
    *,
    ticks: int = 24,
    image_size: int = 96,
    workers: int = 2,
    repo_id: str = "local/so101_twin_play",
    progress: Progress | None = None,
) -> RecordingSummary:
    """Record `num_episodes` of `ticks` frames of motion without a task; the task text is "play"."""
    if ticks < 2:
        raise ValueError(f"recording: ticks is {ticks}; a play episode has at least 2 frames")
    plan = _Plan(
        kind="play",
        families=("touch",),
        weights=(1.0,),
        seed=seed,
        variation=variation or Variation(),
        noise=NoiseSettings(),
        image_size=image_size,
        play_ticks=ticks,
    )
    return _record(Path(root), repo_id, num_episodes, plan, workers, progress)


@dataclass(frozen=True)
class _Plan:
    kind: str
    families: tuple[str, ...]
    weights: tuple[float, ...]
    seed: int
    variation: Variation
    noise: NoiseSettings
    image_size: int
    play_ticks: int

    def shard(self, index: int, video_paths: tuple[str, ...]) -> ShardRequest:
        return ShardRequest(
            index=index,
            seed=self.seed,
            kind=self.kind,
            families=self.families,
            weights=self.weights,
            variation=self.variation,
            image_size=self.image_size,
            noise=self.noise,
            play_ticks=self.play_ticks,
            video_paths=video_paths,
        )


def _record(
    root: Path, repo_id: str, num_episodes: int, plan: _Plan, workers: int, progress: Progress | None
) -> RecordingSummary:
    if num_episodes < 1 or workers < 1:
        raise ValueError(
            f"recording: num_episodes {num_episodes} and workers {workers} must both be at least 1"
        )
    with PartialFolder(root) as folder:
        features = dataset_features(plan.image_size)
        meta = create_metadata(folder.path, repo_id, TWIN_RATE_HZ, SO101.robot_type, features)
        assert meta.video_path is not None
        shards = []
        for index, start in enumerate(range(0, num_episodes, EPISODES_PER_SHARD)):
            paths = tuple(
                str(folder.path / meta.video_path.format(video_key=key, chunk_index=0, file_index=index))
                for key in meta.video_keys
            )
            shards.append((plan.shard(index, paths), min(EPISODES_PER_SHARD, num_episodes - start)))
        records, failures = _run_shards(shards, workers, num_episodes, progress)
        episodes = encoded_episodes(records)
        finish_dataset(meta, episodes)
        folder.finish()
    attempts = dict(failures)
    for record in (record for shard in records for record in shard):
        attempts[record.family] = attempts.get(record.family, 0) + 1
    frames = sum(episode.length for episode in episodes)
    return RecordingSummary(root, repo_id, len(episodes), frames, attempts, failures)


def _run_shards(
    shards: list[tuple[ShardRequest, int]], workers: int, total: int, progress: Progress | None
) -> tuple[list[list[EpisodeRecord]], dict[str, int]]:
    """Records per shard, in shard order, and failed attempts per family."""
    records: list[list[EpisodeRecord]] = [[] for _ in shards]
    failures: dict[str, int] = {}
    waiting = list(range(len(shards)))
    processes = [
        WorkerProcess("embodiments.so101.twin.shards", "shard_worker")
        for _ in range(min(workers, len(shards)))
    ]
    active: dict[Any, tuple[WorkerProcess, int]] = {}
    done = 0
    try:
        for process in processes:
            _open(process, shards, waiting.pop(0), active)
        while active:
            for connection in wait(list(active)):
                process, shard = active[connection]
                record: EpisodeRecord | None = process.receive()
                if record is not None and record.success:
                    records[shard].append(record)
                    done += 1
                    if progress is not None:
                        progress(done, total)
                elif record is not None:
                    failures[record.family] = failures.get(record.family, 0) + 1
                if len(records[shard]) < shards[shard][1]:
                    process.send(("record",))
                    continue
                process.send(("close",))
                process.receive()
                del active[connection]
                if waiting:
                    _open(process, shards, waiting.pop(0), active)
    finally:
        for process in processes:
            process.close()
    return records, failures


def _open(
    process: WorkerProcess,
    shards: list[tuple[ShardRequest, int]],
    shard: int,
    active: dict[Any, tuple[WorkerProcess, int]],
) -> None:
    process.send(("open", shards[shard][0]))
    active[process.connection] = (process, shard)


def encoded_episodes(records: Sequence[Sequence[EpisodeRecord]]) -> list[EncodedEpisode]:
    """Records of each shard as the dataset writer takes them; in its videos they follow one another."""
    episodes = []
    for shard, shard_records in enumerate(records):
        start = 0
        for record in shard_records:
            length = len(record.state)
            columns = {
                "observation.state": record.state,
                "action": record.action,
                "privileged.objects": record.objects.reshape(length, -1),
                "privileged.present": record.present.astype(np.float32),
                "privileged.target": record.target,
                **record.further,
            }
            histograms = {
                f"observation.images.{name}": record.histograms[i] for i, name in enumerate(CAMERAS)
            }
            episodes.append(EncodedEpisode(columns, record.task, shard, start, histograms))
            start += length
    return episodes
