"""Many slots are the same as one environment each, here and in worker processes."""

import numpy as np
import pytest

from embodiments.metaworld.env import EnvSettings, MetaworldEnv
from embodiments.metaworld.rendering import RenderSettings
from embodiments.metaworld.vector import MetaworldVector

TASKS = ("reach-v3", "door-open-v3", "reach-v3")
SETTINGS = EnvSettings(RenderSettings(48, "fast", "workspace"))
STEPS = 12


@pytest.fixture(scope="module")
def single_runs() -> list[tuple[np.ndarray, np.ndarray, list[bool]]]:
    """Last picture, last state and success flags of each slot's expert, run alone."""
    runs = []
    for slot, task in enumerate(TASKS):
        env = MetaworldEnv(task, SETTINGS)
        observation, _ = env.reset(seed=20 + slot)
        flags: list[bool] = []
        for _ in range(STEPS):
            if not (flags and flags[-1]):
                observation, _, terminated, _, _ = env.step(env.expert_action())
            flags.append(terminated)
        runs.append((observation["pixels"]["corner2"], observation["agent_pos"], flags))
    return runs


@pytest.mark.parametrize("workers", [0, 2])
def test_vector_equals_single(
    single_runs: list[tuple[np.ndarray, np.ndarray, list[bool]]], workers: int
) -> None:
    vector = MetaworldVector(TASKS, SETTINGS, workers=workers)
    try:
        observation, _ = vector.reset(seed=20)
        assert vector.observation_space.contains(observation)
        history = []
        for _ in range(STEPS):
            observation, _, terminated, _, info = vector.step(vector.expert_actions())
            assert np.array_equal(info["is_success"], terminated)
            history.append(terminated)
        for slot, (frame, agent_pos, flags) in enumerate(single_runs):
            assert [bool(row[slot]) for row in history] == flags
            assert np.array_equal(observation["agent_pos"][slot], agent_pos)
            assert np.array_equal(observation["pixels"]["corner2"][slot], frame)
        assert history[-1].tolist() == [True, False, True]  # some ended and froze, one still runs
        assert vector.call("task_description")[1] == "Open a door with a revolving joint"
        assert np.stack(vector.call("render")).shape == (3, 240, 240, 3)
    finally:
        vector.close()


def test_unrendered_steps_carry_no_pixels_and_move_the_same() -> None:
    lazy, eager = MetaworldVector(TASKS[:2], SETTINGS), MetaworldVector(TASKS[:2], SETTINGS)
    actions = np.random.default_rng(1).uniform(-1, 1, (4, 2, 4)).astype(np.float32)
    assert "pixels" not in lazy.reset(seed=3, render=False)[0]
    eager.reset(seed=3)
    for step, chunk in enumerate(actions):
        seen, *_ = lazy.step(chunk, render=step == 3)
        expected, *_ = eager.step(chunk)
        assert ("pixels" in seen) == (step == 3)
    assert np.array_equal(seen["pixels"]["corner2"], expected["pixels"]["corner2"])


def test_a_failing_worker_says_why() -> None:
    vector = MetaworldVector(TASKS[:1], SETTINGS, workers=1)
    try:
        vector.reset(seed=0, render=False)
        with pytest.raises(RuntimeError, match=r"(?s)metaworld worker .* failed:.*is not finite"):
            vector.step(np.full((1, 4), np.nan, np.float32))
        vector._groups[0]._process.kill()  # type: ignore[union-attr]
        with pytest.raises(RuntimeError, match=r"ended with exit code -9.*workers=0"):
            vector.expert_actions()
    finally:
        vector.close()


def test_sizes_are_checked() -> None:
    vector = MetaworldVector(TASKS[:2], SETTINGS)
    with pytest.raises(ValueError, match="3 seeds for 2 slots"):
        vector.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match=r"shape \(4,\); expected \(2, 4\)"):
        vector.step(np.zeros(4, np.float32))
    with pytest.raises(AttributeError, match="slots have no 'wheels'; there are render, task"):
        vector.call("wheels")
    with pytest.raises(ValueError, match=r"workers=3; allowed 0\.\.2"):
        MetaworldVector(TASKS[:2], SETTINGS, workers=3)
    with pytest.raises(ValueError, match="tasks is empty"):
        MetaworldVector((), SETTINGS)
