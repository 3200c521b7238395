"""Progress with rate and time left: a bar on a terminal, a plain line now and then anywhere else.

    with progress("recording", total=90, unit="episodes") as bar:
        for episode in episodes:
            ...
            bar.advance()

Code that may not import recipes takes `bar.update`, a `Callable[[int, int], None]` of (done, total).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from hybridpolicy.training.trainer import TrainProgress

QUIET_S = 2.0  # anything shorter needs no explanation
LINE_EVERY_S = 10.0  # a log of a 12-minute run stays under a hundred lines


class Bar(Protocol):
    """What `progress` yields."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more units are done; `note` (for example a loss) is shown beside them."""

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """`done` units in all are done, of `total` where that is known better now."""


class _LineBar:
    """Plain lines for logs, pipes and CI: one when `QUIET_S` is over, then one every `LINE_EVERY_S`."""

    def __init__(
        self, label: str, total: int, unit: str, start: int, stream: TextIO, clock: Callable[[], float]
    ) -> None:
        self.label, self.total, self.unit, self.stream, self.clock = label, total, unit, stream, clock
        self.start, self.done, self.note = start, start, ""
        self.started_s = clock()
        self.next_line_s = self.started_s + QUIET_S

    def advance(self, count: int = 1, note: str = "") -> None:
        self.update(self.done + count, note=note)

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        self.done, self.total, self.note = done, self.total if total is None else total, note
        now_s = self.clock()
        if now_s >= self.next_line_s:
            self.next_line_s = now_s + LINE_EVERY_S
            rate = (self.done - self.start) / max(now_s - self.started_s, 1e-9)
            left = f"{format_duration((self.total - self.done) / rate)} left" if rate else "time left unknown"
            self._write(f"{self.done}/{self.total} {self.unit}, {format_rate(rate, self.unit)}, {left}")

    def close(self) -> None:
        """Writes the last line, unless the whole took under `QUIET_S` or nothing was counted."""
        elapsed_s = self.clock() - self.started_s
        if elapsed_s >= QUIET_S and self.done > self.start:
            rate = format_rate((self.done - self.start) / elapsed_s, self.unit)
            self._write(f"{self.done}/{self.total} {self.unit} in {format_duration(elapsed_s)}, {rate}")

    def _write(self, text: str) -> None:
        print(f"{self.label}: {text}{f', {self.note}' if self.note else ''}", file=self.stream, flush=True)


class _TerminalBar:
    """A live bar drawn by rich."""

    def __init__(self, display: RichProgress, task: TaskID, unit: str, start: int) -> None:
        self.display, self.task, self.unit = display, task, unit
        self.start, self.done = start, start
        self.started_s = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.update(self.done + count, note=note)

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        self.done = done
        rate = format_rate((done - self.start) / max(time.monotonic() - self.started_s, 1e-9), self.unit)
        self.display.update(self.task, completed=done, total=total, rate=rate, note=note)


@contextmanager
def progress(
    label: str,
    total: int,
    unit: str = "steps",
    *,
    start: int = 0,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Bar]:
    """A bar over `total` units of work, `start` of them done before; on stderr, so that stdout stays data."""
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        lines = _LineBar(label, total, unit, start, stream, clock)
        try:
            yield lines
        finally:
            lines.close()
        return
    from rich.console import Console  # 80 ms, so only where a bar is drawn
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(file=stream)) as display:
        task = display.add_task(label, total=total, completed=start, rate="", note="")
        yield _TerminalBar(display, task, unit, start)


@contextmanager
def follow_training(stream: TextIO | None = None) -> Iterator[Callable[[TrainProgress], None]]:
    """A progress callback for a Trainer: one bar for each activity (decoding frames, each stage)."""
    with ExitStack() as open_bar:
        activity: str = ""
        bar: Bar | None = None

        def show(event: TrainProgress) -> None:
            nonlocal activity, bar
            is_training = math.isfinite(event.loss)
            if bar is None or event.activity != activity:
                open_bar.close()
                activity, unit = event.activity, "samples" if is_training else "frames"
                bar = open_bar.enter_context(
                    progress(activity, event.total, unit, start=event.done, stream=stream)
                )
            bar.update(event.done, event.total, note=f"loss {event.loss:.4f}" if is_training else "")

        yield show


def format_duration(seconds: float) -> str:
    """`9 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_rate(per_s: float, unit: str) -> str:
    """`12.3 steps/s`, or `35.1 episodes/min` where one takes over a second."""
    return f"{per_s:.3g} {unit}/s" if per_s >= 1 or per_s == 0 else f"{per_s * 60:.3g} {unit}/min"
