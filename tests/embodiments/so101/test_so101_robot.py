"""`guarded_so101`: LeRobot's robot by name, keys and calibration, and what the guard adds."""

import contextlib
import io
import json
import math
import os
import subprocess
import sys
import time

import pytest

from embodiments.so101.constants import JOINT_NAMES, MOTORS
from embodiments.so101.serial_twin.client import TwinProcess


@pytest.fixture(scope="session")
def twin_process(tmp_path_factory):
    with TwinProcess(tmp_path_factory.mktemp("robot") / "so101", seed=6, cameras=False) as twin:
        yield twin


@pytest.fixture
def twin(twin_process):
    twin_process.ask("clear")
    twin_process.ask("fold")
    return twin_process


@pytest.fixture
def robot(twin):
    """(**settings) → a guarded robot on the twin, made by LeRobot's own factory."""
    made = []

    def build(kind="guarded_so101", **settings):
        from lerobot.robots import RobotConfig, make_robot_from_config

        import embodiments.so101.configuration  # noqa: F401 - registers

        given = {
            "port": twin.port,
            "id": twin.info["id"],
            "calibration_dir": twin.calibration_file.parent,
            "arm": "auto",
        }
        config = RobotConfig.get_choice_class(kind)(**given | settings)
        made.append(make_robot_from_config(config))
        return made[-1]

    yield build
    for one in made:
        with contextlib.suppress(ConnectionError):
            if one.controlled is not None:
                one.controlled.estop()
                one._end()


def present(robot):
    return {key: robot.get_observation()[key] for key in JOINT_NAMES}


def test_importing_the_package_is_light_and_finds_the_robots_lazily():
    script = (
        "import sys, embodiments.so101\n"
        "assert not {'torch', 'lerobot', 'mujoco', 'numpy'} & set(sys.modules)\n"
        "try: embodiments.so101.GuardedKoch\n"
        "except AttributeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "GuardedSO101" in done.stdout


@pytest.mark.parametrize("kind", ["guarded_so101", "guarded_so100"])
def test_it_is_the_owners_robot(robot, kind):
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    ours = robot(kind, calibration_dir=None, id="mine")
    stock = SO101Follower(SO101FollowerConfig(port="/dev/null", id="mine"))
    assert type(ours).__name__ == {"guarded_so101": "GuardedSO101", "guarded_so100": "GuardedSO100"}[kind]
    assert ours.name == ours.robot_type == stock.name == "so_follower"
    assert ours.calibration_fpath == stock.calibration_fpath
    assert ours.observation_features == stock.observation_features
    assert list(ours.action_features) == list(stock.action_features) == list(JOINT_NAMES)
    assert list(ours.bus.motors) == list(MOTORS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arm": "maybe"}, "allowed is one of .*prompt"),
        ({"stale_rearm": "never"}, "allowed is one of .*human"),
        ({"use_degrees": False}, "speaks degrees"),
        ({"max_relative_target": 5.0}, "leave it out"),
        ({"disable_torque_on_disconnect": False}, "parks and lets go"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(robot, settings, message):
    with pytest.raises(ValueError, match=message):
        robot(**settings)


def test_connect_observe_act_disconnect(robot, twin):
    arm = robot()
    assert not arm.is_connected
    arm.connect()
    assert arm.is_connected
    assert arm.is_calibrated
    assert not arm.bus.is_connected  # the parent's bus was never opened
    before = present(arm)
    assert list(before) == list(JOINT_NAMES)
    assert all(isinstance(value, float) for value in before.values())
    target = before | {"shoulder_pan.pos": before["shoulder_pan.pos"] + 4.0}
    for _ in range(20):
        sent = arm.send_action(target)
        time.sleep(0.03)
    assert set(sent) == set(JOINT_NAMES)
    assert sent["shoulder_pan.pos"] == pytest.approx(target["shoulder_pan.pos"], abs=0.2)
    assert present(arm)["shoulder_pan.pos"] == pytest.approx(target["shoulder_pan.pos"], abs=2.0)
    arm.disconnect()
    assert not arm.is_connected
    assert twin.ask("joints")["torque"] == [0] * 6


def test_row_8_bad_actions_never_reach_the_motors(robot):
    arm = robot()
    arm.connect()
    good = present(arm)
    arm.send_action(good)
    rejected = arm.control_state.counters.rejected
    bad = 0
    for value in (math.nan, math.inf, -math.inf):
        for joint in JOINT_NAMES:
            arm.send_action(good | {joint: value})
            bad += 1
    time.sleep(0.1)
    assert arm.control_state.counters.rejected - rejected == bad
    for wrong in ({}, dict(list(good.items())[:5]), good | {"elbow.pos": 0.0}):
        with pytest.raises(ValueError, match="allowed is exactly"):
            arm.send_action(wrong)
    assert present(arm) == pytest.approx(good, abs=1.0)
    arm.disconnect()


def test_row_10_another_arms_calibration_is_an_error_and_no_question(robot, twin, tmp_path, monkeypatch):
    content = json.loads(twin.calibration_file.read_text())
    content["elbow_flex"]["range_max"] -= 40
    (tmp_path / "other.json").write_text(json.dumps(content))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    arm = robot(id="other", calibration_dir=tmp_path)
    with pytest.raises(ConnectionError, match=r"elbow_flex .* lerobot-calibrate"):
        arm.connect()
    assert not arm.is_connected
    assert twin.ask("joints")["torque"] == [0] * 6
    nobody = robot(id="nobody", calibration_dir=tmp_path)
    with pytest.raises(ConnectionError, match=r"no calibration .*nobody\.json"):
        nobody.connect()


def test_without_a_terminal_to_ask_nothing_is_energised(robot, twin, monkeypatch):
    arm = robot(arm="prompt")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(ConnectionError, match=r"--robot\.arm=auto"):
        arm.connect()
    assert not arm.is_connected
    assert twin.ask("joints")["torque"] == [0] * 6


def test_the_prompt_is_the_consent(robot, twin, monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    asked = []

    def answer(question):
        asked.append((question, twin.ask("joints")["torque"]))
        return ""

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", answer)
    arm = robot(arm="prompt")
    arm.connect()
    assert len(asked) == 1
    assert "press ENTER" in asked[0][0]
    assert asked[0][1] == [0] * 6  # not before the answer
    assert twin.ask("joints")["torque"] == [1] * 6
    arm.disconnect()


def test_ctrl_c_at_the_prompt_leaves_nothing_connected(robot, twin, monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    def interrupt(question):
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", interrupt)
    arm = robot(arm="prompt")
    with pytest.raises(KeyboardInterrupt):
        arm.connect()
    assert not arm.is_connected
    assert twin.ask("joints")["torque"] == [0] * 6
    again = robot()
    again.connect()  # the port is free
    again.disconnect()


def test_calibrating_uses_lerobots_bus_without_arming(robot, twin):
    arm = robot()
    arm.connect(calibrate=False)
    assert arm.is_connected
    assert arm.bus.is_connected
    assert arm.is_calibrated
    with pytest.raises(ConnectionError, match="for calibration only"):
        arm.get_observation()
    arm.disconnect()
    assert not arm.is_connected
    arm.connect()
    arm.disconnect()


def test_a_pause_of_the_loop_is_followed_again_or_not_as_configured(robot):
    arm = robot(setpoint_ttl_ms=100)
    arm.connect()
    here = present(arm)
    arm.send_action(here)
    time.sleep(1.4)
    assert arm.control_state.state.name == "STALE"
    far = here | {"shoulder_pan.pos": here["shoulder_pan.pos"] + 12.0}
    deadline = time.monotonic() + 5.0
    while abs(present(arm)["shoulder_pan.pos"] - far["shoulder_pan.pos"]) > 1.5:
        arm.send_action(far)
        time.sleep(0.03)
        assert time.monotonic() < deadline, arm.control_state
    arm.disconnect()
    arm = robot(setpoint_ttl_ms=100, stale_rearm="human")
    arm.connect()
    arm.send_action(here)
    time.sleep(1.4)
    with pytest.raises(ConnectionError, match="stale_rearm=human"):  # noqa: PT012 - a loop is the case
        for _ in range(100):
            arm.send_action(here)
            time.sleep(0.03)
    arm.disconnect()


def test_a_fault_ends_the_loop_with_its_cause_and_disconnect_still_works(robot, twin):
    arm = robot()
    arm.connect()
    here = present(arm)
    arm.send_action(here)
    twin.ask("error_bits", id=2, bits=32)
    time.sleep(0.3)
    with pytest.raises(ConnectionError, match=r"OVERLOAD.*shoulder_lift overload error"):
        arm.send_action(here)
    assert list(present(arm)) == list(JOINT_NAMES)  # looking is still possible
    arm.disconnect()
    assert twin.ask("joints")["torque"] == [0] * 6


def test_the_control_process_dying_releases_the_torque(robot, twin):
    """Row 6: SIGKILL of the process that owns the port; the release path runs within a second."""
    arm = robot()
    arm.connect()
    os.kill(arm.controlled.pid, 9)
    deadline = time.monotonic() + 1.0
    while twin.ask("joints")["torque"] != [0] * 6:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    assert not arm.is_connected
    with pytest.raises(ConnectionError, match="not connected"):
        arm.send_action(dict.fromkeys(JOINT_NAMES, 0.0))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_that_drops_the_robot_does_nothing_to_the_arm(robot, twin):
    arm = robot()
    arm.connect()
    child = os.fork()
    if child == 0:
        arm.__del__()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    time.sleep(0.2)
    assert arm.is_connected
    assert arm.control_state.state.name == "HOLD"
    assert twin.ask("joints")["torque"] == [1] * 6
    arm.disconnect()
