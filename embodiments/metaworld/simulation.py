"""One Meta-World task as physics: layout from a seed, action repeat, success, scripted expert. No images."""

import warnings
from typing import Any

import metaworld.policies
import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, ML1_args_kwargs
from numpy.typing import NDArray

from embodiments.metaworld.tasks import MAX_CONTROL_STEPS, check_task, expert_class_name, task_description

# Meta-World's weld of the hand to the mocap body: anchor 0, relative pose identity, torque scale 5.
_MOCAP_WELD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)

CORNER2_POSITION_M = (0.75, 0.075, 0.7)  # lerobot/envs/metaworld.py moves the camera there

ACTION_DIM = 4
STATE_DIM = 4  # hand x, y, z in metres, gripper opening 0 (closed) .. 1


def reset_mocap_welds(env: Any) -> None:
    """Meta-World's method of that name, for any MuJoCo.

    Meta-World 3.0.0 assigns 11 numbers to a row of `eq_data`; MuJoCo 4 has 12 (the last one says that the
    relative pose is to be computed by the compiler), so the stock method raises ValueError there.
    """
    model = env.model
    for index in np.flatnonzero(model.eq_type == mujoco.mjtEq.mjEQ_WELD):
        model.eq_data[index] = 0.0
        model.eq_data[index, : len(_MOCAP_WELD)] = _MOCAP_WELD


class MetaworldSimulation:
    """Meta-World task `task`, set up as LeRobot's environment does, without its 50 throw-away layouts.

    The goal is in `raw_obs` (for the expert) and in the picture, never in `agent_pos`.
    """

    def __init__(self, task: str) -> None:
        self.task = check_task(task)
        self.task_description = task_description(self.task)
        base = ALL_V3_ENVIRONMENTS[self.task]
        env = type(base.__name__, (base,), {"reset_mocap_welds": reset_mocap_welds})()
        env._partially_observable = False
        del env.sawyer_observation_space  # cached without the goal, and the expert needs the goal
        env._set_task_called = True
        env._freeze_rand_vec = False  # a new layout at every reset
        env.seeded_rand_vec = True  # drawn from the seed
        env._set_task_inner(
            **{k: v for k, v in ML1_args_kwargs[self.task]["kwargs"].items() if k != "task_id"}
        )
        self.camera_id = mujoco.mj_name2id(env.model, mujoco.mjtObj.mjOBJ_CAMERA, "corner2")
        env.model.cam_pos[self.camera_id] = CORNER2_POSITION_M
        self._env = env
        self.scene_file: str = env.model_name  # environments of one file share textures and meshes
        self._expert = getattr(metaworld.policies, expert_class_name(self.task))()
        self.raw_obs: NDArray[np.float64] = np.zeros(39)
        self.control_steps = 0

    @property
    def model(self) -> mujoco.MjModel:
        return self._env.model

    @property
    def data(self) -> mujoco.MjData:
        return self._env.data

    @property
    def agent_pos(self) -> NDArray[np.float32]:
        """(4,) float32: hand x, y, z in metres, gripper opening in [0, 1]."""
        return self.raw_obs[:STATE_DIM].astype(np.float32)

    def reset(self, seed: int | None = None) -> None:
        """New layout; the same for the same seed, whatever happened before."""
        if seed is not None:
            self._env.seed(seed)
        self.raw_obs, _ = self._env.reset(seed=seed)
        self.control_steps = 0
        # Meta-World moves the goal marker after its last forward pass, so a picture taken now would show the
        # goal of the layout before this one. Kinematics only: dynamics stay bit-identical to LeRobot's.
        mujoco.mj_kinematics(self.model, self.data)

    def step(
        self, action: NDArray[np.floating[Any]], repeat: int, stop_on_success: bool = True
    ) -> tuple[float, bool]:
        """Reward (0..10, of the last control step) and whether any of the control steps was a success."""
        action = np.clip(np.asarray(action, dtype=np.float32), -1.0, 1.0)
        reward, success = 0.0, False
        for _ in range(min(repeat, MAX_CONTROL_STEPS - self.control_steps)):
            self.raw_obs, reward, _, _, info = self._env.step(action)
            self.control_steps += 1
            success = success or bool(info["success"])
            if success and stop_on_success:
                break
        return float(reward), success

    def expert_action(self) -> NDArray[np.float32]:
        """(4,) float32 in [-1, 1] of Meta-World's scripted expert for the current state."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Constant(s) may be too high": clipped below
            action = self._expert.get_action(self.raw_obs)
        return np.clip(np.asarray(action, dtype=np.float32), -1.0, 1.0)

    def close(self) -> None:
        self._env.close()
