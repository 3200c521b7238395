"""Absolute deadlines, how late they were met, and the scheduler's favour."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable

BUCKET_US = 10
NUM_BUCKETS = 5000  # to 50 ms; later is counted in the last one
NICENESS = -10


class Lateness:
    """A histogram of how late cycles began: constant memory, constant time."""

    def __init__(self) -> None:
        self._buckets = [0] * NUM_BUCKETS
        self.count = 0
        self.max_us = 0

    def add(self, late_us: int) -> None:
        """One cycle."""
        self._buckets[min(late_us // BUCKET_US, NUM_BUCKETS - 1)] += 1
        self.count += 1
        self.max_us = max(self.max_us, late_us)

    def quantile_us(self, share: float) -> int:
        """Upper edge of the bucket that holds this share of all cycles; 0 without any."""
        wanted, seen = share * self.count, 0
        for index, number in enumerate(self._buckets):
            seen += number
            if number and seen >= wanted:
                return (index + 1) * BUCKET_US
        return 0


class Deadlines:
    """Deadlines on a grid of absolute times: what is late does not make the next one late.

    A cycle that overruns its successor's deadline skips it; the grid never moves.
    """

    def __init__(self, rate_hz: float, start_ns: int) -> None:
        self.period_ns = round(1e9 / rate_hz)
        self._start_ns = start_ns
        self.index = 0
        self.missed = 0  # met later than half a period, or skipped
        self.lateness = Lateness()

    @property
    def next_ns(self) -> int:
        """CLOCK_MONOTONIC of the coming deadline."""
        return self._start_ns + (self.index + 1) * self.period_ns

    def met(self, now_ns: int) -> int:
        """How many periods went by since the last one, at least 1; `now_ns` is when the cycle began."""
        due = max(1, (now_ns - self._start_ns) // self.period_ns - self.index)
        self.missed += due - 1
        self.index += due
        late_ns = max(0, now_ns - (self._start_ns + self.index * self.period_ns))
        self.missed += late_ns > self.period_ns // 2
        # What was skipped is late by what it was due before: the whole delay counts.
        self.lateness.add((late_ns + (due - 1) * self.period_ns) // 1000)
        return due


class Waiter:
    """Sleeps to a deadline and wakes for whoever speaks before it."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._heard: dict[int, Callable[[], None]] = {}

    def listen(self, fd: int, heard: Callable[[], None]) -> None:
        """Call `heard` when `fd` has something to say or hung up."""
        self._poll.register(fd, select.POLLIN)
        self._heard[fd] = heard

    def forget(self, fd: int) -> None:
        """Do not listen to `fd` any more."""
        if self._heard.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def until(self, deadline_ns: int) -> None:
        """Return at CLOCK_MONOTONIC `deadline_ns`, or as soon after as the scheduler allows."""
        while True:
            left_ns = deadline_ns - time.monotonic_ns()
            if left_ns <= 0:
                return
            # poll() counts whole milliseconds: the rest is slept.
            whole_ms = (left_ns - 500_000) // 1_000_000
            if whole_ms < 1:
                time.sleep(left_ns * 1e-9)
                return
            for fd, _ in self._poll.poll(whole_ms):
                self._heard[fd]()


def claim_priority(fifo: int, niceness: int = NICENESS) -> str:
    """Take the best scheduling this process is permitted, and say which: FIFO, nice or plain."""
    if fifo > 0 and hasattr(os, "sched_setscheduler"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(fifo))
            return f"SCHED_FIFO {fifo}"
    if fifo > 0:
        with contextlib.suppress(OSError):
            return f"nice {os.nice(niceness)}"
    return "plain"
