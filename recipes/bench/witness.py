"""How long this machine keeps whoever has its best priority waiting: lag that is nobody's fault here.

One process a processor, pinned to it: a virtual machine may stop one processor and not the other. Run by
`LagWitness` as `python -m recipes.bench.witness PROCESSOR`; prints `end_ns lag_ns` of every lag over 1 ms.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple

PERIOD_NS = 2_000_000
WORTH_NS = 1_000_000
PRIORITY = 60  # SCHED_FIFO, above everything that is measured


class Lag(NamedTuple):
    """Between `begin_ns` and `end_ns` (CLOCK_MONOTONIC) a processor did not run who was due."""

    begin_ns: int
    end_ns: int


class LagWitness:
    """Watches all processors until closed."""

    def __init__(self) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "recipes.bench.witness", str(processor)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
            for processor in sorted(os.sched_getaffinity(0))
        ]
        self._partial = [b""] * len(self._processes)
        for process in self._processes:
            assert process.stdout is not None
            process.stdout.readline()  # it watches from here on

    def take(self) -> list[Lag]:
        """Every lag noted since the last call."""
        lags = []
        for index, process in enumerate(self._processes):
            assert process.stdout is not None
            while select.select([process.stdout], [], [], 0)[0]:
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    break
                self._partial[index] += data
            *lines, self._partial[index] = self._partial[index].split(b"\n")
            for line in lines:
                end_ns, lag_ns = map(int, line.split())
                lags.append(Lag(end_ns - lag_ns, end_ns))
        return lags

    def worst_ms(self) -> float:
        """The longest lag noted since the last call, in milliseconds; 0 if none was over 1 ms."""
        return max(((lag.end_ns - lag.begin_ns) * 1e-6 for lag in self.take()), default=0.0)

    def close(self) -> None:
        """Ends it."""
        for process in self._processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.wait(10.0)
            process.stdout.close()

    def __enter__(self) -> LagWitness:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def main(arguments: Sequence[str]) -> int:
    """Watches until standard input is closed."""
    os.sched_setaffinity(0, {int(arguments[0])})
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    out = sys.stdout.fileno()
    os.write(out, b"watching\n")
    due = time.monotonic_ns() + PERIOD_NS
    ended = select.poll()
    ended.register(sys.stdin, select.POLLIN | select.POLLHUP)
    while not ended.poll(0):
        time.sleep(max(0, due - time.monotonic_ns()) * 1e-9)
        now = time.monotonic_ns()
        if now - due > WORTH_NS:
            os.write(out, b"%d %d\n" % (now, now - due))
        due = now + PERIOD_NS
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
