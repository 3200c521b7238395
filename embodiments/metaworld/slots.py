"""The environments of one process: the same object runs here or behind a worker's pipe."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embodiments.metaworld.env import CAMERA, EnvSettings, MetaworldEnv


class Transition(NamedTuple):
    """What one slot answers; `frame` is None if nothing was drawn."""

    frame: NDArray[np.uint8] | None
    agent_pos: NDArray[np.float32]
    reward: float
    success: bool
    truncated: bool


class SlotGroup:
    """Environments stepped one after the other in this process."""

    def __init__(self, tasks: Sequence[str], settings: EnvSettings) -> None:
        self._envs = [MetaworldEnv(task, settings) for task in tasks]

    def reset(self, seeds: Sequence[int | None], render: bool) -> list[Transition]:
        answers = []
        for env, seed in zip(self._envs, seeds, strict=True):
            observation, _ = env.reset(seed=seed, render=render)
            answers.append(_transition(observation, 0.0, False, False))
        return answers

    def step(
        self, actions: NDArray[np.float32], active: NDArray[np.bool_], render: bool
    ) -> list[Transition | None]:
        """One transition per slot; None, and no work at all, where `active` is False."""
        answers: list[Transition | None] = []
        for env, action, is_active in zip(self._envs, actions, active, strict=True):
            if not is_active:
                answers.append(None)
                continue
            observation, reward, success, truncated, _ = env.step(action, render=render)
            answers.append(_transition(observation, reward, success, truncated))
        return answers

    def expert_actions(self) -> list[NDArray[np.float32]]:
        return [env.expert_action() for env in self._envs]

    def render(self) -> list[NDArray[np.uint8]]:
        return [env.render() for env in self._envs]

    def close(self) -> None:
        for env in self._envs:
            env.close()


def _transition(observation: dict[str, Any], reward: float, success: bool, truncated: bool) -> Transition:
    frame = observation["pixels"][CAMERA] if "pixels" in observation else None
    return Transition(frame, observation["agent_pos"], reward, success, truncated)
