"""Writes a LeRobotDataset (v3) from episodes whose videos are already encoded.

LeRobot's own writer opens, probes and re-muxes a video per episode and rewrites two JSON files: 0.2 to 0.5 s
an episode. Here videos grow shard by shard, and the tables are written once, with LeRobot's own helpers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.configs import RGBEncoderConfig
from lerobot.datasets.compute_stats import DEFAULT_QUANTILES, aggregate_stats, get_feature_stats
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.feature_utils import get_hf_features_from_features
from lerobot.datasets.io_utils import write_info, write_stats, write_table_one_row_group_per_episode
from lerobot.datasets.utils import DEFAULT_DATA_PATH, DEFAULT_EPISODES_PATH
from lerobot.utils.utils import flatten_dict

from embodiments.video_shard import VIDEO_CODEC, VIDEO_OPTIONS, VIDEO_PIXELS

Stats = dict[str, dict[str, np.ndarray]]


@dataclass
class EncodedEpisode:
    """One episode of L frames: columns without pictures, and where its pictures are.

    columns: name -> (L, …) array, in the dtype of the feature. histograms: video key -> (3, 256) counts.
    """

    columns: dict[str, np.ndarray]
    task: str
    video_file: int
    video_start_frame: int
    histograms: dict[str, np.ndarray]

    @property
    def length(self) -> int:
        """Number of frames."""
        return len(next(iter(self.columns.values())))


def image_stats(histogram: np.ndarray) -> dict[str, np.ndarray]:
    """LeRobot's statistics of pictures in [0, 1], from counts (3, 256) of their byte values, without `count`.

    Exact where LeRobot estimates quantiles from 5000 bins over the values' range.
    """
    values = np.arange(256, dtype=np.float64)
    total = histogram.sum(axis=1)
    mean = histogram @ values / total
    variance = histogram @ values**2 / total - mean**2
    cumulative = np.cumsum(histogram, axis=1)
    stats = {
        "min": np.argmax(histogram > 0, axis=1).astype(np.float64),
        "max": 255.0 - np.argmax(histogram[:, ::-1] > 0, axis=1),
        "mean": mean,
        "std": np.sqrt(np.maximum(variance, 0.0)),
    }
    for quantile in DEFAULT_QUANTILES:
        reached = cumulative >= (quantile * total)[:, None]
        stats[f"q{int(quantile * 100):02d}"] = np.argmax(reached, axis=1).astype(np.float64)
    return {name: (value / 255.0).reshape(3, 1, 1) for name, value in stats.items()}


def create_metadata(
    root: Path, repo_id: str, fps: int, robot_type: str, features: dict[str, dict[str, Any]]
) -> LeRobotDatasetMetadata:
    """Make the folder and `info.json` of a new dataset; FileExistsError when `root` is there already."""
    if root.exists():
        raise FileExistsError(
            f"dataset {repo_id!r}: {root} exists already; choose another folder or remove it"
        )
    return LeRobotDatasetMetadata.create(
        repo_id, fps, features, robot_type=robot_type, root=root, use_videos=True
    )


def video_encoder() -> RGBEncoderConfig:
    """How `VideoShard` encodes pictures, in LeRobot's words."""
    return RGBEncoderConfig(
        vcodec=VIDEO_CODEC,
        pix_fmt=VIDEO_PIXELS,
        g=int(VIDEO_OPTIONS["g"]),
        crf=int(VIDEO_OPTIONS["crf"]),
        preset=VIDEO_OPTIONS["preset"],
    )


def finish_dataset(
    meta: LeRobotDatasetMetadata, episodes: Sequence[EncodedEpisode]
) -> LeRobotDatasetMetadata:
    """Write data, episode, task and statistics tables; the videos already lie at LeRobot's video paths.

    Raises ValueError without episodes, or for an episode whose columns are not the features'.
    """
    if not episodes:
        raise ValueError(f"dataset {meta.repo_id!r}: no episodes to write; record at least one")
    meta.save_episode_tasks(list(dict.fromkeys(episode.task for episode in episodes)))
    tables, rows, all_stats = [], [], []
    first = 0
    for index, episode in enumerate(episodes):
        columns = _full_columns(meta, episode, index, first)
        stats = _episode_stats(meta, columns, episode)
        tables.append(columns)
        all_stats.append(stats)
        rows.append(_episode_row(meta, episode, index, first, stats))
        first += episode.length
    _write_data(meta, tables)
    _write_episodes(meta, rows)
    meta.info.total_episodes, meta.info.total_frames = len(episodes), first
    meta.info.total_tasks = len(meta.tasks)
    meta.info.splits = {"train": f"0:{len(episodes)}"}
    meta.update_video_info(video_encoder=video_encoder())
    write_info(meta.info, meta.root)
    write_stats(aggregate_stats(all_stats), meta.root)
    return meta


def _full_columns(
    meta: LeRobotDatasetMetadata, episode: EncodedEpisode, index: int, first: int
) -> dict[str, np.ndarray]:
    length = episode.length
    frame = np.arange(length, dtype=np.int64)
    columns = {
        **episode.columns,
        "timestamp": (frame / meta.fps).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.full(length, index, dtype=np.int64),
        "index": frame + first,
        "task_index": np.full(length, meta.get_task_index(episode.task), dtype=np.int64),
    }
    expected = {key for key, feature in meta.features.items() if feature["dtype"] != "video"}
    if set(columns) != expected:
        raise ValueError(
            f"dataset {meta.repo_id!r}: episode {index} has columns {sorted(columns)}; "
            f"the features ask for {sorted(expected)}"
        )
    return columns


def _episode_stats(
    meta: LeRobotDatasetMetadata, columns: dict[str, np.ndarray], episode: EncodedEpisode
) -> Stats:
    stats: Stats = {}
    for key, values in columns.items():
        if meta.features[key]["dtype"] == "string":  # as LeRobot: texts have no statistics
            continue
        stats[key] = get_feature_stats(values, axis=0, keepdims=values.ndim == 1)
    for key in meta.video_keys:
        stats[key] = {**image_stats(episode.histograms[key]), "count": np.array([episode.length])}
    return stats


def _episode_row(
    meta: LeRobotDatasetMetadata, episode: EncodedEpisode, index: int, first: int, stats: Stats
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "episode_index": index,
        "tasks": [episode.task],
        "length": episode.length,
        "data/chunk_index": 0,
        "data/file_index": 0,
        "dataset_from_index": first,
        "dataset_to_index": first + episode.length,
    }
    for key in meta.video_keys:
        row[f"videos/{key}/chunk_index"] = 0
        row[f"videos/{key}/file_index"] = episode.video_file
        row[f"videos/{key}/from_timestamp"] = episode.video_start_frame / meta.fps
        row[f"videos/{key}/to_timestamp"] = (episode.video_start_frame + episode.length) / meta.fps
    row.update({key: value.tolist() for key, value in flatten_dict({"stats": stats}).items()})
    row["meta/episodes/chunk_index"] = 0
    row["meta/episodes/file_index"] = 0
    return row


def _write_data(meta: LeRobotDatasetMetadata, episodes: list[dict[str, np.ndarray]]) -> None:
    features = get_hf_features_from_features(meta.features)
    whole = {key: np.concatenate([columns[key] for columns in episodes]) for key in features}
    table = datasets.Dataset.from_dict(whole, features=features).with_format("arrow")[:]
    path = meta.root / DEFAULT_DATA_PATH.format(chunk_index=0, file_index=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table_one_row_group_per_episode(table, path)


def _write_episodes(meta: LeRobotDatasetMetadata, rows: list[dict[str, Any]]) -> None:
    path = meta.root / DEFAULT_EPISODES_PATH.format(chunk_index=0, file_index=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, compression="snappy")
