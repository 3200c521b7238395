"""The safety state machine as data: states, events, causes, transitions, deadlines.

Everything here is a plain integer or a tuple of plain integers, so that the microcontroller's C tables can be
generated from it; `firmware_bridge.safety` interprets it on the host. Numbers are part of the wire format:
append, never renumber. Times are integer microseconds.

For an arm under gravity "off" is itself a hazard: a fault holds, a software emergency stop stops first and
lets go afterwards (stop category 1 of IEC 60204-1). None of this is a certified safety function; a real
emergency stop is a button that cuts the servos' supply.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class State(IntEnum):
    """Where the arm is; what each state lets the outputs do is in `OUTPUTS`."""

    BOOT = 0
    SAFE = 1  # torque off
    READY = 2  # torque off, configuration and calibration checked
    HOLD = 3  # torque on, goal stands still
    RUN = 4  # tracking setpoints
    STALE = 5  # setpoints ran out: decelerate, then hold
    PARK = 6  # slow way to the rest pose
    LIMP = 7  # torque ramps to zero
    FAULT = 8  # latched, holding
    ESTOP = 9  # latched, stopped, then torque off


class Event(IntEnum):
    """What can happen to the machine. RAISE, LOWER and ESTOP carry a `Cause`."""

    SELF_TEST_PASSED = 0
    COMMIT = 1  # configuration of both sides compared and equal
    ARM = 2  # a person's (or a started command's) consent; the caller has checked the challenge
    SETPOINT_NEAR = 3  # valid, within the start gate of the measured pose
    SETPOINT_FAR = 4  # valid, outside it
    FRAME = 5  # any frame of this session: the host is alive
    HALT_HOLD = 6
    HALT_PARK = 7
    HALT_LIMP = 8
    PARKED = 9
    DISARM = 10
    RAISE = 11  # a condition appeared
    LOWER = 12  # a condition went away
    ESTOP = 13
    CLEAR = 14


class Cause(IntEnum):
    """Why the machine left normal operation; bit `1 << cause` in the mask of present conditions."""

    NONE = 0
    HEARTBEAT = 1  # the host fell silent
    BUS_LOST = 2  # port gone, or no motor answers
    MOTOR_LOST = 3  # a motor stopped answering
    TRACKING = 4  # a joint does not follow its goal
    STALL = 5  # a joint pushes against something
    LIMIT = 6  # measured outside the calibrated range
    VELOCITY = 7  # a goal step beyond the velocity limit reached the last check
    ENCODER_JUMP = 8  # a position no motor can have reached in the time
    OVERLOAD = 9  # servo error bit
    OVERHEAT = 10  # servo error bit, or temperature above the limit
    SUPPLY = 11  # servo error bit, or supply outside its window
    OVERCURRENT = 12  # servo error bit
    ANGLE = 13  # servo error bit
    PARK_STUCK = 14  # parking did not arrive
    ESTOP_HOST = 15
    ESTOP_SIGNAL = 16
    ESTOP_INPUT = 17  # button, pedal or file descriptor
    CAMERA_STALE = 18  # the pictures the policy acts on are old
    INTERNAL = 19  # the control process broke one of its own invariants


class Code(IntEnum):
    """The answer to an event; numbers are those of the RES frame."""

    OK = 0
    WRONG_STATE = 1
    GATE = 2  # the first setpoint is too far from the arm
    NEEDS_ARM = 3  # stale for too long to resume alone
    LATCHED = 4  # an earlier fault has not been cleared
    CAUSE_PRESENT = 5  # what caused the fault is still there


class Clock(IntEnum):
    """Ages the machine keeps."""

    STATE = 0  # since the state was entered
    SETPOINT = 1  # since the last valid setpoint
    FRAME = 2  # since the last frame of the session


class Limit(IntEnum):
    """Index into `SafetyTable.limits_us`."""

    SETPOINT_TTL = 0
    FRAME_TIMEOUT = 1
    RESUME_ALONE = 2
    PARK_DELAY = 3
    PARK_TIMEOUT = 4
    LIMP_RAMP = 5
    ESTOP_STOP = 6


class Guard(IntEnum):
    """A condition on a transition, with the code of its refusal in `GUARD_CODES`."""

    NONE = 0
    NO_CAUSE = 1  # nothing latched
    NO_CONDITION = 2  # no condition present
    CLEAN = 3  # neither
    YOUNG = 4  # in this state for less than RESUME_ALONE
    GATE = 5  # never passes: it only names the refusal
    ONLY_HEARTBEAT = 6  # the host's silence is the one cause and parking is enabled


GUARD_CODES = (
    Code.OK,
    Code.LATCHED,
    Code.CAUSE_PRESENT,
    Code.LATCHED,
    Code.NEEDS_ARM,
    Code.GATE,
    Code.CAUSE_PRESENT,
)


class Effect(IntEnum):
    """What a transition does to the latched cause."""

    NONE = 0
    LATCH = 1
    UNLATCH = 2


class Torque(IntEnum):
    """What the outputs may do in a state."""

    OFF = 0
    ON = 1
    REDUCED = 2  # holding at half torque
    RAMP = 3  # towards zero within LIMP_RAMP
    STOP_THEN_OFF = 4  # on for ESTOP_STOP, then off; off at once in category 0


class Motion(IntEnum):
    """Where goals come from in a state."""

    NONE = 0
    STAND = 1  # the goal does not move
    TRACK = 2  # setpoints through the limiter
    STOP = 3  # decelerate, then stand
    TO_PARK = 4


class Transition(NamedTuple):
    """`event` in `source` leads to `target` where `guard` passes; rows are tried in order."""

    source: int
    event: int
    guard: int
    target: int
    effect: int


class Timeout(NamedTuple):
    """`clock` reaching `limit` in `source` leads to `target`, latching `cause` unless it is NONE."""

    source: int
    clock: int
    limit: int
    guard: int
    target: int
    cause: int


class Output(NamedTuple):
    """Torque and motion of a state."""

    torque: int
    motion: int


class SafetyTable(NamedTuple):
    """One complete machine."""

    transitions: tuple[Transition, ...]
    timeouts: tuple[Timeout, ...]
    outputs: tuple[Output, ...]  # by State
    limits_us: tuple[int, ...]  # by Limit
    park_after_heartbeat: int  # 0 or 1
    estop_category: int  # 0 or 1


_S, _E, _G, _F = State, Event, Guard, Effect
_ENERGISED = (_S.HOLD, _S.RUN, _S.STALE, _S.PARK)

TRANSITIONS: tuple[Transition, ...] = (
    Transition(_S.BOOT, _E.SELF_TEST_PASSED, _G.NONE, _S.SAFE, _F.NONE),
    Transition(_S.SAFE, _E.COMMIT, _G.NONE, _S.READY, _F.NONE),
    Transition(_S.READY, _E.ARM, _G.CLEAN, _S.HOLD, _F.NONE),
    Transition(_S.READY, _E.DISARM, _G.NONE, _S.SAFE, _F.NONE),
    # A setpoint far away is refused until the host blends; once running, the limiter bounds the way there.
    Transition(_S.HOLD, _E.SETPOINT_NEAR, _G.CLEAN, _S.RUN, _F.NONE),
    Transition(_S.HOLD, _E.SETPOINT_FAR, _G.GATE, _S.HOLD, _F.NONE),
    Transition(_S.RUN, _E.SETPOINT_NEAR, _G.NONE, _S.RUN, _F.NONE),
    Transition(_S.RUN, _E.SETPOINT_FAR, _G.NONE, _S.RUN, _F.NONE),
    Transition(_S.STALE, _E.SETPOINT_NEAR, _G.YOUNG, _S.RUN, _F.NONE),
    Transition(_S.STALE, _E.SETPOINT_FAR, _G.GATE, _S.STALE, _F.NONE),
    Transition(_S.STALE, _E.ARM, _G.CLEAN, _S.HOLD, _F.NONE),
    Transition(_S.RUN, _E.HALT_HOLD, _G.NONE, _S.HOLD, _F.NONE),
    Transition(_S.STALE, _E.HALT_HOLD, _G.NONE, _S.HOLD, _F.NONE),
    Transition(_S.HOLD, _E.HALT_HOLD, _G.NONE, _S.HOLD, _F.NONE),
    Transition(_S.PARK, _E.HALT_HOLD, _G.CLEAN, _S.HOLD, _F.NONE),
    Transition(_S.HOLD, _E.HALT_PARK, _G.NONE, _S.PARK, _F.NONE),
    Transition(_S.RUN, _E.HALT_PARK, _G.NONE, _S.PARK, _F.NONE),
    Transition(_S.STALE, _E.HALT_PARK, _G.NONE, _S.PARK, _F.NONE),
    # A person may bring a faulted arm down once the cause is gone; the latch stays until CLEAR.
    Transition(_S.FAULT, _E.HALT_PARK, _G.NO_CONDITION, _S.PARK, _F.NONE),
    Transition(_S.PARK, _E.PARKED, _G.NONE, _S.LIMP, _F.NONE),
    *(Transition(s, _E.HALT_LIMP, _G.NONE, _S.LIMP, _F.NONE) for s in (*_ENERGISED, _S.FAULT)),
    *(Transition(s, _E.DISARM, _G.NONE, _S.LIMP, _F.NONE) for s in _ENERGISED),
    *(Transition(s, _E.RAISE, _G.NONE, _S.FAULT, _F.LATCH) for s in _ENERGISED),
    *(
        Transition(s, _E.RAISE, _G.NONE, s, _F.NONE)
        for s in (_S.BOOT, _S.SAFE, _S.READY, _S.LIMP, _S.FAULT, _S.ESTOP)
    ),
    *(Transition(s, _E.LOWER, _G.NONE, s, _F.NONE) for s in _S),
    *(Transition(s, _E.FRAME, _G.NONE, s, _F.NONE) for s in _S),
    *(Transition(s, _E.ESTOP, _G.NONE, _S.ESTOP, _F.LATCH) for s in _S),
    # CLEAR ends in SAFE; from a holding fault by way of LIMP, for SAFE at once would drop the arm.
    Transition(_S.FAULT, _E.CLEAR, _G.NO_CONDITION, _S.LIMP, _F.UNLATCH),
    Transition(_S.ESTOP, _E.CLEAR, _G.NO_CONDITION, _S.SAFE, _F.UNLATCH),
    Transition(_S.SAFE, _E.CLEAR, _G.NO_CONDITION, _S.SAFE, _F.UNLATCH),
    Transition(_S.READY, _E.CLEAR, _G.NO_CONDITION, _S.READY, _F.UNLATCH),
)

# Silence of the host comes before silence of the setpoints, so that a tick that finds both reports the first.
TIMEOUTS: tuple[Timeout, ...] = (
    *(
        Timeout(s, Clock.FRAME, Limit.FRAME_TIMEOUT, _G.NONE, _S.FAULT, Cause.HEARTBEAT)
        for s in (_S.HOLD, _S.RUN, _S.STALE)
    ),
    Timeout(_S.RUN, Clock.SETPOINT, Limit.SETPOINT_TTL, _G.NONE, _S.STALE, Cause.NONE),
    Timeout(_S.FAULT, Clock.STATE, Limit.PARK_DELAY, _G.ONLY_HEARTBEAT, _S.PARK, Cause.NONE),
    Timeout(_S.PARK, Clock.STATE, Limit.PARK_TIMEOUT, _G.NONE, _S.FAULT, Cause.PARK_STUCK),
    Timeout(_S.LIMP, Clock.STATE, Limit.LIMP_RAMP, _G.NONE, _S.SAFE, Cause.NONE),
)

OUTPUTS: tuple[Output, ...] = (
    Output(Torque.OFF, Motion.NONE),  # BOOT
    Output(Torque.OFF, Motion.NONE),  # SAFE
    Output(Torque.OFF, Motion.NONE),  # READY
    Output(Torque.ON, Motion.STAND),  # HOLD
    Output(Torque.ON, Motion.TRACK),  # RUN
    Output(Torque.ON, Motion.STOP),  # STALE
    Output(Torque.ON, Motion.TO_PARK),  # PARK
    Output(Torque.RAMP, Motion.STAND),  # LIMP
    Output(Torque.REDUCED, Motion.STOP),  # FAULT
    Output(Torque.STOP_THEN_OFF, Motion.STOP),  # ESTOP
)

SETPOINT_TTL_MIN_US = 20_000
SETPOINT_TTL_MAX_US = 255_000  # one byte of milliseconds on the wire
DEFAULT_LIMITS_US = (100_000, 250_000, 1_000_000, 5_000_000, 60_000_000, 1_500_000, 150_000)


def safety_table(
    setpoint_ttl_us: int = DEFAULT_LIMITS_US[Limit.SETPOINT_TTL],
    frame_timeout_us: int = DEFAULT_LIMITS_US[Limit.FRAME_TIMEOUT],
    park_after_heartbeat: bool = True,
    estop_category: int = 1,
) -> SafetyTable:
    """The machine of this project with the four things a configuration may choose.

    Raises:
        ValueError: a time outside its allowed window, or an unknown stop category.
    """
    if not SETPOINT_TTL_MIN_US <= setpoint_ttl_us <= SETPOINT_TTL_MAX_US:
        raise ValueError(
            f"safety table: a setpoint lives {setpoint_ttl_us} us; allowed is {SETPOINT_TTL_MIN_US} to "
            f"{SETPOINT_TTL_MAX_US}; send setpoints more often instead of letting them live longer"
        )
    if not 100_000 <= frame_timeout_us <= 5_000_000:
        raise ValueError(
            f"safety table: the host may be silent for {frame_timeout_us} us; allowed is 100000 to 5000000"
        )
    if estop_category not in (0, 1):
        raise ValueError(
            f"safety table: stop category {estop_category}; allowed is 0 (off at once) or 1 (stop, then off)"
        )
    limits = (setpoint_ttl_us, frame_timeout_us, *DEFAULT_LIMITS_US[2:])
    return SafetyTable(TRANSITIONS, TIMEOUTS, OUTPUTS, limits, int(park_after_heartbeat), estop_category)
