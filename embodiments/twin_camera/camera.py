"""The `twin` camera: LeRobot's Camera over the frames a simulated arm publishes.

Frames carry the time they show. A source that has frozen is seen as such however often it is read:
`read_latest` refuses a frame older than `max_age_ms`, and says how old it is.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.cameras.camera import Camera
from lerobot.cameras.configs import ColorMode
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from embodiments.twin_camera.configuration import TwinCameraConfig
from embodiments.twin_camera.frames import Frame, FrameReader

POLL_S = 0.001
READ_TIMEOUT_MS = 10_000.0


class TwinCamera(Camera):
    """One camera of a simulated arm."""

    def __init__(self, config: TwinCameraConfig) -> None:
        super().__init__(config)
        self.config = config
        self._reader: FrameReader | None = None
        self._consumed = 0

    def __str__(self) -> str:
        return f"TwinCamera({self.config.path})"

    @property
    def is_connected(self) -> bool:
        return self._reader is not None

    @staticmethod
    def find_cameras() -> list[dict[str, Any]]:
        """The cameras of the simulated arms that run under the usual name."""
        from embodiments.so101.serial_twin.paths import default_link

        found = []
        for path in sorted(default_link().parent.glob("*.frames")):
            reader = FrameReader(path)
            profile = {"width": reader.width, "height": reader.height, "fps": reader.fps}
            reader.close()
            found.append({"name": path.stem, "type": "twin", "id": str(path), "profile": profile})
        return found

    def connect(self, warmup: bool = True) -> None:
        """Opens the file; with `warmup`, waits for a frame newer than this call.

        Raises FrameFileError (an OSError), ValueError if the size is another one, TimeoutError.
        """
        if self._reader is not None:
            raise DeviceAlreadyConnectedError(f"{self} is already connected.")
        reader = FrameReader(Path(self.config.path))
        if (reader.width, reader.height) != (self.width, self.height):
            reader.close()
            raise ValueError(
                f"{self}: its frames are {reader.width}x{reader.height}, the configuration says "
                f"{self.width}x{self.height}; correct width and height, or leave them out"
            )
        self._reader = reader
        if warmup:
            try:
                self._wait_for(reader.newest + 1, self.config.warmup_s * 1e3)
            except TimeoutError:
                self.disconnect()
                raise

    def latest(self) -> Frame:
        """The newest frame with its number and source time, in the configured channel order.

        Raises RuntimeError before the first frame, DeviceNotConnectedError.
        """
        frame = self._connected().latest()
        if frame is None:
            raise RuntimeError(f"{self} has not published a frame yet")
        if self.config.color_mode is ColorMode.BGR:
            return frame._replace(pixels=np.ascontiguousarray(frame.pixels[:, :, ::-1]))
        return frame

    def read_latest(self, max_age_ms: int = 500) -> np.ndarray:
        """The newest frame, (H, W, 3) uint8; TimeoutError if what it shows is older than `max_age_ms`."""
        frame = self.latest()
        age_ms = (time.monotonic_ns() - frame.source_ns) / 1e6
        if age_ms > max_age_ms:
            raise TimeoutError(
                f"{self}: the newest frame (number {frame.number}) is {age_ms:.0f} ms old, allowed is "
                f"{max_age_ms} ms; its source has stopped or is too slow"
            )
        return frame.pixels

    def async_read(self, timeout_ms: float = 200.0) -> np.ndarray:
        """The newest frame that no earlier call returned, waiting for it up to `timeout_ms`; TimeoutError."""
        frame = self._wait_for(self._consumed + 1, timeout_ms)
        self._consumed = frame.number
        return frame.pixels

    def read(self) -> np.ndarray:
        """The first frame published after this call; TimeoutError after 10 s."""
        return self._wait_for(self._connected().newest + 1, READ_TIMEOUT_MS).pixels

    def disconnect(self) -> None:
        """Lets go of the file."""
        self._connected().close()
        self._reader = None
        self._consumed = 0

    def _connected(self) -> FrameReader:
        if self._reader is None:
            raise DeviceNotConnectedError(f"{self} is not connected; call connect first.")
        return self._reader

    def _wait_for(self, number: int, timeout_ms: float) -> Frame:
        reader = self._connected()
        deadline = time.monotonic() + timeout_ms / 1e3
        while reader.newest < number:
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"{self}: no new frame within {timeout_ms:.0f} ms (newest is number {reader.newest}); "
                    "its source has stopped or is too slow"
                )
            time.sleep(POLL_S)
        return self.latest()
