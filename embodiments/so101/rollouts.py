"""Writes what somebody else plays on the twin, episode by episode, into a LeRobotDataset.

Columns are those of a recording (`recording.dataset_features`) and further ones. The folder appears when it
is complete: until then everything lies in a hidden folder beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from embodiments.dataset_writer import create_metadata, finish_dataset
from embodiments.partial_folder import PartialFolder
from embodiments.so101.constants import SO101, TWIN_RATE_HZ
from embodiments.so101.recording import dataset_features, encoded_episodes
from embodiments.so101.twin.episode_record import EpisodeRecord
from embodiments.video_shard import VideoShard

Played = tuple[EpisodeRecord, list[list[np.ndarray]]]
"""A record and its pictures, C lists of L, as `EpisodeColumns.finish` gives them."""


class RolloutWriter:
    """A dataset that grows by batches of episodes. Leave it with `with`: without `finish`, nothing stays.

    Raises:
        FileExistsError: `root` is there already.
    """

    def __init__(
        self, root: str | Path, repo_id: str, image_size: int, further: Mapping[str, dict[str, Any]]
    ) -> None:
        self._folder = PartialFolder(root)
        self._image_size = image_size
        features = dataset_features(image_size) | dict(further)
        self._meta = create_metadata(self._folder.path, repo_id, TWIN_RATE_HZ, SO101.robot_type, features)
        self._records: list[list[EpisodeRecord]] = []

    def add(self, episodes: Sequence[Played]) -> None:
        """Episodes that share one video file per camera; their order is kept."""
        assert self._meta.video_path is not None
        for camera, key in enumerate(self._meta.video_keys):
            name = self._meta.video_path.format(video_key=key, chunk_index=0, file_index=len(self._records))
            video = VideoShard(self._folder.path / name, self._image_size, TWIN_RATE_HZ)
            for _, pictures in episodes:
                video.append(pictures[camera])
            video.close()
        self._records.append([record for record, _ in episodes])

    def finish(self, facts: Mapping[str, Any], name: str) -> Path:
        """Writes the tables and `facts` as JSON into the file `name`, and puts the folder in its place."""
        finish_dataset(self._meta, encoded_episodes(self._records))
        (self._folder.path / name).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return self._folder.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.__exit__(kind, error, trace)
