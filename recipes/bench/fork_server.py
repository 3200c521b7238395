"""LeRobot imported once, and a fresh process of it for every measurement.

The server imports LeRobot and computes nothing; each request is run by a fork of it. What a defect leaves
behind (an open port, a stuck thread, a prompt that waits for ever) ends with the fork, and is never
inherited by the next measurement.

Run `python -m recipes.bench.fork_server` by `LeRobotProcess` only.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from types import TracebackType
from typing import Any

from recipes.bench.stand import BenchError

TAIL = 2000
START_S = 180.0  # importing it on a machine that does other things, too
FUNCTIONS = "recipes.bench."


class LeRobotProcess:
    """The server, seen from the bench. Started at the first `call`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - what LeRobot logs; lives as long as this

    def call(self, function: str, timeout_s: float = 120.0, **arguments: Any) -> dict[str, Any]:
        """What `module:function(**arguments)` of this package returned in a fork of the server.

        `{"timed_out": seconds}` if it did not return: it was killed. BenchError if it broke.
        """
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        request = {"function": function, "arguments": arguments, "timeout_s": timeout_s}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise BenchError(f"{function}: the process that runs LeRobot ended; it said: {self.said()}")
        answer: dict[str, Any] = json.loads(line)
        if "broke" in answer:
            raise BenchError(f"{function}: {answer['broke']}\n{self.said()}")
        return answer

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "recipes.bench.fork_server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
            )
        return self._process

    def said(self) -> str:
        """The end of what it logged."""
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - TAIL))
        return self._said.read().decode(errors="replace").strip()

    def __enter__(self) -> LeRobotProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.wait(START_S)
            self._process.stdout.close()
        self._said.close()


def _run_in_fork(request: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_the_fork(request, writing)
    os.close(writing)
    deadline = time.monotonic() + request["timeout_s"]
    data = b""
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([reading], [], [], left)
        if ready:
            more = os.read(reading, 1 << 16)
            if not more:
                break
            data += more
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # also whatever it started
    os.waitpid(child, 0)
    os.close(reading)
    if not data:
        return {"timed_out": request["timeout_s"]} if left <= 0 else {"broke": "it died without a word"}
    answer: dict[str, Any] = json.loads(data)
    return answer


def _be_the_fork(request: dict[str, Any], writing: int) -> None:
    """Run the function, write what it returned, and end without any of the server's cleaning up."""
    os.setsid()
    code = 1
    try:
        module, _, name = request["function"].partition(":")
        function = getattr(importlib.import_module(FUNCTIONS + module), name)
        os.write(writing, json.dumps(function(**request["arguments"])).encode())
        code = 0
    except BaseException:  # noqa: BLE001 - a fork that dies must say why, whatever it was
        os.write(writing, json.dumps({"broke": traceback.format_exc()[-TAIL:]}).encode())
    finally:
        os._exit(code)


def main() -> int:
    """Serves until standard input is closed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # LeRobot prints
    requests = os.fdopen(os.dup(0), "r")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # nobody answers a prompt
    import lerobot.robots.so_follower
    import lerobot.rollout.inference.rtc
    import lerobot.rollout.strategies.base  # noqa: F401

    for line in requests:
        answers.write(json.dumps(_run_in_fork(json.loads(line))) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
