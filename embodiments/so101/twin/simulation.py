"""One simulated table: reset to a layout, advance by one control tick, look, save and restore.

Interface angles are what the arm *reports* (degrees with this arm's zero errors, gripper in percent of its
sweep); `true` angles are the model's. Letters: K block slots, in the order of COLOURS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embodiments.so101 import constants as c
from embodiments.so101.twin.gl import mujoco
from embodiments.so101.twin.language import COLOURS, ZONES
from embodiments.so101.twin.rendering import shared_renderer
from embodiments.so101.twin.scene import TIMESTEP_S, new_model
from embodiments.so101.twin.variation import BLOCK_HALF_M, NUM_DISTRACTORS, Layout

CAMERAS = ("front", "wrist")
CHUNKS_PER_TICK = 4  # contacts are looked at and goals advanced this often within a tick
STEPS_PER_CHUNK = round(1.0 / c.TWIN_RATE_HZ / CHUNKS_PER_TICK / TIMESTEP_S)
CHUNK_S = STEPS_PER_CHUNK * TIMESTEP_S
HIDDEN_Z_M = -0.5
_LOWER, _UPPER = np.array([*c.JOINT_RANGE_DEG, c.GRIPPER_RANGE_PERCENT]).T  # true joints
_STATE_SPEC = mujoco.mjtState.mjSTATE_INTEGRATION


@dataclass(frozen=True)
class TableState:
    """What a task monitor and the expert may know: true joints, block poses, contacts of the last tick."""

    joints: np.ndarray  # (6,) true degrees, gripper percent
    blocks: np.ndarray  # (K, 3) m, block centres
    present: np.ndarray  # (K,) bool
    touched: np.ndarray  # (K,) bool, a finger touched the block during the tick
    touching: np.ndarray  # (K,) bool, a finger touches the block at the end of the tick
    zones: np.ndarray  # (2, 2) m, left then right
    bin: np.ndarray  # (2,) m


@dataclass(frozen=True)
class SimulationState:
    """A restorable snapshot of the physics."""

    integration: np.ndarray
    goal_rad: np.ndarray
    touched: np.ndarray
    touching: np.ndarray


class TwinSimulation:
    """The model, the data and the layout of one table."""

    def __init__(self) -> None:
        self.model = new_model()
        self.data = mujoco.MjData(self.model)
        self._base = new_model()  # untouched values to start each layout from
        ids = mujoco.mjtObj
        self._block_geom = np.array([self._id(ids.mjOBJ_GEOM, f"block_{name}") for name in COLOURS])
        self._block_body = np.array([self._id(ids.mjOBJ_BODY, f"block_{name}") for name in COLOURS])
        distractors = [f"distractor_{i}" for i in range(NUM_DISTRACTORS)]
        self._distractor_geom = np.array([self._id(ids.mjOBJ_GEOM, name) for name in distractors])
        self._distractor_body = np.array([self._id(ids.mjOBJ_BODY, name) for name in distractors])
        self._camera = tuple(self._id(ids.mjOBJ_CAMERA, name) for name in CAMERAS)
        self._slot_of_geom = np.full(self.model.ngeom, -1)
        self._slot_of_geom[self._block_geom] = np.arange(len(COLOURS))
        self._is_finger = np.zeros(self.model.ngeom, dtype=bool)
        self._is_finger[[self._id(ids.mjOBJ_GEOM, name) for name in ("fixed_finger", "moving_finger")]] = True
        self._block_qpos = self.model.jnt_qposadr[self.model.body_jntadr[self._block_body]]
        self._goal_rad = np.zeros(c.NUM_JOINTS)
        speed = np.full(c.NUM_JOINTS, np.radians(c.SERVO_SPEED_DEG_S))
        self._max_goal_step = speed * CHUNK_S
        self._touched = np.zeros(len(COLOURS), dtype=bool)
        self._touching = np.zeros(len(COLOURS), dtype=bool)
        self.layout: Layout | None = None

    def _id(self, kind: mujoco.mjtObj, name: str) -> int:
        found = mujoco.mj_name2id(self.model, kind, name)
        if found < 0:
            raise KeyError(f"so101 twin: the model has no {name!r}")
        return int(found)

    def reset(self, layout: Layout) -> None:
        """Put every object, colour and camera where `layout` says, the arm at rest."""
        self.layout = layout
        mujoco.mj_resetData(self.model, self.data)
        self._place_objects(layout)
        self._place_fixtures(layout)
        rest = true_to_rad(layout.rest_deg)
        self.data.qpos[: c.NUM_JOINTS] = rest
        self.data.ctrl[:] = rest
        self._goal_rad = rest.copy()
        self._touched = np.zeros(len(COLOURS), dtype=bool)
        self._touching = np.zeros(len(COLOURS), dtype=bool)
        mujoco.mj_forward(self.model, self.data)

    def _place_objects(self, layout: Layout) -> None:
        blocks = zip(
            self._block_body, self._block_geom, layout.present, layout.block_xy, layout.block_yaw, strict=True
        )
        still = np.zeros(NUM_DISTRACTORS)
        others = zip(
            self._distractor_body,
            self._distractor_geom,
            layout.distractor_present,
            layout.distractor_xy,
            still,
            strict=True,
        )
        for index, (body, geom, present, xy, yaw) in enumerate((*blocks, *others)):
            half = BLOCK_HALF_M if index < len(COLOURS) else self._base.geom_size[geom, 1]
            where = self.model.jnt_qposadr[self.model.body_jntadr[body]]
            position = (*xy, half) if present else (-0.3 - 0.1 * index, 0.0, HIDDEN_Z_M)
            self.data.qpos[where : where + 7] = (*position, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))
            # An absent object floats below the table, unseen and untouchable, at no cost to the solver.
            self.model.body_gravcomp[body] = 0.0 if present else 1.0
            self.model.geom_contype[geom] = self._base.geom_contype[geom] if present else 0
            self.model.geom_conaffinity[geom] = self._base.geom_conaffinity[geom] if present else 0
            self.model.geom_rgba[geom, 3] = 1.0 if present else 0.0

    def _place_fixtures(self, layout: Layout) -> None:
        kinds = mujoco.mjtObj
        for zone, xy in zip(ZONES, layout.zone_xy, strict=True):
            self.model.body_pos[self._id(kinds.mjOBJ_BODY, f"zone_{zone}"), :2] = xy
        self.model.body_pos[self._id(kinds.mjOBJ_BODY, "bin"), :2] = layout.bin_xy
        self.model.light_diffuse[0] = layout.light_rgb
        self.model.light_dir[0] = layout.light_direction / np.linalg.norm(layout.light_direction)
        self.model.geom_rgba[self._id(kinds.mjOBJ_GEOM, "table"), :3] = layout.table_rgb
        for camera, shift in zip(self._camera, layout.camera_shift, strict=True):
            self.model.cam_pos[camera] = self._base.cam_pos[camera] + shift[:3]
            turn, turned = np.zeros(4), np.zeros(4)
            mujoco.mju_axisAngle2Quat(turn, _unit(shift[3:]), float(np.linalg.norm(shift[3:])))
            mujoco.mju_mulQuat(turned, self._base.cam_quat[camera], turn)
            self.model.cam_quat[camera] = turned

    def within_range(self, action: np.ndarray) -> np.ndarray:
        """(6,) what the servos take for `action` (6,), both as reported: clipped to each joint's range."""
        lower, upper = self.true_to_reported(_LOWER), self.true_to_reported(_UPPER)
        return np.clip(np.asarray(action, dtype=np.float64), lower, upper)

    def tick(self, action: np.ndarray) -> None:
        """Advance 0.1 s towards `action` (6,), absolute targets as the arm reports them, clipped to range."""
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (c.NUM_JOINTS,) or not np.all(np.isfinite(action)):
            raise ValueError(
                f"so101 twin: action {action!r} must be {c.NUM_JOINTS} finite numbers, absolute targets for "
                f"{list(c.JOINT_NAMES)}; check the policy's un-normalisation"
            )
        limits = self.model.actuator_ctrlrange
        target = np.clip(true_to_rad(self.reported_to_true(action)), limits[:, 0], limits[:, 1])
        self._touched = np.zeros(len(COLOURS), dtype=bool)
        for _ in range(CHUNKS_PER_TICK):
            step = np.clip(target - self._goal_rad, -self._max_goal_step, self._max_goal_step)
            self._goal_rad = self._goal_rad + step
            self.data.ctrl[:] = self._goal_rad
            mujoco.mj_step(self.model, self.data, nstep=STEPS_PER_CHUNK)
            self._touching = self._finger_contacts()
            self._touched |= self._touching

    def _finger_contacts(self) -> np.ndarray:
        touching = np.zeros(len(COLOURS), dtype=bool)
        if self.data.ncon:
            pairs = self.data.contact.geom
            for first, second in ((0, 1), (1, 0)):
                slots = self._slot_of_geom[pairs[self._is_finger[pairs[:, first]], second]]
                touching[slots[slots >= 0]] = True
        return touching

    def true_joints(self) -> np.ndarray:
        """(6,) model angles in degrees, gripper in percent."""
        joints = np.degrees(self.data.qpos[: c.NUM_JOINTS])
        joints[c.GRIPPER] = (
            (joints[c.GRIPPER] - c.JAW_CLOSED_DEG) / (c.JAW_OPEN_DEG - c.JAW_CLOSED_DEG) * 100.0
        )
        return joints

    def reported_joints(self) -> np.ndarray:
        """(6,) float32 what the follower reports: true joints with this arm's zero errors."""
        return self.true_to_reported(self.true_joints()).astype(np.float32)

    def true_to_reported(self, joints: np.ndarray) -> np.ndarray:
        """Reported (6,) for true (6,)."""
        layout = self._require_layout()
        return np.append(joints[:5] + layout.joint_offset, joints[5] * layout.gripper_scale)

    def reported_to_true(self, joints: np.ndarray) -> np.ndarray:
        """True (6,) for reported (6,)."""
        layout = self._require_layout()
        return np.append(joints[:5] - layout.joint_offset, joints[5] / layout.gripper_scale)

    def table_state(self) -> TableState:
        """The privileged state after the last tick."""
        layout = self._require_layout()
        blocks = self.data.qpos[self._block_qpos[:, None] + np.arange(3)]
        return TableState(
            joints=self.true_joints(),
            blocks=np.where(layout.present[:, None], blocks, 0.0),
            present=layout.present.copy(),
            touched=self._touched.copy(),
            touching=self._touching.copy(),
            zones=layout.zone_xy,
            bin=layout.bin_xy,
        )

    def pictures(self, size: int) -> dict[str, np.ndarray]:
        """Each camera's (size, size, 3) uint8 picture of now."""
        views = shared_renderer().render(self.model, self.data, self._camera, size)
        return dict(zip(CAMERAS, views, strict=True))

    def get_state(self) -> SimulationState:
        """A snapshot that `set_state` restores exactly, for the same layout."""
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE_SPEC))
        mujoco.mj_getState(self.model, self.data, state, _STATE_SPEC)
        return SimulationState(state, self._goal_rad.copy(), self._touched.copy(), self._touching.copy())

    def set_state(self, state: SimulationState) -> None:
        """Restore a snapshot taken under the current layout."""
        mujoco.mj_setState(self.model, self.data, state.integration, _STATE_SPEC)
        mujoco.mj_forward(self.model, self.data)
        mujoco.mj_setState(
            self.model, self.data, state.integration, _STATE_SPEC
        )  # forward moved the warm start
        self._goal_rad = state.goal_rad.copy()
        self._touched, self._touching = state.touched.copy(), state.touching.copy()

    def _require_layout(self) -> Layout:
        if self.layout is None:
            raise RuntimeError("so101 twin: no scene yet; call reset first")
        return self.layout


def true_to_rad(joints: np.ndarray) -> np.ndarray:
    """Model angles (6,) in radians for true joints (6,) in degrees and percent."""
    jaw = c.JAW_CLOSED_DEG + joints[c.GRIPPER] / 100.0 * (c.JAW_OPEN_DEG - c.JAW_CLOSED_DEG)
    return np.radians(np.append(joints[:5], jaw))


def _unit(vector: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(vector)
    return vector / norm if norm > 0 else np.array([1.0, 0.0, 0.0])
