"""LeRobot's cameras with the time their pictures show, on CLOCK_MONOTONIC in microseconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    """Connected cameras by the policy's names. Those of LeRobot read in threads of their own."""

    def __init__(self, configurations: Mapping[str, Mapping[str, Any]]) -> None:
        """`configurations`: name → LeRobot's settings with their `type`, as `--robot.cameras` has them.

        CheckFailed for a type or setting that LeRobot does not know; the cameras' own errors otherwise.
        """
        import draccus
        from lerobot.cameras.configs import CameraConfig
        from lerobot.cameras.opencv import OpenCVCameraConfig  # noqa: F401 - registers its type
        from lerobot.cameras.utils import make_cameras_from_configs

        import embodiments.twin_camera.configuration  # noqa: F401 - registers its type

        try:
            parsed = {name: draccus.decode(CameraConfig, dict(c)) for name, c in configurations.items()}
        except draccus.utils.DecodingError as error:
            raise CheckFailed(f"cameras: {error}; write them as LeRobot's --robot.cameras") from error
        self._cameras: dict[str, Any] = {}
        made = make_cameras_from_configs(parsed)
        try:
            for name, camera in made.items():
                camera.connect()
                self._cameras[name] = camera
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the configuration."""
        return tuple(self._cameras)

    @property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """(H, W, 3) of each camera's pictures."""
        return {name: (int(c.height), int(c.width), 3) for name, c in self._cameras.items()}

    def look(self) -> Look:
        """The newest picture of every camera, however old it is."""
        pixels, times = {}, {}
        for name, camera in self._cameras.items():
            pixels[name], times[name] = _newest(camera)
        oldest = min(times, key=times.__getitem__)
        return Look(pixels, times[oldest], oldest)

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
        """Lets go of every camera."""
        while self._cameras:
            self._cameras.popitem()[1].disconnect()


def _newest(camera: Any) -> tuple[NDArray[np.uint8], int]:
    """A camera's newest picture and when it was taken."""
    if hasattr(camera, "latest"):  # a camera that knows what its source knows
        frame = camera.latest()
        return frame.pixels, frame.source_ns // 1000
    with camera.frame_lock:  # LeRobot's reading threads: the picture and when it was read, taken together
        pixels, stamp_s = camera.latest_frame, camera.latest_timestamp
    if pixels is None or stamp_s is None:
        raise CheckFailed(f"{camera}: no picture yet; look at its cable")
    # LeRobot stamps with perf_counter, which on every system of ours is CLOCK_MONOTONIC up to an offset.
    return pixels, time.monotonic_ns() // 1000 - round((time.perf_counter() - stamp_s) * 1e6)
