"""A group of tables writing into shared arrays: the part that runs the same here and in a worker process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from embodiments.so101 import constants as c
from embodiments.so101.twin.episode import NUM_SLOTS, Episode, EpisodeState
from embodiments.so101.twin.events import EVENTS
from embodiments.so101.twin.scenario import Scenario

MAX_MONITORED = 8  # the given task and up to seven beside it
CAMERAS = ("front", "wrist")


@dataclass
class TableBuffers:
    """Arrays over N tables. C cameras, S image size, K block slots, J joints."""

    pixels: np.ndarray  # (N, C, S, S, 3) uint8
    agent_pos: np.ndarray  # (N, J) float32
    action: np.ndarray  # (N, J) float64, in for step, out for expert
    objects: np.ndarray  # (N, K, 2) float32
    present: np.ndarray  # (N, K) bool
    monitored: np.ndarray  # (N, MAX_MONITORED) bool
    sent: np.ndarray  # (N, J) float32, the last action as the servos took it
    events: np.ndarray  # (N, 3) bool, EVENTS of the last tick
    done: np.ndarray  # (N,) bool
    steps: np.ndarray  # (N,) int64

    @staticmethod
    def fields(num: int, size: int) -> dict[str, tuple[tuple[int, ...], type]]:
        """Shape and dtype of each array."""
        return {
            "pixels": ((num, len(CAMERAS), size, size, 3), np.uint8),
            "agent_pos": ((num, c.NUM_JOINTS), np.float32),
            "action": ((num, c.NUM_JOINTS), np.float64),
            "objects": ((num, NUM_SLOTS, 2), np.float32),
            "present": ((num, NUM_SLOTS), np.bool_),
            "monitored": ((num, MAX_MONITORED), np.bool_),
            "sent": ((num, c.NUM_JOINTS), np.float32),
            "events": ((num, len(EVENTS)), np.bool_),
            "done": ((num,), np.bool_),
            "steps": ((num,), np.int64),
        }

    @classmethod
    def num_bytes(cls, num: int, size: int) -> int:
        """Bytes `view` needs, each array starting on a multiple of 64."""
        return sum(_padded(shape, dtype) for shape, dtype in cls.fields(num, size).values())

    @classmethod
    def view(cls, memory: np.ndarray, num: int, size: int) -> TableBuffers:
        """The arrays laid one after the other over `memory` (bytes,) uint8."""
        arrays, start = {}, 0
        for name, (shape, dtype) in cls.fields(num, size).items():
            count = int(np.prod(shape)) * np.dtype(dtype).itemsize
            arrays[name] = memory[start : start + count].view(dtype).reshape(shape)
            start += _padded(shape, dtype)
        return cls(**arrays)

    @classmethod
    def allocate(cls, num: int, size: int) -> TableBuffers:
        """Arrays in this process's own memory."""
        return cls.view(np.zeros(cls.num_bytes(num, size), dtype=np.uint8), num, size)

    @property
    def image_size(self) -> int:
        """Side of a picture in pixels."""
        return int(self.pixels.shape[2])


def _padded(shape: tuple[int, ...], dtype: type) -> int:
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return (count + 63) // 64 * 64


class TableGroup:
    """The tables `indices` of the buffers, stepped in turn."""

    def __init__(self, buffers: TableBuffers, indices: Iterable[int]) -> None:
        self.buffers = buffers
        self._episodes = {index: Episode(buffers.image_size) for index in indices}

    def start(self, scenarios: Sequence[Scenario]) -> None:
        """Start table i with scenario i, for this group's tables."""
        for index, episode in self._episodes.items():
            if 1 + len(scenarios[index].monitor) > MAX_MONITORED:
                raise ValueError(
                    f"so101 twin: scenario {index} monitors {len(scenarios[index].monitor)} further tasks; "
                    f"allowed are {MAX_MONITORED - 1}"
                )
            episode.start(scenarios[index])
            self._write(index, episode, render=True)

    def step(self, render: bool) -> None:
        """One tick of each unfinished table, actions taken from the buffer."""
        for index, episode in self._episodes.items():
            if not self.buffers.done[index]:
                episode.advance(self.buffers.action[index])
                self._write(index, episode, render)

    def expert(self) -> None:
        """Put the expert's action of each unfinished table into the buffer, zeros elsewhere."""
        for index, episode in self._episodes.items():
            self.buffers.action[index] = 0.0 if self.buffers.done[index] else episode.expert_action()

    def get_state(self, index: int) -> EpisodeState:
        """A snapshot of table `index`."""
        return self._episodes[index].get_state()

    def set_state(self, index: int, state: EpisodeState) -> None:
        """Restore a snapshot on table `index`."""
        self._episodes[index].set_state(state)
        self._write(index, self._episodes[index], render=True)

    def close(self) -> None:
        """Nothing to stop here."""

    def _write(self, index: int, episode: Episode, render: bool) -> None:
        buffers = self.buffers
        if render:
            for camera, picture in enumerate(episode.pictures().values()):
                buffers.pixels[index, camera] = picture
        buffers.agent_pos[index] = episode.agent_pos()
        buffers.objects[index], buffers.present[index] = episode.objects()
        monitored = episode.monitored
        buffers.monitored[index] = False
        buffers.monitored[index, : len(monitored)] = monitored
        buffers.sent[index], buffers.events[index] = episode.sent, episode.events
        buffers.done[index] = episode.done
        buffers.steps[index] = episode.step
