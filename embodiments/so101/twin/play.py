"""Motion without a task: wander over the table, shove, lift and drop what is there. For action-free video."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from embodiments.so101.twin import expert
from embodiments.so101.twin.language import COLOURS, Task
from embodiments.so101.twin.simulation import TableState

MODES = ("wander", "touch", "push", "bin")
MODE_WEIGHTS = (0.28, 0.14, 0.32, 0.26)
STILL = 1.5  # degrees or percent: a target this near is no motion
TABLE_X_M = (0.15, 0.28)
TABLE_Y_M = (-0.17, 0.17)


class PlayController:
    """Draws a mode, a block and a place to take it, follows the expert's motions there, then draws again."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 404])
        self._left = 0
        self._mode = "wander"
        self._colour = COLOURS[0]
        self._place = np.zeros(3)
        self._gripper = 0.0
        self._speed = 1.0

    def action(self, state: TableState) -> np.ndarray:
        """True joint targets (6,) for the next tick."""
        if self._left == 0:
            self._draw(state)
        self._left -= 1
        target = self._target(state)
        if np.abs(target - state.joints).max() < STILL:
            self._left = 0  # arrived: draw something else next
        return target

    def _target(self, state: TableState) -> np.ndarray:
        if self._mode == "wander":
            return expert.move_tip(state, self._place, self._gripper, self._speed)
        zone = "left" if self._mode == "push" else None
        # The expert's own motions, with the zone and the bin imagined somewhere on the bare table.
        imagined = replace(state, zones=np.stack([self._place[:2], self._place[:2]]), bin=self._place[:2])
        return expert.expert_action(imagined, Task(self._mode, self._colour, zone), self._speed)

    def _draw(self, state: TableState) -> None:
        rng = self._rng
        self._left = int(rng.integers(6, 20))
        self._mode = str(rng.choice(MODES, p=MODE_WEIGHTS))
        self._colour = COLOURS[int(rng.choice(np.flatnonzero(state.present)))]
        self._place = np.array([rng.uniform(*TABLE_X_M), rng.uniform(*TABLE_Y_M), rng.uniform(0.015, 0.12)])
        self._gripper = float(rng.choice([0.0, rng.uniform(0.0, 45.0)]))
        self._speed = float(rng.uniform(0.5, 1.0))
