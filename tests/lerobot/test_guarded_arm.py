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


@pytest.fixture
def arguments(twin, tmp_path):
    return [
        "--robot.type=guarded_so101",
        f"--robot.port={twin.port}",
        "--robot.id=twin",
        f"--robot.calibration_dir={twin.info['calibration_dir']}",
        "--robot.arm=auto",
        f"--robot.log_dir={tmp_path / 'log'}",
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
    released_us = next(at for at, text in said if "PARK -> LIMP" in text)  # from there goals give way
    goals = [(at, raw) for at, raw in twin.goals(since=since) if at < released_us * 1000]
    assert len(goals) > 800  # 100 a second, whatever the 30 of the loop
    spec = control_spec(twin.port, twin.calibration_file)
    joints = spec.load_calibration().joints
    pan = [joints[0].from_raw(raw[1]) for _, raw in goals]
    assert max(pan) - min(pan) > 20.0
    for (_, a), (_, b) in itertools.pairwise(goals):
        for joint, limit in zip(joints, spec.limits, strict=True):
            step = abs(joint.from_raw(b[joint.calibration.id]) - joint.from_raw(a[joint.calibration.id]))
            assert step <= limit.max_velocity / spec.rate_hz + 2 * 360 / 4095
    assert any("approaching" in text for _, text in said)
    assert twin.ask("joints")["torque"] == [0] * 6


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
