"""Faults of goals, poses and the world, injected into ours: rows 8 to 12 and 14 to 17 of the fault table."""

from __future__ import annotations

import itertools
import math
import os
import signal
import threading
import time
from pathlib import Path

from embodiments.control.client import ControlledArm
from embodiments.control.errors import CalibrationMismatch
from embodiments.control.spec import ControlSpec
from embodiments.feetech.port import FeetechPort
from embodiments.feetech.registers import GOAL_POSITION
from firmware_bridge.safety import Cause, State
from recipes.bench.fault import Effort, Found
from recipes.bench.faults_process import raised_program
from recipes.bench.stand import IDS, PERIOD_S, UP, BenchError, Stand

STEP_DEG = 360 / 4095
WILD = (1e6, -1e6, 170.0, -200.0)
FRESH_S = 0.2  # older pictures pause the policy
FROZEN_S = 0.3
SAGGING_V = 0.915 * 12.0  # as the arm has measured it
SLOWING_S = 0.4  # a round of measurements, and the deceleration


def _peak_speeds(stand: Stand, spec: ControlSpec, since: int, cycles: int) -> list[float]:
    """Fastest goal motion of every joint over `cycles` control cycles, per second."""
    goals = [raw for _, raw in stand.twin.goals(since=since)]
    peaks = []
    for joint in spec.load_calibration().joints:
        path = [joint.from_raw(raw[joint.calibration.id]) for raw in goals]
        pairs = zip(path, path[cycles:], strict=False)
        peaks.append(max((abs(b - a) * spec.rate_hz / cycles for a, b in pairs), default=0.0))
    return peaks


def wrong_actions(stand: Stand, effort: Effort) -> Found:
    """Row 8: no numbers, wrong shapes, goals far outside, a step of 30 degrees."""
    arm = stand.raised()
    rejected, since, injected = arm.state.counters.rejected, stand.goal_writes(), 0
    for bad, joint in itertools.product((math.nan, math.inf, -math.inf), range(6)):
        arm.send([bad if index == joint else value for index, value in enumerate(UP)], PERIOD_S)
        injected += 1
    for shape in (UP[:5], (*UP, 0.0)):
        arm.send(shape, PERIOD_S)
        injected += 1
    time.sleep(0.1)
    refused = arm.observe().counters.rejected - rejected
    for wild in (*WILD, 30.0):
        stand.follow(arm, UP, 0.1)
        stand.follow(arm, (wild, *UP[1:]), 0.5)
    outside = _goals_outside(stand, arm.spec, since)
    peaks = _peak_speeds(stand, arm.spec, since, 1)
    over = max(
        (peak - 2 * STEP_DEG * arm.spec.rate_hz) / limit.max_velocity
        for peak, limit in zip(peaks, arm.spec.limits, strict=True)
    )
    numbers = {
        "goals_outside_range": outside,
        "injected": injected,
        "rejected": refused,
        "peak_speed_of_limit": over,
    }
    met = not outside and refused == injected and over <= 1.05
    text = f"{refused}/{injected} refused, {outside} goals outside, peak speed {over:.2f} of the limit"
    return Found(numbers, met, text)


def _goals_outside(stand: Stand, spec: ControlSpec, since: int) -> int:
    ranges = {
        joint.calibration.id: (joint.calibration.range_min, joint.calibration.range_max)
        for joint in spec.load_calibration().joints
    }
    goals = stand.twin.goals(since=since)
    if not goals:
        raise BenchError("no goal was written")
    return sum(not ranges[id][0] <= raw <= ranges[id][1] for _, each in goals for id, raw in each.items())


def far_first_action(stand: Stand, effort: Effort) -> Found:
    """Row 9: the first action is more than 60 degrees away."""
    arm = stand.start(approach_speed=25.0)
    arm.arm()
    away = max(abs(a - b) for a, b in zip(arm.state.measured[:5], UP[:5], strict=True))
    since = stand.goal_writes()
    stand.follow(arm, UP, 4.5)
    peak = max(_peak_speeds(stand, arm.spec, since, 10)[:5])
    return Found(
        {"away_deg": away, "peak_deg_s": peak},
        peak <= 30.0 and away >= 60.0,
        f"{away:.0f} deg at no more than {peak:.0f} deg/s",
    )


def other_calibration(stand: Stand, effort: Effort) -> Found:
    """Row 10: the calibration file is another arm's."""
    spec = stand.spec()
    name, entry = next(iter(spec.calibration.items()))
    moved = {**spec.calibration, name: entry | {"homing_offset": entry["homing_offset"] - 7}}
    began, refused = time.monotonic(), ""
    try:
        ControlledArm(stand.spec(calibration=moved)).start()
    except CalibrationMismatch as error:
        refused = str(error)
    took = time.monotonic() - began
    torque = stand.torque()
    numbers = {"refused": bool(refused), "took_s": took, "torque": torque}
    text = f"{'refused' if refused else 'accepted'} after {took:.1f} s, torque {torque}"
    return Found(numbers, bool(refused) and took <= 1.0 and torque == [0] * 6, text)


def stale_goal(stand: Stand, effort: Effort) -> Found:
    """Row 11: servos that go to an old goal when their torque comes on."""
    with FeetechPort(stand.twin.port) as port:
        for id in IDS:
            port.write_register(id, GOAL_POSITION, 2600, attempts=5)
    stand.settle()
    before = stand.true()
    stand.start().arm()
    jump, end = 0.0, time.monotonic() + 1.0
    while time.monotonic() < end:
        jump = max(jump, *(abs(a - b) for a, b in zip(stand.true()[:5], before[:5], strict=True)))
    return Found({"jump_deg": jump}, jump <= 0.5, f"moved {jump:.2f} deg")


def attach_again(stand: Stand, effort: Effort) -> Found:
    """Row 11: taking over an arm that holds itself up, its program and control process killed."""
    with raised_program(stand) as terminal:
        control = terminal.control_pid()
        assert control is not None
        terminal.send(signal.SIGKILL)
        os.kill(control, signal.SIGKILL)
        stand.wait(stand.port_is_free, "the port was not given up")
    stand.settle()
    before, toggled = stand.true(), stand.torque() != [1] * 6
    stand.start().arm()
    sag, end = 0.0, time.monotonic() + 1.0
    while time.monotonic() < end:
        sag = max(sag, *(abs(a - b) for a, b in zip(stand.true(), before, strict=True)))
        toggled |= stand.torque() != [1] * 6
    numbers = {"sag_deg": sag, "torque_toggled": toggled}
    return Found(numbers, sag <= 0.2 and not toggled, f"sagged {sag:.2f} deg")


def park_and_release(stand: Stand, effort: Effort) -> Found:
    """Row 12: the end of a run."""
    arm = stand.raised()
    arm.park(wait=False)
    fastest, seen = 0.0, 0
    while arm.state.state != State.READY:
        if arm.state.state in (State.LIMP, State.SAFE):
            fastest = max(fastest, stand.twin.ask("joints")["tip_speed_m_s"])
            seen += 1
    for _ in range(50):
        fastest = max(fastest, stand.twin.ask("joints")["tip_speed_m_s"])
        time.sleep(0.01)
    numbers = {"tip_speed_m_s": fastest, "looks": seen, "torque": stand.torque()}
    return Found(numbers, seen > 20 and fastest <= 0.05, f"tip at no more than {fastest:.3f} m/s")


def supply_sag(stand: Stand, effort: Effort) -> Found:
    """Row 14: the supply falls from 12 V to 7 V."""
    arm = stand.raised()
    stand.twin.ask("supply", volts=7.0, seconds=12.0)
    fastest, sagging_s, end = 0.0, math.inf, time.monotonic() + 15.0
    while arm.state.state == State.RUN and time.monotonic() < end:
        pan = 20.0 * math.copysign(1.0, math.sin(4.0 * time.monotonic()))
        before = arm.state
        arm.send((pan, *UP[1:]), PERIOD_S)
        time.sleep(0.05)
        volts, cycles = arm.state.counters.supply_centivolt / 100, arm.state.cycle - before.cycle
        if volts and volts < SAGGING_V:
            sagging_s = min(sagging_s, time.monotonic())
        if cycles and time.monotonic() - sagging_s > SLOWING_S:
            fastest = max(fastest, abs(arm.state.sent[0] - before.sent[0]) * arm.spec.rate_hz / cycles)
    volts = stand.twin.ask("status")["arms"]["follower"]["supply_v"]
    torque, cause = stand.torque(), arm.state.cause
    numbers = {"speed_when_sagging": fastest, "fault_at_v": volts, "torque": torque, "cause": cause.name}
    met = cause == Cause.SUPPLY and 0.0 < fastest <= 32.0 and torque == [1] * 6
    return Found(numbers, met, f"slowed to {fastest:.0f} deg/s, FAULT({cause.name}) at {volts:.1f} V")


def stall(stand: Stand, effort: Effort) -> Found:
    """Row 15: a wall in the way of a joint that goes on pushing."""
    arm = stand.raised()
    began = stand.now_us()
    stand.twin.ask("stall", id=1, direction=1)
    pushing_us = 0
    while arm.state.state == State.RUN and stand.now_us() - began < 3e6:
        ahead = min(60.0, (stand.now_us() - began) * 60e-6)
        arm.send((ahead, *UP[1:]), PERIOD_S)
        time.sleep(PERIOD_S)
        if not pushing_us and arm.state.sent[0] - arm.state.measured[0] > 5.0:
            pushing_us = stand.now_us()
    backed = (stand.when("-> FAULT", began) - (pushing_us or began)) * 1e-3
    time.sleep(0.3)
    state = arm.observe()
    registers = stand.twin.ask("registers", id=1)["registers"]
    celsius = registers["Present_Temperature"]
    numbers = {"back_off_ms": backed, "load_after": state.load[0], "celsius": celsius}
    met = bool(pushing_us) and backed <= 500.0 and celsius < 60 and state.load[0] < 30.0
    return Found(numbers, met, f"gave way after {backed:.0f} ms, load then {state.load[0]:.0f} %")


def encoder_jump(stand: Stand, effort: Effort) -> Found:
    """Row 17: an encoder says what no motor can have done."""
    arm = stand.raised()
    sent, since = arm.state.sent, stand.goal_writes()
    at = stand.now_us()
    stand.twin.ask("encoder_jump", id=1, steps=400)
    arm.wait_for(State.FAULT)
    detected = (stand.when("-> FAULT", at) - at) * 1e-3
    time.sleep(0.3)
    joint = arm.spec.load_calibration().joints[0]
    moved = max(abs(joint.from_raw(raw[1]) - sent[0]) for _, raw in stand.twin.goals(since=since))
    numbers = {"detected_ms": detected, "commanded_deg": moved, "cause": arm.state.cause.name}
    met = arm.state.cause == Cause.ENCODER_JUMP and moved < 1.0
    return Found(
        numbers, met, f"FAULT({arm.state.cause.name}) after {detected:.0f} ms, goal moved {moved:.1f} deg"
    )


def frozen_camera(stand: Stand, effort: Effort) -> Found:
    """Row 16: a camera stands still for 0.3 s longer than a picture may be old, in a loop as LeRobot's."""
    from embodiments.so101.configuration import GuardedSO101Config
    from embodiments.so101.robot import GuardedSO101
    from embodiments.twin_camera import TwinCameraConfig

    info, period_s = stand.twin.info, 0.02
    camera = TwinCameraConfig(path=Path(info["cameras"]["front"]), fps=30, width=96, height=96)
    robot = GuardedSO101(
        GuardedSO101Config(
            port=stand.twin.port, id=info["id"], calibration_dir=Path(info["calibration_dir"]),
            cameras={"front": camera}, arm="auto", setpoint_ttl_ms=100,
        )
    )  # fmt: skip
    robot.connect()
    try:
        base = robot.get_observation()
        arm = robot.controlled
        assert arm is not None
        states: list[tuple[int, str]] = []
        watching = threading.Event()
        watcher = threading.Thread(target=_watch_states, args=(stand, arm, states, watching))
        watcher.start()
        began, frozen_us = time.monotonic(), None
        while (now := time.monotonic() - began) < 2.5:
            if now > 0.5 and frozen_us is None:
                frozen_us = stand.now_us()
                stand.twin.ask("freeze", camera="front", seconds=FROZEN_S + FRESH_S)
            robot.get_observation()
            action = {name: base[name] for name in robot.action_features}
            robot.send_action(action | {"shoulder_pan.pos": base["shoulder_pan.pos"] + 5 * math.sin(2 * now)})
            time.sleep(period_s)
        watching.set()
        watcher.join()
    finally:
        robot.disconnect()
    assert frozen_us is not None
    after = [(at, state) for at, state in states if at >= frozen_us]
    stale = next((at for at, state in after if state == "STALE"), None)
    resumed = next((at for at, state in after if stale and at > stale and state == "RUN"), None)
    numbers = {
        "held_ms": None if stale is None else (stale - frozen_us) * 1e-3,
        "resumed_ms": None if resumed is None else (resumed - frozen_us) * 1e-3,
    }
    held = "never held" if stale is None else f"held after {numbers['held_ms']:.0f} ms"
    went_on = "" if resumed is None else f", went on after {numbers['resumed_ms']:.0f} ms"
    return Found(numbers, stale is not None and resumed is not None, held + went_on)


def _watch_states(
    stand: Stand, arm: ControlledArm, states: list[tuple[int, str]], over: threading.Event
) -> None:
    while not over.wait(0.002):
        name = arm.state.state.name
        if not states or states[-1][1] != name:
            states.append((stand.now_us(), name))
