"""Faults of the line and the motors, injected into ours: rows 1 to 5 and 13 of the fault table."""

from __future__ import annotations

import contextlib
import math
import re
import statistics
import threading
import time
from typing import Any

from embodiments.control.client import ControlledArm
from embodiments.control.link import ArmState
from embodiments.feetech.errors import PortUnavailable
from embodiments.feetech.port import FeetechPort
from embodiments.feetech.registers import TORQUE_ENABLE
from embodiments.feetech.release import release_torque
from firmware_bridge.safety import State
from recipes.bench.fault import Effort, Found
from recipes.bench.stand import IDS, UP, BenchError, Stand, goal_gaps_ms, share, torque_after

STEP, STEP_DEG = 34, 3.0  # of an encoder
WRONG_DEG = 3.0  # a measurement this far from the truth: more than its age explains at 20 deg/s
UNPLUGGED_S = 0.7


class _Against:
    """Measured against true angles of shoulder_pan, less the owner's calibration error."""

    def __init__(self, stand: Stand, arm: ControlledArm) -> None:
        self._stand = stand
        self._errors: list[float] = []
        stand.sweep(arm, 0.5)
        stand.sweep(arm, 1.0, self.look)
        self._offset = statistics.median(self._errors)
        self._errors.clear()

    def look(self, state: ArmState) -> None:
        self._errors.append(state.measured[0] - self._stand.true()[0])

    def errors(self) -> list[float]:
        return [abs(error - self._offset) for error in self._errors]


def lost_replies(stand: Stand, effort: Effort, kind: str) -> Found:
    """Row 1: one reply in a hundred is lost or damaged."""
    arm = stand.raised()
    against = _Against(stand, arm)
    since, lost = stand.goal_writes(), arm.state.counters.lost_replies
    stand.twin.ask(kind, probability=0.01)
    stand.sweep(arm, effort.seconds, against.look)
    gaps = goal_gaps_ms(stand.twin, since)
    aborts = int(arm.state.state != State.RUN)
    wrong = sum(error > WRONG_DEG for error in against.errors())
    numbers = {
        "cycles": len(gaps),
        "lost_replies": arm.state.counters.lost_replies - lost,
        "cycle_p99_ms": share(gaps, 0.99),
        "cycle_max_ms": gaps[-1],
        "aborts": aborts,
        "wrong_values": wrong,
    }
    met = gaps and numbers["cycle_p99_ms"] <= 15.0 and not aborts and not wrong
    text = f"p99 {numbers['cycle_p99_ms']:.1f} ms, {aborts} aborts, {wrong} wrong values"
    return Found(numbers, bool(met), text)


def seen_after_ms(stand: Stand, arm: ControlledArm) -> float:
    """The quickest of some small steps of an encoder to be measured: over a period where reads lag by one.

    The steps, 3 degrees, are small enough to be plausible.
    """
    quickest = math.inf
    for step in range(8):
        before, asked = arm.state.measured[0], stand.now_us()
        stand.twin.ask("encoder_jump", id=1, steps=STEP if step % 2 == 0 else -STEP)
        while abs((state := arm.state).measured[0] - before) < STEP_DEG / 2:
            if stand.now_us() - asked > 1_000_000:
                raise BenchError("an encoder's step was not measured within a second")
            time.sleep(0.0005)
        quickest = min(quickest, (state.measured_us - asked) * 1e-3)
        time.sleep(0.15)
    return quickest


def late_reply(stand: Stand, effort: Effort, late_s: float) -> Found:
    """Row 2: one answer comes too late, among those to later requests; then how old reads are."""
    arm = stand.raised()
    stand.twin.ask("delay", seconds=late_s, count=1)
    stand.sweep(arm, late_s + 0.1)
    running = arm.state.state == State.RUN
    quickest = seen_after_ms(stand, arm)
    period_ms = 1e3 / arm.spec.rate_hz
    numbers = {"seen_after_ms": quickest, "cycles_behind": int(quickest // period_ms), "running": running}
    met = running and quickest < period_ms
    return Found(numbers, met, f"reads {numbers['cycles_behind']} cycles behind ({quickest:.1f} ms)")


def _detection(stand: Stand, arm: ControlledArm, fault: str, **arguments: Any) -> float:
    at = stand.now_us()
    stand.twin.ask(fault, **arguments)
    arm.wait_for(State.FAULT)
    return (stand.when("-> FAULT", at) - at) * 1e-3


def _recover(stand: Stand, arm: ControlledArm) -> None:
    def ready() -> bool:
        with contextlib.suppress(ConnectionError):
            arm.clear()
        return arm.state.state == State.READY and not arm.state.torque

    stand.wait(ready, "the arm was not ready again", 10.0)


def dead_motor(stand: Stand, effort: Effort) -> Found:
    """Row 3: one motor after the other falls silent."""
    arm = stand.start()
    detected, held, reached = [], [], []
    for id in IDS:
        arm.arm()
        detected.append(_detection(stand, arm, "dead", id=id))
        held.append(stand.torque() == [1] * 6)
        arm.estop()
        reached.append(torque_after(stand, [int(other == id) for other in IDS], 1.0))
        stand.twin.ask("dead", id=id, dead=False)
        _recover(stand, arm)
    numbers = {"detected_ms": detected, "others_kept_torque": held, "torque_off_reached_others": reached}
    met = max(detected) <= 60.0 and all(held) and all(reached)
    text = f"FAULT after at most {max(detected):.0f} ms; the others kept torque {sum(held)}/6, "
    return Found(numbers, met, text + f"and were released {sum(reached)}/6")


def error_bit(stand: Stand, effort: Effort, bits: int) -> Found:
    """Row 4: each motor in turn reports an error."""
    arm = stand.start()
    detected, released = [], []
    for id in IDS:
        arm.arm()
        detected.append(_detection(stand, arm, "error_bits", id=id, bits=bits))
        arm.estop()
        released.append(torque_after(stand, [0] * 6, 1.0))
        stand.twin.ask("error_bits", id=id, bits=0)
        _recover(stand, arm)
    numbers = {"detected_ms": detected, "released": released}
    met = max(detected) <= 100.0 and all(released)
    return Found(
        numbers, met, f"detected after at most {max(detected):.0f} ms; torque off {sum(released)}/6 times"
    )


def torque_off(stand: Stand, effort: Effort, kind: str) -> Found:
    """Row 4: torque off while motor 2 reports an overload, or is dead."""
    wanted = [0, 1, 0, 0, 0, 0] if kind == "dead" else [0] * 6
    reached_us: list[int] = []

    def watch() -> None:
        torque_after(stand, wanted, 2.0)
        reached_us.append(stand.now_us())

    with FeetechPort(stand.twin.port) as port:
        for id in IDS:
            port.write_register(id, TORQUE_ENABLE, 1, attempts=5)
        stand.twin.ask(kind, id=2, **({"bits": 0x20} if kind == "error_bits" else {}))
        watcher = threading.Thread(target=watch)
        watcher.start()
        time.sleep(0.05)
        began = stand.now_us()
        result = release_torque(port)
        watcher.join()
    off = stand.torque()
    numbers = {
        "torque": off,
        "reached_ms": (reached_us[0] - began) * 1e-3,
        "read_back_ms": result.elapsed_s * 1e3,
        "outcome": result.outcome,
    }
    met = off == wanted and numbers["reached_ms"] <= 10.0
    return Found(numbers, met, f"torque {off} in {numbers['reached_ms']:.1f} ms; {result.outcome}")


def unplugged(stand: Stand, effort: Effort, during: str) -> Found:
    """Row 5: the cable is pulled and comes back, while the arm is only read, or while goals are written."""
    arm = stand.raised()
    if during == "read":
        arm.hold()  # goals stand; what is written is the same one, what moves is read
    at = stand.now_us()
    stand.twin.ask("unplug", seconds=UNPLUGGED_S)
    lost = (stand.when("goals stop", at) - at) * 1e-3
    back = (stand.when("is back", at) - at) * 1e-6 - UNPLUGGED_S
    since = stand.goal_writes()
    stand.follow(arm, UP, 0.5)
    writes = stand.goal_writes() - since
    error = next(text for when, text in stand.events() if when >= at and "goals stop" in text)
    numbers = {
        "error_ms": lost,
        "reopened_s": back,
        "goal_writes_before_arming": writes,
        "error": re.sub(r"^\S+: ", "", error),
    }
    met = lost <= 20.0 and back <= 2.0 and not writes
    return Found(
        numbers, met, f"error after {lost:.1f} ms, port back after {back:.1f} s, {writes} goal writes"
    )


def second_owner(stand: Stand, effort: Effort) -> Found:
    """Row 13: another process asks for the same port."""
    stand.start()
    refused: list[str] = []
    try:
        ControlledArm(stand.spec(journal=None)).start()
    except PortUnavailable as error:
        refused.append(str(error))
    return Found({"refused": bool(refused)}, bool(refused), "refused" if refused else "both have it")
