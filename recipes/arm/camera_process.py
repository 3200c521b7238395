"""LeRobot's cameras in a process of their own: decoding pictures never holds up whoever leads the arm.

Pictures go through mapped files (`embodiments.twin_camera.frames`), stamped with CLOCK_MONOTONIC when LeRobot
handed them over; what the camera itself took to expose and send them is not known.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from embodiments.twin_camera.frames import FrameWriter
from recipes.arm.child import spawn
from recipes.arm.errors import CamerasGone, CheckFailed

CONNECT_S = 60.0  # LeRobot's imports, and a camera that takes seconds to wake
END_S = 5.0
READ_TIMEOUT_MS = 200.0


class CameraProcess:
    """Connected cameras; `frames` names the file that each publishes into."""

    def __init__(self, configurations: Mapping[str, Mapping[str, Any]]) -> None:
        """`configurations`: name → LeRobot's settings with their `type`.

        CheckFailed with LeRobot's own message if one of them cannot be connected.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="hybridpolicy-cameras-"))
        settings = json.dumps({name: dict(given) for name, given in configurations.items()}, default=str)
        self._process, self._pipe = spawn("recipes.arm.camera_process", settings, str(self._folder))
        try:
            found = self._connected(sorted(configurations))
            self.frames = {name: Path(path) for name, path in found.items()}
        except BaseException:
            self.close()
            raise

    def _connected(self, names: list[str]) -> dict[str, str]:
        if not self._pipe.poll(CONNECT_S):
            raise CheckFailed(f"cameras {names}: not connected within {CONNECT_S:g} s; look at their cables")
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            raise CheckFailed(f"cameras {names}: their process ended at once; start again") from None
        if kind == "refused":
            raise CheckFailed(str(value))
        return dict(value)

    def check(self) -> None:
        """CamerasGone if a camera broke or their process ended; what shows nothing new is told by its age."""
        with contextlib.suppress(EOFError, OSError):
            if self._pipe.poll(0):
                raise CamerasGone(f"{self._pipe.recv()}; look at its cable, then start again")
        if self._process.poll() is not None:
            raise CamerasGone(f"the cameras' process ended (code {self._process.returncode}); start again")

    def close(self) -> None:
        """Lets go of every camera; a second call does nothing."""
        self._pipe.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:  # a driver that hangs
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


# -- the other side ----------------------------------------------------------------------------------------
def serve(handle: int, settings: str, folder: str) -> None:
    """Entry point of the cameras' process: publishes until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; its closed pipe ends us
    pipe = Connection(handle)
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        readers, frames = [], {}
        for name, given in json.loads(settings).items():
            try:
                camera = _connect(given)
                stack.callback(camera.disconnect)
                first = camera.async_read(1e3 * CONNECT_S / 2)
                file = Path(folder) / f"{name}.frames"
                writer = FrameWriter(file, *first.shape[:2], float(camera.fps or 0.0))
            except Exception as error:  # noqa: BLE001 - whatever a driver raises is said to the person, by name
                pipe.send(("refused", f"camera {name}: {type(error).__name__}: {error}"))
                return
            writer.publish(first, time.monotonic_ns())
            frames[name] = str(writer.path)
            reading = (name, camera, writer, over, pipe)
            readers.append(threading.Thread(target=_publish, args=reading, daemon=True))
        pipe.send(("ready", frames))
        for reader in readers:
            reader.start()
        with contextlib.suppress(EOFError, OSError):
            pipe.recv()
        over.set()
        for reader in readers:
            reader.join(END_S / 2)


def _connect(given: dict[str, Any]) -> Any:
    import draccus
    import lerobot.cameras.opencv
    import lerobot.cameras.zmq  # noqa: F401 - registers its type, as the import above
    from lerobot.cameras.configs import CameraConfig
    from lerobot.cameras.utils import make_cameras_from_configs

    (camera,) = make_cameras_from_configs({"": draccus.decode(CameraConfig, given)}).values()
    camera.connect()
    return camera


def _publish(name: str, camera: Any, writer: FrameWriter, over: threading.Event, pipe: Connection) -> None:
    """Every new picture. One that fails to come leaves the last to grow old; a broken camera is reported."""
    while not over.is_set():
        try:
            writer.publish(camera.async_read(READ_TIMEOUT_MS), time.monotonic_ns())
        except TimeoutError:
            continue
        except Exception as error:  # noqa: BLE001 - a driver may raise anything; it is said
            with contextlib.suppress(OSError):
                pipe.send(f"camera {name}: {type(error).__name__}: {error}")
            return
