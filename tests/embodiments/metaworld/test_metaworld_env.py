"""One environment: pictures, laziness, determinism, experts, messages."""

import numpy as np
import pytest

from embodiments.metaworld.env import EnvSettings, MetaworldEnv
from embodiments.metaworld.rendering import FrameRenderer, RenderSettings
from embodiments.metaworld.simulation import MetaworldSimulation
from embodiments.metaworld.tasks import MT8

STILL = np.zeros(4, np.float32)
FULL, WORKSPACE = RenderSettings(), RenderSettings(view="workspace")


@pytest.fixture(scope="module")
def reach() -> MetaworldEnv:
    return MetaworldEnv("reach-v3")


def count(frame: np.ndarray, low: tuple[int, int, int], high: tuple[int, int, int]) -> int:
    """Pixels between two colours."""
    return int(((frame >= low) & (frame <= high)).all(axis=-1).sum())


def red_arm(frame: np.ndarray) -> int:
    return count(frame, (70, 0, 0), (255, 60, 60))


def wooden_table(frame: np.ndarray) -> int:
    return count(frame, (70, 50, 40), (160, 120, 110))


@pytest.mark.parametrize("task", MT8)
def test_every_task_shows_arm_and_table(task: str) -> None:
    env = MetaworldEnv(task)
    observation, info = env.reset(seed=0)
    frame = observation["pixels"]["corner2"]
    assert frame.shape == (96, 96, 3)
    assert frame.dtype == np.uint8
    assert red_arm(frame) > 400
    assert wooden_table(frame) > 1000
    assert frame[:10].mean() < frame[-30:].mean()  # background above, table below: not upside down
    assert red_arm(frame[:, :48]) > red_arm(frame[:, 48:])  # the arm stands on the left: not mirrored
    assert observation["agent_pos"].shape == (4,)
    assert info == {"is_success": False, "task": task}


def test_workspace_is_the_same_picture_cut_out_and_larger() -> None:
    simulation = MetaworldSimulation("push-v3")
    simulation.reset(1)
    big = FrameRenderer(RenderSettings(image_size=600)).frame(simulation).astype(float)
    cut = big[120:456, 174:510]  # VIEWS["workspace"] of 600 pixels: left 0.29, top 0.20, side 0.56
    seen = FrameRenderer(RenderSettings(image_size=84, view="workspace")).frame(simulation).astype(float)
    assert np.abs(cut.reshape(84, 4, 84, 4, 3).mean(axis=(1, 3)) - seen).mean() < 4.0


def test_the_goal_is_drawn_where_it_is_from_the_first_frame() -> None:
    env = MetaworldEnv("push-v3", EnvSettings(WORKSPACE))
    for seed in range(3):  # stock Meta-World draws the goal of the layout before until the first step
        first = env.reset(seed=seed)[0]["pixels"]["corner2"]
        second = env.step(STILL)[0]["pixels"]["corner2"]
        goal_first, goal_second = (
            np.argwhere(frame[..., 1] > frame[..., 0] + 60.0) for frame in (first, second)
        )
        green_first = goal_first[first[tuple(goal_first.T)][:, 2] < 80]
        green_second = goal_second[second[tuple(goal_second.T)][:, 2] < 80]
        assert len(green_first) >= 4
        assert np.abs(green_first.mean(axis=0) - green_second.mean(axis=0)).max() < 1.0


def test_canvases_of_different_scenes_do_not_mix() -> None:
    door, drawer = MetaworldEnv("door-open-v3"), MetaworldEnv("drawer-open-v3")
    alone = [env.reset(seed=3)[0]["pixels"]["corner2"] for env in (door, drawer)]
    assert not np.array_equal(*alone)
    for env, expected in ((door, alone[0]), (drawer, alone[1]), (door, alone[0])):
        assert np.array_equal(env.frame(), expected)


def test_stock_quality_has_shadows_and_fast_is_close_to_it() -> None:
    simulation = MetaworldSimulation("door-open-v3")
    simulation.reset(0)
    stock = FrameRenderer(RenderSettings(quality="stock")).frame(simulation).astype(float)
    fast = FrameRenderer(FULL).frame(simulation).astype(float)
    table = np.abs(stock - fast)[40:]  # below the background, which fast leaves black
    assert 0.5 < table.mean() < 15.0


def test_render_false_draws_nothing(reach: MetaworldEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    original = FrameRenderer.frame
    monkeypatch.setattr(FrameRenderer, "frame", lambda self, sim: drawn.append(1) or original(self, sim))
    observation, _ = reach.reset(seed=0, render=False)
    assert set(observation) == {"agent_pos"}
    for _ in range(3):
        assert "pixels" not in reach.step(STILL, render=False)[0]
    assert drawn == []
    assert "pixels" in reach.step(STILL)[0]
    assert drawn == [1]


def test_a_layout_is_a_function_of_its_seed() -> None:
    env, other = MetaworldEnv("push-v3"), MetaworldEnv("push-v3")
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 4)).astype(np.float32)

    def run(env: MetaworldEnv, seed: int) -> tuple[np.ndarray, np.ndarray]:
        env.reset(seed=seed)
        for action in actions:
            env.step(action, render=False)
        return env.simulation.raw_obs.copy(), env.frame()

    state, frame = run(env, 7)
    run(other, 8)  # a history that must not matter
    again, frame_again = run(other, 7)
    assert np.array_equal(state, again)
    assert np.array_equal(frame, frame_again)
    assert not np.array_equal(state, run(env, 8)[0])


def test_action_repeat_is_that_many_control_steps() -> None:
    slow, fast = MetaworldEnv("window-open-v3", EnvSettings(action_repeat=1)), MetaworldEnv("window-open-v3")
    assert slow.metadata["render_fps"] == 80
    assert fast.metadata["render_fps"] == 16
    action = np.array([0.3, 0.5, -0.2, 1.0], np.float32)
    slow.reset(seed=1), fast.reset(seed=1)
    for _ in range(3):
        fast.step(action, render=False)
        for _ in range(5):
            slow.step(action, render=False)
    assert np.array_equal(slow.simulation.raw_obs, fast.simulation.raw_obs)


@pytest.mark.parametrize("task", MT8)
def test_the_expert_succeeds_at_the_policy_rate(task: str) -> None:
    env = MetaworldEnv(task)
    lengths = []
    for seed in range(3):
        env.reset(seed=seed, render=False)
        for step in range(1, 41):
            _, _, terminated, truncated, info = env.step(env.expert_action(), render=False)
            assert terminated == info["is_success"]
            assert not truncated
            if terminated:
                lengths.append(step)
                break
    assert len(lengths) == 3
    assert min(lengths) >= 3


def test_an_episode_is_truncated_at_its_length_and_never_in_meta_worlds_error() -> None:
    env = MetaworldEnv("reach-v3", EnvSettings(episode_length=2))
    env.reset(seed=0)
    assert [env.step(STILL, render=False)[3] for _ in range(2)] == [False, True]
    full = MetaworldEnv("reach-v3", EnvSettings(action_repeat=80))
    full.reset(seed=0)
    flags = [full.step(STILL, render=False)[3] for _ in range(8)]
    assert flags == [False] * 5 + [True] * 3
    assert full.simulation.control_steps == 500


def test_bad_actions_are_refused_by_name(reach: MetaworldEnv) -> None:
    reach.reset(seed=0, render=False)
    with pytest.raises(ValueError, match=r"reach-v3: action has shape \(3,\); expected \(4,\)"):
        reach.step(np.zeros(3))
    with pytest.raises(ValueError, match=r"reach-v3: action \[ 0. nan  0.  0.\] is not finite"):
        reach.step(np.array([0.0, np.nan, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RenderSettings(image_size=8), r"image_size=8 pixels; allowed 16\.\.1024"),
        (lambda: RenderSettings(quality="best"), "quality='best'; allowed fast, stock"),
        (lambda: RenderSettings(view="top"), "view='top'; allowed full, workspace"),
        (lambda: EnvSettings(action_repeat=7), r"action_repeat=7 does not divide.*allowed \[1, 2, 4, 5, 8"),
        (lambda: EnvSettings(episode_length=101), r"episode_length=101 policy steps; allowed 0\.\.100"),
    ],
)
def test_settings_say_what_is_allowed(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
