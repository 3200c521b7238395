"""Unmodified LeRobot on the simulated arm's serial port: its driver, then its commands, as on a real arm."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from embodiments.feetech.calibration import Calibration
from embodiments.so101.constants import JOINT_RANGE_DEG, MOTORS
from embodiments.so101.serial_twin.client import TwinClient, TwinProcess

SIZE = 48
FPS = 10
KEYS = [f"{motor}.pos" for motor in MOTORS]
UP = {"shoulder_lift.pos": -40.0, "elbow_flex.pos": 10.0, "wrist_flex.pos": 0.0}  # clear of the table
PING, READ, WRITE, SYNC_READ, SYNC_WRITE = "01", "02", "03", "82", "83"


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """A follower with two cameras, and a leader."""
    with TwinProcess(tmp_path_factory.mktemp("arm") / "so101", seed=3, leader=True, size=SIZE) as process:
        yield process


@pytest.fixture(autouse=True)
def folded(twin):
    """Each test finds both arms folded, without torque, and nobody at them."""
    for arm in ("follower", "leader"):
        twin.ask("let_go", arm=arm)
        twin.ask("fold", arm=arm)


@pytest.fixture
def robot(twin):
    """LeRobot's own follower, connected."""
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    made = SO101Follower(
        SO101FollowerConfig(port=twin.port, id="twin", calibration_dir=Path(twin.info["calibration_dir"]))
    )
    made.connect()
    yield made
    if made.is_connected:
        made.disconnect()


def requests(twin):
    return twin.ask("status")["arms"]["follower"]["by_instruction"]


def true_joints(twin, arm="follower"):
    return np.array(twin.ask("joints", arm=arm)["true"])


# -- the driver
def test_connecting_is_the_traffic_of_a_real_arm(twin):
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    before = requests(twin)
    robot = SO101Follower(
        SO101FollowerConfig(port=twin.port, id="twin", calibration_dir=Path(twin.info["calibration_dir"]))
    )
    robot.connect()
    assert robot.is_calibrated
    after = requests(twin)
    seen = {code: after[code] - before.get(code, 0) for code in (PING, READ, WRITE)}
    # 18 of the reads are `is_calibrated`, which we asked once more. A motor that LeRobot has never configured
    # has bit 4 of Phase set and gets one write more.
    assert seen == {PING: 6, READ: 42 + 18, WRITE: 69}
    assert twin.ask("joints")["torque"] == [1] * 6
    registers = twin.ask("registers", id=6)["registers"]
    assert (registers["Max_Torque_Limit"], registers["Overload_Torque"]) == (500, 25)
    assert (registers["Return_Delay_Time"], registers["Lock"], registers["P_Coefficient"]) == (0, 1, 16)
    robot.disconnect()
    assert twin.ask("joints")["torque"] == [0] * 6


def test_it_observes_and_acts(twin, robot):
    observed = robot.get_observation()
    assert list(observed) == KEYS
    calibration = Calibration.load(twin.calibration_file, MOTORS)
    present = [twin.ask("registers", id=id)["registers"]["Present_Position"] for id in range(1, 7)]
    ours = [joint.from_raw(raw) for joint, raw in zip(calibration.joints, present, strict=True)]
    assert list(observed.values()) == pytest.approx(ours, abs=0.5), "our units are LeRobot's"
    robot.send_action(observed | UP)
    time.sleep(1.5)
    observed, before = robot.get_observation(), true_joints(twin)
    goal = observed | {"shoulder_pan.pos": observed["shoulder_pan.pos"] + 20.0, "gripper.pos": 60.0}
    assert robot.send_action(goal) == goal
    time.sleep(1.5)
    reached = robot.get_observation()
    assert reached["shoulder_pan.pos"] == pytest.approx(goal["shoulder_pan.pos"], abs=0.5)
    assert reached["gripper.pos"] == pytest.approx(60.0, abs=1.5)
    assert true_joints(twin)[0] - before[0] == pytest.approx(20.0, abs=1.0)


def test_without_torque_it_falls(twin, robot):
    robot.send_action(robot.get_observation() | UP)
    time.sleep(1.5)
    held = true_joints(twin)
    assert held[2] == pytest.approx(UP["elbow_flex.pos"], abs=6.0)
    time.sleep(0.5)
    assert np.abs(true_joints(twin) - held).max() < 0.3, "with torque it holds"
    robot.disconnect()
    time.sleep(1.0)
    assert true_joints(twin)[2] - held[2] > 10.0


# -- the commands
@pytest.fixture
def arguments(twin):
    """Options of a follower with its cameras, as the twin's command prints them."""
    cameras = ", ".join(
        f"{name}: {{type: twin, path: {path}}}" for name, path in twin.info["cameras"].items()
    )
    return [
        "--robot.type=so101_follower",
        f"--robot.port={twin.port}",
        "--robot.id=twin",
        f"--robot.calibration_dir={twin.info['calibration_dir']}",
        f"--robot.cameras={{{cameras}}}",
    ]


@pytest.fixture
def leader(twin):
    """Options of the leader."""
    return [
        "--teleop.type=so101_leader",
        f"--teleop.port={twin.info['leader']['port']}",
        "--teleop.id=twin",
        f"--teleop.calibration_dir={twin.info['leader']['calibration_dir']}",
    ]


@contextlib.contextmanager
def somebody_leads(twin, low, high, period_s=1.0):
    """The leader is led to and fro while the block runs."""
    stop = threading.Event()

    def lead():
        client = TwinClient(twin.control)
        while not stop.is_set():
            for pose in (low, high):
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


LOW = {"shoulder_pan": -20, "shoulder_lift": -45, "elbow_flex": 40, "wrist_flex": 60, "gripper": 10}
HIGH = {"shoulder_pan": 20, "shoulder_lift": -35, "elbow_flex": 25, "wrist_flex": 70, "gripper": 60}


def test_teleoperate(command, twin, arguments, leader):
    first = len(twin.goals())
    with somebody_leads(twin, LOW, HIGH):
        result = command("teleoperate", *arguments, *leader, "--fps=30", "--teleop_time_s=4")
    assert result.code == 0, result.output[-3000:]
    goals = twin.goals()[first:]
    assert len(goals) > 60
    calibration = Calibration.load(twin.calibration_file, MOTORS)
    followed = np.array(
        [[joint.from_raw(raw[joint.calibration.id]) for joint in calibration.joints] for _, raw in goals]
    )
    assert np.ptp(followed[:, 0]) > 25.0, "the follower was led over most of the leader's 40 degrees"
    assert np.ptp(followed[:, 5]) > 30.0
    assert twin.ask("joints")["torque"] == [0] * 6


@pytest.fixture(scope="module")
def recorded(command, twin, tmp_path_factory):
    """Root of a dataset of one episode that lerobot-record made of the twin led by the leader."""
    arm, lead = arguments.__wrapped__(twin), leader.__wrapped__(twin)
    for _ in range(3):  # a starved machine draws a picture too late now and then, and LeRobot ends
        root = tmp_path_factory.mktemp("recorded") / "dataset"
        with somebody_leads(twin, LOW, HIGH):
            result = command(
                "record",
                *arm,
                *lead,
                "--dataset.repo_id=tests/led",
                f"--dataset.root={root}",
                "--dataset.no_stamp=true",
                "--dataset.single_task=follow the leader",
                f"--dataset.fps={FPS}",
                "--dataset.num_episodes=1",
                "--dataset.episode_time_s=4",
                "--dataset.reset_time_s=0",
                "--dataset.push_to_hub=false",
                "--play_sounds=false",
            )
        if "its source has stopped or is too slow" not in result.output:
            break
    assert result.code == 0, result.output[-3000:]
    return root


def test_record(recorded, twin):
    from lerobot.datasets import LeRobotDataset

    info = json.loads((recorded / "meta/info.json").read_text())
    assert info["robot_type"] == "so_follower", "as from a real arm"
    assert info["features"]["action"]["names"] == KEYS
    assert info["features"]["observation.images.front"]["shape"] == [SIZE, SIZE, 3]
    dataset = LeRobotDataset("tests/led", root=recorded, video_backend="pyav")
    assert 20 <= len(dataset) <= 4 * FPS + 1
    frames = [dataset[i] for i in range(len(dataset))]
    actions = np.array([frame["action"].numpy() for frame in frames])
    states = np.array([frame["observation.state"].numpy() for frame in frames])
    assert np.ptp(actions[:, 0]) > 25.0
    assert np.abs(actions[2:, 0] - states[2:, 0]).mean() < 15.0, "the arm follows what it is told"


def test_recorded_colours_are_the_scenes(recorded, twin):
    """A camera that swaps red and blue is right in every other respect."""
    from lerobot.datasets import LeRobotDataset

    from embodiments.twin_camera.frames import FrameReader

    dataset = LeRobotDataset("tests/led", root=recorded, video_backend="pyav")
    shown = FrameReader(Path(twin.info["cameras"]["front"])).latest().pixels.astype(float)
    stored = dataset[len(dataset) - 1]["observation.images.front"].numpy().transpose(1, 2, 0) * 255
    error = np.abs(stored - shown).mean()
    swapped = np.abs(stored[:, :, ::-1] - shown).mean()
    assert error < 0.6 * swapped
    redness = shown[:, :, 0] - shown[:, :, 2]
    assert np.abs(redness).max() > 60, "there is something coloured to tell by"


def test_replay(command, recorded, twin, arguments):
    from lerobot.datasets import LeRobotDataset

    first = len(twin.goals())
    arm = [argument for argument in arguments if "cameras" not in argument]
    result = command(
        "replay",
        *arm,
        "--dataset.repo_id=tests/led",
        f"--dataset.root={recorded}",
        "--dataset.episode=0",
        "--play_sounds=false",
    )
    assert result.code == 0, result.output[-3000:]
    goals = [raw for _, raw in twin.goals()[first:]]
    dataset = LeRobotDataset("tests/led", root=recorded, video_backend="pyav")
    actions = [row["action"].numpy() for row in dataset.select_columns("action")]
    assert len(goals) == len(actions)
    calibration = Calibration.load(twin.calibration_file, MOTORS)
    sent = np.array(
        [[joint.from_raw(raw[joint.calibration.id]) for joint in calibration.joints] for raw in goals]
    )
    assert np.abs(sent - np.array(actions)).max() < 0.2, "one step, and LeRobot's truncation"


def test_rollout(command, checkpoint, twin, arguments):
    # An untrained policy drives the arm into the table; what overload does to LeRobot: test_serial_defects.
    for id in range(1, 7):
        twin.ask("write_register", id=id, name="Overload_Torque", value=254)
        twin.ask("write_register", id=id, name="Protection_Time", value=254)
    first = len(twin.goals())
    result = command(
        "rollout",
        f"--policy.path={checkpoint}",
        "--policy.device=cpu",
        *arguments,
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
    assert 5 <= len(twin.goals()) - first <= 2 * FPS + 3
    assert twin.ask("joints")["torque"] == [0] * 6


# -- calibration, as an owner does it
def wait_for(seen, text, process, seconds=90.0):
    deadline = time.monotonic() + seconds
    while text not in "".join(seen):
        assert process.poll() is None, "".join(seen)[-3000:]
        assert time.monotonic() < deadline, f"no {text!r} in: {''.join(seen)[-2000:]}"
        time.sleep(0.05)


LIFT = {"shoulder_lift": -90, "elbow_flex": 0, "wrist_flex": 0}
MIDDLE = dict.fromkeys(MOTORS, 0.0) | {"gripper": 50.0}
SWEEP = (  # where no part of the arm is in the table's way
    {"shoulder_lift": -99, "elbow_flex": 0, "wrist_flex": 0},
    {"shoulder_pan": -109, "wrist_flex": -94, "gripper": 1},
    {"shoulder_pan": 109, "wrist_flex": 94, "gripper": 99},
    {"shoulder_pan": 0, "wrist_flex": 0, "elbow_flex": 96},
    {"shoulder_lift": -45, "elbow_flex": -96},
    {"shoulder_lift": 99},
)


def test_calibrate_by_hand(tmp_path):
    with TwinProcess(tmp_path / "so101", seed=8, cameras=False, error_deg=9.0) as twin:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("lerobot-calibrate")),
                "--robot.type=so101_follower",
                f"--robot.port={twin.port}",
                "--robot.id=mine",
                f"--robot.calibration_dir={tmp_path / 'calibration'}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        )
        seen = []

        def listen():
            while part := process.stdout.read(1):
                seen.append(part)

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            wait_for(seen, "middle of its range of motion and press ENTER", process)
            for pose in (LIFT, MIDDLE):
                twin.ask("hand", joints=pose, seconds=0.8)
                time.sleep(1.2)
            process.stdin.write("\n")
            process.stdin.flush()
            wait_for(seen, "Press ENTER to stop", process)
            for pose in SWEEP:
                twin.ask("hand", joints=pose, seconds=0.8)
                time.sleep(1.2)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.wait(timeout=60) == 0, "".join(seen)[-3000:]
        finally:
            process.kill()
            process.stdin.close()
            thread.join()
        calibration = Calibration.load(tmp_path / "calibration" / "mine.json", MOTORS)
        motors = {}
        for id in range(1, 7):
            found = twin.ask("registers", id=id)["registers"]
            motors[id] = (found["Homing_Offset"], found["Min_Position_Limit"], found["Max_Position_Limit"])
        assert calibration.differences(motors) == [], "the motors keep what the file says"
        for joint, (low, high) in zip(calibration.joints[:4], JOINT_RANGE_DEG[:4], strict=True):
            assert joint.limits[1] == pytest.approx((high - low) / 2, abs=3.0), joint.name
        raw = [twin.ask("registers", id=id)["registers"]["Present_Position"] for id in range(1, 7)]
        reported = [joint.from_raw(value) for joint, value in zip(calibration.joints, raw, strict=True)]
        assert reported[:5] == pytest.approx(true_joints(twin)[:5].tolist(), abs=3.0), "a good zero now"
