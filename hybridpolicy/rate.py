"""The policy's rate against the clock. Chunks count frames, and LeRobot's rollout never compares the two."""

import logging
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

logger = logging.getLogger(__name__)

NUM_INTERVALS = 20
TOLERANCE = 1.25


class RateWatch:
    """Warns once when actions are asked for at another rate than the policy was trained at.

    Only under LeRobot's rollout, on a real robot: a simulator steps as fast as it can. With real-time
    chunking, chunks are asked for, not actions, and the rate stays unknown.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done = "lerobot.rollout" not in sys.modules
        self.restart()

    def restart(self) -> None:
        """A new episode: the pause before it is no interval."""
        self._times: list[float] = []

    def tick(self, trained_hz: float | None) -> None:
        """To be called at every action."""
        if self._done or trained_hz is None:
            return
        self._times.append(self._clock())
        if len(self._times) <= NUM_INTERVALS:
            return
        self._done = True
        intervals_s = [after - before for before, after in pairwise(self._times)]
        asked_hz = 1.0 / max(median(intervals_s), 1e-6)
        if not 1 / TOLERANCE < asked_hz / trained_hz < TOLERANCE:
            logger.warning(
                "hybrid: actions are asked for at %.1f Hz and the policy was trained at %g Hz, so its "
                "motions run %.1f times as fast; give --fps=%g, or find what holds the loop back",
                asked_hz,
                trained_hz,
                asked_hz / trained_hz,
                trained_hz,
            )
