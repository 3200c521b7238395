"""A program on a terminal of its own, as its foreground: Ctrl-C is typed, and reaches whoever it reaches."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

# Run in a new session: takes the terminal on its input as its own, then becomes the program.
TAKE_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    # Whoever runs this in the background ignores Ctrl-C, and a program inherits that.
    "signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
CTRL_C = b"\x03"


def has_ended(pid: int) -> bool:
    """Whether a process that need not be our child has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


class Terminal:
    """A Python module run on a pseudo-terminal. `text` is all it has printed."""

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        self._fd, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, sys.executable, "-m", module, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.text = ""

    def read(self, seconds: float) -> None:
        """Take in what it prints within `seconds`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select([self._fd], [], [], left)
            if not ready:
                return
            try:
                data = os.read(self._fd, 4096)
            except OSError:  # the terminal has no program any more
                time.sleep(left)
                return
            self.text += data.decode(errors="replace")

    def words(self) -> list[list[str]]:
        """Its lines, in words."""
        return [line.split() for line in self.text.splitlines() if line.strip()]

    def last_phase(self) -> str:
        """The last line that is one word in capitals; START before the first."""
        said = [line[0] for line in self.words() if len(line) == 1 and line[0].isupper()]
        return said[-1] if said else "START"

    def control_pid(self) -> int | None:
        """Its control process, once announced."""
        return next((int(line[1]) for line in self.words() if line[0] == "CONTROL" and len(line) == 2), None)

    def type_ctrl_c(self) -> None:
        """As a person types it: the terminal sends SIGINT to its foreground process group."""
        with contextlib.suppress(OSError):
            os.write(self._fd, CTRL_C)

    def send(self, number: int) -> None:
        """A signal to the program alone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def has_ended(self) -> bool:
        """Whether the program has ended."""
        self.read(0.01)
        return self.process.poll() is not None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.read(0.01)
        control = self.control_pid()
        if control is not None and not has_ended(control):
            with contextlib.suppress(ProcessLookupError):
                os.kill(control, signal.SIGKILL)
        os.close(self._fd)
