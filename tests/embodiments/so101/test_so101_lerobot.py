"""LeRobot's own factory, preprocessing and rollout on the twin."""

import numpy as np
import pytest

pytest.importorskip("lerobot")
import torch
from lerobot.envs.factory import make_env, make_env_config
from lerobot.envs.utils import close_envs, env_to_policy_features, preprocess_observation

import embodiments.so101.configuration_env  # noqa: F401 - registers
from embodiments.so101.configuration_env import ALL_TASKS


def test_the_factory_makes_one_task_per_family():
    envs = make_env(make_env_config("so101_twin"), n_envs=2)
    assert list(envs) == ["so101_twin"]
    assert sorted(envs["so101_twin"]) == list(range(len(ALL_TASKS)))
    assert ALL_TASKS == ("touch", "push", "bin")  # what a demonstration can be made of
    close_envs(envs)


def test_a_task_named_twice_is_one_and_an_absent_block_is_said_to_be_absent():
    assert make_env_config("so101_twin", task="touch, push,touch").families == ("touch", "push")
    env = make_env(make_env_config("so101_twin", task="absent", image_size=32), n_envs=2)["so101_twin"][0]
    env.reset(seed=[1, 2])
    assert all(name.startswith("absent_") for name in env.call("task"))
    env.close()


def test_features_and_observations_have_lerobots_names():
    config = make_env_config("so101_twin", task="push", image_size=64)
    features = env_to_policy_features(config)
    env = make_env(config, n_envs=2)["so101_twin"][0]
    observation = preprocess_observation(env.reset(seed=[1, 2])[0])
    env.close()
    inputs = {key: feature for key, feature in features.items() if key != "action"}
    assert set(observation) == set(inputs)
    assert len(inputs) == 3
    for key, feature in inputs.items():
        assert tuple(observation[key].shape) == (2, *feature.shape), key
    assert 0.2 < float(observation["observation.images.front"].mean()) < 0.8


class ExpertPolicy(torch.nn.Module):
    """Stands in for a policy: takes what rollout gives, answers with the expert."""

    def __init__(self, env):
        super().__init__()
        self.env = env
        self.seen = None

    def reset(self):
        pass

    def select_action(self, batch):
        self.seen = batch
        return torch.from_numpy(self.env.expert_actions())


def test_stock_rollout_runs_and_reads_success():
    from lerobot.scripts.lerobot_eval import rollout

    env = make_env(make_env_config("so101_twin", task="push"), n_envs=3)["so101_twin"][0]
    policy = ExpertPolicy(env)
    frames = []

    def same(value):
        return value

    result = rollout(
        env,
        policy,
        same,
        same,
        same,
        same,
        seeds=[5, 6, 7],
        render_callback=lambda one: frames.append(np.stack(one.call("render"))),
    )
    assert result["success"].any(dim=1).all()
    assert float(result["reward"].sum()) == 3.0
    assert len(policy.seen["task"]) == 3
    assert all("zone" in text or "area" in text for text in policy.seen["task"])
    assert frames[0].shape == (3, 96, 192, 3)
    assert env.unwrapped.metadata["render_fps"] == 10
    env.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "push,lift"}, r"unknown \['lift'\]"),
        ({"fps": 30}, "fps is 30; the twin runs at 10 Hz"),
        ({"max_blocks": 5}, r"num_blocks is \(2, 5\)"),
    ],
)
def test_a_wrong_config_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make_env_config("so101_twin", **changes)
