"""MetaworldEnv: one Meta-World task as a gymnasium environment that draws only when a policy looks."""

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from embodiments.metaworld.rendering import FrameRenderer, RenderSettings
from embodiments.metaworld.simulation import ACTION_DIM, STATE_DIM, MetaworldSimulation
from embodiments.metaworld.tasks import CONTROL_HZ, MAX_CONTROL_STEPS

CAMERA = "corner2"


@dataclass(frozen=True)
class EnvSettings:
    """What a slot shows and how fast it runs; `fps` follows from `action_repeat`.

    `episode_length` is in policy steps; 0 means all of Meta-World's 500 control steps.
    """

    render: RenderSettings = field(default_factory=RenderSettings)
    action_repeat: int = 5
    episode_length: int = 0
    video_size: int = 240

    def __post_init__(self) -> None:
        if self.action_repeat < 1 or CONTROL_HZ % self.action_repeat:
            divisors = [n for n in range(1, CONTROL_HZ + 1) if CONTROL_HZ % n == 0]
            raise ValueError(
                f"metaworld: action_repeat={self.action_repeat} does not divide the {CONTROL_HZ} Hz control "
                f"rate; allowed {divisors}"
            )
        if not 0 <= self.episode_length <= MAX_CONTROL_STEPS // self.action_repeat:
            raise ValueError(
                f"metaworld: episode_length={self.episode_length} policy steps; allowed 0.."
                f"{MAX_CONTROL_STEPS // self.action_repeat} at action_repeat={self.action_repeat} "
                f"({MAX_CONTROL_STEPS} control steps)"
            )

    @property
    def fps(self) -> int:
        """Policy steps a second of simulated time."""
        return CONTROL_HZ // self.action_repeat

    @property
    def max_policy_steps(self) -> int:
        return self.episode_length or MAX_CONTROL_STEPS // self.action_repeat


def observation_space(image_size: int) -> spaces.Dict:
    """{"pixels": {"corner2": (S, S, 3) uint8}, "agent_pos": (4,) float32}."""
    image = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
    state = spaces.Box(-1000.0, 1000.0, (STATE_DIM,), np.float32)  # LeRobot's bounds
    return spaces.Dict({"pixels": spaces.Dict({CAMERA: image}), "agent_pos": state})


def action_space() -> Any:
    """(4,) float32 in [-1, 1]: hand motion x, y, z (1 is 1 cm a control step), gripper effort (1 closes)."""
    return spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)


class MetaworldEnv(gym.Env[dict[str, Any], NDArray[np.float32]]):
    """Meta-World `task`; the same tasks, camera, text and success rule as LeRobot's "metaworld".

    Unlike LeRobot's, an episode that ended is not reset inside `step`: the caller sees the last state.
    """

    def __init__(self, task: str, settings: EnvSettings | None = None) -> None:
        self.settings = settings or EnvSettings()
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": self.settings.fps}
        self.render_mode = "rgb_array"
        self.observation_space = observation_space(self.settings.render.image_size)
        self.action_space = action_space()
        self.simulation = MetaworldSimulation(task)
        self.task = self.simulation.task
        self.task_description = self.simulation.task_description
        self._max_episode_steps = self.settings.max_policy_steps  # read by lerobot-eval
        self._renderer = FrameRenderer(self.settings.render)
        self._video = FrameRenderer(RenderSettings(self.settings.video_size, "fast", "full"))
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None, render: bool = True
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Layout of `seed`; without one, the next layout of the seed before."""
        super().reset(seed=seed)
        self.simulation.reset(seed)
        self._steps = 0
        return self._observation(render), {"is_success": False, "task": self.task}

    def step(
        self, action: NDArray[np.float32], render: bool = True
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One policy step: `action_repeat` control steps, ended early by success.

        `render=False` leaves "pixels" out of the observation: right for the steps inside an action chunk.
        ValueError for a wrong shape or a value that is not finite.
        """
        action = np.asarray(action)
        if action.shape != (ACTION_DIM,):
            raise ValueError(
                f"metaworld {self.task}: action has shape {action.shape}; expected ({ACTION_DIM},)"
            )
        if not np.isfinite(action).all():
            raise ValueError(
                f"metaworld {self.task}: action {action} is not finite; look for a diverged policy"
            )
        reward, success = self.simulation.step(action, self.settings.action_repeat)
        self._steps += 1
        truncated = not success and self._steps >= self._max_episode_steps
        info = {"is_success": success, "task": self.task}
        return self._observation(render), reward, success, truncated, info

    def expert_action(self) -> NDArray[np.float32]:
        """(4,) float32 in [-1, 1] that Meta-World's scripted expert would take now."""
        return self.simulation.expert_action()

    def render(self) -> NDArray[np.uint8]:
        """(video_size, video_size, 3) uint8 for people: LeRobot's full view."""
        return self._video.frame(self.simulation)

    def frame(self) -> NDArray[np.uint8]:
        """(image_size, image_size, 3) uint8: the policy's picture of the current state."""
        return self._renderer.frame(self.simulation)

    def close(self) -> None:
        self.simulation.close()

    def _observation(self, render: bool) -> dict[str, Any]:
        observation: dict[str, Any] = {"pixels": {CAMERA: self.frame()}} if render else {}
        observation["agent_pos"] = self.simulation.agent_pos
        return observation
