"""The planner with the real gate of an SO-101: joined here, because only recipes know both."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature

from embodiments.so101.constants import JOINT_NAMES
from embodiments.so101.gate import SO101Gate
from embodiments.so101.twin.scenario import draw_scenarios
from embodiments.so101.twin.variation import REST_DEG, Variation
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.errors import ConfigurationError, DatasetError, QueryError
from hybridpolicy.evaluation.acting import Actor, Proposals
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.planner import Planner, PlanState
from hybridpolicy.planner_settings import PlannerSettings
from recipes.commands import main
from recipes.twin import collect, suites


def arm_policy(spread_deg):
    """A small untrained policy whose chunks scatter by about `spread_deg` around the rest pose."""
    torch.manual_seed(0)
    picture = PolicyFeature(FeatureType.VISUAL, (3, 32, 32))
    joints = PolicyFeature(FeatureType.STATE, (6,))
    config = HybridConfig(
        device="cpu", image_size=[32, 32], width=32, depth=1, heads=2, num_keypoints=8, tokens_per_view=2,
        keypoint_features=2, frame_channels=16, chunk_size=4, rtc_max_delay=2, world_offsets=[2, 4],
        lexicon=["push"], action_law="flow", action_steps=2, outcome_weight=1.0,
        action_feature_names=list(JOINT_NAMES), state_feature_names=list(JOINT_NAMES),
        input_features={"observation.images.front": picture, "observation.state": joints},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
    )  # fmt: skip
    stats = {name: {"mean": REST_DEG, "std": np.full(6, spread)} for name, spread in
             (("observation.state", 10.0), ("action", spread_deg))}  # fmt: skip
    policy = HybridPolicy(config, dataset_stats=stats).eval()
    policy.network.outcome.labels.fill_(1)
    return policy


def plan_with(policy, candidates):
    observation = {
        "observation.images.front": torch.rand(2, 3, 32, 32),
        "observation.state": torch.zeros(2, 6),
    }
    context = policy.context({**observation, "task": ["push", "push"]})
    planner = Planner(policy.queries, PlannerSettings(candidates), SO101Gate(10.0))
    return planner.plan(context, lambda count: policy.acting_noise(count, torch.device("cpu")))


def test_a_gentle_policy_passes_and_a_wild_one_is_held():
    gentle = plan_with(arm_policy(0.5), 4)
    assert gentle.states == (PlanState.CHOSEN,) * 2
    assert all(v is None for row in gentle.violations for v in row)
    wild = plan_with(arm_policy(60.0), 4)
    assert wild.states == (PlanState.NONE_PASSED,) * 2
    assert bool(wild.chunk.isnan().all())
    assert {v.kind for row in wild.violations for v in row} & {"velocity", "position"}


class Says:
    """A gate that lets all pass, or none."""

    def __init__(self, passes):
        self.passes = passes

    def check(self, chunk, state):
        wrong = SimpleNamespace(step=0, part="elbow", kind="position", reason="it may not")
        return SimpleNamespace(violations=[None if self.passes else wrong] * len(chunk))


@pytest.fixture(scope="module")
def planned_folder(make_policy_folder):
    return make_policy_folder(
        action_law="flow", action_steps=2, outcome_weight=1.0, action_feature_names=list(JOINT_NAMES)
    )


def look(rng):
    pixels = {name: rng.integers(0, 256, (2, 32, 32, 3), np.uint8) for name in ("front", "wrist")}
    return pixels, rng.normal(0.0, 10.0, (2, 6)).astype(np.float32), ["touch"] * 2


def test_where_no_candidate_passes_the_arm_stands(planned_folder):
    actor, seen = Actor.load(planned_folder), look(np.random.default_rng(0))
    actor.set_planner(PlannerSettings(3), Says(False))
    chunk = actor.chunk(*seen)
    np.testing.assert_array_equal(chunk, np.repeat(seen[1][:, None], chunk.shape[1], axis=1))
    assert (actor.num_planned, actor.num_held) == (2, 2)
    sagged = (seen[0], seen[1] - 5.0, seen[2])
    np.testing.assert_array_equal(actor.chunk(*sagged), chunk)  # where it was sent, not where it sagged to
    actor.set_planner(PlannerSettings(3), Says(True))
    assert not np.array_equal(actor.chunk(*seen), chunk)
    assert (actor.num_planned, actor.num_held) == (6, 4)
    refused = Proposals(np.zeros((1, 2, 4, 6)), np.zeros((1, 2)), np.array([-1]))
    with pytest.raises(ConfigurationError, match="a state of 3 numbers does not say where to stand"):
        refused.best(np.zeros((1, 3)))


def test_towards_a_picture_the_nearest_imagined_one_is_chosen(make_policy_folder):
    """No outcome heads are needed, and one picture serves every observation."""
    actor = Actor.load(make_policy_folder(action_law="flow", action_steps=2))
    rng = np.random.default_rng(0)
    seen, picture = look(rng), {name: frames[:1] for name, frames in look(rng)[0].items()}
    actor.set_planner(PlannerSettings(5))
    with pytest.raises(QueryError, match="no outcome heads"):
        actor.chunk(*seen)
    actor.set_goal(picture)
    assert actor.goal.shape[0] == 1
    proposals = actor.propose(*seen)
    assert (proposals.scores < 0).all()  # distances
    rows = np.arange(2)
    np.testing.assert_array_equal(proposals.scores[rows, proposals.chosen], proposals.scores.max(axis=1))
    other = proposals.scores
    actor.reset()
    actor.set_goal({name: frames[:1] for name, frames in look(rng)[0].items()})
    assert not np.allclose(actor.propose(*seen).scores, other)
    actor.set_goal(None)
    assert actor.goal is None


def test_a_plan_goes_on_with_the_last_one_until_the_episode_ends(planned_folder, monkeypatch):
    actor, rng = Actor.load(planned_folder), np.random.default_rng(0)
    actor.set_planner(PlannerSettings(3), Says(True))
    warm = []
    plan = Planner.plan

    def spied(self, context, noise, **rest):
        warm.append(rest["warm"])
        return plan(self, context, noise, **rest)

    monkeypatch.setattr(Planner, "plan", spied)
    seen = look(rng)
    first = actor.chunk(*seen)
    actor.chunk(*seen)
    actor.propose(*seen)  # looks, and does not go on
    actor.reset()
    actor.chunk(*look(rng))
    assert [x is None for x in warm] == [True, False, True, True]
    left = actor._physical(
        actor.policy.embodiment.to_pipeline(warm[1], actor.policy.context(actor.batch(*seen)).state)
    )
    ahead = actor.policy.config.n_action_steps
    np.testing.assert_allclose(left, first[:, ahead:], atol=1e-3)


def test_looking_and_naming_a_goal_leave_no_trace(planned_folder):
    actor, seen = Actor.load(planned_folder), look(np.random.default_rng(0))
    with_planner = Actor(actor.policy, actor.preprocessor, actor.postprocessor)
    with_planner.set_planner(PlannerSettings(3))
    alone = [actor.chunk(*seen) for _ in range(2)]
    actor.reset()
    again = [with_planner.propose(*seen).chunks, actor.chunk(*seen)]
    with_planner.set_goal({name: frames[:1] for name, frames in seen[0].items()})
    again += [with_planner.propose(*seen).chunks, actor.chunk(*seen)]
    np.testing.assert_array_equal(again[1::2], alone)
    assert not np.array_equal(again[0], again[2])
    fresh = Actor.load(planned_folder)
    fresh.set_goal({name: frames[:1] for name, frames in seen[0].items()})
    with pytest.raises(DatasetError, match="standard deviations"):  # the first look is still looked at
        fresh.chunk(seen[0], seen[1] + 1e5, seen[2])
    fresh.set_planner(PlannerSettings(3))
    fresh.set_goal({name: frames[[0, 1, 1]] for name, frames in seen[0].items()})
    with pytest.raises(ConfigurationError, match="for 3 observations, and there are 2"):
        fresh.chunk(*seen)


class SaysOfTheBent:
    """A gate that lets nothing pass where the first joint is beyond 50 degrees."""

    def check(self, chunk, state):
        no, yes = (Says(passes).check(chunk[:1], state).violations[0] for passes in (False, True))
        return SimpleNamespace(violations=[no if joints[0] > 50.0 else yes for joints in state])


def test_an_arm_goes_on_with_its_plan_though_another_one_stood(planned_folder, monkeypatch):
    """What one of several arms chooses from is what it would choose from alone."""
    pixels, state, texts = look(np.random.default_rng(0))
    state[:, 0] = (0.0, 90.0)
    candidates, plan = [], Planner.plan

    def spied(self, context, noise, **rest):
        found = plan(self, context, noise, **rest)
        candidates.append(found.candidates[0])
        return found

    monkeypatch.setattr(Planner, "plan", spied)
    for count in (1, 2):
        actor = Actor.load(planned_folder)
        actor.set_planner(PlannerSettings(3), SaysOfTheBent())
        seen = {name: frames[:count] for name, frames in pixels.items()}, state[:count], texts[:count]
        chunks = [actor.chunk(*seen) for _ in range(3)]
        assert actor.num_held == 3 * (count - 1)
        assert np.isfinite(chunks).all()
    for alone, beside in zip(candidates[:3], candidates[3:], strict=True):
        torch.testing.assert_close(beside, alone, rtol=0, atol=1e-4)


def test_plans_are_counted_while_an_episode_runs(planned_folder, tmp_path, monkeypatch):
    """Arms that stand: what is not there is rightly not sought after 20 ticks, all else ends after 40."""
    monkeypatch.setattr(suites, "TABLES", 2)
    monkeypatch.setattr(collect, "TABLES", 2)
    scenarios = draw_scenarios(3, 77, ("absent", "touch"), Variation())
    actor = Actor.load(planned_folder)
    actor.set_planner(PlannerSettings(2), Says(False))
    played = suites.play(actor, scenarios, workers=0)
    assert [p.plans for p in played] == [10, 20, 10]
    assert (actor.num_planned, actor.num_held) == (40, 40)
    actor = Actor.load(planned_folder)
    actor.set_planner(PlannerSettings(2), Says(False))
    settings = collect.CollectSettings(3, families=("absent", "touch"))
    found = collect.collect(actor, tmp_path / "own", settings, workers=0)
    assert found["frames"] == 20 + 40 + 20
    assert found["planning"] == {"plans": 40, "held": 40, "mean_candidates": 2.0}


def test_eval_takes_a_planner_with_a_budget_and_a_gate(planned_folder, capsys):
    asked = ["eval", "--policy", str(planned_folder), "--env", "so101_twin", "--episodes", "3"]
    assert main([*asked, "--planner-k", "2", "--planner-budget-ms", "500", "--gate"]) == 0
    assert "0.0%" in capsys.readouterr().out
    assert main([*asked, "--planner-budget-ms", "5"]) == 2
    assert "give --planner-k, too" in capsys.readouterr().err
