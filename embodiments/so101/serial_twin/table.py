"""The twin's table with what a real arm has and the policy's twin leaves out: weight, hands, walls."""

from __future__ import annotations

import math

import numpy as np

from embodiments.so101 import constants as c
from embodiments.so101.twin.gl import mujoco
from embodiments.so101.twin.language import COLOURS
from embodiments.so101.twin.simulation import TwinSimulation
from embodiments.so101.twin.variation import Layout

ARM_BODIES = ("shoulder", "upper_arm", "lower_arm", "wrist", "gripper", "jaw", "jaw_pad")
BODY_JOINTS = slice(0, c.NUM_JOINTS)
# A hand that leads a joint: a spring stiff against gravity and soft against the servo. Ours.
HAND_NM_PER_RAD = (80.0, 80.0, 80.0, 80.0, 80.0, 15.0)
HAND_NMS_PER_RAD = (4.0, 4.0, 4.0, 4.0, 4.0, 0.4)
HAND_NM = 8.0


class Hand:
    """Somebody leads joints along straight lines, and holds them there until they let go."""

    def __init__(self) -> None:
        self._paths: dict[int, tuple[float, float, float, float]] = {}  # from, to (rad), start, end (s)

    def lead(self, joint: int, start_rad: float, end_rad: float, now: float, seconds: float) -> None:
        """Takes `joint` from one angle to another within `seconds` of simulated time."""
        self._paths[joint] = (start_rad, end_rad, now, now + max(1e-3, seconds))

    def let_go(self) -> None:
        """No joint is held any more."""
        self._paths.clear()

    @property
    def holds_any(self) -> bool:
        """Whether a joint is held."""
        return bool(self._paths)

    def torques(self, now: float, angles: list[float], speeds: list[float]) -> list[float]:
        """(6,) Nm on each joint."""
        torques = [0.0] * c.NUM_JOINTS
        for joint, (start, end, begins, ends) in self._paths.items():
            done = min(1.0, (now - begins) / (ends - begins))
            pull = HAND_NM_PER_RAD[joint] * (start + (end - start) * done - angles[joint])
            pull -= HAND_NMS_PER_RAD[joint] * speeds[joint]
            torques[joint] = max(-HAND_NM, min(HAND_NM, pull))
        return torques


class SerialTable(TwinSimulation):
    """The twin's simulation, stepped from outside; the arm has weight."""

    def __init__(self, timestep_s: float) -> None:
        super().__init__()
        self.model.opt.timestep = timestep_s
        for name in ARM_BODIES:
            self.model.body_gravcomp[self._id(mujoco.mjtObj.mjOBJ_BODY, name)] = 0.0
        # A servo asked beyond a joint's end pushes against it; the policy's twin clips the target instead.
        self.model.actuator_ctrllimited[:] = 0
        self._joint_range = self.model.jnt_range[BODY_JOINTS].copy()
        self.hand = Hand()

    def lay_out(self, layout: Layout, *, keep_arm: bool) -> None:
        """A new scene; with `keep_arm`, around an arm that stays as it is."""
        angles = self.data.qpos[BODY_JOINTS].copy()
        speeds = self.data.qvel[BODY_JOINTS].copy()
        time = self.data.time
        self.reset(layout)
        if keep_arm:
            self.data.qpos[BODY_JOINTS], self.data.qvel[BODY_JOINTS] = angles, speeds
        self.data.time = time
        mujoco.mj_forward(self.model, self.data)

    def watch_contacts(self) -> None:
        """Notes which blocks the fingers touch now."""
        self._touching = self._finger_contacts()
        self._touched |= self._touching

    def begin_tick(self) -> None:
        """What was touched from now on counts for the next look at the table."""
        self._touched = np.zeros(len(COLOURS), dtype=bool)

    def wall(self, joint: int, direction: int) -> None:
        """Puts an obstacle where `joint` is: it cannot move further in `direction` (+1 or -1)."""
        angle = float(self.data.qpos[joint])
        self.model.jnt_range[joint, 1 if direction > 0 else 0] = angle

    def remove_walls(self) -> None:
        """Every joint has its own range again."""
        self.model.jnt_range[BODY_JOINTS] = self._joint_range

    def tip_speed(self) -> float:
        """Speed of the gripper's tip, m/s."""
        jacobian = np.zeros((3, self.model.nv))
        site = self._id(mujoco.mjtObj.mjOBJ_SITE, "tip")
        mujoco.mj_jacSite(self.model, self.data, jacobian, None, site)
        return float(np.linalg.norm(jacobian @ self.data.qvel))

    def tip(self) -> list[float]:
        """Position of the gripper's tip, metres."""
        site = self._id(mujoco.mjtObj.mjOBJ_SITE, "tip")
        return [float(value) for value in self.data.site_xpos[site]]


def model_rad(joint: int, value: float) -> float:
    """Model angle in radians of a true joint value: degrees, the gripper in percent of its sweep."""
    if joint == c.GRIPPER:
        value = c.JAW_CLOSED_DEG + value / 100 * (c.JAW_OPEN_DEG - c.JAW_CLOSED_DEG)
    return math.radians(value)
