"""Whether a task has been done: predicates over one episode's history, any number of tasks side by side.

Each TaskMonitor keeps its own history, so an environment can watch the task that was given and the task that
the scene was recorded for at the same time.
"""

from __future__ import annotations

import numpy as np

from embodiments.so101 import constants as c
from embodiments.so101.twin.language import COLOURS, ZONES, Task
from embodiments.so101.twin.simulation import TableState
from embodiments.so101.twin.variation import BIN_HALF_M, BIN_WALL_M, BLOCK_HALF_M, ZONE_HALF_M

CLOSED_PERCENT = 8.0  # gripper opening up to which it counts as closed
TOUCH_TICKS = 3  # contact held this long, at 10 Hz
TOUCH_MOVED_M = 0.008  # a touched block moved less than this
STAY_TICKS = 2  # a block stays in its zone or bin this long
LIFTED_M = 0.015  # a pushed block never rose this far
HOLD_TICKS = 20  # nothing to do: the arm holds still this long
HOLD_DEG = 8.0  # and no joint leaves the start by more


class TaskMonitor:
    """Watches one task from the first state on; `success` latches, `failed` says it can no longer succeed."""

    def __init__(self, task: Task, first: TableState) -> None:
        self.task = task
        self.success = False
        self.failed = False
        self.stage = 0
        self._ignored = first.touching.copy()  # what it lets go of when it is told was touched before
        self._begin(task, first)

    def _begin(self, task: Task, state: TableState) -> None:
        self._current = task
        self._slot = COLOURS.index(task.colour)
        self._absent = not bool(state.present[self._slot])
        self._start = state
        self._ticks = 0
        self._streak = 0
        self._max_rise = 0.0
        self._other_first = False
        self._touched_once = False
        self._contacts = np.zeros(len(COLOURS), dtype=np.int64)

    @property
    def absent(self) -> bool:
        """True while the task asks for a block that is not in the scene."""
        return self._absent

    def update(self, state: TableState) -> bool:
        """Take in one tick; returns `success`."""
        if self.success or self.failed:
            return self.success
        self._ticks += 1
        if self._absent:
            self._update_hold(state)
            done = self._ticks >= HOLD_TICKS and not self.failed
        else:
            done = {"touch": self._touch, "push": self._push, "bin": self._bin}[self._current.verb](state)
        if done and self._current.second is not None:
            self._ignored[self._slot] = True  # letting go of the first block is not a touch of the wrong one
            self.stage = 1
            self._begin(self._current.second, state)
        elif done:
            self.success = True
        return self.success

    def _update_hold(self, state: TableState) -> None:
        turned = np.abs(state.joints - self._start.joints)[: c.GRIPPER].max()
        moved = np.linalg.norm(state.blocks - self._start.blocks, axis=1).max()
        self.failed = bool(turned > HOLD_DEG or moved > TOUCH_MOVED_M)

    def _touch(self, state: TableState) -> bool:
        moved = float(np.linalg.norm(state.blocks[self._slot] - self._start.blocks[self._slot]))
        others = state.touched & ~self._ignored
        others[self._slot] = False
        if others.any() and not self._touched_once:
            self._other_first = True
        self._touched_once |= bool(state.touched[self._slot])
        self.failed = self._other_first or moved > TOUCH_MOVED_M
        holding = bool(state.touching[self._slot]) and state.joints[c.GRIPPER] <= CLOSED_PERCENT
        self._streak = self._streak + 1 if holding else 0
        return self._streak >= TOUCH_TICKS and not self.failed

    def _push(self, state: TableState) -> bool:
        block = state.blocks[self._slot]
        self._max_rise = max(self._max_rise, float(block[2] - BLOCK_HALF_M))
        self.failed = self._max_rise > LIFTED_M
        inside = in_zone(block, state.zones[ZONES.index(self._current.zone or "")])
        self._streak = self._streak + 1 if inside else 0
        # A block that another one shoved along was not pushed by the gripper: it must have the most contact.
        self._contacts = self._contacts + state.touched
        pushed = bool(self._contacts[self._slot] > np.delete(self._contacts, self._slot).max())
        return self._streak >= STAY_TICKS and pushed and not self.failed

    def _bin(self, state: TableState) -> bool:
        released = in_bin(state.blocks[self._slot], state.bin) and not state.touching[self._slot]
        self._streak = self._streak + 1 if released else 0
        return self._streak >= STAY_TICKS


def in_zone(block: np.ndarray, zone: np.ndarray) -> bool:
    """Whether the block's centre (3,) is over the zone centred at (2,)."""
    return bool(np.all(np.abs(block[:2] - zone) <= ZONE_HALF_M))


def in_bin(block: np.ndarray, bin_xy: np.ndarray) -> bool:
    """Whether the block's centre (3,) is between the walls of the bin centred at (2,) and below their rim."""
    return bool(np.all(np.abs(block[:2] - bin_xy) <= BIN_HALF_M) and block[2] < BIN_WALL_M)
