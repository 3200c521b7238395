"""Many SO-101 twins behind gymnasium's vector interface, in this process or on worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space

from embodiments.so101 import constants as c
from embodiments.so101.twin.episode import EpisodeState
from embodiments.so101.twin.language import FAMILIES
from embodiments.so101.twin.scenario import MAX_STEPS, MAX_STEPS_TWO_STAGE, Scenario, make_scenario
from embodiments.so101.twin.spaces import CAMERAS, action_space, observation_space
from embodiments.so101.twin.table_group import TableBuffers, TableGroup
from embodiments.so101.twin.variation import Variation
from embodiments.so101.twin.workers import WorkerGroup

SINGLE_STAGE = ("touch", "push", "bin")


class SO101TwinVectorEnv(VectorEnv):
    """N tables stepped together. A finished table stands still and costs nothing until the next reset.

    `workers=0` runs all tables here; `workers=n` shares them out to n processes that import numpy, mujoco and
    gymnasium alone. Both give the same bytes. `monitored` in the info has shape (N, 1 + M): the given task,
    then the scenario's further tasks, False-padded.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": c.TWIN_RATE_HZ}
    render_mode = "rgb_array"

    def __init__(
        self,
        num_envs: int,
        families: Sequence[str] = SINGLE_STAGE,
        variation: Variation | None = None,
        image_size: int = 96,
        *,
        workers: int = 0,
        held_out_phrasing: bool = False,
    ) -> None:
        if num_envs < 1 or workers < 0:
            raise ValueError(
                f"so101 twin: num_envs {num_envs} must be at least 1 and workers {workers} at least 0"
            )
        unknown = [family for family in families if family not in FAMILIES]
        if unknown or not families:
            raise ValueError(f"so101 twin: families {list(families)}; use one or more of {FAMILIES}")
        self.num_envs = num_envs
        self.families = tuple(families)
        self.variation = variation or Variation()
        self.image_size = image_size
        self.held_out_phrasing = held_out_phrasing
        self.single_observation_space = observation_space(image_size)
        self.single_action_space = action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._max_episode_steps = MAX_STEPS_TWO_STAGE if "two_stage" in self.families else MAX_STEPS
        self._scenarios: list[Scenario] = []
        self._next_seed = 0
        self._group: TableGroup | WorkerGroup
        if workers:
            self._group = WorkerGroup(num_envs, image_size, min(workers, num_envs))
        else:
            self._group = TableGroup(TableBuffers.allocate(num_envs, image_size), range(num_envs))

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """The scenarios being played, one per table."""
        return tuple(self._scenarios)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start `options["scenarios"]` (one per table), else those of the seeds, else of the next seeds.

        Other options are ignored, LeRobot's new-rollout mark among them.
        """
        scenarios = (options or {}).get("scenarios")
        if scenarios is None:
            scenarios = [self.scenario_of(one) for one in self._seeds(seed)]
        if len(scenarios) != self.num_envs:
            raise ValueError(f"so101 twin: {len(scenarios)} scenarios were given for {self.num_envs} tables")
        self._scenarios = list(scenarios)
        self._group.start(self._scenarios)
        return self._observation(), self._info()

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int]:
        if seed is None or isinstance(seed, int):
            first = self._next_seed if seed is None else seed
            seeds = list(range(first, first + self.num_envs))
        else:
            seeds = [self._next_seed + i if one is None else int(one) for i, one in enumerate(seed)]
        self._next_seed = max(seeds, default=0) + 1
        return seeds

    def scenario_of(self, seed: int) -> Scenario:
        """The scenario a table plays after `reset` with this seed."""
        family = self.families[seed % len(self.families)]
        return make_scenario(seed, family, self.variation, held_out_phrasing=self.held_out_phrasing)

    def step(
        self, actions: np.ndarray, *, render: bool = True
    ) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One tick of every unfinished table; `actions` (N, 6) absolute targets.

        With `render=False` the pictures stay those of an earlier tick.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs, c.NUM_JOINTS):
            raise ValueError(
                f"so101 twin: actions have shape {actions.shape}; expected {(self.num_envs, c.NUM_JOINTS)}"
            )
        if not self._scenarios:
            raise RuntimeError("so101 twin: step before reset; call reset first")
        buffers = self._group.buffers
        was_done = buffers.done.copy()
        buffers.action[:] = actions
        self._group.step(render)
        success = buffers.monitored[:, 0].copy()
        reward = (success & ~was_done).astype(np.float64)
        return self._observation(), reward, success, buffers.done & ~success, self._info()

    def expert_actions(self) -> np.ndarray:
        """The expert's actions (N, 6) float32; zeros for finished tables."""
        self._group.expert()
        return self._group.buffers.action.astype(np.float32)

    def get_state(self, index: int) -> EpisodeState:
        """A snapshot of table `index`."""
        return self._group.get_state(index)

    def set_state(self, index: int, state: EpisodeState) -> None:
        """Bring table `index` to a snapshot; the next observation shows it."""
        self._scenarios[index] = state.scenario
        self._group.set_state(index, state)

    def observation(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Observation and info as they are now, after `set_state` for instance."""
        return self._observation(), self._info()

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """One value per table, as gymnasium's vector environments give it."""
        per_table = {
            "task_description": lambda: tuple(s.instruction for s in self._scenarios),
            "task": lambda: tuple(s.name for s in self._scenarios),
            "family": lambda: tuple(s.family for s in self._scenarios),
            "_max_episode_steps": lambda: (self._max_episode_steps,) * self.num_envs,
            "render": self.render,
        }
        if name not in per_table:
            raise AttributeError(
                f"so101 twin: no per-table attribute {name!r}; there are {sorted(per_table)}"
            )
        return per_table[name]()

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Same as `call` without arguments."""
        return self.call(name)

    def render(self) -> tuple[np.ndarray, ...]:
        """Per table, the last pictures side by side (S, 2S, 3) uint8."""
        pixels = self._group.buffers.pixels
        return tuple(np.concatenate([table[i] for i in range(len(CAMERAS))], axis=1) for table in pixels)

    def close_extras(self, **kwargs: Any) -> None:
        """Stop worker processes."""
        self._group.close()

    def _observation(self) -> dict[str, Any]:
        buffers = self._group.buffers
        pixels = {camera: buffers.pixels[:, i].copy() for i, camera in enumerate(CAMERAS)}
        return {"pixels": pixels, "agent_pos": buffers.agent_pos.copy()}

    def _info(self) -> dict[str, Any]:
        buffers = self._group.buffers
        width = 1 + max((len(s.monitor) for s in self._scenarios), default=0)
        return {
            "is_success": buffers.monitored[:, 0].copy(),
            "monitored": buffers.monitored[:, :width].copy(),
            "objects": buffers.objects.copy(),
            "present": buffers.present.copy(),
            "sent": buffers.sent.copy(),
            "events": buffers.events.copy(),
            "steps": buffers.steps.copy(),
        }
