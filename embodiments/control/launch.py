"""Starts a control process: its own session, one end of a link, one end of an emergency stop line."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import embodiments
from embodiments.control.errors import ControlError
from embodiments.control.link import Link
from embodiments.control.spec import ControlSpec

TAIL = 2000


def open_stop_device(path: Path) -> int:
    """A descriptor of a button or pedal, for `ControlledArm(estop_input=…)`: a character device or a FIFO.

    Raises:
        ControlError: it is not there, may not be read, or is a plain file, whose end would be a stop at once.
    """
    try:
        # A FIFO nobody writes to yet has not ended: it is opened for both, so that it never does.
        fifo = stat.S_ISFIFO(path.stat().st_mode)
        descriptor = os.open(path, (os.O_RDWR if fifo else os.O_RDONLY) | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ControlError(
            f"emergency stop device {path}: {error.strerror}; name a device that this user may read"
        ) from error
    if not (fifo or stat.S_ISCHR(os.fstat(descriptor).st_mode)):
        os.close(descriptor)
        raise ControlError(f"emergency stop device {path}: is no character device and no FIFO; name one")
    return descriptor


class Child:
    """A control process, seen from its parent. A byte written to `estop_fd` stops the arm."""

    def __init__(self, spec: ControlSpec, estop_input: int | None = None) -> None:
        """`estop_input`: a descriptor of a button or pedal; any byte on it, and its end, is a stop."""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - what it prints, should it ever; lives as long
        self.link, theirs = Link.pair()
        pressed, self.estop_fd = os.pipe()
        handle, name = tempfile.mkstemp(prefix="control-", suffix=".json")
        with os.fdopen(handle, "w") as file:
            file.write(spec.dump())
        self._spec_file = Path(name)
        # The package this process runs, wherever it was imported from, is the one the child runs.
        root = str(Path(embodiments.__file__).parents[1])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        inherited = [theirs.fileno(), pressed]
        extra = []
        if estop_input is not None:
            inherited.append(estop_input)
            extra.append(f"--estop-input-fd={estop_input}")
        try:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "embodiments.control.process"),
                    f"--spec={name}",
                    f"--link-fd={theirs.fileno()}",
                    f"--estop-fd={pressed}",
                    *extra,
                ],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                env=os.environ | {"PYTHONPATH": path},
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(pressed)

    def forget_spec(self) -> None:
        """The child has read its spec: nothing is left behind should this process be killed."""
        self._spec_file.unlink(missing_ok=True)

    def said(self) -> str:
        """The end of what it printed: a traceback, if it broke."""
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - TAIL))
        return self._said.read().decode(errors="replace").strip()

    def close(self) -> None:
        """Close what this process has of it; the process itself ends by its own rules."""
        self.link.close()
        if self.estop_fd >= 0:
            os.close(self.estop_fd)
            self.estop_fd = -1
        self.forget_spec()
        self._said.close()
