"""What a planner could gain on the twin, and what it does gain: candidates executed from restored states.

At decision points of ordinary episodes the table is saved, K candidates are proposed and scored, and each is
executed whole from the saved state; then the policy goes on by itself, one candidate a plan, to the end of
the episode, with the same noise after every candidate. Best-of-K by outcome bounds what one choice can gain;
a planner that chooses again at every look may gain more. Where a gate lets no candidate pass, the planner's
choice is to stand for as long as a chunk lasts.

P decision points, K candidates, N tables, T actions of a chunk, A joints.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from embodiments.so101.constants import TWIN_RATE_HZ
from embodiments.so101.twin.episode import EpisodeState
from embodiments.so101.twin.scenario import Scenario, draw_scenarios
from embodiments.so101.twin.variation import Variation
from embodiments.so101.twin.vector_env import SO101TwinVectorEnv
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Actor, Proposals
from hybridpolicy.stats import (
    FEWEST_GROUPS,
    Interval,
    bootstrap_mean,
    paired_bootstrap,
    paired_rates,
    wilson_interval,
)
from recipes.twin import suites
from recipes.twin.rollout import Observation, roll

SEED = 60_000_000  # scenes of this measurement, apart from those of evaluation


@dataclass(frozen=True)
class OracleSettings:
    """How much is measured: at least so many episodes that their intervals say something.

    every: plans from one decision point of an episode to the next.
    """

    episodes: int = 24
    every: int = 4
    seed: int = SEED
    families: tuple[str, ...] = suites.FAMILIES

    def __post_init__(self) -> None:
        for name, least in (("episodes", FEWEST_GROUPS), ("every", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(
                    f"planner bench: {name} = {getattr(self, name)}; must be {least} or more"
                )


@dataclass(frozen=True)
class Decision:
    """One decision point: what each candidate (K,) led to, its score, and the index the planner chose, -1
    where none passed its gate.

    taken: what the planner's choice led to, be it to stand. spread: standard deviation over candidates, mean
    over chunk and joints, degrees and percent.
    """

    episode: int
    outcomes: np.ndarray
    scores: np.ndarray
    chosen: int
    taken: bool
    spread: float


def measure_planner(
    actor: Actor,
    planner: Actor,
    settings: OracleSettings,
    *,
    variation: Variation | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Candidate spread, oracle best-of-K, planner's choice and one candidate, at points and in closed loop.

    Args:
        actor: without a planner. planner: the same policy with the planner to measure.
        progress: hears of episodes done, each counted three times: taken apart, played with one candidate,
            played with K.

    Raises:
        ConfigurationError: `planner` has none. QueryError: the policy has no outcome heads.
    """
    actor.check_rate(float(TWIN_RATE_HZ))
    actor.policy.eval()
    scenarios = draw_scenarios(settings.episodes, settings.seed, settings.families, variation or Variation())
    tell = progress or (lambda done, total: None)
    total = 3 * len(scenarios)
    size = actor.policy.config.image_size[0]
    decisions: list[Decision] = []
    env = SO101TwinVectorEnv(min(suites.TABLES, len(scenarios)), image_size=size, workers=workers)
    try:
        for start in range(0, len(scenarios), env.num_envs):
            taken = _Dissection(actor, planner, env, scenarios[start : start + env.num_envs], start)
            decisions += taken.decisions(settings.every)
            tell(min(start + env.num_envs, len(scenarios)), total)
    finally:
        env.close()
    won = []
    for number, player in enumerate((actor, planner), start=1):

        def told(done: int, _: int, first: int = number * len(scenarios)) -> None:
            tell(first + done, total)

        played = suites.play(player, scenarios, workers=workers, progress=told)
        won.append([one.success[0] for one in played])
    return {"settings": asdict(settings), **decision_figures(decisions), "closed_loop": _closed_loop(*won)}


def decision_figures(decisions: Sequence[Decision]) -> dict[str, Any]:
    """The report's figures at decision points.

    random: a candidate drawn at random, in expectation. divided: the points at which some candidates succeed
    and some fail, the only ones at which a choice matters. refused: points at which the planner stood, for no
    candidate passed its gate; `one`, `random` and `oracle` are of all candidates, passed or not. Intervals
    resample whole episodes; a long episode has more points, so rates are not those of whole episodes.
    """
    chosen = np.array([one.taken for one in decisions])
    random = np.array([one.outcomes.mean() for one in decisions])  # K may differ: a budget lowers it
    oracle = np.array([one.outcomes.any() for one in decisions])
    divided = oracle & (random < 1.0)
    groups = [one.episode for one in decisions]
    spread = np.array([one.spread for one in decisions])
    return {
        "points": len(decisions),
        "refused": sum(one.chosen < 0 for one in decisions),
        "spread": {"mean": float(spread.mean()), "least": float(spread.min()), "most": float(spread.max())},
        "success": {
            "one": _rate(np.array([one.outcomes[0] for one in decisions]), groups),
            "random": float(random.mean()),
            "planner": _rate(chosen, groups),
            "oracle": _rate(oracle, groups),
        },
        "gain": {
            "planner": _figure(paired_bootstrap(chosen.astype(float), random, groups=groups)),
            "oracle": _figure(paired_bootstrap(oracle.astype(float), random, groups=groups)),
        },
        "divided": {
            "points": int(divided.sum()),
            "random": float(random[divided].mean()) if divided.any() else None,
            "planner": float(chosen[divided].mean()) if divided.any() else None,
        },
    }


def _closed_loop(one: Sequence[bool], planner: Sequence[bool]) -> dict[str, Any]:
    """Whole episodes on the same scenes; `gain` is what planning at every plan really brings."""
    gain = paired_rates(planner, one)
    return {"one": suites.rate(one), "planner": suites.rate(planner), "gain": _figure(gain)}


def _rate(won: np.ndarray, episodes: Sequence[int]) -> dict[str, float]:
    if won.all() or not won.any():  # a bootstrap of equal values knows no doubt: as many trials as episodes
        count = len(set(episodes))
        interval = wilson_interval(count * int(won.all()), count)
    else:
        interval = bootstrap_mean(won.astype(float), groups=episodes)
    return {"rate": interval.value, "low": interval.low, "high": interval.high, "points": len(won)}


def _figure(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


@dataclass(frozen=True)
class _Point:
    """A moment of all tables: which (N,) were running, their saved states, their joints (N, A), and what was
    proposed.
    """

    running: np.ndarray
    states: dict[int, EpisodeState]
    joints: np.ndarray
    proposals: Proposals


class _Dissection:
    """Episodes played together by one actor, and taken apart at decision points."""

    def __init__(
        self,
        actor: Actor,
        planner: Actor,
        env: SO101TwinVectorEnv,
        scenarios: Sequence[Scenario],
        first_episode: int,
    ) -> None:
        self._actor, self._planner, self._env, self._first = actor, planner, env, first_episode
        self._count = len(scenarios)
        self._filled = [*scenarios, *[scenarios[-1]] * (env.num_envs - len(scenarios))]
        self._texts = [scenario.instruction for scenario in self._filled]
        self._horizon = actor.policy.config.n_action_steps

    def decisions(self, every: int) -> list[Decision]:
        """Plays the episodes, then executes every candidate of every point."""
        found = []
        for point in self._points(every):
            proposals, tables = point.proposals, np.arange(self._env.num_envs)
            candidates = proposals.chunks.swapaxes(0, 1)
            outcomes = np.stack([self._execute(point, chunks) for chunks in candidates], axis=1)
            taken, refused = outcomes[tables, proposals.chosen], proposals.chosen < 0
            if refused[point.running].any():
                taken = np.where(refused, self._execute(point, proposals.best(point.joints)), taken)
            spread = proposals.chunks.std(axis=1).mean(axis=(1, 2))
            found += [
                Decision(
                    self._first + table,
                    outcomes[table],
                    proposals.scores[table],
                    int(proposals.chosen[table]),
                    bool(taken[table]),
                    float(spread[table]),
                )
                for table in np.flatnonzero(point.running)
            ]
        return found

    def _points(self, every: int) -> list[_Point]:
        self._actor.reset()
        observation, _ = self._env.reset(options={"scenarios": self._filled})
        points: list[_Point] = []
        plans, running = 0, np.arange(self._env.num_envs) < self._count

        def plan(seen: Observation) -> np.ndarray:
            nonlocal plans
            if plans % every == 0 and running.any():
                states = {int(table): self._env.get_state(int(table)) for table in np.flatnonzero(running)}
                proposals = self._planner.propose(*self._looked(seen))
                points.append(_Point(running.copy(), states, seen["agent_pos"].copy(), proposals))
            plans += 1
            return self._actor.chunk(*self._looked(seen))

        for tick in roll(self._env, plan, observation, self._horizon):
            running = ~tick.done & (np.arange(self._env.num_envs) < self._count)
        return points

    def _execute(self, point: _Point, chunk: np.ndarray) -> np.ndarray:
        """(N,) success of each running table after a chunk (N, T, A) and the policy's own continuation."""
        for table, state in point.states.items():
            self._env.set_state(table, state)
        self._actor.reset()  # the same noise after every candidate
        for ahead in range(chunk.shape[1]):
            last = ahead == chunk.shape[1] - 1
            observation, _, terminated, truncated, info = self._env.step(chunk[:, ahead], render=last)
        done = terminated | truncated
        rest = roll(
            self._env,
            lambda seen: self._actor.chunk(*self._looked(seen)),
            observation,
            self._horizon,
            done=done,
        )
        for tick in rest:
            info = tick.info
        return np.asarray(info["is_success"], bool)

    def _looked(self, seen: Observation) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
        return seen["pixels"], seen["agent_pos"], self._texts
