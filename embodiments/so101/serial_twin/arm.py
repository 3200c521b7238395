"""One simulated arm with its scene: plant and judge together, and what the cameras see of them."""

from __future__ import annotations

import time
from typing import Any

from embodiments.feetech.simulated.servo import HOLD
from embodiments.so101 import constants as c
from embodiments.so101.serial_twin.owner import OwnersArm
from embodiments.so101.serial_twin.paths import CAMERAS
from embodiments.so101.serial_twin.plant import STEP_S, WALL, ArmPlant
from embodiments.so101.serial_twin.scene import SceneSpec
from embodiments.so101.serial_twin.shared_state import SharedState, Snapshot
from embodiments.so101.serial_twin.table import SerialTable
from embodiments.so101.twin.monitor import TaskMonitor

JUDGE_S = 1.0 / c.TWIN_RATE_HZ  # the task predicates count ticks of this length


class SimulatedArm(ArmPlant):
    """A plant whose table has a scene, judged as the policy's twin judges it."""

    def __init__(
        self, owner: OwnersArm, scene: SceneSpec, *, torque_on: str = HOLD, clock: str = WALL
    ) -> None:
        table = SerialTable(STEP_S)
        table.reset(scene.layout())
        super().__init__(table, owner, torque_on=torque_on, clock=clock)
        self.scene = scene
        self.scene_number = 0
        self.frozen_until_ns = dict.fromkeys(CAMERAS, 0)
        self.ticks = 0
        self._shared: SharedState | None = None
        self._watch()

    def show_to(self, shared: SharedState) -> None:
        """Publishes snapshots for the camera process from now on."""
        self._shared = shared
        shared.write_scene(self.scene.to_json())
        self.publish()

    def publish(self) -> None:
        """The table as it is now, stamped with the time it shows."""
        if self._shared is None:
            return
        now_ns = time.monotonic_ns() if self.clock != WALL else round(self.shown_s * 1e9)
        frozen = tuple(self.frozen_until_ns[name] for name in CAMERAS)
        self._shared.write(Snapshot(now_ns, self.scene_number, self.table.data.qpos, frozen))

    def lay_out(self, scene: SceneSpec, *, keep_arm: bool) -> None:
        """A new scene, judged from its start."""
        self.table.lay_out(scene.layout(), keep_arm=keep_arm)
        self.scene = scene
        self.scene_number += 1
        if not keep_arm:
            self.settle()
        if self._shared is not None:
            self._shared.write_scene(scene.to_json())
        self._watch()
        self.publish()

    def _watch(self) -> None:
        scenario = self.scene.scenario()
        self._monitor = None if scenario is None else TaskMonitor(scenario.task, self.table.table_state())
        self.instruction = "" if scenario is None else scenario.instruction
        self.ticks = 0
        self._next_judgement = self.simulated_s + JUDGE_S
        self.table.begin_tick()

    def _step(self) -> None:
        super()._step()
        if self.simulated_s + 1e-9 >= self._next_judgement:
            self._next_judgement += JUDGE_S
            self.ticks += 1
            if self._monitor is not None:
                self._monitor.update(self.table.table_state())
            self.table.begin_tick()

    def outcome(self) -> dict[str, Any]:
        """The task, how long it has run in ticks of 0.1 s, and whether it is done."""
        return {
            "seed": self.scene.seed,
            "family": self.scene.family,
            "instruction": self.instruction,
            "ticks": self.ticks,
            "success": bool(self._monitor and self._monitor.success),
            "failed": bool(self._monitor and self._monitor.failed),
        }
