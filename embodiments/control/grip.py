"""A gripper that has closed on something closes no further, and holds it with no more than it can for long.

An SO-101's gripper trips its own overload protection after two seconds above a quarter of its torque
(LeRobot's setting), and then drops what it holds.
"""

from __future__ import annotations

from embodiments.control.spec import Thresholds

CLOSING_PERCENT = 1.0
GONE_PERCENT = 0.5  # a jaw this close to its goal, under hardly any load, holds nothing
GONE_LOAD_PERCENT = 8.0
RELIEF_PERCENT_S = 5.0  # how fast a grip that is too hard opens
LONGEST_S = 0.1  # a grip that nobody looked at meanwhile does not open by what it had missed


class GripGuard:
    """Limits the target of one gripper (0 closed, 100 open, percent)."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._t = thresholds
        self._pressing_since_us: int | None = None
        self.floor: float | None = None  # no target below this, while something is held
        self._seen_us = 0

    def limit(self, target: float, position: float, load_percent: float, now_us: int) -> float:
        """The target to follow instead of `target`.

        Once the load has been beyond its threshold for a while on a closing gripper, the target stays a
        margin past where it touched: that margin is the grip. It opens while the load is more than the motor
        can hold for long. An opening target ends it, and so does what was held when it is gone.
        """
        passed_s = min((now_us - self._seen_us) / 1e6, LONGEST_S)
        self._seen_us = now_us
        if (
            self.floor is not None
            and position < self.floor + GONE_PERCENT
            and load_percent < GONE_LOAD_PERCENT
        ):
            self.floor = self._pressing_since_us = None
        if self.floor is not None:
            if load_percent > self._t.hold_load_percent:
                self.floor = min(self.floor + RELIEF_PERCENT_S * passed_s, max(position, self.floor))
            if target > self.floor + CLOSING_PERCENT:
                self.floor = None
                self._pressing_since_us = None
            return target if self.floor is None else self.floor
        closing = target < position - CLOSING_PERCENT
        if not (closing and load_percent > self._t.grip_load_percent):
            self._pressing_since_us = None
            return target
        if self._pressing_since_us is None:
            self._pressing_since_us = now_us
        if now_us - self._pressing_since_us < self._t.grip_s * 1e6:
            return target
        self.floor = max(0.0, position - self._t.grip_margin)
        return max(target, self.floor)
