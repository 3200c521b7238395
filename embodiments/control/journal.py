"""What happened, as lines of JSON, and what was sent in the last cycles."""

from __future__ import annotations

import json
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple, TextIO

from embodiments.control.link import ArmState, Severity

MAX_BYTES = 10_000_000
CYCLES_KEPT_S = 30.0


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
        """Remember one cycle."""
        self._cycles.append(
            Cycle(state.cycle, state.sent_us, state.measured_us, state.state, state.sent, state.measured)
        )

    def close(self) -> None:
        """Write the last 30 s of cycles beside the log, and close it."""
        if self._path is None or self._file is None:
            return
        try:
            with self._path.with_suffix(".cycles.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(cycle._asdict()) + "\n" for cycle in self._cycles)
            self._file.close()
        except OSError as error:
            self.error = str(error)
        self._file = None
