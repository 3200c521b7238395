"""What an environment shows beyond pictures and joints reaches the policy that was trained with it."""

import dataclasses

import numpy as np
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig

from embodiments.so101.configuration_env import SO101TwinEnvConfig
from embodiments.so101.twin.vector_env import SO101TwinVectorEnv
from hybridpolicy.evaluation import closed_loop
from hybridpolicy.evaluation.acting import Actor

FORCE = {"observation.force": PolicyFeature(FeatureType.STATE, (6,))}


class FeltEnv(SO101TwinVectorEnv):
    """The twin with one more entry: how far every joint is from its middle, and one nobody asked for."""

    def _felt(self, observation):
        return observation | {"force": observation["agent_pos"] / 100.0, "smell": np.ones((self.num_envs, 2))}

    def reset(self, **options):
        observation, info = super().reset(**options)
        return self._felt(observation), info

    def step(self, actions):
        observation, *rest = super().step(actions)
        return self._felt(observation), *rest


@EnvConfig.register_subclass("felt_twin")
@dataclasses.dataclass
class FeltTwinConfig(SO101TwinEnvConfig):
    def create_envs(self, n_envs, use_async_envs=False):
        made = super().create_envs(n_envs, use_async_envs)
        for env in made["so101_twin"].values():
            env.__class__ = FeltEnv
        return made


@pytest.mark.parametrize(
    ("columns", "seen"), [(FORCE, {"observation.force"}), ({}, set())], ids=["named", "not"]
)
def test_a_named_column_of_the_environment_is_given_and_nothing_else(make_policy_folder, columns, seen):
    folder = make_policy_folder(columns=columns, optional_context=[key.split(".")[1] for key in columns])
    given = []

    class Listening(Actor):
        def plan(self, pixels, state, texts, extra=None):
            given.append((state, extra))
            super().plan(pixels, state, texts, extra)

    actor = Listening.load(folder)
    result = closed_loop.evaluate_policy(actor, "felt_twin", tasks=("touch",), episodes=2, image_size=32)
    assert result["success"]["episodes"] == 2
    assert given
    for state, extra in given:
        assert set(extra) == seen
        for values in extra.values():
            np.testing.assert_allclose(values, state / 100.0)
    if columns:
        state, extra = given[0]
        pixels = {name: np.zeros((2, 32, 32, 3), np.uint8) for name in ("front", "wrist")}
        chunks = [actor.chunk(pixels, state, ["touch the red block"] * 2, other) for other in (extra, None)]
        assert np.abs(chunks[0] - chunks[1]).max() > 1e-4, "the policy goes by it"
        assert torch.isfinite(torch.from_numpy(chunks[0])).all()
