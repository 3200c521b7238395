"""Acting inside a world policy's imagination: what a step is, what is refused, LeRobot's rollout in it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hybridpolicy.decoder import PixelDecoder
from hybridpolicy.dream.configuration_env import DreamEnvConfig
from hybridpolicy.dream.kit import DreamKit, Probe
from hybridpolicy.dream.vector_env import DreamVectorEnv
from hybridpolicy.dream.world import DreamWorld
from hybridpolicy.errors import CheckpointError, ConfigurationError, QueryError
from hybridpolicy.frames import normalise_latents
from hybridpolicy.processor_hybrid import make_hybrid_pre_post_processors
from hybridpolicy.training.cache import FrameCache

KEYS = [f"observation.images.{name}" for name in ("front", "wrist")]
START = np.array([10.0, -50.0, 80.0, 40.0], np.float32)  # the mean posture of `stats`


class HighGripper:
    """Judges: success is a state whose last joint is above its start. Keeps what it was given."""

    def __init__(self, texts, objects, present, state):
        self.texts, self.first, self.objects = list(texts), state[:, -1].copy(), objects
        self.present = present

    def update(self, objects, state):
        assert objects.shape == self.objects.shape
        return state[:, -1] > self.first


@pytest.fixture
def recorded():
    """Three episodes of five random frames."""
    rng = np.random.default_rng(0)
    rows = np.arange(15)
    return FrameCache(
        path=Path("."), source=Path("three_episodes"), fps=10,
        tasks=["push the red block", "put the blue block"],
        frames={key: rng.integers(0, 255, (15, 3, 32, 32), dtype=np.uint8) for key in KEYS},
        columns={
            "observation.state": (START + rng.normal(0, 5, (15, 4))).astype(np.float32),
            "task_index": rows // 5 % 2, "index": rows, "privileged.present": np.ones((15, 2), np.float32),
        },
        episode_from=np.array([0, 5, 10]), episode_to=np.array([5, 10, 15]),
    )  # fmt: skip


@pytest.fixture
def saved(make_policy, stats, tmp_path):
    """(probe=True, judged=False, **fields) → folder of a small policy with its pipeline and a kit."""

    def make(probe=True, judged=False, **fields):
        policy = make_policy(**({"coupling": "joint", "fps": 10.0} | fields))
        if judged:
            policy.network.outcome.labels.fill_(1)
        policy.save_pretrained(tmp_path)
        for part in make_hybrid_pre_post_processors(policy.config, stats):
            part.save_pretrained(tmp_path)
        torch.manual_seed(1)
        width = policy.network.frames.size
        decoders = {name: PixelDecoder(2, width, (32, 32)) for name in ("front", "wrist")}
        size = 4 * width
        weights = np.random.default_rng(2).normal(0, 0.01, (size + 1, 2, 2))
        judge = Probe(weights, f"{__name__}:HighGripper", 0.9, {"hits": 1.0}) if probe else None
        DreamKit(decoders, judge).save(tmp_path)
        return tmp_path

    return make


@pytest.fixture
def dream(saved, recorded):
    """(num_envs, **fields) → the environment of a small policy."""

    def make(num_envs=2, length=6, judge="auto", **fields):
        world = DreamWorld(saved(**fields))
        return DreamVectorEnv(num_envs, world, recorded, range(3), length, judge)

    return make


def test_an_episode_begins_at_a_recorded_frame(dream, recorded):
    env = dream(2)
    observation, info = env.reset(seed=[4, 2])  # seed 4 of three episodes is episode 1
    np.testing.assert_array_equal(observation["agent_pos"], recorded.columns["observation.state"][[5, 10]])
    for name, key in zip(("front", "wrist"), KEYS, strict=True):
        shown = observation["pixels"][name]
        np.testing.assert_array_equal(shown, recorded.frames[key][[5, 10]].transpose(0, 2, 3, 1))
    assert env.call("task_description") == ("put the blue block", "push the red block")
    assert info["is_success"].tolist() == [False, False]
    assert env.observation_space.contains(observation)


def test_a_step_is_what_the_world_stream_foretells_under_the_actions(dream):
    env = dream(2)
    env.reset(seed=0)
    world = env._world
    policy, anchor = world._policy, world._anchor
    actions = [START + np.random.default_rng(i).normal(0, 5, (2, 4)).astype(np.float32) for i in range(4)]
    for count in (1, 2, 3):
        env.step(actions[count - 1])
        held = torch.from_numpy(np.stack([*actions[:count], *[actions[count - 1]] * (4 - count)], axis=1))
        mean, std = policy.embodiment.action_mean, policy.embodiment.action_std
        with torch.no_grad():
            noise = policy.acting_noise(2, torch.device("cpu"))  # of no consequence: the world regresses
            expected = policy.queries.imagine(anchor, noise, actions=(held - mean) / std)
        offset = 0 if count <= 2 else 1  # world_offsets are 2 and 4
        torch.testing.assert_close(world.latents, expected.latents[:, offset], rtol=1e-4, atol=1e-4)
        state = expected.state[:, offset] * policy.embodiment.state_std + policy.embodiment.state_mean
        np.testing.assert_allclose(world.state, state, rtol=1e-4, atol=1e-3)
        assert world._anchor is anchor
    env.step(actions[3])
    assert world._anchor is not anchor  # the last offset is reached: the dream goes on from there
    torch.testing.assert_close(world._anchor.latents, normalise_latents(world.latents))
    kept = policy.embodiment.denormalise_state(world._anchor.state)
    np.testing.assert_allclose(kept, world.state, rtol=1e-4)


def test_a_dream_is_a_function_of_its_seed_and_the_actions(dream):
    env = dream(2, world_law="flow", world_steps=2)
    actions = np.tile(START, (2, 1))

    def dreamt(seeds):
        env.reset(seed=seeds)
        env.step(actions)
        return env._world.latents.clone()

    first = dreamt([0, 4])
    assert torch.equal(dreamt([0, 4]), first)
    swapped = dreamt([4, 0])  # whatever place an episode has in the batch
    torch.testing.assert_close(swapped.flip(0), first)
    assert not torch.allclose(dreamt([3, 1]), first)  # the same two starts, other dreams
    dreamt([0, 4])
    env.step(actions)  # to the same offset, under the same actions: one dream, and not another draw of it
    assert torch.equal(env._world.latents, first)
    for _ in range(3):
        env.step(actions)
    assert not torch.allclose(env._world.latents, first)


def test_what_is_shown_is_the_decoded_moment_and_depends_on_the_actions(dream):
    env = dream(2)
    seen = []
    for shift in (0.0, 30.0, 0.0):
        env.reset(seed=0)
        observation, *_ = env.step(np.tile(START + np.float32(shift), (2, 1)))
        seen.append(observation)
        for name, frames in env._world.pictures().items():
            np.testing.assert_array_equal(observation["pixels"][name], frames)
        np.testing.assert_array_equal(observation["agent_pos"], env._world.state)
    assert np.abs(seen[0]["agent_pos"] - seen[1]["agent_pos"]).max() > 0.1
    np.testing.assert_array_equal(seen[0]["agent_pos"], seen[2]["agent_pos"])
    observation, *_ = env.step(np.tile(START, (2, 1)), render=False)
    np.testing.assert_array_equal(observation["pixels"]["front"], seen[2]["pixels"]["front"])


def test_the_probe_judges_and_an_ended_episode_stands_still(dream, monkeypatch):
    env = dream(2, length=3)
    env.reset(seed=0)
    assert env.judged_by == "probe"
    assert env._judge.texts == list(env.call("task_description"))
    monkeypatch.setattr(env._judge, "update", lambda objects, state: np.array([env._ticks == 1, False]))
    actions = np.tile(START, (2, 1))
    first, reward, terminated, truncated, info = env.step(actions)
    assert (terminated.tolist(), reward.tolist()) == ([True, False], [1.0, 0.0])
    second, reward, terminated, _, _ = env.step(actions + 9)
    assert (terminated.tolist(), reward.tolist()) == ([True, False], [0.0, 0.0])
    np.testing.assert_array_equal(first["agent_pos"][0], second["agent_pos"][0])
    np.testing.assert_array_equal(first["pixels"]["wrist"][0], second["pixels"]["wrist"][0])
    assert not np.array_equal(first["agent_pos"][1], second["agent_pos"][1])
    third, _, terminated, truncated, info = env.step(actions)
    assert (terminated.tolist(), truncated.tolist()) == ([True, False], [False, True])
    assert info["is_success"].tolist() == [True, False]
    late, _, terminated, truncated, _ = env.step(actions + 9)  # over: both stand
    assert (terminated.tolist(), truncated.tolist()) == ([True, False], [False, True])
    np.testing.assert_array_equal(late["agent_pos"], third["agent_pos"])
    np.testing.assert_array_equal(late["pixels"]["wrist"], third["pixels"]["wrist"])


def test_the_outcome_heads_judge_where_there_are_any(dream, monkeypatch):
    with pytest.raises(ConfigurationError, match="were shown successes and failures"):
        dream(2, length=2, probe=False, outcome_weight=1.0)  # of successes: it would call everything one
    env = dream(2, length=2, probe=False, outcome_weight=1.0, judged=True)
    assert env.judged_by == "outcome"
    env.reset(seed=0)
    monkeypatch.setattr(env._world, "success_chance", lambda: np.array([0.4, 0.6]))
    assert env.step(np.tile(START, (2, 1)))[2].tolist() == [False, False]
    assert env.step(np.tile(START, (2, 1)))[2].tolist() == [False, True]
    monkeypatch.undo()
    chances = env._world.success_chance()
    assert chances.shape == (2,)
    assert ((chances > 0) & (chances < 1)).all()


def test_what_cannot_be_dreamt_in_is_refused(dream, saved, make_policy, tmp_path):
    with pytest.raises(ConfigurationError, match=r"no outcome heads .* its kit no probe, and so nobody"):
        dream(probe=False)
    empty = FrameCache(Path(), Path("none"), 10, [], {}, {}, np.array([]), np.array([]))
    world = DreamWorld(saved())
    for fields in ({}, {"outcome_weight": 1.0}):
        with pytest.raises(ConfigurationError, match="no success head that was trained on both"):
            dream(judge="outcome", **fields)
    with pytest.raises(ConfigurationError, match=r"episodes \[0, 1, 2\] … of none; it has 0 … -1"):
        DreamVectorEnv(1, world, empty, range(3), 5)
    for name in ("dream.json", "dream.safetensors"):
        (tmp_path / "dream" / name).unlink()
    with pytest.raises(CheckpointError, match=r"holds no decoders; fit them once: hybridpolicy dream fit"):
        DreamWorld(tmp_path)
    make_policy(coupling="cascaded", fps=10.0).save_pretrained(tmp_path / "other")
    with pytest.raises(QueryError, match=r"= cascaded cannot imagine under actions .* = joint"):
        DreamEnvConfig(world=str(tmp_path / "other"))
    make_policy(coupling="autoregressive", fps=10.0).save_pretrained(tmp_path / "blocks")
    with pytest.raises(ConfigurationError, match=r"the last ones would change nothing; dream in .* joint"):
        DreamEnvConfig(world=str(tmp_path / "blocks"))


def test_the_environment_type_takes_its_shape_from_the_world_policy(saved):
    config = DreamEnvConfig(world=str(saved()))
    assert config.fps == 10
    assert config.features["action"].shape == (4,)
    assert config.features["pixels/wrist"].shape == (32, 32, 3)
    assert config.features_map["pixels/wrist"] == KEYS[1]
    with pytest.raises(ConfigurationError, match="fps is 30; the world policy imagines 10 frames"):
        DreamEnvConfig(world=config.world, fps=30)
    with pytest.raises(ConfigurationError, match="dataset = ''; give the policy that imagines"):
        config.create_envs(1)
    with pytest.raises(ConfigurationError, match="'nowhere' holds no policy"):
        DreamEnvConfig(world="nowhere")
    with pytest.raises(ConfigurationError, match="judge = 'prob'; did you mean 'probe'"):
        DreamEnvConfig(judge="prob")


def test_lerobots_own_rollout_acts_in_it(dream):
    from lerobot.scripts.lerobot_eval import rollout

    env = dream(2, length=5)
    actor = env._world.actor

    def same(value):
        return value

    result = rollout(env, actor.policy, same, same, actor.preprocessor, actor.postprocessor, seeds=[0, 1])
    assert result["action"].shape[2] == 4
    assert 1 <= result["action"].shape[1] <= 5
    assert bool(result["done"][:, -1].all())
