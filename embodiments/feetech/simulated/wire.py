"""The end of the simulated line that programs open: a pseudo-terminal, and the time bytes take.

A pseudo-terminal moves any number of bytes at once and only remembers the baud rate, so what the rate does on
a real line is done here: servos set to another rate hear nothing, and a transaction takes its time, 10 bits a
byte both ways, each servo's return delay, and 0.5 ms for the USB adapter. Replies are handed over together
when the last is complete, as an adapter hands over what it has.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import pty
import struct
import sys
import tty
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from embodiments.feetech.simulated.bus import SentStatus

BITS_PER_BYTE = 10  # 8N1
DEFAULT_BAUDRATE = 1_000_000
TCGETS2 = 0x802C542A  # Linux: the terminal's settings with its speed as a number
TERMIOS2 = struct.Struct("4I20x2I")
ADAPTER_S = 0.5e-3
READ_SIZE = 4096
LAG_SAMPLES = 5_000


class PtyWire:
    """One pseudo-terminal; `path` is the symbolic link to its outer end."""

    def __init__(self, path: Path, adapter_s: float = ADAPTER_S) -> None:
        self.path = path
        self.adapter_s = adapter_s
        self.lag_s: deque[float] = deque(maxlen=LAG_SAMPLES)  # how late replies left, by this process's fault
        self._queue: list[tuple[float, int, bytes]] = []
        self._busy_until = 0.0
        self._count = 0
        self._master: int | None = None
        self._slave: int | None = None

    def plug(self) -> None:
        """Makes the port appear."""
        if self._master is not None:
            return
        self._master, self._slave = pty.openpty()
        # Raw on both ends before anyone opens it, and the outer end is kept open: without it, the port would
        # hang up whenever a program closes it.
        tty.setraw(self._master)
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        link = self.path.with_name(f".{self.path.name}.new")
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        link.symlink_to(os.ttyname(self._slave))
        os.replace(link, self.path)

    def unplug(self) -> None:
        """Makes the port vanish, as a pulled cable does; bytes on their way are lost."""
        if self._master is None or self._slave is None:
            return
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = None
        self._queue.clear()

    @property
    def plugged(self) -> bool:
        """Whether the port exists."""
        return self._master is not None

    def fileno(self) -> int:
        """What becomes readable when a program sends; -1 while unplugged."""
        return -1 if self._master is None else self._master

    @property
    def baudrate(self) -> int:
        """What the program that opened the port has set, where the system tells (Linux)."""
        if self._slave is None or sys.platform != "linux":
            return DEFAULT_BAUDRATE
        settings = fcntl.ioctl(self._slave, TCGETS2, bytes(TERMIOS2.size))
        return int(TERMIOS2.unpack(settings)[-1])

    def receive(self) -> bytes:
        """What a program sent; may be empty."""
        if self._master is None:
            return b""
        try:
            return os.read(self._master, READ_SIZE)
        except BlockingIOError:
            return b""

    def transmit(self, now: float, request_bytes: int, replies: Sequence[tuple[SentStatus, float]]) -> None:
        """Sends status packets, each with an additional delay, when a real line would have carried them.

        The line is taken by the request from `now`, and by the replies after it.
        """
        byte_s = BITS_PER_BYTE / (self.baudrate or DEFAULT_BAUDRATE)
        end = max(now, self._busy_until) + request_bytes * byte_s
        for reply, _ in replies:
            end += reply.delay_s + len(reply.data) * byte_s
        self._busy_until = end
        together = b"".join(reply.data for reply, late in replies if not late)
        if together:
            self._push(end + self.adapter_s, together)
        for reply, late in replies:
            if late:
                self._push(end + self.adapter_s + late, reply.data)

    def _push(self, due: float, data: bytes) -> None:
        self._count += 1
        heapq.heappush(self._queue, (due, self._count, data))

    @property
    def next_due(self) -> float | None:
        """When `deliver` has something to do."""
        return self._queue[0][0] if self._queue else None

    def deliver(self, now: float) -> None:
        """Hands over what is due."""
        while self._queue and self._queue[0][0] <= now:
            due, _, data = heapq.heappop(self._queue)
            if self._master is None:
                continue
            try:
                os.write(self._master, data)
            except BlockingIOError:
                continue  # nobody reads: a real adapter's buffer overflows, too
            self.lag_s.append(now - due)
