"""The host's end of a bus: one owner, one request at a time, a reply deadline of our own.

Why not feetech-servo-sdk: it waits 50 ms for a reply, never clears what an earlier request left in the input,
drops the error byte of a sync read, and raises termios errors at its callers (each reproduced in the tests).
Here every request starts with an empty input buffer, so a late reply can never be taken for the answer to the
next request, and every failure is one of `errors`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import serial

from embodiments.feetech import packets
from embodiments.feetech.errors import CorruptReply, NoReply, PortLost, PortUnavailable
from embodiments.feetech.registers import GOAL_POSITION, Register

DEFAULT_BAUDRATE = 1_000_000
REPLY_DEADLINE_S = 0.008
BITS_PER_BYTE = 10  # 8N1
READ_SIZE = 4096
BY_ID = "/dev/serial/by-id"  # names that survive another order of plugging in
_BUSY = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EBUSY)


def _ports_by_id() -> list[str]:
    """Names of the serial adapters that are plugged in, where the system keeps such a list."""
    try:
        return sorted(os.listdir(BY_ID))
    except OSError:
        return []


class Reply(NamedTuple):
    """One motor's answer: its bytes as an unsigned little-endian integer, and its error bits."""

    value: int
    error: int


class SyncReply(NamedTuple):
    """Answers to a sync read, in order of arrival, and who did not answer in time.

    `sent_s` and `received_s` are time.monotonic() when the request left and when the last byte was read.
    """

    replies: dict[int, Reply]
    missing: tuple[int, ...]
    sent_s: float
    received_s: float


@dataclass
class Counters:
    """What this port has seen since it was opened."""

    transactions: int = 0
    retries: int = 0
    timeouts: int = 0  # replies that were missing at the deadline
    damaged: int = 0  # packets with a wrong checksum
    skipped_bytes: int = 0  # bytes that belonged to no reply
    flushed_bytes: int = 0  # bytes left over from before a request: late replies


class FeetechPort:
    """An open serial port with Feetech servos on it.

    Opened exclusively: a second process that uses this class is refused, and on a real serial device any
    other program too. `low_latency`: whether the adapter's driver has agreed to hand bytes over at once.
    Not thread-safe: one owner. Errors: see `embodiments.feetech.errors`.
    """

    def __init__(
        self,
        path: str,
        baudrate: int = DEFAULT_BAUDRATE,
        reply_deadline_s: float = REPLY_DEADLINE_S,
        *,
        exclusive: bool = True,
    ) -> None:
        if reply_deadline_s <= 0:
            raise ValueError(
                f"{path}: reply_deadline_s is {reply_deadline_s}; it must be above 0, such as 0.008"
            )
        self.path = str(path)
        self.reply_deadline_s = reply_deadline_s
        self.counters = Counters()
        self._byte_s = BITS_PER_BYTE / baudrate
        try:
            self._serial = serial.Serial(self.path, baudrate, timeout=0, exclusive=exclusive or None)
        except (serial.SerialException, OSError, termios.error) as error:
            raise self._unavailable(error) from error
        self._fd: int = self._serial.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        if exclusive:
            self._keep_others_out()
        self.low_latency = self._ask_for_low_latency()

    # -- life ------------------------------------------------------------------------------------------------
    def _unavailable(self, error: Exception) -> PortUnavailable:
        code = getattr(error, "errno", None) or (error.args[0] if error.args else None)
        if code in _BUSY:
            advice = "another process owns it; stop that process (`fuser` on the port names it)"
        elif code in (errno.EACCES, errno.EPERM):
            advice = "not allowed; add yourself to the group that owns the device (often `dialout`)"
        elif code in (errno.ENOENT, errno.ENODEV, errno.ENXIO, None):
            present = ", ".join(_ports_by_id()) or "none"
            advice = f"no such port; plug the arm in, or use one of {BY_ID} (now there: {present})"
        else:
            advice = "check that it is a serial port of servos"
        reason = os.strerror(code) if isinstance(code, int) else str(error)
        return PortUnavailable(f"{self.path}: cannot be opened ({reason}): {advice}")

    def _keep_others_out(self) -> None:
        # The lock pyserial takes keeps out whoever also asks for it; TIOCEXCL keeps out everybody. Not on a
        # pseudo-terminal: there the mark outlives this process for as long as the simulated bus runs.
        if os.path.realpath(self.path).startswith("/dev/pts/"):
            return
        try:
            fcntl.ioctl(self._fd, termios.TIOCEXCL)
        except OSError as error:
            self.close()
            raise self._unavailable(error) from error

    def _ask_for_low_latency(self) -> bool:
        # An FTDI adapter holds bytes back for 16 ms, twice our deadline, unless asked not to. Others have no
        # such timer and refuse the request.
        try:
            self._serial.set_low_latency_mode(True)
        except (ValueError, OSError, NotImplementedError):
            return False
        return True

    def close(self) -> None:
        """Gives the port up; a second call does nothing. Torque stays as it is: see `release`."""
        try:
            self._serial.close()
        except (serial.SerialException, OSError, termios.error):
            pass  # it is gone already, which is what was asked for

    def __enter__(self) -> FeetechPort:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- requests --------------------------------------------------------------------------------------------
    def ping(self, id: int, attempts: int = 1) -> int:
        """Error bits of motor `id`. NoReply, CorruptReply after `attempts` deadlines."""
        return self._one(packets.ping(id), id, 0, attempts).error

    def read(self, id: int, address: int, size: int, attempts: int = 1) -> Reply:
        """`size` bytes from `address` of one motor. NoReply, CorruptReply after `attempts` deadlines."""
        return self._one(packets.read(id, address, size), id, size, attempts)

    def write(self, id: int, address: int, data: bytes, attempts: int = 1) -> int:
        """Error bits in motor `id`'s answer to a write. NoReply, CorruptReply: it may have been done or not.

        To the broadcast id 254 nobody answers; the result is then 0.
        """
        if id == packets.BROADCAST_ID:
            self._send(packets.write(id, address, data))
            return 0
        return self._one(packets.write(id, address, data), id, 0, attempts).error

    def write_register(self, id: int, register: Register, value: int, attempts: int = 1) -> int:
        """Error bits in motor `id`'s answer to a write of `value`; ValueError if it does not fit."""
        return self.write(id, register.address, register.encode(value), attempts)

    def sync_read(self, address: int, size: int, ids: Sequence[int]) -> SyncReply:
        """What arrived before the deadline, and whose answer is missing; only a lost port raises."""
        request = packets.sync_read(address, size, ids)
        return self._exchange(request, tuple(ids), size)

    def sync_write(self, address: int, data: Mapping[int, bytes]) -> None:
        """Puts each id's bytes at `address`; nobody answers."""
        self._send(packets.sync_write(address, data))

    def write_goals(self, goals: Mapping[int, int]) -> float:
        """Sends raw goal positions by one sync write; time.monotonic() when they left."""
        return self._send(
            packets.sync_write(
                GOAL_POSITION.address, {id: GOAL_POSITION.encode(raw) for id, raw in goals.items()}
            )
        )

    # -- wire ------------------------------------------------------------------------------------------------
    def _one(self, request: bytes, id: int, size: int, attempts: int) -> Reply:
        if attempts < 1:
            raise ValueError(f"{self.path}: attempts is {attempts}; it must be at least 1")
        for attempt in range(attempts):
            self.counters.retries += attempt > 0
            noise = self.counters.damaged + self.counters.skipped_bytes
            answer = self._exchange(request, (id,), size)
            if not answer.missing:
                return answer.replies[id]
        self._raise_missing(id, attempts, self.counters.damaged + self.counters.skipped_bytes > noise)

    def _raise_missing(self, id: int, attempts: int, corrupt: bool) -> NoReturn:
        times = f"{attempts} x {self.reply_deadline_s * 1e3:g} ms"
        if corrupt:
            raise CorruptReply(
                f"{self.path}: motor {id} answered with damaged bytes ({times}); check cable and baud rate",
                (id,),
            )
        raise NoReply(
            f"{self.path}: motor {id} did not answer within {times}; check its power, cable and id", (id,)
        )

    def _exchange(self, request: bytes, ids: tuple[int, ...], size: int) -> SyncReply:
        sent = self._send(request)
        expected = len(request) + len(ids) * (packets.OVERHEAD + size)
        deadline = sent + expected * self._byte_s + self.reply_deadline_s
        reader = packets.StatusReader(size)
        waiting, replies = set(ids), {}
        now = sent
        while waiting:
            data = self._receive(deadline)
            now = time.monotonic()
            if data is None:
                break
            for found in reader.feed(data):
                if found.id in waiting:
                    waiting.remove(found.id)
                    replies[found.id] = Reply(int.from_bytes(found.params, "little"), found.error)
            if now > deadline:  # a line that never falls silent must not hold the loop
                break
        self.counters.timeouts += len(waiting)
        self.counters.damaged += reader.damaged
        self.counters.skipped_bytes += reader.skipped
        return SyncReply(replies, tuple(id for id in ids if id in waiting), sent, now)

    def _send(self, request: bytes) -> float:
        """Empties the input, writes the request; time.monotonic() of the write."""
        self.counters.transactions += 1
        try:
            self.counters.flushed_bytes += self._serial.in_waiting
            self._serial.reset_input_buffer()
            sent = time.monotonic()
            written = os.write(self._fd, request)
        except (serial.SerialException, OSError, termios.error) as error:
            raise self._lost(error) from error
        if written != len(request):
            raise PortLost(
                f"{self.path}: only {written} of {len(request)} bytes were taken; replug the adapter"
            )
        return sent

    def _receive(self, deadline: float) -> bytes | None:
        """Some bytes, or None at the deadline."""
        left_s = deadline - time.monotonic()
        try:
            # poll() counts whole milliseconds, rounded up here: the deadline is checked again by the clock.
            ready = self._poll.poll(max(0, int(left_s * 1e3 + 0.999)))
            if not ready:
                return None
            data = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return None if left_s <= 0 else b""
        except OSError as error:
            raise self._lost(error) from error
        if not data and ready[0][1] & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
            raise PortLost(f"{self.path}: the port hung up; plug the arm in again and reconnect")
        return data

    def _lost(self, error: Exception) -> PortLost:
        return PortLost(f"{self.path}: lost while open ({error}); plug the arm in again and reconnect")
