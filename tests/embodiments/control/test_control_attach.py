"""Taking an arm and giving it back: nothing moves that was not asked to, and nobody else has the port."""

import json
import time

import pytest

from embodiments.control.client import ControlledArm
from embodiments.control.errors import (
    CalibrationMismatch,
    ControlError,
    MotorMissing,
    Refused,
    SupplyOutside,
)
from embodiments.feetech.errors import PortUnavailable
from embodiments.feetech.port import FeetechPort
from embodiments.feetech.registers import GOAL_POSITION
from embodiments.feetech.release import SO_ARM_IDS as IDS
from firmware_bridge.safety import Cause, Code, State


def test_start_measures_and_energises_nothing(bench):
    before = bench.twin.ask("status")["arms"]["follower"]["goal_writes"]
    arm = bench.start()
    assert arm.state.state == State.READY
    assert arm.state.torque == 0
    true = bench.true()
    assert arm.observe().measured == pytest.approx(true, abs=6.0)  # the owner's zeros are 3 degrees off
    assert bench.torque() == [0] * 6
    assert bench.twin.ask("status")["arms"]["follower"]["goal_writes"] == before


def test_setpoints_before_arming_do_nothing_and_are_counted(bench):
    arm = bench.start()
    before = bench.true()
    for _ in range(10):
        arm.send(bench.up, 0.02)
    time.sleep(0.2)
    assert arm.observe().counters.rejected == 10
    assert arm.state.state == State.READY
    assert bench.torque() == [0] * 6
    assert bench.true() == pytest.approx(before, abs=0.5)


def test_arm_run_park_release(bench):
    """Row 12: after parking, letting go moves the tip at no more than 5 cm/s."""
    arm = bench.raised()
    assert arm.state.state == State.RUN
    assert bench.torque() == [1] * 6
    arm.park(wait=False)
    fastest, seen = 0.0, 0
    while arm.state.state != State.READY:
        if arm.state.state in (State.LIMP, State.SAFE):
            fastest = max(fastest, bench.twin.ask("joints")["tip_speed_m_s"])
            seen += 1
    for _ in range(20):
        fastest = max(fastest, bench.twin.ask("joints")["tip_speed_m_s"])
    assert seen > 20
    assert fastest <= 0.05
    assert bench.torque() == [0] * 6
    arm.close()
    FeetechPort(bench.twin.port).close()  # the port is free


def test_close_parks_first(bench):
    arm = bench.raised()
    arm.close()
    texts = [text for _, text in bench.events()]
    assert any("-> PARK" in text for text in texts)
    assert any("RELEASED" in text for text in texts)
    assert bench.torque() == [0] * 6
    arm.close()  # a second time is nothing


def test_torque_limits_are_as_before_afterwards(bench):
    before = [bench.twin.ask("registers", id=id)["registers"]["Torque_Limit"] for id in IDS]
    arm = bench.raised()
    arm.release()
    arm.close()
    after = [bench.twin.ask("registers", id=id)["registers"]["Torque_Limit"] for id in IDS]
    assert before[:5] == after[:5] == [1000] * 5


def test_a_second_owner_is_refused(bench):
    """Row 13."""
    bench.start()
    second = ControlledArm(bench.spec(journal=None))
    with pytest.raises(PortUnavailable, match="another process owns it"):
        second.start()
    with pytest.raises(PortUnavailable, match="another process owns it"):
        FeetechPort(bench.twin.port)


@pytest.mark.parametrize("change", [{"range_min": 5}, {"homing_offset": -7}])
def test_another_arms_calibration_is_refused(bench, change):
    """Row 10: within a second of the process being up, without a prompt, torque untouched."""
    spec = bench.spec()
    name, entry = next(iter(spec.calibration.items()))
    moved = {key: entry[key] + step for key, step in change.items()}
    other = {**spec.calibration, name: entry | moved}
    arm = ControlledArm(bench.spec(calibration=other))
    began = time.monotonic()
    with pytest.raises(CalibrationMismatch, match=f"{name} .*lerobot-calibrate"):
        arm.start()
    assert time.monotonic() - began < 3.0
    assert bench.torque() == [0] * 6


def test_a_dead_motor_or_a_wrong_supply_is_named_before_anything_else(bench):
    bench.twin.ask("dead", id=4)
    with pytest.raises(MotorMissing, match=r"wrist_flex \(id 4\)"):
        bench.start()
    bench.twin.ask("clear")
    bench.twin.ask("supply", volts=9.0)
    time.sleep(0.05)
    with pytest.raises(SupplyOutside, match=r"9 V; allowed is 4\.5 to 8\.4 V"):
        bench.start()


def test_no_port_and_no_start_are_said_plainly(bench):
    arm = ControlledArm(bench.spec(port="/dev/nowhere"))
    with pytest.raises(PortUnavailable, match="no such port"):
        arm.start()
    with pytest.raises(ControlError, match="call start first"):
        ControlledArm(bench.spec()).hold()


def test_a_reported_error_refuses_arming_and_says_which(bench):
    bench.twin.ask("error_bits", id=3, bits=1)
    arm = bench.start()
    time.sleep(0.2)
    with pytest.raises(Refused, match="elbow_flex input voltage error") as refusal:
        arm.arm()
    assert refusal.value.code == Code.CAUSE_PRESENT
    assert bench.torque() == [0] * 6


def test_a_stale_goal_does_not_move_the_arm(bench_with):
    """Row 11: servos that go for an old goal when their torque is switched on find none."""
    bench = bench_with(torque_on="old_goal")
    with FeetechPort(bench.twin.port) as port:
        for id in IDS:
            port.write_register(id, GOAL_POSITION, 2600, attempts=5)
    bench.settle()
    before = bench.true()
    arm = bench.start()
    arm.arm()
    jump, end = 0.0, time.monotonic() + 1.0
    while time.monotonic() < end:
        jump = max(jump, *(abs(a - b) for a, b in zip(bench.true()[:5], before[:5], strict=True)))
    assert bench.torque() == [1] * 6
    assert jump <= 0.5


def test_attaching_to_an_arm_that_holds_does_not_let_it_sag(bench):
    """Row 11: its goals are kept, its torque is not toggled."""
    arm = bench.raised()
    arm.hold()
    time.sleep(0.5)
    arm._leaving = True  # a client that died with its control process: nobody releases
    arm._child.process.kill()
    arm._child.process.wait()
    assert bench.torque() == [1] * 6
    before = bench.true()
    again = bench.start()
    assert "stays as it is until armed" in bench.when_text("motors 1, 2, 3, 4, 5, 6 have torque")
    assert bench.torque() == [1] * 6
    again.arm()
    sag, end = 0.0, time.monotonic() + 1.0
    while time.monotonic() < end:
        sag = max(sag, *(abs(a - b) for a, b in zip(bench.true(), before, strict=True)))
        assert bench.torque() == [1] * 6
    assert sag <= 0.2
    again.close()


def test_the_journal_has_every_transition_and_the_last_cycles(bench):
    arm = bench.raised()
    arm.park()
    arm.close()
    texts = [text for _, text in bench.events()]
    order = ["attached at 100 Hz", "BOOT -> READY", "READY -> HOLD", "HOLD -> RUN", "-> PARK", "PARK -> LIMP"]
    found = [next(i for i, text in enumerate(texts) if wanted in text) for wanted in order]
    assert found == sorted(found)
    cycles = [json.loads(line) for line in bench.journal.with_suffix(".cycles.jsonl").open()]
    assert len(cycles) > 100
    assert {"cycle", "sent_us", "measured_us", "state", "sent", "measured"} == set(cycles[0])
    running = [cycle for cycle in cycles if cycle["state"] == State.RUN]
    assert running
    assert all(abs(cycle["sent_us"] - cycle["measured_us"]) < 100_000 for cycle in running)


def test_a_fault_says_its_cause(bench):
    arm = bench.raised()
    bench.twin.ask("error_bits", id=2, bits=32)
    arm.wait_for(State.FAULT)
    assert arm.state.cause == Cause.OVERLOAD
    with pytest.raises(ConnectionError, match="shoulder_lift overload error"):
        arm.raise_if_stopped()
    kept = bench.journal.with_suffix(".fault1.jsonl")  # while the process still runs: it could be killed now
    deadline = time.monotonic() + 10.0
    while not (lines := kept.read_text().splitlines()) or json.loads(lines[-1])["state"] != State.FAULT:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    states = [json.loads(line)["state"] for line in lines]
    assert states.count(State.FAULT) == 1
    assert State.RUN in states


def test_attaching_arming_and_letting_go_work_on_a_line_that_loses_a_tenth(bench):
    bench.twin.ask("drop", probability=0.1)
    arm = bench.start()
    arm.arm()
    assert bench.torque() == [1] * 6
    arm.release()
    assert bench.torque() == [0] * 6
    arm.close()
