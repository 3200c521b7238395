"""What a person sees of a run: a live page on a terminal, plain lines anywhere else; and their keys."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections import deque
from enum import Enum
from typing import Any, Protocol, TextIO

from embodiments.control.link import Severity
from recipes.arm.checks import Check
from recipes.arm.telemetry import Telemetry

LINE_EVERY_S = 5.0
EVENTS = 8
PAGES_PER_S = 5
MARGINS = 3


class Key(Enum):
    """What a key does; its value is the key."""

    STOP = " "
    SUCCESS = "s"
    FAILURE = "f"
    QUIT = "q"


class View(Protocol):
    """Somebody who looks on."""

    def check(self, check: Check) -> None:
        """A check that passed."""

    def event(self, severity: Severity, text: str) -> None:
        """Something happened."""

    def show(self, telemetry: Telemetry) -> None:
        """How it stands."""

    def key(self) -> Key | None:
        """The key pressed since the last call."""

    def close(self) -> None:
        """It is over."""


class PlainView:
    """Lines: every check and event, and one line now and then."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        """quiet: warnings and errors only."""
        self._stream = stream or sys.stdout
        self._quiet = quiet
        self._next_s = 0.0

    def check(self, check: Check) -> None:
        """`ok  name  found`."""
        if not self._quiet:
            print(f"ok  {check.name:<12}{check.found}", file=self._stream, flush=True)

    def event(self, severity: Severity, text: str) -> None:
        """`severity: text`."""
        if not self._quiet or severity != Severity.INFO:
            mark = "" if severity == Severity.INFO else f"{severity.name.lower()}: "
            print(f"{mark}{text}", file=self._stream, flush=True)

    def show(self, telemetry: Telemetry) -> None:
        """One line, at most every few seconds."""
        now = time.monotonic()
        if not self._quiet and now >= self._next_s:
            self._next_s = now + LINE_EVERY_S
            print(
                "  ".join(f"{name} {value}" for name, value in rows(telemetry)), file=self._stream, flush=True
            )

    def key(self) -> Key | None:
        """There is nobody."""
        return None

    def close(self) -> None:
        """Nothing to do."""


class LiveView:
    """A page that keeps itself up to date, below which events stand; keys are read without ENTER."""

    def __init__(self) -> None:
        self._events: deque[tuple[Severity, str]] = deque(maxlen=EVENTS)
        self._newest: Telemetry | None = None
        self._page: Any = None
        self._terminal: list[Any] | None = None
        self._next_s = 0.0

    def check(self, check: Check) -> None:
        """Printed above the page."""
        self._say(f"ok  {check.name:<12}{check.found}")

    def event(self, severity: Severity, text: str) -> None:
        """Into the list of events; printed where there is no page yet."""
        self._events.append((severity, text))
        if self._page is None:
            self._say(text)
        else:
            self._draw()

    def show(self, telemetry: Telemetry) -> None:
        """Draws the page, a few times a second."""
        self._newest = telemetry
        if self._page is None:
            self._begin()
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + 1.0 / PAGES_PER_S
            self._draw()

    def _say(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def _begin(self) -> None:
        from rich.live import Live

        self._page = Live(auto_refresh=False, transient=False)
        self._page.start()

    def _draw(self) -> None:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        if self._newest is None:
            return
        table = Table.grid(padding=(0, 2))
        for name, value in rows(self._newest):
            table.add_row(Text(name, style="dim"), Text(value))
        styles = {Severity.INFO: "", Severity.WARNING: "yellow", Severity.ERROR: "bold red"}
        events = [Text(text, style=styles[severity]) for severity, text in self._events]
        keys = Text("SPACE emergency stop   s success   f failure   q end the episode", style="dim")
        self._page.update(Group(table, keys, *events), refresh=True)

    def key(self) -> Key | None:
        """Of those in `Key`; others do nothing."""
        if self._terminal is None:  # from the first look on: the arm may move before there is a page
            self._terminal = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        if not select.select([sys.stdin], [], [], 0)[0]:
            return None
        pressed = os.read(sys.stdin.fileno(), 1).decode(errors="replace")
        return next((key for key in Key if key.value == pressed), None)

    def close(self) -> None:
        """Gives the terminal back."""
        if self._page is not None:
            self._page.stop()
            self._page = None
        if self._terminal is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._terminal)
            self._terminal = None


def rows(telemetry: Telemetry) -> list[tuple[str, str]]:
    """(name, value) of everything shown."""
    state, counters = telemetry.state, telemetry.state.counters
    margins = ", ".join(f"{name} {margin:.0f}" for name, margin in telemetry.margins[:MARGINS])
    paused = f", policy paused: {telemetry.paused}" if telemetry.paused else ""
    approach = ", approaching" if state.approach else ""
    return [
        ("episode", f"{telemetry.episode}/{telemetry.episodes} {telemetry.elapsed_s:.1f} s"),
        ("task", telemetry.task),
        ("state", f"{state.state.name}{approach}{paused}"),
        ("rate", f"{telemetry.rate_hz:.1f} Hz, {counters.missed} missed"),
        ("jitter", f"p99 {counters.late_p99_us / 1e3:.2f} ms, max {counters.late_max_us / 1e3:.2f} ms"),
        ("margins", margins),
        ("latency", f"{telemetry.latency_ms[0]:.0f} ms, p95 {telemetry.latency_ms[1]:.0f} ms"),
        ("picture", f"{telemetry.picture_ms:.0f} ms old"),
        ("queue", f"{state.buffered_us / 1e3:.0f} ms, chunk {state.sequence}, {telemetry.plans} plans"),
    ]


def view_for(stream: TextIO) -> View:
    """The live page on a terminal, lines anywhere else."""
    return LiveView() if stream.isatty() and sys.stdin.isatty() else PlainView(stream)
