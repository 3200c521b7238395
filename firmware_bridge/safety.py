"""The safety machine: interprets `safety_table` with integers, no clock of its own, no input or output.

The host's control process steps it in every cycle; the C core generated from the same table must agree with
it on every sequence of events and times.
"""

from __future__ import annotations

from firmware_bridge.safety_table import (
    DEFAULT_LIMITS_US,
    GUARD_CODES,
    OUTPUTS,
    SETPOINT_TTL_MAX_US,
    SETPOINT_TTL_MIN_US,
    TIMEOUTS,
    TRANSITIONS,
    Cause,
    Clock,
    Code,
    Effect,
    Event,
    Guard,
    Limit,
    Motion,
    Output,
    SafetyTable,
    State,
    Timeout,
    Torque,
    Transition,
    safety_table,
)

__all__ = [
    "DEFAULT_LIMITS_US",
    "GUARD_CODES",
    "OUTPUTS",
    "SETPOINT_TTL_MAX_US",
    "SETPOINT_TTL_MIN_US",
    "TIMEOUTS",
    "TRANSITIONS",
    "Cause",
    "Clock",
    "Code",
    "Effect",
    "Event",
    "Guard",
    "Limit",
    "Motion",
    "Output",
    "SafetyMachine",
    "SafetyTable",
    "State",
    "Timeout",
    "Torque",
    "Transition",
    "safety_table",
]

_U32 = 0xFFFFFFFF
_OLDEST = 0x7FFFFFFF  # ages stand still here: a counter that wrapped would make an old state young again
_HEARTBEAT = 1 << Cause.HEARTBEAT
_SETPOINTS = (Event.SETPOINT_NEAR, Event.SETPOINT_FAR)


class SafetyMachine:
    """State, latched cause and present conditions of one arm.

    Times are microseconds of any monotonic clock, taken modulo 2**32. A clock that runs backwards looks like
    one that leapt ahead by an hour: every deadline passes, and the arm stops.
    """

    def __init__(self, table: SafetyTable, now_us: int = 0) -> None:
        self.table = table
        self.state: State = State.BOOT
        self.cause: Cause = Cause.NONE  # what latched first
        self.conditions = 0  # bit 1 << cause for each condition that is present now
        self._now_us = now_us & _U32
        self._ages = [0, 0, 0]

    def age_us(self, clock: Clock) -> int:
        """Microseconds since the event that `clock` counts from, at most 2**31 - 1."""
        return self._ages[clock]

    @property
    def output(self) -> Output:
        """What the outputs may do now; STOP_THEN_OFF is resolved to ON or OFF."""
        torque, motion = self.table.outputs[self.state]
        if torque == Torque.STOP_THEN_OFF:
            stopping = (
                self.table.estop_category == 1
                and self._ages[Clock.STATE] < self.table.limits_us[Limit.ESTOP_STOP]
            )
            return Output(Torque.ON, motion) if stopping else Output(Torque.OFF, Motion.NONE)
        return Output(torque, motion)

    def step(self, event: Event, now_us: int, cause: Cause = Cause.NONE) -> Code:
        """The answer to `event` at `now_us`, after all deadlines that passed before it.

        Raises:
            ValueError: RAISE, LOWER or ESTOP without a cause.
        """
        if event in (Event.RAISE, Event.LOWER, Event.ESTOP) and cause == Cause.NONE:
            raise ValueError(f"safety machine: {event.name} needs a cause; name one of Cause except NONE")
        self.tick(now_us)
        if event == Event.RAISE:
            self.conditions |= 1 << cause
        elif event == Event.LOWER:
            self.conditions &= ~(1 << cause)
        elif event == Event.FRAME:
            self._ages[Clock.FRAME] = 0
            self.conditions &= ~_HEARTBEAT
        code = self._follow(event, cause)
        if code == Code.OK and event in _SETPOINTS:
            self._ages[Clock.SETPOINT] = 0
        return code

    def tick(self, now_us: int) -> None:
        """Advance to `now_us` and follow every deadline that has passed."""
        elapsed = (now_us - self._now_us) & _U32
        self._now_us = now_us & _U32
        for clock in Clock:
            self._ages[clock] = min(self._ages[clock] + elapsed, _OLDEST)
        # A new state has its own deadlines; each may pass at most once, so the states bound the number.
        for _ in State:
            if not self._time_out():
                return

    def _follow(self, event: Event, cause: Cause) -> Code:
        refusal = Code.WRONG_STATE
        for source, wanted, guard, target, effect in self.table.transitions:
            if source != self.state or wanted != event:
                continue
            if not self._passes(guard):
                if refusal == Code.WRONG_STATE:
                    refusal = self._refusal(guard)
                continue
            if effect == Effect.LATCH and self.cause == Cause.NONE:
                self.cause = cause
            elif effect == Effect.UNLATCH:
                self.cause = Cause.NONE
            if target != self.state:
                self._enter(State(target))
            return Code.OK
        return refusal

    def _time_out(self) -> bool:
        for source, clock, limit, guard, target, cause in self.table.timeouts:
            late = source == self.state and self._ages[clock] >= self.table.limits_us[limit]
            if late and self._passes(guard):
                if cause != Cause.NONE:
                    self.conditions |= 1 << cause
                    if self.cause == Cause.NONE:
                        self.cause = Cause(cause)
                self._enter(State(target))
                return True
        return False

    def _enter(self, state: State) -> None:
        if self.state == State.READY and state == State.HOLD:
            self._ages[Clock.FRAME] = 0  # consent just came from the host
        self.state = state
        self._ages[Clock.STATE] = 0
        # Stuck parking is a fact about an attempt: the next attempt starts without it.
        if state in (State.SAFE, State.PARK, State.LIMP):
            self.conditions &= ~(1 << Cause.PARK_STUCK)

    def _refusal(self, guard: int) -> Code:
        if guard == Guard.CLEAN and self.cause == Cause.NONE:
            return Code.CAUSE_PRESENT
        return GUARD_CODES[guard]

    def _passes(self, guard: int) -> bool:
        if guard == Guard.NO_CAUSE:
            return self.cause == Cause.NONE
        if guard == Guard.NO_CONDITION:
            return self.conditions == 0
        if guard == Guard.CLEAN:
            return self.cause == Cause.NONE and self.conditions == 0
        if guard == Guard.YOUNG:
            return self._ages[Clock.STATE] < self.table.limits_us[Limit.RESUME_ALONE]
        if guard == Guard.ONLY_HEARTBEAT:
            return (
                self.table.park_after_heartbeat == 1
                and self.cause == Cause.HEARTBEAT
                and self.conditions == _HEARTBEAT
            )
        return guard == Guard.NONE
