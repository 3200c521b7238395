"""What a run is doing, as the view shows it and the record keeps it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from embodiments.control.limits import JointLimits
from embodiments.control.link import ArmState

LATENCIES = 200
RATE_OVER_US = 1_000_000


class Telemetry(NamedTuple):
    """One moment. margins: (joint, how far from its nearer limit) nearest first; times in milliseconds."""

    state: ArmState
    episode: int
    episodes: int
    task: str
    elapsed_s: float
    rate_hz: float
    margins: tuple[tuple[str, float], ...]
    latency_ms: tuple[float, float]  # median, 95th percentile
    picture_ms: float
    plans: int
    paused: str  # why the policy is paused, or nothing


class RateMeter:
    """Control cycles a second, over the last second."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int]] = deque()

    def see(self, state: ArmState) -> float:
        """The rate with this state."""
        self._seen.append((state.time_us, state.cycle))
        while len(self._seen) > 2 and state.time_us - self._seen[0][0] > RATE_OVER_US:
            self._seen.popleft()
        (begin_us, begin), (end_us, end) = self._seen[0], self._seen[-1]
        return (end - begin) * 1e6 / (end_us - begin_us) if end_us > begin_us else 0.0


def margins_of(state: ArmState, limits: Sequence[JointLimits]) -> tuple[tuple[str, float], ...]:
    """Nearest limit first, each in the joint's unit; below zero outside."""
    found = [
        (limit.name, min(position - limit.lower, limit.upper - position))
        for limit, position in zip(limits, state.measured, strict=True)
    ]
    return tuple(sorted(found, key=lambda entry: entry[1]))


def median_and_p95(values: Sequence[float]) -> tuple[float, float]:
    """Of the last values; zeros without any."""
    if not values:
        return 0.0, 0.0
    low, high = np.percentile(list(values)[-LATENCIES:], [50, 95])
    return float(low), float(high)
