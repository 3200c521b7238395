"""Stops that come at a bad moment: while the arm is let go, parks, is held up, or its process dies."""

import os
import signal
import subprocess
import threading
import time

import pytest

from embodiments.control.errors import ControlError, ProcessGone
from embodiments.feetech.port import FeetechPort
from embodiments.feetech.registers import TORQUE_ENABLE
from embodiments.so101.arm_spec import control_spec
from firmware_bridge.safety import Cause, State


def torque_limit(bench, id):
    return bench.twin.ask("registers", id=id)["registers"]["Torque_Limit"]


def switch_on(bench):
    """Torque on all motors, as a process that was killed leaves it."""
    with FeetechPort(bench.twin.port) as port:
        for id in range(1, 7):
            port.write_register(id, TORQUE_ENABLE, 1, attempts=5)


def test_an_emergency_stop_does_not_lift_an_arm_that_is_being_let_go(bench):
    arm = bench.raised(estop_category=1)
    arm.release(wait=False)
    arm.wait_for(State.LIMP)
    time.sleep(1.1)  # of a ramp of 1.5 s
    assert torque_limit(bench, 2) < 400
    arm.estop()
    most = 0
    while bench.torque() != [0] * 6:
        most = max(most, torque_limit(bench, 2) if bench.torque() != [0] * 6 else 0)
    assert most < 400  # 1000 is all of it


def test_an_arm_parks_with_something_in_its_gripper(bench):
    """Parking closes the jaw; on what it holds, for longer than the motor's overload protection allows."""
    arm = bench.raised(park_speed=15.0)
    bench.twin.ask("stall", id=6, direction=-1)
    arm.park()
    texts = [text for _, text in bench.events()]
    assert any("PARK -> LIMP" in text for text in texts)
    assert not any("FAULT" in text for text in texts)


def test_a_grip_is_relieved_while_the_arm_only_holds(bench):
    arm = bench.raised()
    bench.twin.ask("stall", id=6, direction=-1)
    bench.follow(arm, (*bench.up[:5], 10.0), 0.4)
    arm.hold()
    time.sleep(3.5)
    assert arm.state.state == State.HOLD, bench.events()[-3:]
    assert arm.observe().load[5] < 25.0


def test_an_obstacle_met_while_parking_for_a_silent_host_is_given_way_to(bench):
    arm = bench.raised(park_speed=30.0)
    arm._running().link.open = False  # the client's thread ends: it is silent, and lives
    bench.when("FAULT (HEARTBEAT")
    bench.twin.ask("stall", id=2, direction=-1)
    deadline = time.monotonic() + 15.0
    while not any("STALL: " in text or "TRACKING: " in text for _, text in bench.events()):
        assert time.monotonic() < deadline, bench.events()
        time.sleep(0.05)
    time.sleep(0.5)
    servo = bench.twin.ask("registers", id=2)["registers"]
    assert abs(servo["Goal_Position"] - servo["Present_Position"]) < 60  # 5 degrees: it does not push on


def test_a_process_that_dies_while_it_parks_is_followed_by_a_release(bench):
    arm = bench.raised()
    pid = arm.pid
    killer = threading.Timer(0.4, os.kill, (pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(ProcessGone, match="RELEASED") as raised:
        arm.close()
    assert raised.value.release.outcome == "RELEASED"
    assert bench.torque() == [0] * 6


def test_after_a_death_that_was_seen_to_closing_says_nothing(bench):
    arm = bench.raised()
    os.kill(arm.pid, signal.SIGKILL)
    time.sleep(1.0)
    with pytest.raises(ProcessGone, match="RELEASED"):
        arm.observe()
    arm.close()
    assert arm.start().state == State.READY  # and the same object takes the arm again
    arm.arm()
    arm.close()


def test_an_arm_that_held_before_and_was_never_armed_is_not_called_released(bench):
    switch_on(bench)
    arm = bench.start()
    with pytest.raises(ControlError, match="had torque before"):
        arm.close()
    assert bench.torque() == [1] * 6


def test_a_process_that_breaks_before_it_has_the_arm_lets_nothing_go(bench, monkeypatch):
    switch_on(bench)
    real = subprocess.Popen
    monkeypatch.setattr(
        "embodiments.control.launch.subprocess.Popen",
        lambda command, **rest: real([command[0], "-c", "raise SystemExit('no memory')"], **rest),
    )
    with pytest.raises(ProcessGone, match="nothing was moved or energised"):
        bench.start()
    monkeypatch.undo()
    assert bench.torque() == [1] * 6
    arm = bench.arms[-1]
    arm.start()
    arm.arm()
    arm.close()
    assert bench.torque() == [0] * 6


def test_an_event_log_that_cannot_be_written_is_said_before_anything_else(bench, tmp_path):
    with pytest.raises(ControlError, match="No such file or directory"):
        bench.start(journal=str(tmp_path / "nowhere" / "log.jsonl"))


def test_a_release_that_is_not_confirmed_gives_no_torque_back(bench):
    arm = bench.raised()
    bench.twin.ask("dead", id=3)
    arm.wait_for(State.FAULT)
    arm.release(wait=False)
    bench.when("UNCONFIRMED")
    assert torque_limit(bench, 2) < 200


def test_setpoints_that_come_faster_than_cycles_keep_the_arm_running(bench):
    arm = bench.raised(rate_hz=20.0)
    states, began = set(), time.monotonic()
    while (now := time.monotonic() - began) < 1.5:
        arm.send((20.0 * min(1.0, now), *bench.up[1:]), 0.01)
        time.sleep(0.01)
        states.add(arm.state.state)
    assert states == {State.RUN}
    assert arm.observe().sent[0] == pytest.approx(20.0, abs=1.0)


def test_setpoints_without_a_period_are_gone_to(bench):
    arm = bench.raised()
    arm.hold()
    deadline = time.monotonic() + 2.0
    while abs(arm.state.sent[0] - 3.0) > 0.2:
        arm.send((3.0, *bench.up[1:]))
        time.sleep(0.02)
        assert time.monotonic() < deadline, arm.state
    assert arm.state.cause == Cause.NONE


def test_a_first_run_has_half_the_torque_and_holds_the_arm_up(bench):
    spec = control_spec(bench.twin.port, bench.twin.calibration_file, first_run=True)
    arm = bench.raised(limits=spec.limits, torque_share=spec.torque_share, approach_speed=30.0)
    assert torque_limit(bench, 2) == 500
    assert torque_limit(bench, 6) == 250  # half of a gripper's own half
    bench.follow(arm, bench.up, 0.5)
    assert arm.state.state == State.RUN
    assert arm.observe().measured[:5] == pytest.approx(bench.up[:5], abs=4.0)
    arm.close()
    assert torque_limit(bench, 2) == 1000  # LeRobot finds its motors as they were


def test_a_warm_motor_is_told_of_before_it_slows_the_arm(bench):
    bench.start()
    bench.twin.ask("heat", id=4, celsius=57.0)
    assert "slow from 60 on" in bench.when_text("a motor has 57 degrees Celsius")
    time.sleep(1.5)
    assert sum("degrees Celsius" in text for _, text in bench.events()) == 1
