"""What happened, as lines of JSON; what was sent in the last cycles, and before each fault."""

from __future__ import annotations

import json
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple, TextIO

from embodiments.control.link import ArmState, Severity
from firmware_bridge.safety import State

MAX_BYTES = 10_000_000
CYCLES_KEPT_S = 30.0
FAULTS_KEPT = 5  # of one process: the first are those that explain the others
LINES_A_CYCLE = 20  # a fault is written down while the arm is still held at its rate
STOPPED = (State.FAULT, State.ESTOP)


class Cycle(NamedTuple):
    """One cycle as it is recorded: times in microseconds, positions in joint units."""

    cycle: int
    sent_us: int
    measured_us: int
    state: int
    sent: tuple[float, ...]
    measured: tuple[float, ...]


class Journal:
    """The event log of one control process; without a path it only remembers."""

    def __init__(self, path: str | None, rate_hz: float) -> None:
        self._path = None if path is None else Path(path)
        self._file: TextIO | None = None if path is None else open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._written = 0
        self.error = ""
        self._cycles: deque[Cycle] = deque(maxlen=round(rate_hz * CYCLES_KEPT_S))
        self._faults = 0
        self._before_fault: deque[Cycle] = deque()  # what is still to be written of the newest fault
        self._fault_file: TextIO | None = None

    def note(self, severity: Severity, text: str, **facts: object) -> None:
        """One line; after 10 MB nothing more is written, and the last line says so.

        A full disk ends the log, not the control of an arm: `error` then says why.
        """
        try:
            self._note(severity, text, facts)
        except OSError as error:
            self.error = str(error)
            self._file = None

    def _note(self, severity: Severity, text: str, facts: dict[str, object]) -> None:
        if self._file is None or self._written > MAX_BYTES:
            return
        line = {"monotonic_us": time.monotonic_ns() // 1000, "wall_s": round(time.time(), 3)}
        self._written += self._file.write(
            json.dumps(line | {"severity": severity.name, "text": text} | facts) + "\n"
        )
        if self._written > MAX_BYTES:
            self._file.write(json.dumps(line | {"severity": "WARNING", "text": "log full"}) + "\n")
        self._file.flush()

    def cycle(self, state: ArmState) -> None:
        """Remember one cycle. What led to a fault is written at once, and stays if this process is killed."""
        before = self._cycles[-1].state if self._cycles else state.state
        stopped = before not in STOPPED and state.state in STOPPED
        self._cycles.append(
            Cycle(state.cycle, state.sent_us, state.measured_us, state.state, state.sent, state.measured)
        )
        try:
            if stopped:
                self._begin_fault()
            self._write_fault(LINES_A_CYCLE)
        except OSError as error:
            self.error, self._fault_file = str(error), None

    def _begin_fault(self) -> None:
        if self._path is None or self._faults == FAULTS_KEPT:
            return
        self._write_fault(len(self._before_fault))
        self._faults += 1
        self._before_fault = self._cycles.copy()
        file = self._path.with_suffix(f".fault{self._faults}.jsonl")
        self._fault_file = file.open("w", encoding="utf-8")

    def _write_fault(self, lines: int) -> None:
        file, waiting = self._fault_file, self._before_fault
        if file is None:
            return
        for _ in range(min(lines, len(waiting))):
            file.write(json.dumps(waiting.popleft()._asdict()) + "\n")
        file.flush()
        if not waiting:
            file.close()
            self._fault_file = None

    def close(self) -> None:
        """Write the last 30 s of cycles beside the log, and close it."""
        if self._path is None or self._file is None:
            return
        try:
            self._write_fault(len(self._before_fault))
            with self._path.with_suffix(".cycles.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(cycle._asdict()) + "\n" for cycle in self._cycles)
            self._file.close()
        except OSError as error:
            self.error = str(error)
        self._file = None
