"""Client and control process on one machine: a pair of SOCK_SEQPACKET sockets and fixed binary messages.

Whole messages or none, in order, and the end of either process is seen by the other at once. Every message
carries CLOCK_MONOTONIC of its sender in microseconds, which both processes share. Nobody ever waits for the
other: what does not fit into a full socket is dropped and counted, and whoever reads takes the newest.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from embodiments.control.setpoints import MAX_ACTIONS, Chunk
from firmware_bridge.safety import Cause, Code, State

MAX_JOINTS = 16
MAX_TEXT = 2000
# A frozen reader finds at most this much of the past when it wakes; the kernel doubles it.
SEND_BUFFER = 1 << 16
RECEIVE_SIZE = 1 << 17

_HEADER = struct.Struct("<BBxxIq")  # kind, argument, request, sender's time in us
_CHUNK = struct.Struct("<qqqqHH")  # sequence, ttl_us, start_us, period_us, actions, joints
_STATE = struct.Struct("<5BxHIQ6q12I")


class Kind(IntEnum):
    """Message types; from the client below 0x80, from the control process above."""

    HEARTBEAT = 0x01
    CHUNK = 0x02
    ARM = 0x03
    HALT = 0x04  # argument: Halt
    ESTOP = 0x05
    CLEAR = 0x06
    DISARM = 0x07
    QUIT = 0x08  # park if possible, release, exit
    RESPONSE = 0x82  # argument: Code
    STATE = 0x83
    EVENT = 0x84  # argument: Severity; a line of text


class Halt(IntEnum):
    """How to halt."""

    HOLD = 0
    PARK = 1
    LIMP = 2


class Severity(IntEnum):
    """How much an event matters."""

    INFO = 0
    WARNING = 1
    ERROR = 2


class LinkError(ConnectionError):
    """The other end is gone, or it said something that is no message of this link."""


class Header(NamedTuple):
    """What every message begins with."""

    kind: Kind
    argument: int
    request: int
    time_us: int


class Counters(NamedTuple):
    """Totals since the control process started; jitter is how late a cycle began, in microseconds."""

    missed: int = 0  # deadlines passed by more than half a period
    late_p50_us: int = 0
    late_p99_us: int = 0
    late_max_us: int = 0
    lost_replies: int = 0
    implausible: int = 0
    rejected: int = 0  # chunks, whatever the reason
    clamped: int = 0  # targets moved to a position limit
    slowed: int = 0  # velocity or acceleration limited, cycles times joints
    goal_writes: int = 0
    supply_centivolt: int = 0
    hottest_celsius: int = 0


class ArmState(NamedTuple):
    """One cycle of the control process. Positions in the joints' units, loads in percent."""

    state: State
    cause: Cause
    torque: int  # what was commanded: 0 or 1
    supply: int  # embodiments.control.setpoints.Supply
    conditions: int
    cycle: int
    time_us: int
    measured_us: int
    sent_us: int
    plan_us: int
    buffered_us: int
    sequence: int  # newest chunk accepted
    measured: tuple[float, ...]
    sent: tuple[float, ...]  # the goal really written, after rounding to servo steps
    load: tuple[float, ...]
    errors: tuple[int, ...]  # error bits of each motor's last reply
    counters: Counters = Counters()
    approach: int = 0  # 1 while the arm still closes in on a far first setpoint


class Message(NamedTuple):
    """One received message: its header and whichever of the bodies its kind has."""

    header: Header
    chunk: Chunk | None = None
    state: ArmState | None = None
    text: str = ""


def now_us() -> int:
    """CLOCK_MONOTONIC in microseconds, the clock of both ends."""
    return time.monotonic_ns() // 1000


def pack(kind: Kind, argument: int = 0, request: int = 0, text: str = "") -> bytes:
    """A message without a body, or with a line of text."""
    return _HEADER.pack(kind, argument, request, now_us()) + text.encode()[:MAX_TEXT]


def pack_chunk(chunk: Chunk) -> bytes:
    """A chunk; ValueError if its actions are not one rectangle of at most 512 x 16 numbers."""
    actions, joints = len(chunk.positions), len(chunk.positions[0]) if chunk.positions else 0
    if not 1 <= actions <= MAX_ACTIONS or not 1 <= joints <= MAX_JOINTS:
        raise ValueError(
            f"chunk: {actions} actions of {joints} joints; allowed are 1 to {MAX_ACTIONS} actions of "
            f"1 to {MAX_JOINTS} joints"
        )
    if any(len(action) != joints for action in chunk.positions):
        raise ValueError(
            f"chunk: actions have {sorted({len(a) for a in chunk.positions})} joints; give one number"
        )
    values = [value for action in chunk.positions for value in action]
    head = _HEADER.pack(Kind.CHUNK, 0, 0, chunk.sent_us)
    body = _CHUNK.pack(chunk.sequence, chunk.ttl_us, chunk.start_us, chunk.period_us, actions, joints)
    return head + body + struct.pack(f"<{len(values)}d", *values)


def pack_state(state: ArmState) -> bytes:
    """The state of a cycle."""
    n = len(state.measured)
    fixed = _STATE.pack(
        state.state,
        state.cause,
        state.torque,
        state.supply,
        state.approach,
        n,
        state.conditions,
        state.cycle,
        state.time_us,
        state.measured_us,
        state.sent_us,
        state.plan_us,
        state.buffered_us,
        state.sequence,
        *(min(max(counter, 0), 0xFFFFFFFF) for counter in state.counters),
    )
    floats = struct.pack(f"<{3 * n}d{n}B", *state.measured, *state.sent, *state.load, *state.errors)
    return _HEADER.pack(Kind.STATE, 0, 0, state.time_us) + fixed + floats


def unpack(data: bytes) -> Message:
    """The message in one packet; LinkError if it is none."""
    try:
        kind, argument, request, time_us = _HEADER.unpack_from(data)
        header = Header(Kind(kind), argument, request, time_us)
        body = data[_HEADER.size :]
        if header.kind == Kind.CHUNK:
            return Message(header, chunk=_unpack_chunk(header, body))
        if header.kind == Kind.STATE:
            return Message(header, state=_unpack_state(body))
        return Message(header, text=body.decode(errors="replace"))
    except (struct.error, ValueError) as error:
        raise LinkError(f"control link: {len(data)} bytes that are no message ({error})") from error


def _unpack_chunk(header: Header, body: bytes) -> Chunk:
    sequence, ttl_us, start_us, period_us, actions, joints = _CHUNK.unpack_from(body)
    values = struct.unpack(f"<{actions * joints}d", body[_CHUNK.size :])
    rows = tuple(values[row * joints : (row + 1) * joints] for row in range(actions))
    return Chunk(sequence, header.time_us, ttl_us, start_us, period_us, rows)


def _unpack_state(body: bytes) -> ArmState:
    fields = _STATE.unpack_from(body)
    state, cause, torque, supply, approach, n, conditions, cycle = fields[:8]
    values = struct.unpack(f"<{3 * n}d{n}B", body[_STATE.size :])
    return ArmState(
        State(state),
        Cause(cause),
        torque,
        supply,
        conditions,
        cycle,
        time_us=fields[8],
        measured_us=fields[9],
        sent_us=fields[10],
        plan_us=fields[11],
        buffered_us=fields[12],
        sequence=fields[13],
        measured=values[:n],
        sent=values[n : 2 * n],
        load=values[2 * n : 3 * n],
        errors=tuple(int(value) for value in values[3 * n :]),
        counters=Counters(*fields[14:]),
        approach=approach,
    )


class Link:
    """One end of the pair. Sending never waits; receiving never waits."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._socket = end
        self.dropped = 0
        self.open = True

    @classmethod
    def pair(cls) -> tuple[Link, socket.socket]:
        """(this process's end, the socket to hand to the other process)."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(here), there

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._socket.fileno()

    def send(self, message: bytes) -> bool:
        """Whether the message was taken. `receive` finds that the other end is gone, after its last words."""
        try:
            self._socket.send(message)
        except BlockingIOError:
            self.dropped += 1
            return False
        except OSError:
            return False
        return True

    def receive(self) -> Iterator[Message]:
        """Everything that has arrived; `open` turns False at the other end's death."""
        while self.open:
            try:
                data = self._socket.recv(RECEIVE_SIZE)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # it ended without reading all of ours; reported once, before its last words
            except OSError:
                data = b""
            if not data:
                self.open = False
                return
            yield unpack(data)

    def close(self) -> None:
        """Close this end; the other sees it at once."""
        self.open = False
        self._socket.close()


def chunk_of(
    sequence: int,
    positions: Sequence[Sequence[float]],
    period_us: int,
    start_us: int,
    ttl_us: int,
) -> Chunk:
    """A chunk stamped now."""
    rows = tuple(tuple(map(float, action)) for action in positions)
    return Chunk(sequence, now_us(), ttl_us, start_us, period_us, rows)


def code_text(code: Code) -> str:
    """What a refusal means and what to do about it."""
    return {
        Code.OK: "done",
        Code.WRONG_STATE: "not possible in this state; look at the state and its cause",
        Code.GATE: "the first setpoint is too far from the arm; bring it nearer, or let it approach",
        Code.NEEDS_ARM: "no setpoint for too long; arm again",
        Code.LATCHED: "an earlier fault is latched; look at its cause, then clear it",
        Code.CAUSE_PRESENT: "what caused the fault is still there; remove it first",
    }[code]
