"""Judging the twin's tasks where nobody can touch: from block positions that were read off pictures.

The monitor of the real twin, fed with what geometry suggests: who touches whom, what is lifted, where zones
and bin are. It is coarser than the twin's: positions are some millimetres off when read from real pictures,
more when from imagined ones. N episodes, K block slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embodiments.so101 import constants as c
from embodiments.so101.kinematics import forward
from embodiments.so101.twin.expert import CLOSED_TOOL, HELD_PERCENT
from embodiments.so101.twin.language import COLOURS, parse
from embodiments.so101.twin.monitor import TaskMonitor
from embodiments.so101.twin.simulation import TableState
from embodiments.so101.twin.variation import BIN_XY_M, BLOCK_HALF_M, ZONE_SPREAD_M, ZONES_XY_M

SURE_M = 0.03  # a block that seems to have moved less than this has not moved
NEAR_M = 0.035  # fingertip to block centre, sideways: touching
LOW_M = 2 * BLOCK_HALF_M + 0.012  # fingertip height up to which a block is touched
GRIPPED_M = 0.02  # and lifted with the fingertip, if the gripper is as far open as a block is wide
BLOCK_PERCENT = 16.5  # pads touch a block at 19 percent; pushing is done at 14


class Foretold:
    """A `TaskMonitor` for each of N episodes."""

    def __init__(
        self, texts: Sequence[str], objects: np.ndarray, present: np.ndarray, state: np.ndarray
    ) -> None:
        """`objects` (N, K, 2) m and `present` (N, K) at the start; ValueError for a text that is no task."""
        self._tasks = [parse(text) for text in texts]
        self._start, self._present = np.array(objects), np.array(present, bool)
        self._monitors = [
            TaskMonitor(task, self._table(i, objects[i], state[i])) for i, task in enumerate(self._tasks)
        ]

    def update(self, objects: np.ndarray, state: np.ndarray) -> np.ndarray:
        """(N,) bool who has succeeded, one tick on."""
        tables = [self._table(i, objects[i], state[i]) for i in range(len(self._monitors))]
        return np.array([m.update(table) for m, table in zip(self._monitors, tables, strict=True)])

    def _table(self, index: int, objects: np.ndarray, joints: np.ndarray) -> TableState:
        moved = np.linalg.norm(objects - self._start[index], axis=1) > SURE_M
        blocks = np.where(moved[:, None], objects, self._start[index])
        present, tip = self._present[index], forward(joints, CLOSED_TOOL).position_m
        aside = np.linalg.norm(blocks - tip[:2], axis=1)
        opening = float(joints[c.GRIPPER])
        touching = present & (aside < NEAR_M) & (tip[2] < LOW_M) & (opening < HELD_PERCENT)
        gripped = present & (aside < GRIPPED_M) & (BLOCK_PERCENT < opening < HELD_PERCENT)
        height = np.where(gripped, max(float(tip[2]), BLOCK_HALF_M), BLOCK_HALF_M)
        # A scene moves its zones a little, and the bin along a line: they are where the block would have
        # them, as far as they can be there.
        asked = blocks[self._slot(index)]
        (low, high), across = BIN_XY_M[0], BIN_XY_M[1]
        place = np.array([(low + high) / 2.0, np.clip(asked[1], *across)])
        zones = ZONES_XY_M + np.clip(asked - ZONES_XY_M, -np.array(ZONE_SPREAD_M), ZONE_SPREAD_M)
        positions = np.where(present[:, None], np.column_stack((blocks, height)), 0.0)
        return TableState(
            joints=np.asarray(joints, np.float64), blocks=positions, present=present, touched=touching,
            touching=touching, zones=zones, bin=place,
        )  # fmt: skip

    def _slot(self, index: int) -> int:
        return COLOURS.index(self._tasks[index].colour)
