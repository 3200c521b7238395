"""What the camera process draws: joint and object positions, the scene, and which camera is frozen.

A mapped file with one writer. A counter that is odd while writing tells a reader to look again.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embodiments.so101.serial_twin.paths import CAMERAS

_MARK = struct.Struct("<Q")
_HEAD = struct.Struct(f"<qQI{len(CAMERAS)}q")  # time, scene number, positions, frozen until
_SCENE_AT = 2048
_SCENE = struct.Struct("<I")
_SIZE = 8192


class Snapshot(NamedTuple):
    """The table at `time_ns` (CLOCK_MONOTONIC): qpos (nq,) float64, and until when each camera is frozen."""

    time_ns: int
    scene: int
    qpos: np.ndarray
    frozen_until_ns: tuple[int, ...]


class SharedState:
    """The mapped file; `create` for the writer, else for a reader."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        if create:
            new = path.with_name(f".{path.name}.new")
            new.write_bytes(bytes(_SIZE))
            os.replace(new, path)
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self._mark = 0

    def write(self, snapshot: Snapshot) -> None:
        """Publishes where everything is."""
        self._begin()
        qpos = np.ascontiguousarray(snapshot.qpos, dtype="<f8")
        head = (snapshot.time_ns, snapshot.scene, len(qpos), *snapshot.frozen_until_ns)
        _HEAD.pack_into(self._map, _MARK.size, *head)
        start = _MARK.size + _HEAD.size
        self._map[start : start + qpos.nbytes] = qpos.tobytes()
        self._end()

    def write_scene(self, scene: dict[str, Any]) -> None:
        """Publishes the scene the next snapshots belong to."""
        text = json.dumps(scene).encode()
        self._begin()
        _SCENE.pack_into(self._map, _SCENE_AT, len(text))
        self._map[_SCENE_AT + _SCENE.size : _SCENE_AT + _SCENE.size + len(text)] = text
        self._end()

    def _begin(self) -> None:
        _MARK.pack_into(self._map, 0, self._mark + 1)

    def _end(self) -> None:
        self._mark += 2
        _MARK.pack_into(self._map, 0, self._mark)

    def read(self) -> tuple[Snapshot, dict[str, Any]] | None:
        """The newest snapshot and its scene; None before the first, or if the writer was in the middle."""
        mark = _MARK.unpack_from(self._map, 0)[0]
        if mark == 0 or mark % 2:
            return None
        content = self._map[:_SIZE]
        if _MARK.unpack_from(self._map, 0)[0] != mark:
            return None
        time_ns, scene_number, count, *frozen = _HEAD.unpack_from(content, _MARK.size)
        qpos = np.frombuffer(content, "<f8", count, _MARK.size + _HEAD.size)
        (length,) = _SCENE.unpack_from(content, _SCENE_AT)
        if count == 0 or length == 0:
            return None
        start = _SCENE_AT + _SCENE.size
        scene = json.loads(content[start : start + length])
        return Snapshot(time_ns, scene_number, qpos, tuple(frozen)), scene

    def close(self) -> None:
        """Lets go of the file."""
        self._map.close()
