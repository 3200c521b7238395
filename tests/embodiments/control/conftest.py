"""The twin on its port for all tests of the control process, and arms on it that leave nothing behind."""

import contextlib
import dataclasses
import json
import os
import signal
import time

import pytest

from embodiments.control.client import ControlledArm
from embodiments.so101.arm_spec import control_spec
from embodiments.so101.serial_twin.client import TwinProcess

UP = (0.0, -30.0, 40.0, 30.0, 0.0, 30.0)  # raised: without torque the arm falls from here
PERIOD_S = 0.02
IDS = (1, 2, 3, 4, 5, 6)


class Bench:
    """A twin, a journal, and the arms started on them."""

    up = UP

    def __init__(self, twin, folder):
        self.twin = twin
        self.journal = folder / "control.jsonl"
        self.arms = []

    def spec(self, **settings):
        """The twin's arm; quick where a test would only wait."""
        quick = {"approach_speed": 80.0, "park_speed": 60.0, "estop_category": 0}
        given = quick | {"journal": str(self.journal)} | settings
        return dataclasses.replace(control_spec(self.twin.port, self.twin.calibration_file), **given)

    def start(self, estop_input=None, **settings):
        """A started arm, not energised."""
        arm = ControlledArm(self.spec(**settings), estop_input=estop_input)
        self.arms.append(arm)
        self.rest = arm.start().measured
        return arm

    def raised(self, **settings):
        """An arm that runs, raised, 20 setpoints a second keeping it there."""
        arm = self.start(**settings)
        arm.arm()
        self.follow(arm, UP, 0.2)
        deadline = time.monotonic() + 10.0
        while max(abs(a - b) for a, b in zip(arm.state.measured, UP, strict=True)) > 6.0:
            self.follow(arm, UP, 0.1)
            assert time.monotonic() < deadline, arm.state
        return arm

    def follow(self, arm, pose, seconds):
        """Stream one pose."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            arm.send(pose, PERIOD_S)
            time.sleep(PERIOD_S)

    def now_us(self):
        """The twin's clock, which is everybody's."""
        return time.monotonic_ns() // 1000

    def events(self):
        """(CLOCK_MONOTONIC in us, text) of the journal, oldest first."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [(line["monotonic_us"], line["text"]) for line in map(json.loads, lines)]

    def when(self, text):
        """The first time the journal says `text`; waits for it."""
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            for at, said in self.events():
                if text in said:
                    return at
            time.sleep(0.01)
        raise AssertionError(f"{text!r} not in {self.events()}")

    def when_text(self, text):
        """The whole line of the journal that has `text`."""
        at = self.when(text)
        return next(said for when, said in self.events() if when == at)

    def torque(self):
        """Torque of each motor as the motors have it."""
        return self.twin.ask("joints")["torque"]

    def true(self):
        """True joint angles."""
        return self.twin.ask("joints")["true"]

    def settle(self):
        """Wait until the arm lies still."""
        deadline = time.monotonic() + 8.0
        before, now = [1e9] * 6, self.true()
        while max(abs(a - b) for a, b in zip(before[:5], now[:5], strict=True)) > 0.15:
            assert time.monotonic() < deadline
            time.sleep(0.1)
            before, now = now, self.true()

    def recover(self, arm):
        """From a fault whose cause is gone to READY, torque off; the quick way."""
        arm.estop()
        deadline = time.monotonic() + 5.0
        while arm.state.state.name != "READY" or arm.state.torque:
            with contextlib.suppress(ConnectionError):
                arm.clear()
            assert time.monotonic() < deadline, (arm.state, self.events()[-5:])
            time.sleep(0.05)

    def end(self):
        """Every control process of this bench is gone afterwards."""
        for arm in self.arms:
            with contextlib.suppress(ConnectionError):
                pid = arm.pid
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ConnectionError):
                arm.close(timeout_s=5.0)


@pytest.fixture(scope="session")
def twin_process(tmp_path_factory):
    with TwinProcess(tmp_path_factory.mktemp("arm") / "so101", seed=5, cameras=False) as twin:
        yield twin


@pytest.fixture
def bench(twin_process, tmp_path):
    """The twin at rest without torque or faults."""
    twin_process.ask("clear")
    twin_process.ask("fold")
    made = Bench(twin_process, tmp_path)
    yield made
    made.end()


@pytest.fixture
def bench_with(tmp_path):
    """(**settings of a twin) → a bench with a twin of its own."""
    with contextlib.ExitStack() as stack:

        def build(**settings):
            folder = tmp_path / "own"
            folder.mkdir()
            twin = stack.enter_context(TwinProcess(folder / "so101", seed=5, cameras=False, **settings))
            made = Bench(twin, folder)
            stack.callback(made.end)
            return made

        yield build
