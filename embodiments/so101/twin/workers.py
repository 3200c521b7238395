"""Tables on worker processes: fresh interpreters that import no torch, sharing arrays through a mapped file.

Workers are started as commands, not by multiprocessing's spawn: spawn imports the parent's main module again,
which for a training script means torch and LeRobot in every worker.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from embodiments.so101.twin.episode import EpisodeState
from embodiments.so101.twin.scenario import Scenario
from embodiments.so101.twin.table_group import TableBuffers, TableGroup

_BOOT = "import sys; from {module} import {function}; {function}(int(sys.argv[1]))"


class WorkerError(RuntimeError):
    """A worker process failed; the message carries its traceback."""


class WorkerProcess:
    """A Python command that answers requests over a pipe, one at a time."""

    def __init__(self, module: str, function: str) -> None:
        self._pipe, child = Pipe()
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment.setdefault("MUJOCO_GL", "egl")
        command = [sys.executable, "-c", _BOOT.format(module=module, function=function), str(child.fileno())]
        self._process = subprocess.Popen(command, pass_fds=(child.fileno(),), env=environment)
        child.close()

    def send(self, request: tuple[Any, ...]) -> None:
        """Ask; the answer comes with `receive`."""
        try:
            self._pipe.send(request)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._gone() from error

    def receive(self) -> Any:
        """The answer to the last request; WorkerError if it failed or the process is gone."""
        try:
            kind, value = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._gone() from error
        if kind == "error":
            raise WorkerError(f"so101 twin: a worker process failed:\n{value}")
        return value

    def poll(self, timeout_s: float) -> bool:
        """Whether an answer is waiting."""
        return self._pipe.poll(timeout_s)

    @property
    def connection(self) -> Connection:
        """This side of the pipe, for `multiprocessing.connection.wait`."""
        return self._pipe

    def close(self) -> None:
        """End the process: closing the pipe ends its loop."""
        self._pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _gone(self) -> WorkerError:
        code = self._process.poll()
        return WorkerError(f"so101 twin: a worker process ended with code {code}; see its messages above")


def serve(handle: int, answer: Any) -> None:
    """Worker side: answer requests until the pipe closes, handing a caller's errors back as text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, whose closed pipe ends the loop
    pipe = Connection(handle)
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            reply = ("ok", answer(*request))
        except (ValueError, RuntimeError, OSError):  # a caller's mistake; anything else ends this process
            reply = ("error", traceback.format_exc())
        try:
            pipe.send(reply)
        except BrokenPipeError:
            return


def table_worker(handle: int) -> None:
    """Entry point of a worker that runs tables."""
    group: TableGroup | None = None

    def answer(name: str, *arguments: Any) -> Any:
        nonlocal group
        if name == "open":
            path, num, size, indices = arguments
            memory = np.memmap(path, dtype=np.uint8, mode="r+")
            group = TableGroup(TableBuffers.view(memory, num, size), indices)
            return None
        assert group is not None
        return getattr(group, name)(*arguments)

    serve(handle, answer)


class WorkerGroup:
    """The same methods as a TableGroup, run by several processes at once."""

    def __init__(self, num_envs: int, image_size: int, workers: int) -> None:
        folder = "/dev/shm" if Path("/dev/shm").is_dir() else None
        handle, path = tempfile.mkstemp(prefix="so101_twin_", dir=folder)
        try:
            os.truncate(handle, TableBuffers.num_bytes(num_envs, image_size))
            self.buffers = TableBuffers.view(np.memmap(path, dtype=np.uint8, mode="r+"), num_envs, image_size)
            shares = np.array_split(np.arange(num_envs), workers)
            self._owner = {int(index): worker for worker, share in enumerate(shares) for index in share}
            self._workers = [WorkerProcess("embodiments.so101.twin.workers", "table_worker") for _ in shares]
            for worker, share in zip(self._workers, shares, strict=True):
                worker.send(("open", path, num_envs, image_size, [int(index) for index in share]))
            for worker in self._workers:
                worker.receive()
        finally:
            os.close(handle)
            os.unlink(path)  # both sides keep their mapping

    def _all(self, *request: Any) -> None:
        for worker in self._workers:
            worker.send(request)
        for worker in self._workers:
            worker.receive()

    def start(self, scenarios: Sequence[Scenario]) -> None:
        """Start every table with its scenario."""
        self._all("start", list(scenarios))

    def step(self, render: bool) -> None:
        """One tick of each unfinished table."""
        self._all("step", render)

    def expert(self) -> None:
        """Expert actions into the buffer."""
        self._all("expert")

    def _one(self, index: int, *request: Any) -> Any:
        worker = self._workers[self._owner[index]]
        worker.send(request)
        return worker.receive()

    def get_state(self, index: int) -> EpisodeState:
        """A snapshot of table `index`."""
        state: EpisodeState = self._one(index, "get_state", index)
        return state

    def set_state(self, index: int, state: EpisodeState) -> None:
        """Restore a snapshot on table `index`."""
        self._one(index, "set_state", index, state)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()
        self._workers = []
