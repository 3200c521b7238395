"""Cameras with the time their pictures show, on CLOCK_MONOTONIC in microseconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embodiments.twin_camera.frames import Frame, FrameFileError, FrameReader
from recipes.arm.camera_process import CameraProcess
from recipes.arm.errors import CheckFailed

FIRST_PICTURE_S = 10.0


class Look(NamedTuple):
    """One picture of every camera; taken_us: what the oldest of them shows, oldest: that camera's name."""

    pixels: dict[str, NDArray[np.uint8]]
    taken_us: int
    oldest: str

    def age_ms(self) -> float:
        """How long ago that was."""
        return (time.monotonic_ns() / 1e3 - self.taken_us) / 1e3


class Cameras:
    """Connected cameras by the policy's names. None is read in this process: pictures are mapped memory."""

    def __init__(self, configurations: Mapping[str, Mapping[str, Any]]) -> None:
        """`configurations`: name → LeRobot's settings with their `type`, as `--robot.cameras` has them.

        CheckFailed for a type or setting that LeRobot does not know, and for a camera that does not connect.
        """
        types = {name: given.get("type") for name, given in configurations.items()}
        simulated = {name: _frame_file(name, configurations[name]) for name in types if types[name] == "twin"}
        real = {name: given for name, given in configurations.items() if name not in simulated}
        self._readers: dict[str, FrameReader] = {}
        with ExitStack() as stack:
            self._process = CameraProcess(real) if real else None
            if self._process is not None:
                stack.callback(self._process.close)
            files = simulated | (self._process.frames if self._process is not None else {})
            for name in configurations:
                try:
                    self._readers[name] = FrameReader(files[name])
                except FrameFileError as error:
                    raise CheckFailed(f"camera {name}: {error}") from error
                stack.callback(self._readers[name].close)
            self._open = stack.pop_all()

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the configuration."""
        return tuple(self._readers)

    @property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """(H, W, 3) of each camera's pictures."""
        return {name: (reader.height, reader.width, 3) for name, reader in self._readers.items()}

    def look(self) -> Look:
        """The newest picture of every camera, however old it is; CamerasGone if one is broken."""
        if self._process is not None:
            self._process.check()
        frames = {name: _newest(name, reader) for name, reader in self._readers.items()}
        oldest = min(frames, key=lambda name: frames[name].source_ns)
        pixels = {name: frame.pixels for name, frame in frames.items()}
        return Look(pixels, frames[oldest].source_ns // 1000, oldest)

    def look_after(self, moment_us: int, timeout_s: float = FIRST_PICTURE_S) -> Look:
        """The first look that shows nothing from before `moment_us`; CheckFailed if none comes in time."""
        deadline = time.monotonic() + timeout_s
        while (look := self.look()).taken_us < moment_us:
            if time.monotonic() > deadline:
                raise CheckFailed(
                    f"camera {look.oldest}: its newest picture is {look.age_ms():.0f} ms old and no newer "
                    f"one came within {timeout_s:g} s; look at its cable, or start the twin's cameras"
                )
            time.sleep(0.005)
        return look

    def close(self) -> None:
        """Lets go of every camera; a second call does nothing."""
        self._open.close()


def _frame_file(name: str, given: Mapping[str, Any]) -> Path:
    """Where a camera of the simulated arm publishes; its size is the file's, and pictures are RGB."""
    if set(given) != {"type", "path"}:
        raise CheckFailed(
            f"camera {name}: of type twin with {sorted(set(given) - {'type'})}; give its path, as "
            "`hybridpolicy arm twin` prints it, and nothing else"
        )
    return Path(given["path"])


def _newest(name: str, reader: FrameReader) -> Frame:
    frame = reader.latest()
    if frame is None:
        raise CheckFailed(f"camera {name}: {reader.path} holds no picture yet; start the twin's cameras")
    return frame
