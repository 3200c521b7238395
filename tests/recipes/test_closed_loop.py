"""What an environment shows beyond pictures and joints reaches the policy that was trained with it."""

import dataclasses
import inspect
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.envs.utils import freeze_after_episode_end

from embodiments.metaworld.tasks import TRAIN_SEED_BASE, check_evaluation_seed
from embodiments.so101.configuration_env import SO101TwinEnvConfig
from embodiments.so101.twin.shards import DEMONSTRATION_SEEDS
from embodiments.so101.twin.vector_env import SO101TwinVectorEnv
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation import closed_loop
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.planner_settings import PlannerSettings
from recipes.commands import main
from recipes.commands.application import build_parser
from recipes.twin.study import CALIBRATION_SEED

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


def test_what_is_played_by_default_was_not_demonstrated():
    parser = build_parser()
    seeds = [
        parser.parse_args([*command, "--policy", "p", "--env", "hybrid_metaworld"]).seed
        for command in (["eval"], ["calibrate", "--imagine-rate", "0.2"])
    ]
    seeds += [inspect.signature(closed_loop.evaluate_policy).parameters["seed"].default, CALIBRATION_SEED]
    for seed in seeds[:3]:
        assert check_evaluation_seed(seed) + 10_000 < TRAIN_SEED_BASE
    assert max(seeds) < DEMONSTRATION_SEEDS


def test_a_threshold_that_cannot_be_stored_is_not_measured(monkeypatch, capsys):
    monkeypatch.setattr("hybridpolicy.evaluation.calibration.calibrate_imagination", None)
    asked = ["calibrate", "--policy", "owner/name", "--env", "so101_twin", "--imagine-rate", "0.2"]
    assert main(asked) == 2
    assert "--policy owner/name: the threshold of a policy on the Hub" in capsys.readouterr().err


def test_a_field_of_the_environment_is_set_from_the_command_line(make_policy_folder, capsys):
    played = ["--env", "so101_twin", "--tasks", "touch", "--episodes", "1"]
    asked = ["eval", "--policy", make_policy_folder(), *played]
    assert main([*asked, "--env-set", "images=64"]) == 2
    assert "--env-set images=64: no field 'images'; did you mean 'image_size'?" in capsys.readouterr().err
    assert main([*asked, "--env-set", "image_size=large"]) == 2
    assert "--env-set image_size=large: not a value of type int" in capsys.readouterr().err
    assert main([*asked, "--env-set", "image_size=32", "--env-set", "light_strength=0"]) == 0
    assert "1 episodes" in capsys.readouterr().out


def test_an_environment_says_what_it_lacks_before_its_rate_is_looked_at(make_policy_folder):
    with pytest.raises(ConfigurationError, match=r"env dream: world = ''.*give the policy that imagines"):
        closed_loop.evaluate_policy(make_policy_folder(), "dream", episodes=1)


class TwoSteps(gymnasium.Env):
    """An arm that succeeds in its second step, or never; it says nothing of its task."""

    observation_space = gymnasium.spaces.Dict(
        {
            "pixels": gymnasium.spaces.Dict(
                {name: gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8) for name in ("front", "wrist")}
            ),
            "agent_pos": gymnasium.spaces.Box(-200, 200, (6,), np.float32),
        }
    )
    action_space = gymnasium.spaces.Box(-200, 200, (6,), np.float32)
    _max_episode_steps = 4

    def _now(self):
        return {name: space.sample() for name, space in self.observation_space.items()}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.able, self.steps = bool((seed or 0) % 2), 0
        return self._now(), {"is_success": False}

    def step(self, action):
        self.steps += 1
        won = self.able and self.steps == 2
        return self._now(), float(won), won, self.steps == 4, {"is_success": won}


@EnvConfig.register_subclass("two_steps")
@dataclasses.dataclass
class TwoStepsConfig(EnvConfig):
    fps: int = 10
    task: str | None = None
    features: dict = dataclasses.field(default_factory=dict)
    features_map: dict = dataclasses.field(default_factory=dict)

    @property
    def gym_kwargs(self):
        return {}

    def create_envs(self, n_envs, use_async_envs=False):
        mode = gymnasium.vector.AutoresetMode.SAME_STEP  # as LeRobot makes its own
        made = gymnasium.vector.SyncVectorEnv([TwoSteps] * n_envs, autoreset_mode=mode)
        return {"two_steps": {0: made}}


@pytest.mark.parametrize(("episodes", "played"), [(4, [2, 1, 1]), (2, [1, 1])])
def test_episodes_are_shared_out_and_not_one_more_is_played(make_policy_folder, episodes, played):
    told = []
    result = closed_loop.evaluate_policy(
        make_policy_folder(), "so101_twin", episodes=episodes, image_size=32, workers=0,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    families: dict = {}
    for name, row in result["success"]["by_task"].items():
        family = name.split("_")[0]
        families[family] = families.get(family, 0) + row["episodes"]
    assert list(families.values()) == played
    assert result["success"]["episodes"] == episodes
    assert told[-1] == (episodes, episodes)


def test_an_environment_that_begins_again_in_the_same_step_is_counted_right(make_policy_folder):
    """And one that says nothing of its task is played all the same."""
    result = closed_loop.evaluate_policy(make_policy_folder(), "two_steps", episodes=6, seed=0)
    assert result["success"]["rate"] == pytest.approx(0.5)
    assert list(result["success"]["by_task"]) == ["task"]


def test_a_second_batch_plays_scenes_of_its_own(make_policy_folder, monkeypatch):
    """LeRobot's tables that ended stay as they are until they are told that a new rollout begins."""
    made = []
    monkeypatch.setattr(closed_loop, "MOST_TABLES", 2)
    monkeypatch.setattr(TwoSteps, "__init__", lambda self: made.append(self))
    monkeypatch.setattr(TwoSteps, "reset", _counted(TwoSteps.reset))
    result = closed_loop.evaluate_policy(make_policy_folder(), "two_frozen_steps", episodes=4, seed=1)
    assert [seed for table in made for seed in getattr(table, "seeds", [])] == [1, 3, 2, 4]
    assert result["success"]["rate"] == pytest.approx(0.5)


def test_what_is_said_of_plans_is_of_the_episodes_that_were_asked_for(make_policy_folder, monkeypatch):
    """Three episodes on two tables: on the second batch's other table nobody plays."""
    monkeypatch.setattr(closed_loop, "MOST_TABLES", 2)

    class LaterImagining(Actor):
        rolled = 0

        def reset(self):
            super().reset()
            self.rolled += 1

        def imagined(self, count):
            return np.full(count, self.rolled > 1)

        @property
        def doubt(self):
            return np.array([self.rolled, -1.0])

    actor, doubts = LaterImagining.load(make_policy_folder()), []
    result = closed_loop.evaluate_policy(actor, "two_steps", episodes=3, seed=1, watch=doubts.extend)
    assert result["success"]["episodes"] == 3
    plans = [1, 2, 1]  # of two steps each: those of seeds 1 and 3 succeed with the first
    assert result["imagined_share"] == pytest.approx(plans[2] / sum(plans))
    assert doubts == [1.0, -1.0, -1.0, 2.0]


def test_plans_without_a_passing_candidate_are_counted_while_an_episode_runs(make_policy_folder, monkeypatch):
    monkeypatch.setattr(closed_loop, "MOST_TABLES", 2)
    folder = make_policy_folder(action_law="flow", action_steps=2, outcome_weight=1.0)
    actor = Actor.load(folder)
    nothing = SimpleNamespace(check=lambda chunk, _: SimpleNamespace(violations=["no"] * len(chunk)))
    actor.set_planner(PlannerSettings(2), nothing)
    closed_loop.evaluate_policy(actor, "two_steps", episodes=3, seed=1)
    assert actor.planning == {"plans": 4, "held": 4, "mean_candidates": 2.0}


def _counted(reset):
    def listening(self, *, seed=None, options=None):
        self.seeds = [*getattr(self, "seeds", []), seed]
        return reset(self, seed=seed, options=options)

    return listening


@EnvConfig.register_subclass("two_frozen_steps")
@dataclasses.dataclass
class FrozenConfig(TwoStepsConfig):
    def create_envs(self, n_envs, use_async_envs=False):
        mode = gymnasium.vector.AutoresetMode.NEXT_STEP
        made = [freeze_after_episode_end(TwoSteps)] * n_envs
        return {"two_steps": {0: gymnasium.vector.SyncVectorEnv(made, autoreset_mode=mode)}}
