"""What happened in one tick that a policy should have foreseen: the twin's part of `risk`.

    limit     a joint was asked to go more than LIMIT_SLACK beyond its range; the servo takes the end of it
    contact   a finger touched a block that the task does not name; a block it already touched when the task
              was given counts once it was let go
    drop      a block that a finger held LIFTED_M or more above the table is touched by none at the end of the
              tick, and is not over the bin

A push that goes wrong by way of another block, the table, the walls of the bin and the arm itself are not
looked at. A real arm has further events (stalls, alarms, warnings, pauses) that the twin cannot have.
"""

from __future__ import annotations

import numpy as np

from embodiments.so101.twin.language import COLOURS, Task
from embodiments.so101.twin.simulation import TableState
from embodiments.so101.twin.variation import BIN_HALF_M, BLOCK_HALF_M

EVENTS = ("limit", "contact", "drop")
LIMIT_SLACK = 5.0  # degrees, percent: a policy that means to close asks for a little less than 0
LIFTED_M = 0.015


class EventWatch:
    """Watches one episode from the first state on; `found` (3,) bool says which EVENTS the last tick had."""

    def __init__(self, task: Task, first: TableState) -> None:
        named = (task.colour, task.second.colour if task.second else task.colour)
        self._unnamed = np.array([colour not in named for colour in COLOURS]) | ~first.present
        self._held_since_before = first.touching.copy()
        self._lifted = _lifted(first)
        self.found = np.zeros(len(EVENTS), dtype=bool)

    def update(self, state: TableState, beyond: np.ndarray) -> None:
        """Take in one tick; `beyond` (6,) is how far the action was out of each joint's range."""
        contact = state.touched & self._unnamed & ~self._held_since_before
        over_bin = np.all(np.abs(state.blocks[:, :2] - state.bin) <= BIN_HALF_M, axis=1)
        drop = self._lifted & ~state.touching & ~over_bin
        self.found = np.array([bool(np.any(beyond > LIMIT_SLACK)), contact.any(), drop.any()])
        self._held_since_before &= state.touching
        self._lifted = _lifted(state)


def _lifted(state: TableState) -> np.ndarray:
    """(K,) bool: blocks that a finger holds clear of the table."""
    return state.touching & (state.blocks[:, 2] - BLOCK_HALF_M >= LIFTED_M)
