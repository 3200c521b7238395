"""LeRobot's `--env.type=hybrid_metaworld`: fast Meta-World images under stock lerobot-train and lerobot-eval.

Import-light on top of LeRobot's own configuration: the simulator is imported by `create_envs`.
"""

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from embodiments.metaworld.tasks import CONTROL_HZ, resolve_tasks

if TYPE_CHECKING:
    import gymnasium as gym

    from embodiments.metaworld.env import EnvSettings, MetaworldEnv

_CAMERA = "corner2"


@EnvConfig.register_subclass("hybrid_metaworld")
@dataclass
class HybridMetaworldEnv(EnvConfig):
    """Meta-World at a policy rate of 80 / action_repeat Hz with square images of image_size pixels.

    task: a task, a comma list, or a group (mt8, easy, medium, hard, very_hard).
    quality: "fast" or "stock" (LeRobot's shadows, reflections and multisampling).
    view: "full" (LeRobot's picture) or "workspace" (the part where things happen, 1.8 times larger).
    fps: 0 means derived; any other value must equal 80 / action_repeat.
    episode_length: policy steps; 0 means Meta-World's 500 control steps.
    """

    task: str | None = "mt8"
    fps: int = 0
    image_size: int = 96
    quality: str = "fast"
    view: str = "full"
    action_repeat: int = 5
    episode_length: int = 0
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(
        default_factory=lambda: {
            "action": ACTION,
            "agent_pos": OBS_STATE,
            f"pixels/{_CAMERA}": f"{OBS_IMAGES}.{_CAMERA}",
        }
    )

    def __post_init__(self) -> None:
        resolve_tasks(self.task or "")
        if self.action_repeat < 1 or CONTROL_HZ % self.action_repeat:
            raise ValueError(
                f"hybrid_metaworld: action_repeat={self.action_repeat} must divide the {CONTROL_HZ} Hz "
                "control rate; use 4 (20 Hz), 5 (16 Hz) or 8 (10 Hz)"
            )
        derived = CONTROL_HZ // self.action_repeat
        if self.fps not in (0, derived):
            raise ValueError(
                f"hybrid_metaworld: fps={self.fps} does not fit action_repeat={self.action_repeat}, which "
                f"gives {derived}; leave fps out"
            )
        self.fps = derived
        size = (self.image_size, self.image_size, 3)
        self.features = {
            "action": PolicyFeature(type=FeatureType.ACTION, shape=(4,)),
            "agent_pos": PolicyFeature(type=FeatureType.STATE, shape=(4,)),
            f"pixels/{_CAMERA}": PolicyFeature(type=FeatureType.VISUAL, shape=size),
        }

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {"settings": self.env_settings()}

    def env_settings(self) -> "EnvSettings":
        """Settings for `MetaworldEnv` and `MetaworldVector`; ValueError for a value out of range."""
        from embodiments.metaworld.env import EnvSettings
        from embodiments.metaworld.rendering import RenderSettings

        render = RenderSettings(self.image_size, self.quality, self.view)
        return EnvSettings(render, self.action_repeat, self.episode_length)

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> "dict[str, dict[int, gym.vector.VectorEnv[Any, Any, Any]]]":
        """{suite: {task index: vector of n_envs slots}}; slots that ended do no more work in a rollout."""
        import gymnasium as gym
        from lerobot.envs.utils import _LazyAsyncVectorEnv, freeze_after_episode_end

        settings = self.env_settings()
        suites: dict[str, dict[int, Any]] = {}
        for suite, tasks in resolve_tasks(self.task or "").items():
            suites[suite] = {}
            for index, task in enumerate(tasks):
                factories = [functools.partial(_make_env, task, settings)] * n_envs
                if use_async_envs and n_envs > 1:
                    suites[suite][index] = _LazyAsyncVectorEnv(factories)
                else:
                    suites[suite][index] = gym.vector.SyncVectorEnv(
                        [freeze_after_episode_end(factory) for factory in factories],
                        autoreset_mode=gym.vector.AutoresetMode.NEXT_STEP,
                    )
        return suites


def _make_env(task: str, settings: "EnvSettings") -> "MetaworldEnv":
    from embodiments.metaworld.env import MetaworldEnv

    return MetaworldEnv(task, settings)
