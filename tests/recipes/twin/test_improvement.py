"""Self-improvement in miniature: one round of everything, and what its weights are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDatasetMetadata

from embodiments.so101.twin.variation import Variation
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.training.advantage import advantage_weights
from hybridpolicy.training.config import DatasetSource, load_recipe
from hybridpolicy.training.feed import policy_window
from hybridpolicy.training.loader import open_readers
from recipes.commands.progress import progress
from recipes.self_improvement import BUDGET, recipe
from recipes.twin import improvement, job
from recipes.twin.collect import CollectSettings, collect
from recipes.twin.improvement import Improvement, run_improvement

MINI = job.Budget(
    demonstrations=6, play=2, held_out=2, success=0, swapped=0, paraphrase=0, absent=0, two_stage=0
)
PLAN = Improvement(rounds=1, noise=0.0, rollouts=8, evaluate=2, candidates=2, head_samples=32, samples=32)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("improve")
    config = recipe(str(output))
    seen = tuple(range(MINI.demonstrations - MINI.held_out))
    stages = []
    for stage in config.stages:
        sources = [replace(s, episodes=seen) if s.episodes else s for s in stage.sources]
        stages.append(replace(stage, samples=32, batch_size=16, sources=sources))
    config = replace(config, stages=stages, log_every=1)
    path = run_improvement(config, output, MINI, PLAN, Variation(), progress=progress)
    return output, config, path


def test_every_round_says_what_succeeded_and_failed(finished):
    found = json.loads(finished[2].read_text())
    assert [one["round"] for one in found["rounds"]] == [0, 1]
    for one in found["rounds"]:
        for played in (one["one"], one["planner"]):
            assert played["episodes"] == PLAN.evaluate
            assert played["failures"] == round((1 - played["rate"]) * PLAN.evaluate)
            assert played["low"] <= played["rate"] <= played["high"]
    collected = found["rounds"][1]["collected"]
    assert collected["success"]["episodes"] == PLAN.rollouts
    assert 0 < found["rounds"][1]["weights"]["share_of_samples"] < 1 - improvement.HEADS_SHARE


def test_heads_see_rollouts_without_their_actions_and_the_policy_sees_them_weighed(finished):
    output = finished[0] / "round1"
    heads = load_recipe(output / "heads/checkpoints/last/pretrained_model").stages[0].sources
    assert [(s.imitate, s.outcomes, s.frame_weights) for s in heads] == [
        (True, "", None),
        (False, "recorded", None),
    ]
    acted = load_recipe(output / "policy/checkpoints/last/pretrained_model")
    assert [(s.imitate, s.outcomes, bool(s.frame_weights)) for s in acted.stages[0].sources] == [
        (True, "", False),
        (True, "", True),
        (False, "recorded", False),
    ]
    assert sum(s.weight for s in acted.stages[0].sources) == pytest.approx(1.0)
    before = (output / "heads/checkpoints/last/pretrained_model").resolve()
    assert Path(acted.policy.pretrained_path).resolve() == before
    before, after = (
        Actor.load(output / name / "checkpoints/last/pretrained_model").policy for name in ("heads", "policy")
    )
    assert int(after.train_step) == int(before.train_step) + 2  # it went on


def test_the_share_of_weighed_rollouts_counts_what_is_drawn(finished):
    """Episodes held out weigh nothing: the last rollout of eight, the last two demonstrations."""
    saved = finished[0] / "round1/policy/checkpoints/last/pretrained_model"
    demonstrations, rollouts, _ = load_recipe(saved).stages[0].sources
    assert (len(demonstrations.episodes), len(rollouts.episodes)) == (4, 7)
    frames = [
        sum(LeRobotDatasetMetadata("local/any", root=source.root).episodes["length"][: len(source.episodes)])
        for source in (demonstrations, rollouts)
    ]
    weighed = np.load(rollouts.frame_weights)
    assert len(weighed) > frames[1]
    expected = weighed[: frames[1]].sum() / frames[0]
    assert rollouts.weight / demonstrations.weight == pytest.approx(expected, rel=1e-4)


def test_run_again_it_trains_and_plays_nothing(finished, monkeypatch):
    output, config, path = finished
    before = json.loads(path.read_text())
    monkeypatch.setattr(improvement.suites, "play", None)
    monkeypatch.setattr(improvement, "collect", None)
    again = run_improvement(config, output, MINI, PLAN, Variation(), progress=progress)
    assert json.loads(again.read_text())["rounds"] == before["rounds"]


def test_a_weight_is_how_much_better_it_ended_than_was_expected(still, tmp_path):
    actor = still(outcome_weight=1.0)
    root = tmp_path / "own"
    collect(actor, root, CollectSettings(2, seed=3, families=("absent", "touch")), workers=0)
    source = DatasetSource(str(root), outcomes="recorded")
    (reader,) = open_readers([source], policy_window(actor.policy.config), tmp_path, image_size=(32, 32))
    weights = advantage_weights(actor.policy, actor.preprocessor, reader, beta=0.5, limit=2.0)
    assert weights.shape == (reader.cache.num_frames,)
    won = np.repeat([True, False], reader.cache.episode_to - reader.cache.episode_from)
    rows = np.arange(len(weights))
    with torch.no_grad():
        context = actor.policy.context(actor.preprocessor(reader.gather(rows, world=False)))
        expected = actor.policy.queries.evaluate(context).success.numpy()
    np.testing.assert_allclose(weights, np.minimum(np.exp((won - expected) / 0.5), 2.0), rtol=1e-4)
    assert weights[won].min() > 1.0 > weights[~won].max()
    with pytest.raises(ConfigurationError, match=r"beta = 0\.0"):
        advantage_weights(actor.policy, actor.preprocessor, reader, beta=0.0)
    (unlabelled,) = open_readers([DatasetSource(str(root))], reader._window, tmp_path, image_size=(32, 32))
    with pytest.raises(ConfigurationError, match="outcomes = ''; weights need 'recorded'"):
        advantage_weights(actor.policy, actor.preprocessor, unlabelled)


def test_the_recipe_can_be_planned_with_and_judged(tmp_path):
    config = recipe(str(tmp_path))
    assert config.policy.action_law == "flow"
    assert config.policy.outcome_weight > 0
    source = config.stages[-1].sources[0]
    assert source.outcomes == "demonstrations"
    assert len(source.episodes) == BUDGET.demonstrations - BUDGET.held_out  # the rest is measured on
