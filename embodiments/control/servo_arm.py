"""An arm of Feetech servos as the control process sees it: positions in joint units, torque, goals, health.

Owns the port. Nothing here decides; it measures, writes what it is told after one last check, and says what
really went out. Bus errors are returned as facts where a cycle can go on without the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from embodiments.control.attach import ATTEMPTS, Attached, Inspector
from embodiments.control.errors import TorqueRefused
from embodiments.control.spec import ControlSpec
from embodiments.feetech.errors import NoReply
from embodiments.feetech.port import FeetechPort
from embodiments.feetech.registers import (
    GOAL_POSITION,
    LOCK,
    PRESENT_LOAD,
    PRESENT_POSITION,
    PRESENT_TEMPERATURE,
    PRESENT_VOLTAGE,
    TORQUE_ENABLE,
    TORQUE_LIMIT,
    Register,
)
from embodiments.feetech.release import RELEASED, Release, release_torque

# Position, velocity and load in one reply: four more bytes a motor buy stall detection in every cycle.
BLOCK = PRESENT_POSITION.address
BLOCK_SIZE = PRESENT_LOAD.address + PRESENT_LOAD.size - BLOCK
HEALTH = PRESENT_VOLTAGE.address
HEALTH_SIZE = PRESENT_TEMPERATURE.address + PRESENT_TEMPERATURE.size - HEALTH
MIN_DEADLINE_S, MAX_DEADLINE_S = 0.003, 0.008
DEADLINE_SHARE = 0.7  # of a period: goals go out before, so waiting for replies delays nothing
STEP_MARGIN = 1.5  # times max_velocity: a goal step no limiter lets through
ROUNDING_STEPS = 1
GOAL_TOLERANCE_STEPS = 3
# A powered arm sags below its goal by what gravity takes; further away, the goal is an old one.
KEPT_GOAL_STEPS = 120
MAX_RAW = 4095


class Sample(NamedTuple):
    """One motor's reply: position in its joint's unit, load in percent of stall torque, error bits."""

    position: float
    load: float
    errors: int


class Measurement(NamedTuple):
    """One reading of all motors, None where no reply came in time; `time_us` is when the last byte came."""

    samples: tuple[Sample | None, ...]
    time_us: int


class Health(NamedTuple):
    """One motor's slow registers."""

    joint: int
    volts: float
    celsius: int


class GoalStepTooLarge(ValueError):
    """A goal further from the last one than any limiter allows: the process is broken, not the policy."""


class ServoArm:
    """The motors of one spec on an open port."""

    def __init__(self, spec: ControlSpec) -> None:
        """Opens the port; PortUnavailable if it cannot be had alone."""
        self.spec = spec
        self.calibration = spec.load_calibration()
        self.ids = self.calibration.ids
        deadline_s = min(max(DEADLINE_SHARE / spec.rate_hz, MIN_DEADLINE_S), MAX_DEADLINE_S)
        self.port = FeetechPort(spec.port, spec.baudrate, deadline_s)
        self._last_raw: tuple[int, ...] | None = None
        self._max_steps = tuple(
            abs(
                joint.to_raw(self._middle(i) + limit.max_velocity / spec.rate_hz * STEP_MARGIN)
                - joint.to_raw(self._middle(i))
            )
            + ROUNDING_STEPS
            for i, (joint, limit) in enumerate(zip(self.calibration.joints, spec.limits, strict=True))
        )
        self.attached: Attached | None = None

    def _middle(self, joint: int) -> float:
        return sum(self.calibration.joints[joint].limits) / 2

    def attach(self) -> Attached:
        """Check that this is the arm of the spec; AttachError says what is not."""
        self.attached = Inspector(self.spec, self.calibration, self.port).attach()
        return self.attached

    def close(self) -> None:
        """Give up the port; torque stays as it is."""
        self.port.close()

    # -- measuring -------------------------------------------------------------------------------------------
    def measure(self, only: Sequence[int] = ()) -> Measurement:
        """Positions, loads and error bits of all joints, or of the joint indices `only`. PortLost."""
        asked = [self.ids[index] for index in only] if only else self.ids
        answer = self.port.sync_read(BLOCK, BLOCK_SIZE, asked)
        samples: list[Sample | None] = [None] * len(self.ids)
        for index, id in enumerate(self.ids):
            reply = answer.replies.get(id)
            if reply is not None:
                raw = PRESENT_POSITION.take_from(reply.value, BLOCK)
                load = abs(PRESENT_LOAD.take_from(reply.value, BLOCK)) / 10
                position = self.calibration.joints[index].from_raw(raw)
                samples[index] = Sample(position, load, reply.error)
        return Measurement(tuple(samples), round(answer.received_s * 1e6))

    def health(self, joint: int) -> Health | None:
        """Supply and temperature of one joint's motor, None without an answer. PortLost."""
        try:
            reply = self.port.read(self.ids[joint], HEALTH, HEALTH_SIZE)
        except NoReply:
            return None
        volts = PRESENT_VOLTAGE.take_from(reply.value, HEALTH) / 10
        return Health(joint, volts, PRESENT_TEMPERATURE.take_from(reply.value, HEALTH))

    # -- goals -----------------------------------------------------------------------------------------------
    def send(self, goals: Sequence[float]) -> tuple[float, ...]:
        """Write goals in joint units; what was really sent, after rounding to steps.

        GoalStepTooLarge, and nothing sent, for a step no limiter lets through; ValueError for no number.
        """
        raw = tuple(
            min(max(joint.to_raw(goal), 0), MAX_RAW)
            for joint, goal in zip(self.calibration.joints, goals, strict=True)
        )
        if self._last_raw is not None:
            steps = [abs(new - old) for new, old in zip(raw, self._last_raw, strict=True)]
            wrong = [i for i, step in enumerate(steps) if step > self._max_steps[i]]
            if wrong:
                names = [self.calibration.joints[i].name for i in wrong]
                raise GoalStepTooLarge(
                    f"{self.spec.port}: goal steps {steps} of {names} exceed {self._max_steps}; nothing sent"
                )
        self.port.write_goals(dict(zip(self.ids, raw, strict=True)))
        self._last_raw = raw
        return self._units(raw)

    def rebase(self) -> None:
        """The next goal may be anywhere: it gives way to the measured pose."""
        self._last_raw = None

    def _units(self, raw: Sequence[int]) -> tuple[float, ...]:
        return tuple(joint.from_raw(r) for joint, r in zip(self.calibration.joints, raw, strict=True))

    # -- torque ----------------------------------------------------------------------------------------------
    def energise(self) -> tuple[float, ...]:
        """Torque on without motion; the goals now held, in joint units. TorqueRefused, PortLost.

        A motor without torque first gets its present position as goal, and only once every goal has been read
        back is torque switched on: whatever a servo does with an old goal at that moment, it has none. A
        motor that holds already keeps its goal: its sagged position as goal would let it sag again.
        """
        on = self._read_all(TORQUE_ENABLE)
        present = self._read_all(PRESENT_POSITION)
        goals = self._read_all(GOAL_POSITION)
        for id in self.ids:
            if on[id] != 1 or abs(goals[id] - present[id]) > KEPT_GOAL_STEPS:
                goals[id] = min(max(present[id], 0), MAX_RAW)
        self._set_all(GOAL_POSITION, goals, GOAL_TOLERANCE_STEPS)
        self.scale_torque(1.0)  # only now: an old goal may not be followed with more torque than it had
        self._set_all(TORQUE_ENABLE, dict.fromkeys(self.ids, 1))
        self._set_all(LOCK, dict.fromkeys(self.ids, 1))
        self._last_raw = tuple(goals[id] for id in self.ids)
        return self._units(self._last_raw)

    def torque_is_on(self) -> bool:
        """Whether every motor has torque, as read back."""
        return all(on == 1 for on in self._read_all(TORQUE_ENABLE).values())

    def scale_torque(self, share: float) -> None:
        """Limit every motor's torque to `share` (0 to 1) of what it was at attach, and to what the spec
        allows. PortLost.
        """
        assert self.attached is not None
        limits, most = self.attached.torque_limits, min(share, self.spec.torque_share)
        words = {id: TORQUE_LIMIT.encode(round(limits[id] * most)) for id in self.ids}
        self.port.sync_write(TORQUE_LIMIT.address, words)

    def release(self) -> Release:
        """Torque off on all motors, verified; then torque limits and locks are what they were."""
        result = release_torque(self.port, self.ids)
        if result.outcome == RELEASED and self.attached is not None:
            whole = {id: TORQUE_LIMIT.encode(limit) for id, limit in self.attached.torque_limits.items()}
            self.port.sync_write(TORQUE_LIMIT.address, whole)
            self.port.sync_write(LOCK.address, dict.fromkeys(self.ids, LOCK.encode(0)))
        self._last_raw = None
        return result

    def _read_all(self, entry: Register) -> dict[int, int]:
        found: dict[int, int] = {}
        for _ in range(ATTEMPTS):
            missing = [id for id in self.ids if id not in found]
            if not missing:
                return found
            answer = self.port.sync_read(entry.address, entry.size, missing)
            found.update({id: entry.decode(reply.value) for id, reply in answer.replies.items()})
        missing = [id for id in self.ids if id not in found]
        if missing:
            raise TorqueRefused(f"{self.spec.port}: {entry.name} of motors {missing} cannot be read")
        return found

    def _set_all(self, entry: Register, values: Mapping[int, int], tolerance: int = 0) -> None:
        """Write a register of every motor until all read back what was written; TorqueRefused."""
        wrong = dict(values)
        found: dict[int, int] = {}
        for _ in range(ATTEMPTS):
            self.port.sync_write(entry.address, {id: entry.encode(value) for id, value in wrong.items()})
            found = self._read_all(entry)
            wrong = {id: value for id, value in values.items() if abs(found[id] - value) > tolerance}
            if not wrong:
                return
        kept = {id: found[id] for id in wrong}
        raise TorqueRefused(
            f"{self.spec.port}: {entry.name} by motor id is {kept} after {wrong} was written; nothing moves "
            "until this is understood"
        )
