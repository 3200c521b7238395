"""LeRobot's own commands drive a guarded arm: found by its type, kept within limits, parked at the end."""

import contextlib
import itertools
import json
import threading

import pytest

from embodiments.so101.arm_spec import control_spec
from embodiments.so101.constants import MOTORS
from embodiments.so101.serial_twin.client import TwinClient, TwinProcess

FPS = 10
LOW = {"shoulder_pan": -20, "shoulder_lift": -60, "elbow_flex": 50, "wrist_flex": 50, "gripper": 10}
HIGH = {"shoulder_pan": 20, "shoulder_lift": -45, "elbow_flex": 30, "wrist_flex": 60, "gripper": 60}


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """A follower and a leader, without cameras."""
    link = tmp_path_factory.mktemp("guarded") / "so101"
    with TwinProcess(link, seed=8, leader=True, cameras=False) as process:
        yield process


@pytest.fixture(autouse=True)
def folded(twin):
    for arm in ("follower", "leader"):
        twin.ask("let_go", arm=arm)
        twin.ask("fold", arm=arm)


def follower(twin, folder):
    return [
        "--robot.type=guarded_so101",
        f"--robot.port={twin.port}",
        "--robot.id=twin",
        f"--robot.calibration_dir={twin.info['calibration_dir']}",
        "--robot.arm=auto",
        f"--robot.log_dir={folder / 'log'}",
    ]


@pytest.fixture
def arguments(twin, tmp_path):
    return [
        *follower(twin, tmp_path),
        "--teleop.type=so101_leader",
        f"--teleop.port={twin.info['leader']['port']}",
        "--teleop.id=twin",
        f"--teleop.calibration_dir={twin.info['leader']['calibration_dir']}",
    ]


@contextlib.contextmanager
def somebody_leads(twin, period_s=1.0):
    """The leader is led to and fro while the block runs."""
    stop = threading.Event()

    def lead():
        client = TwinClient(twin.control)
        for pose in itertools.cycle((LOW, HIGH)):
            if stop.is_set():
                break
            client.ask("hand", joints=pose, seconds=period_s, arm="leader")
            stop.wait(period_s)
        client.close()

    thread = threading.Thread(target=lead)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def events(folder):
    """(CLOCK_MONOTONIC in us, text) of the one journal in `folder`."""
    (log,) = folder.glob("twin-*[0-9].jsonl")
    lines = map(json.loads, log.read_text().splitlines())
    return [(line["monotonic_us"], line["text"]) for line in lines]


def test_teleoperate_is_followed_within_limits_and_ends_parked(command, twin, arguments, tmp_path):
    since = twin.ask("status")["arms"]["follower"]["goal_writes"]
    with somebody_leads(twin):
        result = command("teleoperate", *arguments, "--fps=30", "--teleop_time_s=8")
    assert result.code == 0, result.output[-3000:]
    said = events(tmp_path / "log")
    paths = limited_paths(twin, since, said)
    assert len(paths[0]) > 800  # 100 a second, whatever the 30 of the loop
    assert max(paths[0]) - min(paths[0]) > 20.0
    assert any("approaching" in text for _, text in said)
    assert twin.ask("joints")["torque"] == [0] * 6


def test_rollout_is_kept_within_limits(command, checkpoint, tmp_path):
    """An untrained policy, which asks for anything."""
    with TwinProcess(tmp_path / "so101", seed=8, size=48) as twin:
        cameras = ", ".join(f"{n}: {{type: twin, path: {path}}}" for n, path in twin.info["cameras"].items())
        result = command(
            "rollout",
            f"--policy.path={checkpoint}",
            "--policy.device=cpu",
            *follower(twin, tmp_path),
            f"--robot.cameras={{{cameras}}}",
            "--strategy.type=base",
            "--inference.type=sync",
            "--task=touch the red block",
            f"--fps={FPS}",
            "--duration=2",
            "--device=cpu",
            "--play_sounds=false",
            "--return_to_initial_position=false",
        )
        assert result.code == 0, result.output[-3000:]
        assert len(limited_paths(twin, 0, events(tmp_path / "log"))[0]) > 150
        assert twin.ask("joints")["torque"] == [0] * 6


def limited_paths(twin, since, said):
    """Goals of every joint until it was let go, from where on they give way; no step beyond its limit."""
    released_us = next(at for at, text in said if "PARK -> LIMP" in text)
    goals = [raw for at, raw in twin.goals(since=since) if at < released_us * 1000]
    spec = control_spec(twin.port, twin.calibration_file)
    joints = spec.load_calibration().joints
    paths = [[joint.from_raw(raw[joint.calibration.id]) for raw in goals] for joint in joints]
    for path, limit in zip(paths, spec.limits, strict=True):
        most = limit.max_velocity / spec.rate_hz + 2 * 360 / 4095
        assert max(abs(b - a) for a, b in itertools.pairwise(path)) <= most
    return paths


def test_record_keeps_the_owners_robot_type_and_columns(command, twin, arguments, tmp_path):
    root = tmp_path / "dataset"
    with somebody_leads(twin):
        result = command(
            "record",
            *arguments,
            "--dataset.repo_id=tests/guarded",
            f"--dataset.root={root}",
            "--dataset.no_stamp=true",
            "--dataset.single_task=follow the leader",
            f"--dataset.fps={FPS}",
            "--dataset.num_episodes=1",
            "--dataset.episode_time_s=3",
            "--dataset.reset_time_s=0",
            "--dataset.push_to_hub=false",
            "--play_sounds=false",
        )
    assert result.code == 0, result.output[-3000:]
    info = json.loads((root / "meta/info.json").read_text())
    names = [f"{motor}.pos" for motor in MOTORS]
    assert info["robot_type"] == "so_follower"
    assert info["features"]["observation.state"]["names"] == names
    assert info["features"]["action"]["names"] == names
    assert info["total_frames"] >= 2 * FPS
    assert twin.ask("joints")["torque"] == [0] * 6
