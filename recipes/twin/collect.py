"""A policy let loose on the twin to learn from it: successes and failures, in the one outcome schema.

N tables played together, L frames of an episode, A joints.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embodiments.so101.constants import NUM_JOINTS, SO101, TWIN_RATE_HZ
from embodiments.so101.rollouts import Played, RolloutWriter
from embodiments.so101.twin.episode_record import EpisodeColumns
from embodiments.so101.twin.events import EVENTS
from embodiments.so101.twin.scenario import Scenario, draw_scenarios
from embodiments.so101.twin.shards import COLLECTION_SEEDS
from embodiments.so101.twin.simulation import CAMERAS
from embodiments.so101.twin.variation import Variation
from embodiments.so101.twin.vector_env import SO101TwinVectorEnv
from hybridpolicy import outcome_schema as schema
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from recipes.collect import FACTS, SCENES_PER_SEED, check_scenes, success_figures
from recipes.collect_dataset import SUCCESS, TIME_LIMIT
from recipes.twin.rollout import Observation, roll
from recipes.twin.suites import FAMILIES, TABLES


@dataclass(frozen=True)
class CollectSettings:
    """What is played.

    seed: each has its own scenes, apart from those of evaluation, demonstrations and play. families: in turn.
    noise: standard deviation, in degrees and percent of the gripper, of an offset of the actions, drawn anew
    with every plan; what is recorded is the sum.
    """

    episodes: int
    seed: int = 0
    families: tuple[str, ...] = FAMILIES
    noise: float = 0.0

    def __post_init__(self) -> None:
        check_scenes(self.episodes, self.seed)
        if not 0.0 <= self.noise <= 20.0:
            raise ConfigurationError(f"collect: noise = {self.noise:g}; allowed 0 … 20 degrees, e.g. 2")

    def scenarios(self, variation: Variation) -> list[Scenario]:
        """What is played, in order."""
        first = COLLECTION_SEEDS + self.seed * SCENES_PER_SEED
        return draw_scenarios(self.episodes, first, self.families, variation)


def collect(
    actor: Actor,
    root: str | Path,
    settings: CollectSettings,
    *,
    variation: Variation | None = None,
    facts: dict[str, Any] | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Plays every scenario once and writes all of it to `root`; returns what is in its collection.json.

    Args:
        facts: further entries of collection.json, about the policy for instance.

    Raises:
        FileExistsError: `root` is there already. ConfigurationError: the policy is of another rate.
    """
    actor.check_rate(float(TWIN_RATE_HZ))
    actor.policy.eval()
    scenarios = settings.scenarios(variation or Variation())
    size = SO101.cameras[0].height
    tell = progress or (lambda done, total: None)
    outcomes: list[tuple[str, bool]] = []
    happened: Counter[str] = Counter()
    frames = 0
    with RolloutWriter(root, f"local/{Path(root).name}", size, schema.outcome_features()) as writer:
        env = SO101TwinVectorEnv(min(TABLES, len(scenarios)), image_size=size, workers=workers)
        try:
            for start in range(0, len(scenarios), env.num_envs):
                chosen = scenarios[start : start + env.num_envs]
                batch = _Batch(actor, env, chosen, settings.noise)
                played = batch.play(lambda done, start=start: tell(start + done, len(scenarios)))
                writer.add(played)
                outcomes += [(record.family, record.success) for record, _ in played]
                happened += batch.happened
                frames += sum(len(record.state) for record, _ in played)
        finally:
            env.close()
        found = {
            **(facts or {}),
            "settings": asdict(settings),
            "planning": actor.planning,
            "frames": frames,
            **success_figures(outcomes),
            "eventful_episodes": {name: happened[name] for name in EVENTS},
        }
        writer.finish(found, FACTS)
    return found


class _Batch:
    """Episodes played together. `happened`: episodes that had each kind of event."""

    def __init__(
        self, actor: Actor, env: SO101TwinVectorEnv, scenarios: Sequence[Scenario], noise: float
    ) -> None:
        self._actor, self._env, self._noise = actor, env, noise
        self._scenarios = list(scenarios)
        idle = env.num_envs - len(self._scenarios)  # tables over: they play along and are not kept
        self._filled = self._scenarios + [self._scenarios[-1]] * idle
        self._texts = [scenario.instruction for scenario in self._filled]
        self._rngs = [np.random.default_rng([scenario.seed, 606]) for scenario in self._filled]
        self._columns = [EpisodeColumns() for _ in self._scenarios]
        self._events: list[list[np.ndarray]] = [[] for _ in self._scenarios]
        self._imagined: list[list[bool]] = [[] for _ in self._scenarios]
        self._last_imagined = np.zeros(env.num_envs, bool)
        self._running = np.arange(env.num_envs) < len(self._scenarios)
        self.happened: Counter[str] = Counter()

    def play(self, progress: Callable[[int], None]) -> list[Played]:
        """All of it; `progress` hears how many are finished."""
        self._actor.reset()
        observation, info = self._env.reset(options={"scenarios": self._filled})
        horizon = self._actor.policy.config.n_action_steps
        objects, count = info["objects"], len(self._scenarios)
        for tick in roll(self._env, self._plan, observation, horizon, draw_all=True):
            info = tick.info
            for table in np.flatnonzero(tick.running[:count]):
                pictures = [tick.before["pixels"][camera][table] for camera in CAMERAS]
                state, sent = tick.before["agent_pos"][table], info["sent"][table]
                self._columns[table].add(pictures, state, sent, objects[table], info["present"][table])
                self._events[table].append(info["events"][table])
                self._imagined[table].append(bool(self._last_imagined[table]))
            objects = info["objects"]
            self._running[:count] = ~tick.done[:count]
            progress(int(tick.done[:count].sum()))
        return [self._finish(table, bool(info["is_success"][table])) for table in range(count)]

    def _plan(self, observation: Observation) -> np.ndarray:
        """(N, T, A) the policy's chunks, each as a whole moved by its own noise."""
        self._actor.playing = self._running
        chunk = self._actor.chunk(observation["pixels"], observation["agent_pos"], self._texts)
        self._last_imagined = self._actor.imagined(len(chunk))
        offsets = np.stack([rng.normal(0.0, 1.0, NUM_JOINTS) for rng in self._rngs]) * self._noise
        return (chunk + offsets[:, None]).astype(np.float32)

    def _finish(self, table: int, success: bool) -> Played:
        scenario, events = self._scenarios[table], np.stack(self._events[table])
        self.happened.update(name for name, any_of in zip(EVENTS, events.any(axis=0), strict=True) if any_of)
        last = np.arange(len(events)) == len(events) - 1
        reason = SUCCESS if success else TIME_LIMIT
        return self._columns[table].finish(
            success,
            scenario.family,
            scenario.instruction,
            scenario.task.slot,
            further={
                schema.SUCCESS: last & success,
                schema.DONE: last,
                schema.INTERVENTION: np.zeros(len(events), bool),
                schema.EVENT: events.any(axis=1),
                schema.IMAGINED: np.array(self._imagined[table]),
                schema.STOP_REASON: np.array([""] * (len(events) - 1) + [reason]),
            },
        )
