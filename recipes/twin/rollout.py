"""The loop that everything on the twin shares: plan a chunk, step its first actions, look, plan again.

N tables, A joints, T actions of a chunk.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from embodiments.so101.twin.vector_env import SO101TwinVectorEnv

Observation = dict[str, Any]
Plan = Callable[[Observation], np.ndarray]
"""Observation of N tables → chunks (N, T, A) in physical units."""


@dataclass(frozen=True)
class Tick:
    """One step of N tables.

    before, after: observations. running, done: (N,) tables not finished before, and finished after it. looks:
    a plan follows, for which pictures of `after` were drawn. info: of the environment.
    """

    before: Observation
    after: Observation
    running: np.ndarray
    done: np.ndarray
    looks: bool
    info: dict[str, Any]


def roll(
    env: SO101TwinVectorEnv,
    plan: Plan,
    observation: Observation,
    horizon: int,
    *,
    done: np.ndarray | None = None,
    draw_all: bool = False,
) -> Iterator[Tick]:
    """Steps all tables from `observation` on until every one is finished, `horizon` actions of each plan.

    Args:
        done: (N,) tables that are finished already. draw_all: pictures of every tick, not only for plans.
    """
    done = np.zeros(env.num_envs, bool) if done is None else done
    while not done.all():
        chunk = plan(observation)
        for ahead in range(horizon):
            running, before, looks = ~done, observation, ahead == horizon - 1
            observation, _, terminated, truncated, info = env.step(chunk[:, ahead], render=looks or draw_all)
            done = terminated | truncated
            yield Tick(before, observation, running, done, looks, info)
