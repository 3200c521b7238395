"""Dreams behind gymnasium's vector interface: N imagined episodes stepped together."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space

from hybridpolicy.dream.kit import Judge
from hybridpolicy.dream.world import DreamWorld
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.training.cache import FrameCache

PRESENT = "privileged.present"
LIKELY = 0.5  # chance of success from which an imagined episode counts as one


class DreamVectorEnv(VectorEnv):
    """N imagined episodes. Each begins at the first frame of a recorded one; seed s takes episode s mod E.

    An episode that has succeeded, or reached the limit, stands still until the next reset.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = "rgb_array"

    def __init__(
        self,
        num_envs: int,
        world: DreamWorld,
        recorded: FrameCache,
        episodes: Sequence[int],
        episode_length: int,
        judge: str = "auto",
    ) -> None:
        """Raises `ConfigurationError` if nobody can judge the episodes, or there are none to begin from."""
        config = world.actor.policy.config
        if not episodes or not all(0 <= e < recorded.num_episodes for e in episodes):
            raise ConfigurationError(
                f"dream: episodes {list(episodes)[:5]} … of {recorded.source}; it has 0 … "
                f"{recorded.num_episodes - 1}"
            )
        # A head that was never shown a failure calls everything a success.
        able = config.outcome_weight > 0 and world.actor.policy.network.outcome.knows("success")
        by_outcome = able if judge == "auto" else judge == "outcome"
        if by_outcome and not able:
            raise ConfigurationError(
                f"dream: judge = outcome, and {world.folder} has no success head that was trained on both "
                "answers; use judge = probe, or train it with policy.outcome_weight above 0 on rollouts, "
                "failures included"
            )
        if not by_outcome and PRESENT not in recorded.columns:
            raise ConfigurationError(
                f"dream: {recorded.source} does not say which objects are there ({PRESENT}), which judge = "
                "probe must know at the start; begin from a simulator's recording, or use judge = outcome"
            )
        self._probe = None if by_outcome else world.kit.require_probe(world.folder)
        self.judged_by = "outcome" if by_outcome else "probe"
        self.num_envs, self._world, self._recorded, self._episodes = num_envs, world, recorded, list(episodes)
        self.metadata = {**self.metadata, "render_fps": int(config.fps)}
        self._max_episode_steps = episode_length
        height, width = config.image_size
        picture = spaces.Box(0, 255, (height, width, 3), dtype=np.uint8)
        unbounded = {"low": -np.inf, "high": np.inf, "dtype": np.float32}
        self.single_observation_space = spaces.Dict(
            {
                "pixels": spaces.Dict(dict.fromkeys(config.cameras, picture)),
                "agent_pos": spaces.Box(shape=(config.state_size,), **unbounded),
            }
        )
        self.single_action_space = spaces.Box(shape=(config.action_size,), **unbounded)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._next_seed = 0
        self._texts: list[str] = []

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins the episodes of the seeds, else of the next seeds; options are ignored."""
        seeds = self._seeds(seed)
        chosen = [self._episodes[s % len(self._episodes)] for s in seeds]
        rows, columns = self._recorded.episode_from[chosen], self._recorded.columns
        cameras = self._world.actor.policy.config.cameras
        self._pixels = {
            name: np.ascontiguousarray(self._recorded.frames[key][rows].transpose(0, 2, 3, 1))
            for name, key in cameras.items()
        }
        self._texts = [self._recorded.tasks[i] for i in columns["task_index"][rows]]
        self._world.start(self._pixels, columns["observation.state"][rows], self._texts, seeds)
        self._judge: Judge | None = None
        if self._probe is not None:
            objects = self._probe.read(self._world.latents)
            there = columns[PRESENT][rows] > 0.5
            self._judge = self._probe.factory(self._texts, objects, there, self._world.state)
        self._ticks = 0
        self._success = np.zeros(self.num_envs, bool)
        self._agent_pos = self._world.state.copy()
        return self._observation(), self._info()

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int]:
        if seed is None or isinstance(seed, int):
            first = self._next_seed if seed is None else seed
            seeds = list(range(first, first + self.num_envs))
        else:
            seeds = [self._next_seed + i if one is None else int(one) for i, one in enumerate(seed)]
        self._next_seed = max(seeds) + 1
        return seeds

    def step(
        self, actions: np.ndarray, *, render: bool = True
    ) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One imagined tick; `actions` (N, A) physical. With `render=False` pictures stay as they were."""
        actions = np.asarray(actions, np.float32)
        if actions.shape != self.action_space.shape or not np.isfinite(actions).all():
            raise ValueError(
                f"dream: actions of shape {actions.shape}; give finite numbers of shape "
                f"{self.action_space.shape}"
            )
        if not self._texts:
            raise RuntimeError("dream: step before reset; call reset first")
        before, self._ticks = self._success, self._ticks + 1
        self._world.advance(actions)
        in_time = self._ticks <= self._max_episode_steps
        self._success = before | (self._judged() & in_time)
        running = ~before & in_time
        self._agent_pos = np.where(running[:, None], self._world.state, self._agent_pos)
        if render:
            for name, frames in self._world.pictures().items():
                self._pixels[name] = np.where(running[:, None, None, None], frames, self._pixels[name])
        truncated = np.full(self.num_envs, self._ticks >= self._max_episode_steps) & ~self._success
        reward = (self._success & ~before).astype(np.float64)
        return self._observation(), reward, self._success.copy(), truncated, self._info()

    def _judged(self) -> np.ndarray:
        if self._judge is not None and self._probe is not None:
            return self._judge.update(self._probe.read(self._world.latents), self._world.state)
        if self._ticks != self._max_episode_steps:  # the head foretells how it ends; asked when it has
            return np.zeros(self.num_envs, bool)
        chance: np.ndarray = self._world.success_chance() >= LIKELY
        return chance

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """One value per episode, as gymnasium's vector environments give it."""
        values = {
            "task_description": lambda: tuple(self._texts),
            "task": lambda: tuple(self._texts),
            "_max_episode_steps": lambda: (self._max_episode_steps,) * self.num_envs,
            "render": self.render,
        }
        if name not in values:
            raise AttributeError(f"dream: no attribute {name!r}; there are {sorted(values)}")
        return values[name]()

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Same as `call` without arguments."""
        return self.call(name)

    def render(self) -> tuple[np.ndarray, ...]:
        """Per episode, the cameras' pictures side by side (H, V·W, 3) uint8."""
        return tuple(np.concatenate(views, axis=1) for views in zip(*self._pixels.values(), strict=True))

    def _observation(self) -> dict[str, Any]:
        pixels = {name: frames.copy() for name, frames in self._pixels.items()}
        return {"pixels": pixels, "agent_pos": self._agent_pos.astype(np.float32)}

    def _info(self) -> dict[str, Any]:
        return {"is_success": self._success.copy()}
