"""Frames from one process to others through a mapped file: the newest wins, nobody waits, nothing tears.

The file holds a header and a ring of slots. A frame's number is written into its slot before (odd) and after
(even) its pixels, so a reader that was overtaken while copying sees it and takes the newer frame.
Time stamps are CLOCK_MONOTONIC nanoseconds of the moment the picture shows, not of its arrival.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

MAGIC = b"HPFRAME1"
SLOTS = 4
_HEADER = struct.Struct("<8sIIId")  # magic, height, width, slots, frames per second
_NEWEST = struct.Struct("<Q")  # number of the newest frame; 0: none yet
_SLOT = struct.Struct("<Qq")  # mark (2 * number, + 1 while written), source time
_NEWEST_AT = 64
_SLOTS_AT = 128
_SLOT_HEADER = 64  # pixels begin on a cache line of their own


class Frame(NamedTuple):
    """A picture, (H, W, 3) uint8 RGB, its number from 1, and the time it shows."""

    pixels: np.ndarray
    number: int
    source_ns: int


class FrameFileError(OSError):
    """A file that is missing, or holds no frames of ours."""


class FrameWriter:
    """Creates the file, whole and at once, under `path`, and publishes frames into it."""

    def __init__(self, path: Path, height: int, width: int, fps: float) -> None:
        self.path = path
        self.shape = (height, width, 3)
        self._slot_bytes = _SLOT_HEADER + -(-height * width * 3 // 64) * 64
        size = _SLOTS_AT + SLOTS * self._slot_bytes
        new = path.with_name(f".{path.name}.new")
        with open(new, "w+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        _HEADER.pack_into(self._map, 0, MAGIC, height, width, SLOTS, fps)
        os.replace(new, path)
        self._number = 0

    def publish(self, pixels: np.ndarray, source_ns: int) -> None:
        """Makes `pixels` (H, W, 3) uint8 RGB the newest frame."""
        if pixels.shape != self.shape or pixels.dtype != np.uint8:
            raise ValueError(f"{self.path}: a frame is {self.shape} uint8, got {pixels.shape} {pixels.dtype}")
        number = self._number + 1
        start = _SLOTS_AT + number % SLOTS * self._slot_bytes
        _SLOT.pack_into(self._map, start, 2 * number + 1, source_ns)
        data = start + _SLOT_HEADER
        self._map[data : data + pixels.nbytes] = pixels.tobytes()
        _SLOT.pack_into(self._map, start, 2 * number, source_ns)
        # `pack_into` clears the field before it writes: a reader in between would see no frame at all.
        self._map[_NEWEST_AT : _NEWEST_AT + _NEWEST.size] = _NEWEST.pack(number)
        self._number = number

    def close(self) -> None:
        """Removes the file; readers that have it open keep the last frame, which grows old."""
        self._map.close()
        self.path.unlink(missing_ok=True)


class FrameReader:
    """Reads what a FrameWriter publishes. FrameFileError if there is no such file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise FrameFileError(
                f"{path}: no frames there ({error}); start the simulated arm, or give the path it prints"
            ) from error
        if len(self._map) < _SLOTS_AT or self._map[: len(MAGIC)] != MAGIC:
            raise FrameFileError(f"{path}: holds no frames of a simulated arm; give the path it prints")
        _, self.height, self.width, self._slots, self.fps = _HEADER.unpack_from(self._map, 0)
        self._slot_bytes = (len(self._map) - _SLOTS_AT) // self._slots

    @property
    def newest(self) -> int:
        """Number of the newest frame; 0 before the first."""
        return int(_NEWEST.unpack_from(self._map, _NEWEST_AT)[0])

    def latest(self) -> Frame | None:
        """A copy of the newest frame, or None before the first."""
        size = self.height * self.width * 3
        while True:
            number = self.newest
            if number == 0:
                return None
            start = _SLOTS_AT + number % self._slots * self._slot_bytes
            mark, source_ns = _SLOT.unpack_from(self._map, start)
            data = self._map[start + _SLOT_HEADER : start + _SLOT_HEADER + size]
            if mark == 2 * number and _SLOT.unpack_from(self._map, start) == (mark, source_ns):
                pixels = np.frombuffer(data, np.uint8).reshape(self.height, self.width, 3)
                return Frame(pixels.copy(), number, source_ns)

    def close(self) -> None:
        """Lets go of the file."""
        self._map.close()
