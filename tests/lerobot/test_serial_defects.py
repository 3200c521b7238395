"""What unmodified LeRobot 0.6.1 does when something goes wrong on the bus: the reasons this layer exists.

Each is a statement about LeRobot, not about us: when an upgrade turns one red, a reason has gone away.
"""

import termios
import threading
import time
from pathlib import Path

import pytest

from embodiments.so101.serial_twin.client import TwinProcess

KEYS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    with TwinProcess(tmp_path_factory.mktemp("defects") / "so101", seed=3, cameras=False) as twin:
        yield twin


@pytest.fixture
def twin(process):
    yield process
    process.ask("clear")
    process.ask("fold")


def follower(twin):
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    folder = Path(twin.info["calibration_dir"])
    return SO101Follower(SO101FollowerConfig(port=twin.port, id="twin", calibration_dir=folder))


@pytest.fixture
def robot(twin):
    """A connected follower, whose port is given up whatever became of it."""
    made = follower(twin)
    made.connect()
    yield made
    if made.bus.port_handler.is_open:
        made.bus.port_handler.closePort()


def torque(twin):
    return twin.ask("joints")["torque"]


def test_an_overloaded_motor_is_not_seen_while_running_and_stops_the_release(twin, robot):
    twin.ask("error_bits", id=2, bits=0x20)
    robot.send_action(robot.get_observation())
    with pytest.raises(RuntimeError, match="Overload error"):
        robot.disconnect()
    assert torque(twin) == [0, 0, 1, 1, 1, 1]


def test_a_dead_motor_blocks_for_three_timeouts_and_stops_the_release(twin, robot):
    twin.ask("dead", id=3)
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="Failed to sync read"):
        robot.get_observation()
    assert time.monotonic() - began > 0.14, "three waits of 50 ms"
    with pytest.raises(ConnectionError):
        robot.disconnect()
    assert torque(twin) == [0, 0, 1, 1, 1, 1]


def test_one_late_reply_puts_every_later_read_one_cycle_behind(twin, robot):
    robot.config.num_read_retries = 0
    robot.get_observation()
    twin.ask("delay", seconds=0.12, count=1)
    with pytest.raises(ConnectionError):
        robot.get_observation()
    time.sleep(0.2)
    before = robot.get_observation()["wrist_roll.pos"]
    twin.ask("encoder_jump", id=5, steps=100)  # 8.8 degrees, at once
    stale, fresh = (robot.get_observation()["wrist_roll.pos"] for _ in range(2))
    assert stale == pytest.approx(before, abs=0.5), "the position from before the jump"
    assert fresh - before > 2.0


def test_an_unplugged_cable_is_an_error_of_no_documented_kind_and_for_ever(twin, robot):
    twin.ask("unplug")
    with pytest.raises(termios.error) as caught:
        robot.get_observation()
    assert not isinstance(caught.value, OSError)
    twin.ask("plug")
    assert robot.is_connected, "it says"
    with pytest.raises(ConnectionError, match="Port is in use!"):
        robot.get_observation()
    with pytest.raises(termios.error):
        robot.disconnect()
    assert robot.is_connected, "still"


@pytest.mark.parametrize("degrees", [170.0, -200.0])
def test_a_goal_far_outside_the_range_is_sent_and_returned_as_sent(twin, robot, degrees):
    asked = {"shoulder_lift.pos": degrees}
    assert robot.send_action(asked) == asked
    raw = twin.goals()[-1][1][2]
    registers = twin.ask("registers", id=2)["registers"]
    assert not registers["Min_Position_Limit"] <= raw <= registers["Max_Position_Limit"]


@pytest.mark.parametrize(("value", "error"), [(float("nan"), ValueError), (float("inf"), OverflowError)])
def test_a_goal_that_is_no_number_ends_the_loop(robot, value, error):
    with pytest.raises(error):
        robot.send_action({"shoulder_lift.pos": value})


def test_a_wrong_supply_is_reported_as_missing_motors_and_leaves_the_port_open(twin):
    twin.ask("error_bits", id=4, bits=0x01)
    made = follower(twin)
    with pytest.raises(RuntimeError, match="Missing motor IDs"):
        made.connect()
    try:
        from lerobot.utils.errors import DeviceAlreadyConnectedError

        with pytest.raises(DeviceAlreadyConnectedError):
            made.connect()
    finally:
        made.bus.port_handler.closePort()


def test_two_threads_take_the_port_from_each_other(robot):
    failures, ends = [], time.monotonic() + 30.0

    def in_use():
        return any("Port is in use!" in failure for failure in failures)

    def read():
        while not in_use() and time.monotonic() < ends:
            try:
                robot.bus.sync_read("Present_Position")
            except (OSError, TypeError, LookupError, ValueError) as error:  # or its bytes were taken
                failures.append(str(error))

    for _ in range(50):
        robot.bus.sync_read("Present_Position")  # one thread alone has no trouble
    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert in_use()


def test_a_second_program_may_open_the_same_port(twin, robot):
    other = follower(twin)
    other.bus.connect()
    assert other.bus.is_connected
    other.bus.port_handler.closePort()


def test_connecting_to_a_powered_arm_drops_it_for_a_moment(twin, robot):
    robot.send_action(robot.get_observation() | {"shoulder_lift.pos": -20.0, "elbow_flex.pos": 0.0})
    time.sleep(1.5)
    robot.bus.port_handler.closePort()  # as a killed program leaves it
    assert torque(twin) == [1] * 6
    held = twin.ask("joints")["true"]
    again = follower(twin)
    again.connect()
    dropped = [now - before for now, before in zip(twin.ask("joints")["true"], held, strict=True)]
    assert 0.2 < max(dropped[1:4]) < 20.0, "torque went off and on again, and the arm hangs where it fell to"
    again.bus.port_handler.closePort()


def test_a_calibration_that_differs_asks_the_keyboard(twin, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "")
    twin.ask("write_register", id=1, name="Homing_Offset", value=5)
    made = follower(twin)
    made.connect()
    made.disconnect()
    assert len(asked) == 1
    assert "Press ENTER" in asked[0]
