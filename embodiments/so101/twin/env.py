"""The SO-101 twin as one gymnasium environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np

from embodiments.so101.constants import TWIN_RATE_HZ
from embodiments.so101.twin.episode import Episode, EpisodeState
from embodiments.so101.twin.scenario import MAX_STEPS, MAX_STEPS_TWO_STAGE, Scenario, make_scenario
from embodiments.so101.twin.spaces import action_space, observation_space
from embodiments.so101.twin.variation import Variation

SINGLE_STAGE = ("touch", "push", "bin")


class SO101TwinEnv(gymnasium.Env):
    """A table, an arm, two cameras; actions are absolute joint targets as a real follower takes them.

    Without explicit scenarios, an episode's scene and task follow from its seed, over `families` in turn.
    After success or the step limit the episode stands still: `step` returns its last transition again.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": TWIN_RATE_HZ}
    render_mode = "rgb_array"

    def __init__(
        self,
        families: Sequence[str] = SINGLE_STAGE,
        variation: Variation | None = None,
        image_size: int = 96,
        *,
        held_out_phrasing: bool = False,
    ) -> None:
        self.families = tuple(families)
        self.variation = variation or Variation()
        self.held_out_phrasing = held_out_phrasing
        self._episode = Episode(image_size)
        self.observation_space = observation_space(image_size)
        self.action_space = action_space()
        self._max_episode_steps = MAX_STEPS_TWO_STAGE if "two_stage" in self.families else MAX_STEPS
        self._next_seed = 0
        self._last: tuple[dict[str, Any], float, bool, bool, dict[str, Any]] | None = None

    @property
    def task_description(self) -> str:
        """The instruction text."""
        return self._episode.scenario.instruction

    @property
    def task(self) -> str:
        """Short name of the task."""
        return self._episode.scenario.task.name

    @property
    def scenario(self) -> Scenario:
        """The scenario being played."""
        return self._episode.scenario

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start the scenario in `options["scenarios"][0]`, else the one of `seed`, else of the next seed."""
        scenarios = (options or {}).get("scenarios")
        if scenarios is not None and len(scenarios) != 1:
            raise ValueError(f"so101 twin: one environment takes one scenario, {len(scenarios)} were given")
        seed = self._next_seed if seed is None else seed
        self._next_seed = seed + 1
        scenario = scenarios[0] if scenarios else self.scenario_of(seed)
        self._episode.start(scenario)
        self._last = None
        return self._observe(), self._info()

    def scenario_of(self, seed: int) -> Scenario:
        """The scenario that `reset(seed=seed)` plays."""
        family = self.families[seed % len(self.families)]
        return make_scenario(seed, family, self.variation, held_out_phrasing=self.held_out_phrasing)

    def step(
        self, action: np.ndarray, *, render: bool = True
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """One tick of 0.1 s. With `render=False` the pictures are black; reward is 1 on success."""
        if self._last is not None:
            return self._last
        self._episode.advance(action)
        success = self._episode.success
        result = (
            self._observe(render=render),
            float(success),
            success,
            self._episode.truncated and not success,
            self._info(),
        )
        if self._episode.done:
            self._last = (result[0], 0.0, *result[2:])
        return result

    def render(self) -> np.ndarray:
        """Front and wrist view side by side, (S, 2S, 3) uint8."""
        return np.concatenate(list(self._episode.pictures().values()), axis=1)

    def expert_action(self) -> np.ndarray:
        """The expert's action (6,) float32 for the current state and task."""
        return self._episode.expert_action()

    def get_state(self) -> EpisodeState:
        """A snapshot for `set_state`."""
        return self._episode.get_state()

    def set_state(self, state: EpisodeState) -> dict[str, Any]:
        """Return to a snapshot of this or another environment; gives the observation there."""
        self._episode.set_state(state)
        self._last = None
        return self._observe()

    def _observe(self, *, render: bool = True) -> dict[str, Any]:
        if render:
            pixels = self._episode.pictures()
        else:
            pixels = {
                name: np.zeros(space.shape, np.uint8)
                for name, space in self.observation_space["pixels"].items()
            }
        return {"pixels": pixels, "agent_pos": self._episode.agent_pos()}

    def _info(self) -> dict[str, Any]:
        objects, present = self._episode.objects()
        return {
            "is_success": self._episode.success,
            "monitored": self._episode.monitored,
            "objects": objects,
            "present": present,
            "sent": self._episode.sent.astype(np.float32),
            "events": self._episode.events,
        }
