"""LeRobot's `--env.type=dream`. Importing it loads neither torch nor a policy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lerobot.configs import FeatureType, PolicyFeature
from lerobot.configs.policies import PreTrainedConfig
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from hybridpolicy.errors import ConfigurationError, allowed

if TYPE_CHECKING:
    import gymnasium

SUITE = "dream"
JUDGES = ("auto", "outcome", "probe")


@EnvConfig.register_subclass(SUITE)
@dataclass
class DreamEnvConfig(EnvConfig):
    """A world policy as an environment for `lerobot-eval`.

    world: pretrained_model folder of the policy that imagines; `hybridpolicy dream fit` was run on it.
    dataset: folder of the recordings whose first frames episodes begin at.
    first_episode, num_episodes: which of them; 0 episodes means all from the first on.
    judge: "outcome" asks the world policy's success head at the end, "probe" reads object positions off the
        latents and applies the embodiment's rule; "auto" takes the heads where there are any.
    fps: 0 means the world policy's; no other value is possible.
    """

    task: str | None = None
    fps: int = 0
    world: str = ""
    dataset: str = ""
    first_episode: int = 0
    num_episodes: int = 0
    episode_length: int = 40
    judge: str = "auto"
    cache_dir: str = "outputs/cache"
    features: dict[str, PolicyFeature] = field(default_factory=dict)
    features_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.judge not in JUDGES:
            raise ConfigurationError(f"env dream: judge = {self.judge!r}; {allowed(self.judge, JUDGES)}")
        if self.episode_length < 1:
            raise ConfigurationError(f"env dream: episode_length = {self.episode_length}; must be 1 or more")
        if self.world:
            self._adopt(self._world_config())

    def _world_config(self) -> Any:
        from hybridpolicy.configuration_hybrid import HybridConfig
        from hybridpolicy.dream.checks import check_world

        if not (Path(self.world) / "config.json").is_file():
            raise ConfigurationError(
                f"env dream: world = {self.world!r} holds no policy; give a checkpoint's "
                "pretrained_model folder"
            )
        config = PreTrainedConfig.from_pretrained(self.world)
        if not isinstance(config, HybridConfig):
            raise ConfigurationError(
                f"env dream: {self.world} is a {config.type} policy; only hybrid ones imagine"
            )
        check_world(config)
        return config

    def _adopt(self, world: Any) -> None:
        if self.fps not in (0, int(world.fps)):
            raise ConfigurationError(
                f"env dream: fps is {self.fps}; the world policy imagines {world.fps:g} frames a second, "
                "leave fps out"
            )
        self.fps = int(world.fps)
        picture = PolicyFeature(FeatureType.VISUAL, (*world.image_size, 3))
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, (world.action_size,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (world.state_size,)),
            **{f"pixels/{camera}": picture for camera in world.cameras},
        }
        self.features_map = {
            ACTION: ACTION,
            "agent_pos": OBS_STATE,
            **{f"pixels/{camera}": f"{OBS_IMAGES}.{camera}" for camera in world.cameras},
        }

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Unused: `create_envs` builds the environment itself."""
        return {}

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> "dict[str, dict[int, gymnasium.vector.VectorEnv[Any, Any, Any]]]":
        """{"dream": {0: vector environment}}; all episodes are imagined in one batch, in this process."""
        from hybridpolicy.dream.vector_env import DreamVectorEnv
        from hybridpolicy.dream.world import DreamWorld
        from hybridpolicy.training.cache import open_cache
        from hybridpolicy.training.decode import resolve_root

        if not self.world or not self.dataset:
            raise ConfigurationError(
                f"env dream: world = {self.world!r}, dataset = {self.dataset!r}; give the policy that "
                "imagines and the recordings that episodes begin from"
            )
        world = DreamWorld(Path(self.world))
        config = world.actor.policy.config
        height, width = config.image_size
        recorded = open_cache(
            resolve_root(self.dataset, None), Path(self.cache_dir), cameras=list(config.cameras.values()),
            image_size=(height, width),
        )  # fmt: skip
        last = self.first_episode + self.num_episodes if self.num_episodes else recorded.num_episodes
        episodes = range(self.first_episode, last)
        env = DreamVectorEnv(n_envs, world, recorded, episodes, self.episode_length, self.judge)
        return {SUITE: {0: env}}
