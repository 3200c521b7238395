"""LeRobot's own cameras behind the cameras' process: a stream that OpenCV opens like a device, cut cables."""

import os
import threading
import time

import cv2
import numpy as np
import pytest

from recipes.arm.cameras import Cameras
from recipes.arm.errors import CamerasGone, CheckFailed

HEIGHT, WIDTH, FPS = 240, 320, 30.0
NOISE = np.random.default_rng(0).integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8) + np.uint8([0, 90, 190])  # BGR


class Stream:
    """Motion JPEG through a named pipe: what a device file is to OpenCV. Noise fills its buffer."""

    def __init__(self, path):
        os.mkfifo(path)
        self.path, self._over, self.running = path, threading.Event(), threading.Event()
        self.running.set()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self):
        with open(self.path, "wb", buffering=0) as pipe:
            number = 0
            while not self._over.is_set():
                if self.running.wait(0.05):
                    number += 1
                    try:
                        pipe.write(cv2.imencode(".jpg", np.roll(NOISE, number, axis=1))[1].tobytes())
                    except BrokenPipeError:
                        return
                    time.sleep(1.0 / FPS)

    def end(self):
        self._over.set()
        self._thread.join(5.0)


@pytest.fixture
def stream(tmp_path):
    made = Stream(tmp_path / "camera.mjpeg")
    yield made
    made.end()


@pytest.fixture
def cameras(stream):
    given = {"front": {"type": "opencv", "index_or_path": str(stream.path), "fourcc": None, "warmup_s": 0}}
    opened = Cameras(given)
    yield opened
    opened.close()


def test_pictures_come_through_with_their_age_and_a_stalled_camera_grows_old(stream, cameras):
    assert cameras.names == ("front",)
    assert cameras.shapes == {"front": (HEIGHT, WIDTH, 3)}
    began_us = time.monotonic_ns() // 1000
    look = cameras.look_after(began_us)
    red, green, blue = look.pixels["front"].reshape(-1, 3).mean(0)
    assert red > green + 50 > blue + 100
    assert began_us <= look.taken_us <= time.monotonic_ns() // 1000
    later = cameras.look_after(look.taken_us + 1)
    assert (later.pixels["front"] != look.pixels["front"]).mean() > 0.5
    assert later.age_ms() < 500
    stream.running.clear()
    time.sleep(1.0)
    assert cameras.look().age_ms() > 400
    stream.running.set()
    assert cameras.look_after(time.monotonic_ns() // 1000).age_ms() < 500


def test_a_cut_camera_is_named(stream, cameras):
    stream.end()
    deadline = time.monotonic() + 20.0
    with pytest.raises(CamerasGone, match=r"camera front: .*cable"):
        look_until(cameras, deadline)


def look_until(cameras, deadline):
    while time.monotonic() < deadline:
        cameras.look()
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "opencv", "index_or_path": "/nowhere/at/all"}, "camera front: ConnectionError: Failed"),
        ({"type": "opencv", "index_or_path": 0, "brightness": 3}, "camera front: .*brightness"),
        ({"type": "pinhole"}, "camera front: .*pinhole"),
        ({"type": "twin"}, "camera front: of type twin .*give its path"),
        ({"type": "twin", "path": "/x.frames", "width": 640}, r"\['path', 'width'\]; give its path"),
        ({"type": "twin", "path": "/nowhere.frames"}, "camera front: .*no frames there"),
    ],
)
def test_what_cannot_be_connected_is_refused(given, message):
    with pytest.raises(CheckFailed, match=message):
        Cameras({"front": given})
