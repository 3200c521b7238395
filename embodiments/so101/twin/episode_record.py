"""One recorded episode of the twin: its columns, and what becomes of its pictures.

L frames, K block slots, C cameras. Imports no torch and no LeRobot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embodiments.so101.twin.episode import Episode
from embodiments.so101.twin.simulation import CAMERAS
from embodiments.video_shard import count_values


@dataclass
class EpisodeRecord:
    """One recorded episode of L frames, pictures already encoded. `family` names what was attempted."""

    success: bool
    family: str
    task: str
    state: np.ndarray  # (L, 6) float32
    action: np.ndarray  # (L, 6) float32
    objects: np.ndarray  # (L, K, 2) float32
    present: np.ndarray  # (L, K) bool
    target: np.ndarray  # (L, 3) float32: x, y and presence of the block the instruction names, zeros for none
    histograms: np.ndarray  # (C, 3, 256) int64, of each camera's channels
    further: dict[str, np.ndarray] = field(default_factory=dict)  # (L,) columns beside the usual


class EpisodeColumns:
    """Collects the frames of a running episode."""

    def __init__(self) -> None:
        self._state: list[np.ndarray] = []
        self._action: list[np.ndarray] = []
        self._objects: list[np.ndarray] = []
        self._present: list[np.ndarray] = []
        self._pictures: list[list[np.ndarray]] = [[] for _ in CAMERAS]

    def add(
        self,
        pictures: Sequence[np.ndarray],
        state: np.ndarray,
        action: np.ndarray,
        objects: np.ndarray,
        present: np.ndarray,
    ) -> None:
        """One frame: what is seen now, one picture per camera, and the action chosen for it."""
        for camera, picture in zip(self._pictures, pictures, strict=True):
            camera.append(picture)
        self._state.append(state)
        self._action.append(action)
        self._objects.append(objects)
        self._present.append(present)

    def add_now(self, episode: Episode, action: np.ndarray) -> None:
        """One frame of an episode that runs in this process."""
        self.add(list(episode.pictures().values()), episode.agent_pos(), action, *episode.objects())

    def keep_first(self, ticks: int) -> None:
        """Forgets every frame after the first `ticks`."""
        for column in (self._state, self._action, self._objects, self._present, *self._pictures):
            del column[ticks:]

    def finish(
        self,
        success: bool,
        family: str,
        task: str,
        named: int | None,
        *,
        keep: bool = True,
        further: Mapping[str, Any] | None = None,
    ) -> tuple[EpisodeRecord, list[list[np.ndarray]]]:
        """The record and its pictures, C lists of L.

        named: slot of the block the instruction names. keep: False for an attempt that is thrown away, whose
        pictures need not be counted. further: (L,) columns.
        """
        histograms = np.zeros((len(CAMERAS), 3, 256), dtype=np.int64)
        if keep:
            for camera, pictures in enumerate(self._pictures):
                histograms[camera] = count_values(pictures)
        objects, present = np.stack(self._objects), np.stack(self._present)
        target = np.zeros((len(objects), 3), dtype=np.float32)
        if named is not None:
            target[:, :2], target[:, 2] = objects[:, named], present[:, named]
        record = EpisodeRecord(
            success,
            family,
            task,
            np.stack(self._state),
            np.stack(self._action),
            objects,
            present,
            target,
            histograms,
            {name: np.asarray(column) for name, column in (further or {}).items()},
        )
        return record, self._pictures
