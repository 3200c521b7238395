"""A policy let loose in any LeRobot environment: successes and failures, in the one outcome schema.

The SO-101's twin has a path of its own (`recipes.twin.collect`), for it tells of events and objects. N tables
played together, A numbers of an action.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from hybridpolicy.errors import CheckpointError, ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.evaluation.closed_loop import (
    MOST_TABLES,
    Step,
    check_shown,
    create_tables,
    environment_config,
    rate,
    roll,
    shares,
)
from recipes.collect_dataset import SUCCESS, TERMINATED, TIME_LIMIT, CollectedDataset, Episode

FACTS = "collection.json"
SCENES_PER_SEED = 100_000
# Scenes to learn from, up to LAST_SEED: evaluation and the demonstrations of Meta-World stay below.
COLLECTION_SEEDS, LAST_SEED = 200_000_000, 1_000_000_000
MAX_SEED = (LAST_SEED - COLLECTION_SEEDS) // SCENES_PER_SEED - 1
FEWEST_FRAMES = 2  # LeRobot has no statistics of the pictures of fewer
KEPT_BYTES = 2**30  # of pictures of episodes played together, until they are written


@dataclass(frozen=True)
class CollectSettings:
    """What is played.

    env: LeRobot environment type. episodes: in all, shared out among the tasks. seed: each has its own
    scenes. tasks: () for all of the environment. noise: standard deviation, in units of the action, of an
    offset of the actions, drawn anew with every plan; what is recorded is the sum. environment: further
    fields of its configuration.
    """

    env: str
    episodes: int
    seed: int = 0
    tasks: tuple[str, ...] = ()
    noise: float = 0.0
    environment: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_scenes(self.episodes, self.seed)
        if not 0.0 <= self.noise < np.inf:
            raise ConfigurationError(f"collect: noise = {self.noise:g}; allowed are 0 and more")

    @property
    def first_scene(self) -> int:
        """Seed of the first episode; the others count up."""
        return COLLECTION_SEEDS + self.seed * SCENES_PER_SEED

    def configuration(self) -> Any:
        """LeRobot's configuration of the environment.

        Raises:
            ConfigurationError: no such environment type.
        """
        return environment_config(self.env, self.tasks, **self.environment)


def check_scenes(episodes: int, seed: int) -> None:
    """Raises ConfigurationError for more episodes than a seed has scenes, or a seed that has none."""
    if not 1 <= episodes <= SCENES_PER_SEED:
        raise ConfigurationError(
            f"collect: episodes = {episodes}; allowed 1 … {SCENES_PER_SEED}, more with another seed"
        )
    if not 0 <= seed <= MAX_SEED:
        raise ConfigurationError(f"collect: seed = {seed}; allowed 0 … {MAX_SEED}")


def success_figures(outcomes: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    """{"success", "by_family"} of (family, success): Wilson intervals and numbers of failures."""

    def row(results: Sequence[bool]) -> dict[str, Any]:
        return {**rate(results), "failures": len(results) - sum(results)}

    families = list(dict.fromkeys(family for family, _ in outcomes))
    return {
        "success": row([success for _, success in outcomes]),
        "by_family": {name: row([won for family, won in outcomes if family == name]) for name in families},
    }


def collect(
    actor: Actor,
    root: str | Path,
    settings: CollectSettings,
    *,
    facts: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Plays every episode once and writes all of it to `root`; returns what is in its collection.json.

    An episode ends with its first success. No event is ever recorded: environments tell of none. Episodes of
    a single frame are left out and counted: LeRobot cannot write them.

    Args:
        facts: further entries of collection.json, about the policy for instance.

    Raises:
        FileExistsError: `root` is there already.
        ConfigurationError: no such environment, or it is of another rate, state or action than the policy.
        CheckpointError: a camera of the policy is missing, or its actions are not finite.
    """
    outcomes: list[tuple[str, bool]] = []
    played = frames = 0
    tell = progress or (lambda done, total: None)
    with (
        CollectedDataset(root, actor.policy.config) as dataset,
        closing(_batches(actor, settings, tell)) as batches,
    ):
        for episodes, fps in batches:
            played += len(episodes)
            kept = [episode for episode in episodes if len(episode.frames) >= FEWEST_FRAMES]
            dataset.add(kept, fps)
            outcomes += [(episode.task, episode.success) for episode in kept]
            frames += sum(len(episode.frames) for episode in kept)
        if not outcomes:
            raise ConfigurationError(
                f"collect: each of {played} episodes ended in its first step, which leaves nothing to learn "
                "from; choose other tasks"
            )
        found = {
            **(facts or {}),
            "settings": asdict(settings),
            "planning": actor.planning,
            "frames": frames,
            "left_out": played - len(outcomes),
            **success_figures(outcomes),
        }
        dataset.finish(found, FACTS)
    return found


def _batches(
    actor: Actor, settings: CollectSettings, progress: Callable[[int, int], None]
) -> Iterator[tuple[list[Episode], int]]:
    """All episodes, those played together at a time, and their rate; `progress` hears how many are over."""
    config = settings.configuration()
    actor.check_rate(float(config.fps))
    tables = _open(actor, config, settings)
    played = 0
    try:
        for vector, count in zip(tables, shares(settings.episodes, len(tables)), strict=True):
            for start in range(0, count, vector.num_envs):
                batch = _Batch(actor, vector, settings.first_scene + played, settings.noise)
                number = min(vector.num_envs, count - start)
                episodes = batch.play(
                    number,
                    config.features_map,
                    lambda ended, done=played: progress(done + ended, settings.episodes),
                )
                yield episodes, round(config.fps)
                played += number
    finally:
        _close(tables)


def _close(tables: Iterable[Any]) -> None:
    for vector in tables:
        vector.close()


def _open(actor: Actor, config: Any, settings: CollectSettings) -> list[Any]:
    """A vector environment for each task that is played."""
    single = list(create_tables(config, 1).values())
    try:
        longest = max(int(vector.call("_max_episode_steps")[0]) for vector in single)
        tasks = min(len(single), settings.episodes)
        for vector in single:
            _check_fit(actor, vector, settings)
        pictures = longest * gymnasium.spaces.flatdim(single[0].single_observation_space["pixels"])
    finally:
        _close(single)
    fit = min(MOST_TABLES // tasks, KEPT_BYTES // pictures, -(-settings.episodes // tasks))
    tables = list(create_tables(config, max(fit, 1)).values())
    _close(tables[tasks:])
    return tables[:tasks]


def _check_fit(actor: Actor, vector: Any, settings: CollectSettings) -> None:
    """Raises ConfigurationError where the policy's numbers are not those of the environment."""
    policy, where = actor.policy.config, f"collect: environment {settings.env}"
    seen, acts = vector.single_observation_space, vector.single_action_space
    check_shown(getattr(seen, "spaces", ()))
    for what, space, size, names in (
        ("state", seen["agent_pos"], policy.state_size, policy.state_feature_names),
        ("action", acts, policy.action_size, policy.action_feature_names),
    ):
        if size and space.shape != (size,):
            raise ConfigurationError(
                f"{where} has the {what} {space}, the policy {size} numbers ({names}); choose the "
                "environment that the policy was trained for"
            )
    widest = float(np.max(acts.high - acts.low)) / 2
    if settings.noise > widest:
        raise ConfigurationError(
            f"{where} takes actions from {acts.low.min():g} to {acts.high.max():g}, and noise = "
            f"{settings.noise:g}; allowed 0 … {widest:g}"
        )


class _Batch:
    """Episodes played together on the tables of `vector`, with scenes from `seed` on."""

    def __init__(self, actor: Actor, vector: Any, seed: int, noise: float) -> None:
        self._actor, self._vector, self._seed = actor, vector, seed
        self._noise = noise
        self._limits = vector.single_action_space.low, vector.single_action_space.high
        self._rngs = [np.random.default_rng([seed + table, 606]) for table in range(vector.num_envs)]
        self._offset = np.zeros(1)

    def play(
        self, count: int, features_map: dict[str, str], progress: Callable[[int], None]
    ) -> list[Episode]:
        """The first `count` of them; `progress` hears how many are finished."""
        config = self._actor.policy.config
        episodes = [Episode(config.cameras, config.state_size > 0) for _ in range(count)]
        for step in roll(self._actor, self._vector, features_map, self._seed, self._send, count):
            for table, episode in enumerate(episodes):
                if not episode.ended and step.running[table]:
                    episode.add(step, table)
                    episode.ended = _ended(step, table)
            over = sum(bool(episode.ended) for episode in episodes)
            progress(over)
            if over == count:
                break
        for episode in episodes:
            episode.ended = episode.ended or TIME_LIMIT
        return episodes

    def _send(self, action: np.ndarray, first: bool) -> np.ndarray:
        """(N, A) what is sent, each plan as a whole moved by its own noise."""
        if not np.isfinite(action).all():
            raise CheckpointError(
                f"collect: the policy's action {action[~np.isfinite(action).all(axis=1)][0]} is not finite; "
                "its training diverged, choose an earlier checkpoint"
            )
        if first:
            self._offset = np.stack([rng.normal(0.0, 1.0, action.shape[1]) for rng in self._rngs])
        return np.clip(action + self._noise * self._offset, *self._limits).astype(np.float32)


def _ended(step: Step, table: int) -> str:
    """Why the episode ended with this step; empty where it goes on."""
    if step.succeeded[table]:
        return SUCCESS
    if step.terminated[table]:
        return TERMINATED
    return TIME_LIMIT if step.truncated[table] else ""
