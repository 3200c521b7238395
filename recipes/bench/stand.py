"""A simulated arm to break, and controlled arms on it that leave nothing behind.

Every number of the benches of an arm is measured here: at the twin (true angles, torque, receive times of
goals) or in the control process's journal, on the one clock they share (CLOCK_MONOTONIC).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from embodiments.control.client import ControlledArm
from embodiments.control.link import ArmState
from embodiments.feetech.errors import PortUnavailable
from embodiments.feetech.port import FeetechPort
from embodiments.so101.arm_spec import REST_POSE, control_spec
from embodiments.so101.constants import MOTORS
from embodiments.so101.serial_twin.client import TwinClient, TwinProcess

UP = (0.0, -30.0, 40.0, 30.0, 0.0, 30.0)  # raised: without torque the arm falls from here
IDS = (1, 2, 3, 4, 5, 6)
PERIOD_S = 0.02
STARVED_MS = 20.0  # longer than this, replies are lost and cycles missed whatever the code does
PATIENCE_S = 30.0


class BenchError(RuntimeError):
    """A measurement could not be made; the text says what did not happen."""


class Stand:
    """One twin in `folder`, and the arms started on it. `settings` are those of TwinSettings."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.twin = TwinProcess(folder / "so101", **{"seed": 5, "cameras": False, **settings})
        self.journal = folder / "control.jsonl"
        self._arms: list[ControlledArm] = []

    def __enter__(self) -> Stand:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_arms()
        self.twin.close()

    def reset(self) -> None:
        """No arms, no faults, the arm folded and without torque."""
        self.end_arms()
        self.twin.ask("clear")
        self.twin.ask("power_cycle")
        self.twin.ask("scene", keep_arm=False)  # what an arm pushed about costs physics time
        self.twin.ask("fold")
        for kept in self.folder.glob("control.*"):
            kept.unlink()

    # -- our arm ---------------------------------------------------------------------------------------------
    def spec(self, **settings: Any) -> Any:
        """The twin's arm; quick where a bench would only wait."""
        quick = {"approach_speed": 80.0, "park_speed": 60.0, "estop_category": 0}
        given = quick | {"journal": str(self.journal)} | settings
        return dataclasses.replace(control_spec(self.twin.port, self.twin.calibration_file), **given)

    def start(self, **settings: Any) -> ControlledArm:
        """A started arm, not energised."""
        arm = ControlledArm(self.spec(**settings))
        self._arms.append(arm)
        arm.start()
        return arm

    def raised(self, **settings: Any) -> ControlledArm:
        """An arm that runs and is up."""
        arm = self.start(**settings)
        arm.arm()
        self.follow(arm, UP, 0.3)
        self.wait(lambda: self._nearly_up(arm), "the arm did not come up")
        return arm

    def _nearly_up(self, arm: ControlledArm) -> bool:
        self.follow(arm, UP, 0.1)
        return max(abs(a - b) for a, b in zip(arm.state.measured, UP, strict=True)) < 6.0

    def follow(self, arm: ControlledArm, pose: Sequence[float], seconds: float) -> None:
        """Stream one pose."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            arm.send(pose, PERIOD_S)
            time.sleep(PERIOD_S)

    def sweep(
        self, arm: ControlledArm, seconds: float, look: Callable[[ArmState], None] | None = None
    ) -> None:
        """Drive shoulder_pan along a sine of 10 degrees; `look` sees the state at each step."""
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            arm.send((10.0 * math.sin(2.0 * now), *UP[1:]), PERIOD_S)
            if look is not None:
                look(arm.state)
            time.sleep(PERIOD_S)

    def end_arms(self) -> None:
        """Every control process started here is gone."""
        arms, self._arms = self._arms, []
        for arm in arms:
            with contextlib.suppress(ConnectionError):
                pid = arm.pid
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ConnectionError):
                arm.close(timeout_s=5.0)

    # -- looking ---------------------------------------------------------------------------------------------
    def wait(self, condition: Callable[[], bool], why: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait for a condition; BenchError with `why` if it does not come."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise BenchError(f"{why} within {timeout_s:g} s; the journal ends {self.events()[-5:]}")
            time.sleep(0.01)

    def now_us(self) -> int:
        """The twin's clock, which is everybody's."""
        return time.monotonic_ns() // 1000

    def events(self) -> list[tuple[int, str]]:
        """(CLOCK_MONOTONIC in us, text) of the journal, oldest first."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [(line["monotonic_us"], line["text"]) for line in map(json.loads, lines)]

    def when(self, text: str, since_us: int = 0, timeout_s: float = 5.0) -> int:
        """The first time from `since_us` on that the journal says `text`; waits for it."""
        self.wait(lambda: self._found(text, since_us) is not None, f"{text!r} not said", timeout_s)
        found = self._found(text, since_us)
        assert found is not None
        return found

    def _found(self, text: str, since_us: int) -> int | None:
        return next((at for at, said in self.events() if at >= since_us and text in said), None)

    def torque(self) -> list[int]:
        """Torque of each motor as the motors have it."""
        return list(self.twin.ask("joints")["torque"])

    def true(self) -> list[float]:
        """True joint angles."""
        return list(self.twin.ask("joints")["true"])

    def goal_writes(self) -> int:
        """How many goal writes the motors have received."""
        return int(self.twin.ask("status")["arms"]["follower"]["goal_writes"])

    def settle(self) -> None:
        """Wait until the arm lies still."""
        before = [self.true()]

        def still() -> bool:
            time.sleep(0.1)
            last, before[0] = before[0], self.true()
            return max(abs(a - b) for a, b in zip(last[:5], before[0][:5], strict=True)) < 0.15

        self.wait(still, "the arm did not lie still")

    def port_is_free(self) -> bool:
        """Whether somebody else may have the port."""
        try:
            FeetechPort(self.twin.port).close()
        except PortUnavailable:
            return False
        return True

    def lead_up(self) -> None:
        """Somebody lifts the arm to where it falls from without torque, and keeps holding it."""
        self.twin.ask("hand", joints=dict(zip(MOTORS, UP, strict=True)), seconds=0.5)
        time.sleep(0.7)

    def lead_down(self) -> None:
        """Somebody lays the arm down."""
        self.twin.ask("hand", joints=dict(zip(MOTORS, REST_POSE, strict=True)), seconds=0.5)
        time.sleep(0.7)
        self.twin.ask("let_go")


def goal_gaps_ms(twin: TwinClient, since: int) -> list[float]:
    """Sorted intervals between the goal writes the motors received."""
    stamps = [stamp for stamp, _ in twin.goals(since=since)]
    return sorted((b - a) * 1e-6 for a, b in itertools.pairwise(stamps))


def share(values: Sequence[float], quantile: float) -> float:
    """A quantile of sorted values; BenchError without any."""
    if not values:
        raise BenchError("no values to take a quantile of: nothing was sent")
    return values[min(len(values) - 1, int(len(values) * quantile))]


def torque_after(stand: Stand, wanted: Sequence[int], timeout_s: float) -> bool:
    """Whether the motors' torque becomes `wanted` in time."""
    deadline = time.monotonic() + timeout_s
    while stand.torque() != list(wanted):
        if time.monotonic() > deadline:
            return False
    return True
