"""A program's hold on a twin: starts one, asks its control channel, ends it. Standard library only."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any


class TwinError(RuntimeError):
    """The twin refused a command, or is not there; the text is its own."""


class TwinClient:
    """A connection to the control channel of a running twin."""

    def __init__(self, control: Path, timeout_s: float = 10.0) -> None:
        self.control = control
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(control))
        except OSError as error:
            self._socket.close()
            raise TwinError(
                f"{control}: no twin answers ({error}); start one with `hybridpolicy arm twin so101`"
            ) from error
        self._received = b""

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a command of `commands.TwinCommands`; TwinError if refused or not answered."""
        request = json.dumps({"command": command, **arguments}).encode() + b"\n"
        try:
            self._socket.sendall(request)
            while b"\n" not in self._received:
                data = self._socket.recv(1 << 16)
                if not data:
                    raise TwinError(f"{self.control}: the twin has ended")
                self._received += data
        except OSError as error:
            raise TwinError(f"{self.control}: no answer to {command!r} ({error})") from error
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise TwinError(f"{self.control}: {command}: {answer['error']}")
        return answer

    def goals(self, arm: str = "follower", since: int = 0) -> list[tuple[int, dict[int, int]]]:
        """Every goal write from number `since` on: receive time in ns (CLOCK_MONOTONIC), raw goals by id."""
        found: list[tuple[int, dict[int, int]]] = []
        while True:
            answer = self.ask("goals", arm=arm, since=since)
            found += [
                (stamp, {int(id): raw for id, raw in goals.items()}) for stamp, goals in answer["goals"]
            ]
            if not answer["goals"]:
                return found
            since = answer["next"]

    def close(self) -> None:
        """Ends the connection; the twin goes on."""
        self._socket.close()


class TwinProcess(TwinClient):
    """A twin of one's own, in another process, that ends with this one. Settings: those of TwinSettings.

    `info` is its announcement: port, id, calibration_dir, control, cameras, leader.
    """

    def __init__(self, link: Path, **settings: Any) -> None:
        given = {"link": str(link), **{key: _plain(value) for key, value in settings.items()}}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "embodiments.so101.serial_twin", json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise TwinError(
                f"{link}: the twin did not start (code {self._process.wait()}); its message is above"
            )
        self.info: dict[str, Any] = json.loads(line)
        super().__init__(Path(self.info["control"]))

    @property
    def port(self) -> str:
        """The follower's serial port."""
        return str(self.info["port"])

    @property
    def calibration_file(self) -> Path:
        """LeRobot's calibration file of the follower."""
        return Path(self.info["calibration_dir"]) / f"{self.info['id']}.json"

    def close(self) -> None:
        """Ends the twin."""
        super().close()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> TwinProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
