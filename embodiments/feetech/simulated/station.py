"""One simulated arm on its port: physics, servos, line, faults, and a log of what was commanded when."""

from __future__ import annotations

import time
from collections import Counter, deque
from pathlib import Path
from typing import Any, Protocol

from embodiments.feetech.packets import OVERHEAD, InstructionReader
from embodiments.feetech.simulated.bus import SimulatedBus
from embodiments.feetech.simulated.faults import ReplyFaults
from embodiments.feetech.simulated.servo import SimulatedServo
from embodiments.feetech.simulated.wire import PtyWire

GOAL_LOG = 400_000  # goal writes remembered: over an hour at 100 Hz


class Plant(Protocol):
    """The joints behind the servos."""

    servos: tuple[SimulatedServo, ...]

    def advance(self, now: float) -> None:
        """Lets time pass up to time.monotonic() `now`."""


class Station:
    """Plant, bus and wire of one arm."""

    def __init__(self, name: str, path: Path, plant: Plant, seed: int = 0) -> None:
        self.name = name
        self.plant = plant
        self.bus = SimulatedBus(plant.servos)
        self.wire = PtyWire(path)
        self.faults = ReplyFaults(seed)
        self.goal_log: deque[tuple[int, dict[int, int]]] = deque(maxlen=GOAL_LOG)
        self.goals_before_log = 0  # goal writes that fell out of the log
        self.requests: Counter[int] = Counter()  # by instruction code
        self.replug_at: float | None = None
        self._reader = InstructionReader()

    def receive(self) -> None:
        """Answers what programs have sent. Goal writes are stamped when their bytes were read."""
        data = self.wire.receive()
        stamp_ns = time.monotonic_ns()
        now = stamp_ns * 1e-9
        if not data:
            return
        requests = self._reader.feed(data)
        if requests:
            self.plant.advance(now)
        for request in requests:
            self.requests[request.code] += 1
            replies = self.bus.answer(request, self.wire.baudrate)
            if self.bus.goals:
                self.goals_before_log += len(self.goal_log) == GOAL_LOG
                self.goal_log.append((stamp_ns, self.bus.goals))
            self.wire.transmit(now, len(request.params) + OVERHEAD, self.faults.apply(replies))

    def tick(self, now: float) -> None:
        """Time passes without a request."""
        if self.replug_at is not None and now >= self.replug_at:
            self.replug_at = None
            self.wire.plug()
        self.plant.advance(now)

    def unplug(self, seconds: float | None) -> None:
        """Pulls the cable; plugs it in again after `seconds`, or when told."""
        self.wire.unplug()
        self._reader = InstructionReader()
        self.replug_at = None if seconds is None else time.monotonic() + seconds

    def counters(self) -> dict[str, Any]:
        """What has been seen and injected, and how late replies left by this process's own fault."""
        lag = sorted(self.wire.lag_s)
        return {
            "requests": self.requests.total(),
            "by_instruction": {f"{code:02x}": count for code, count in sorted(self.requests.items())},
            "damaged_requests": self._reader.damaged,
            "goal_writes": self.goals_before_log + len(self.goal_log),
            "injected": dict(self.faults.injected),
            "lag_p50_ms": round(lag[len(lag) // 2] * 1e3, 4) if lag else None,
            "lag_p99_ms": round(lag[len(lag) * 99 // 100] * 1e3, 4) if lag else None,
            "lag_max_ms": round(lag[-1] * 1e3, 4) if lag else None,
        }
