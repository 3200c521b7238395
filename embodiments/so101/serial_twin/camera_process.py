"""The twin's cameras, in a process of their own: drawing must never hold up the bus.

Run by the twin: `python -m embodiments.so101.serial_twin.camera_process STATE SIZE FPS FRONT WRIST`. Ends
when its standard input is closed, which is when the twin ends, however it ends.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from embodiments.so101.serial_twin.paths import CAMERAS
from embodiments.so101.serial_twin.scene import SceneSpec
from embodiments.so101.serial_twin.shared_state import SharedState, Snapshot
from embodiments.so101.twin.gl import mujoco
from embodiments.so101.twin.simulation import TwinSimulation
from embodiments.twin_camera.frames import FrameWriter


class Cameras:
    """Draws snapshots and publishes the pictures."""

    def __init__(self, writers: Sequence[FrameWriter], size: int) -> None:
        self._writers = dict(zip(CAMERAS, writers, strict=True))
        self._size = size
        self._simulation = TwinSimulation()
        self._scene = -1

    def draw(self, snapshot: Snapshot, scene: SceneSpec) -> None:
        """One picture of each camera that is not frozen."""
        if snapshot.scene != self._scene:
            self._simulation.reset(scene.layout())
            self._scene = snapshot.scene
        self._simulation.data.qpos[:] = snapshot.qpos
        mujoco.mj_forward(self._simulation.model, self._simulation.data)
        now = time.monotonic_ns()
        pictures = self._simulation.pictures(self._size)
        for name, until in zip(CAMERAS, snapshot.frozen_until_ns, strict=True):
            if now >= until:
                self._writers[name].publish(pictures[name], snapshot.time_ns)


def main(arguments: Sequence[str]) -> int:
    """Draws at the given rate until standard input is closed."""
    state_path, size, fps, *frames = arguments
    side, period = int(size), 1.0 / float(fps)
    writers = [FrameWriter(Path(path), side, side, float(fps)) for path in frames]
    state = SharedState(Path(state_path))
    cameras = Cameras(writers, side)
    due = time.monotonic()
    try:
        while not _ended(due):
            read = state.read()
            if read is None:  # the twin is in the middle of writing: a millisecond later it is not
                due += 0.001
                continue
            snapshot, scene = read
            cameras.draw(snapshot, SceneSpec.from_json(scene))
            # Whole periods only: a slow machine shows fewer pictures, never a drifting rate.
            due += period * max(1, -(-(time.monotonic() - due) // period))
    finally:
        for writer in writers:
            writer.close()
    return 0


def _ended(until: float) -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], max(0.0, until - time.monotonic()))
    return bool(ready)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
