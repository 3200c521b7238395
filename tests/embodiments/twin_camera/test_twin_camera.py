"""The `twin` camera as LeRobot uses it, on a running twin: colours, ages, freezes, and what is refused."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embodiments.so101.serial_twin.client import TwinProcess
from embodiments.twin_camera.frames import FrameFileError, FrameWriter

SIZE = 48


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    with TwinProcess(tmp_path_factory.mktemp("camera") / "so101", seed=2, size=SIZE, fps=30) as process:
        yield process


@pytest.fixture
def camera(twin):
    from embodiments.twin_camera import TwinCamera, TwinCameraConfig

    made = TwinCamera(TwinCameraConfig(path=twin.info["cameras"]["front"]))
    made.connect()
    yield made
    twin.ask("clear")
    if made.is_connected:
        made.disconnect()


def test_lerobot_makes_it_by_its_type(twin):
    """In a process of its own: what registers it is our plugin alone."""
    script = (
        "import sys\n"
        "from lerobot.cameras import CameraConfig, make_cameras_from_configs\n"
        "from lerobot.utils.import_utils import register_third_party_plugins\n"
        "register_third_party_plugins()\n"
        "import draccus\n"
        "config = CameraConfig.get_choice_class('twin')(path=sys.argv[1])\n"
        "camera = make_cameras_from_configs({'front': config})['front']\n"
        "print(config.type, type(camera).__name__, camera.width, camera.height, camera.fps)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, twin.info["cameras"]["front"]], capture_output=True, text=True
    )
    assert done.stdout.split() == ["twin", "TwinCamera", "48", "48", "30"], done.stderr[-2000:]


def test_frames_are_fresh_and_their_time_is_the_sources(camera):
    frame = camera.latest()
    age_ms = (time.monotonic_ns() - frame.source_ns) / 1e6
    assert 0 < age_ms < 500
    assert frame.pixels.shape == (SIZE, SIZE, 3)
    assert frame.pixels.dtype == np.uint8


def test_colours_are_the_scenes(twin, camera):
    """Drawn here from the same layout: whoever swaps red and blue is off by the colour of the blocks."""
    from embodiments.so101.serial_twin.scene import SceneSpec
    from embodiments.so101.twin.simulation import TwinSimulation

    simulation = TwinSimulation()
    simulation.reset(SceneSpec(0).layout())
    expected = simulation.pictures(SIZE)["front"].astype(float)
    blocks = np.abs(expected[:, :, 0] - expected[:, :, 2]) > 60  # clearly red or clearly blue
    assert blocks.sum() > 5
    seen = camera.read_latest().astype(float)
    assert (
        np.abs(seen[blocks] - expected[blocks]).mean()
        < 0.5 * np.abs(seen[blocks][:, ::-1] - expected[blocks]).mean()
    )


def test_bgr_is_the_same_picture_the_other_way_round(twin, camera):
    from lerobot.cameras.configs import ColorMode

    from embodiments.twin_camera import TwinCamera, TwinCameraConfig

    twin.ask("freeze", camera="front")
    time.sleep(0.2)
    other = TwinCamera(TwinCameraConfig(path=twin.info["cameras"]["front"], color_mode=ColorMode.BGR))
    other.connect(warmup=False)
    assert (other.latest().pixels == camera.latest().pixels[:, :, ::-1]).all()
    other.disconnect()


def test_each_read_waits_for_a_new_frame(camera):
    numbers = []
    for _ in range(5):
        camera.async_read(timeout_ms=5000)
        numbers.append(camera._consumed)
    assert numbers == sorted(set(numbers))
    before = camera.latest().number
    camera.read()
    assert camera.latest().number > before


def test_a_frozen_camera_is_seen(twin, camera):
    """LeRobot's own network camera stamps arrival: a frozen source never looks stale there."""
    twin.ask("freeze", camera="front")
    time.sleep(0.7)
    with pytest.raises(TimeoutError, match=r"is \d+ ms old, allowed is 500 ms") as caught:
        camera.read_latest()
    assert int(str(caught.value).split(" is ")[1].split()[0]) > 500
    camera.async_read(timeout_ms=1)  # the last one, which nobody had consumed
    with pytest.raises(TimeoutError, match="no new frame within 50 ms"):
        camera.async_read(timeout_ms=50)
    assert camera.read_latest(max_age_ms=60_000).shape == (SIZE, SIZE, 3)
    twin.ask("freeze", camera="front", seconds=0)
    camera.async_read(timeout_ms=5000)
    camera.read_latest()


def test_a_freeze_ends_by_itself_and_spares_the_other_camera(twin, camera):
    from embodiments.twin_camera.frames import FrameReader

    wrist = FrameReader(Path(twin.info["cameras"]["wrist"]))
    twin.ask("freeze", camera="front", seconds=0.5)
    time.sleep(0.1)
    front_before, wrist_before = camera.latest().number, wrist.newest
    time.sleep(0.3)
    assert camera.latest().number <= front_before + 1
    deadline = time.monotonic() + 5
    while wrist.newest <= wrist_before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert wrist.newest > wrist_before
    camera.async_read(timeout_ms=5000)
    camera.async_read(timeout_ms=5000)


def test_the_picture_follows_the_arm(twin, camera):
    before = camera.read().astype(float)
    joints = {"shoulder_lift": -40, "elbow_flex": 10, "wrist_flex": 10, "shoulder_pan": 30}
    twin.ask("hand", joints=joints, seconds=0.5)
    time.sleep(1.5)
    changed = np.abs(camera.read().astype(float) - before).max(axis=2) > 40
    assert changed.sum() > 50
    twin.ask("let_go")
    twin.ask("fold")


def test_a_new_scene_shows_other_blocks(twin, camera):
    before = camera.read().astype(float)
    twin.ask("scene", seed=77)
    time.sleep(0.5)
    changed = np.abs(camera.read().astype(float) - before).max(axis=2) > 40
    assert changed.sum() > 20
    twin.ask("scene", seed=0)


def test_running_twins_cameras_are_found(twin, monkeypatch):
    from embodiments.so101.serial_twin import paths
    from embodiments.twin_camera import TwinCamera

    monkeypatch.setattr(paths, "default_link", lambda: Path(twin.port))
    found = {entry["id"]: entry for entry in TwinCamera.find_cameras()}
    assert set(found) == set(twin.info["cameras"].values())
    front = found[twin.info["cameras"]["front"]]
    assert front["type"] == "twin"
    assert front["profile"] == {"width": SIZE, "height": SIZE, "fps": 30.0}


# -- what is refused
def test_another_size_is_refused(twin):
    from embodiments.twin_camera import TwinCamera, TwinCameraConfig

    made = TwinCamera(TwinCameraConfig(path=twin.info["cameras"]["front"], width=64))
    with pytest.raises(ValueError, match="its frames are 48x48, the configuration says 64x48"):
        made.connect()
    assert not made.is_connected


def test_no_arm_no_camera(tmp_path):
    from embodiments.twin_camera import TwinCameraConfig

    with pytest.raises(FrameFileError, match="start the simulated arm"):
        TwinCameraConfig(path=str(tmp_path / "none.frames"))
    with pytest.raises(ValueError, match="path is empty"):
        TwinCameraConfig(path="", width=48, height=48, fps=30)


def test_a_source_that_never_comes(tmp_path):
    from embodiments.twin_camera import TwinCamera, TwinCameraConfig

    FrameWriter(tmp_path / "dead.frames", 8, 8, 10.0)
    made = TwinCamera(TwinCameraConfig(path=str(tmp_path / "dead.frames"), warmup_s=0.1))
    with pytest.raises(TimeoutError, match="no new frame within 100 ms"):
        made.connect()
    assert not made.is_connected
    made.connect(warmup=False)
    with pytest.raises(RuntimeError, match="has not published a frame yet"):
        made.read_latest()


def test_connecting_twice_and_reading_unconnected(camera):
    from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

    with pytest.raises(DeviceAlreadyConnectedError):
        camera.connect()
    camera.disconnect()
    for act in (camera.read, camera.read_latest, camera.async_read, camera.disconnect):
        with pytest.raises(DeviceNotConnectedError, match="call connect first"):
            act()


def test_importing_the_package_is_light():
    heavy = "('torch', 'lerobot', 'numpy')"
    script = f"import sys, embodiments.twin_camera; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
