"""A gripper that has closed on something closes no further: the motor would only burn."""

from __future__ import annotations

from embodiments.control.spec import Thresholds

CLOSING_PERCENT = 1.0


class GripGuard:
    """Limits the target of one gripper (0 closed, 100 open, percent)."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._t = thresholds
        self._pressing_since_us: int | None = None
        self.floor: float | None = None  # no target below this, while something is held

    def limit(self, target: float, position: float, load_percent: float, now_us: int) -> float:
        """The target to follow instead of `target`.

        Once the load has been beyond its threshold for a while on a closing gripper, the target stays a
        margin past where it touched: that margin is the grip. An opening target ends it.
        """
        if self.floor is not None:
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
