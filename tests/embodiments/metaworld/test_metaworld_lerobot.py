"""Stock LeRobot finds the environment, and its own Meta-World moves exactly as ours."""

from dataclasses import dataclass

import numpy as np
import pytest

from embodiments.metaworld.configuration_env import HybridMetaworldEnv
from embodiments.metaworld.rendering import FrameRenderer, RenderSettings
from embodiments.metaworld.simulation import CORNER2_POSITION_M, MetaworldSimulation, reset_mocap_welds
from embodiments.metaworld.tasks import MT8, task_description

envs = pytest.importorskip("lerobot.envs")


def test_make_env_and_a_rollout_of_two_steps() -> None:
    from lerobot.envs.configs import EnvConfig
    from lerobot.envs.utils import (
        NEW_ROLLOUT_OPTION,
        close_envs,
        env_to_policy_features,
        preprocess_observation,
    )

    config = EnvConfig.get_choice_class("hybrid_metaworld")(task="reach-v3,push-v3", image_size=64)
    suites = envs.make_env(config, n_envs=2)
    assert {suite: list(vectors) for suite, vectors in suites.items()} == {"reach-v3": [0], "push-v3": [0]}
    vector = suites["push-v3"][0]
    observation, _ = vector.reset(seed=[1000, 1001], options={NEW_ROLLOUT_OPTION: True})
    batch = preprocess_observation(observation)
    assert batch["observation.images.corner2"].shape == (2, 3, 64, 64)
    assert batch["observation.state"].shape == (2, 4)
    assert env_to_policy_features(config)["observation.images.corner2"].shape == (3, 64, 64)
    assert list(vector.call("task_description")) == [task_description("push-v3")] * 2
    assert vector.call("_max_episode_steps") == (100, 100)
    assert vector.unwrapped.metadata["render_fps"] == 16
    _, _, terminated, _, info = vector.step(np.zeros((2, 4), np.float32))
    assert not terminated.any()
    assert info["is_success"].tolist() == [False, False]
    assert vector.envs[0].render().shape == (240, 240, 3)
    close_envs(suites)


def test_the_group_mt8_is_one_suite() -> None:
    suites = HybridMetaworldEnv(task="mt8").create_envs(n_envs=1)
    assert list(suites) == ["mt8"]
    assert list(suites["mt8"]) == list(range(8))
    assert [suites["mt8"][i].call("task")[0] for i in range(8)] == list(MT8)


def test_the_command_line_form_round_trips() -> None:
    import draccus
    from lerobot.envs.configs import EnvConfig

    @dataclass
    class Pipeline:
        env: EnvConfig

    arguments = [
        "--env.type=hybrid_metaworld",
        "--env.task=easy",
        "--env.action_repeat=8",
        "--env.view=workspace",
    ]
    config = draccus.parse(Pipeline, args=arguments).env
    assert isinstance(config, HybridMetaworldEnv)
    assert config.fps == 10
    assert config.view == "workspace"
    again = draccus.decode(EnvConfig, draccus.encode(config, EnvConfig))
    assert again == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "metaworld-push-v2"}, "unknown task 'metaworld-push-v2'.*push-v3"),
        ({"action_repeat": 3}, "action_repeat=3 must divide the 80 Hz"),
        ({"fps": 30}, "fps=30 does not fit action_repeat=5, which gives 16"),
    ],
)
def test_a_wrong_configuration_is_refused_at_once(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HybridMetaworldEnv(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["push-v3", "door-open-v3", "window-open-v3"])
def test_physics_equals_lerobots(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lerobot.envs.metaworld import TASK_DESCRIPTIONS, MetaworldEnv
    from metaworld.sawyer_xyz_env import SawyerMocapBase

    # Their class does not start under MuJoCo 4 without the repair. Drawing is left out: 0.1 s a frame.
    monkeypatch.setattr(SawyerMocapBase, "reset_mocap_welds", reset_mocap_welds)
    monkeypatch.setattr(MetaworldEnv, "_format_raw_obs", lambda self, raw: {"raw": np.array(raw)})
    theirs, ours = MetaworldEnv(task, obs_type="pixels_agent_pos"), MetaworldSimulation(task)
    assert TASK_DESCRIPTIONS[task] == ours.task_description
    compared = 0
    for seed in (0, 5):
        observation, _ = theirs.reset(seed=seed)
        ours.reset(seed)
        np.testing.assert_array_equal(observation["raw"], ours.raw_obs)
        for _ in range(150):
            action = ours.expert_action()
            observation, reward, terminated, _, info = theirs.step(action)
            our_reward, success = ours.step(action, repeat=1)
            np.testing.assert_array_equal(observation["raw"], ours.raw_obs)
            assert reward == our_reward
            assert terminated == success == info["is_success"]
            compared += 1
            if success:
                break
        assert success
    assert compared > 80
    assert np.array_equal(theirs._env.model.cam_pos[ours.camera_id], CORNER2_POSITION_M)


def test_stock_quality_is_lerobots_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    from lerobot.envs.metaworld import MetaworldEnv
    from metaworld.sawyer_xyz_env import SawyerMocapBase

    monkeypatch.setattr(SawyerMocapBase, "reset_mocap_welds", reset_mocap_welds)
    theirs, ours = (
        MetaworldEnv("door-open-v3", obs_type="pixels_agent_pos"),
        MetaworldSimulation("door-open-v3"),
    )
    theirs.reset(seed=2)
    ours.reset(2)
    action = np.array([0.5, 0.5, 0.0, 1.0], np.float32)
    ours.step(action, repeat=1)
    observation = theirs.step(action)[0]
    theirs.close()
    picture = FrameRenderer(RenderSettings(image_size=480, quality="stock")).frame(ours)
    difference = np.abs(observation["pixels"].astype(int) - picture)
    assert difference.mean() < 0.5
    assert (difference.max(axis=-1) > 8).mean() < 0.01
    np.testing.assert_allclose(observation["agent_pos"], ours.agent_pos, atol=1e-6)
