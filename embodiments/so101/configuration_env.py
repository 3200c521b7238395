"""LeRobot's view of the twin: the environment type `so101_twin`. Importing it loads no simulator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from embodiments.so101.constants import NUM_JOINTS, SO101, TWIN_RATE_HZ
from embodiments.so101.twin.language import FAMILIES
from embodiments.so101.twin.variation import Variation

if TYPE_CHECKING:
    import gymnasium

CAMERAS = tuple(camera.name for camera in SO101.cameras)
SUITE = "so101_twin"
ALL_TASKS = ("touch", "push", "bin")  # those that ask for a block that is there


@EnvConfig.register_subclass(SUITE)
@dataclass
class SO101TwinEnvConfig(EnvConfig):
    """The twin for `lerobot-eval` and `lerobot-train`.

    task: "all" (touch, push, bin), or one or more families separated by commas, also "absent" (a block that
    is not there: right is to stand still) and "two_stage"; each is one task of the suite. The other fields
    are those of `Variation`. `workers`: simulation processes per vector environment, 0 for none.
    """

    task: str | None = "all"
    fps: int = TWIN_RATE_HZ
    image_size: int = 96
    num_colours: int = 3
    min_blocks: int = 2
    max_blocks: int = 2
    camera_jitter: float = 0.0
    joint_offset_deg: float = 0.0
    gripper_scale: float = 0.0
    distractors: int = 0
    light_strength: float = 0.3
    held_out_phrasing: bool = False
    workers: int = 0
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fps != TWIN_RATE_HZ:
            raise ValueError(f"env so101_twin: fps is {self.fps}; the twin runs at {TWIN_RATE_HZ} Hz only")
        self.families  # noqa: B018 - checks the names
        self.variation  # noqa: B018 - checks the ranges
        picture = PolicyFeature(FeatureType.VISUAL, (self.image_size, self.image_size, 3))
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, (NUM_JOINTS,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (NUM_JOINTS,)),
            **{f"pixels/{camera}": picture for camera in CAMERAS},
        }
        self.features_map = {
            ACTION: ACTION,
            "agent_pos": OBS_STATE,
            **{f"pixels/{camera}": f"{OBS_IMAGES}.{camera}" for camera in CAMERAS},
        }

    @property
    def families(self) -> tuple[str, ...]:
        """Families named by `task`; ValueError for an unknown one."""
        if self.task in (None, "all"):
            return ALL_TASKS
        assert self.task is not None
        names = tuple(dict.fromkeys(name.strip() for name in self.task.split(",")))
        unknown = [name for name in names if name not in FAMILIES]
        if unknown:
            raise ValueError(
                f"env so101_twin: task {self.task!r}: unknown {unknown}; use 'all' or some of {FAMILIES}"
            )
        return names

    @property
    def variation(self) -> Variation:
        """The scene switches as the twin takes them."""
        return Variation(
            num_colours=self.num_colours,
            num_blocks=(self.min_blocks, self.max_blocks),
            camera_jitter=self.camera_jitter,
            joint_offset_deg=self.joint_offset_deg,
            gripper_scale=self.gripper_scale,
            distractors=self.distractors,
            light_strength=self.light_strength,
        )

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Unused: `create_envs` builds the environments itself."""
        return {}

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, gymnasium.vector.VectorEnv]]:
        """{"so101_twin": {i: vector environment of family i}}.

        `use_async_envs` makes no difference: tables share one process, or `workers` processes free of torch.
        """
        from embodiments.so101.twin.vector_env import SO101TwinVectorEnv

        return {
            SUITE: {
                index: SO101TwinVectorEnv(
                    n_envs,
                    (family,),
                    self.variation,
                    self.image_size,
                    workers=self.workers,
                    held_out_phrasing=self.held_out_phrasing,
                )
                for index, family in enumerate(self.families)
            }
        }
