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
from hybridpolicy.training.advantage import advantage_weights, foresee
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
    path = run_improvement(config, output, MINI, PLAN, Variation(), progress=progress, workers=0)
    return output, config, path


def test_every_round_says_what_succeeded_and_failed(finished):
    found = json.loads(finished[2].read_text())
    assert [one["round"] for one in found["rounds"]] == [0, 1]
    for one in found["rounds"]:
        for name in ("one", "planner", *(["control"] if one["round"] else [])):
            played = one[name]
            assert played["episodes"] == len(played["outcomes"]) == PLAN.evaluate
            assert played["failures"] == played["outcomes"].count(0)
            assert played["low"] <= played["rate"] <= played["high"]
    before, after = found["rounds"]
    assert after["collected"]["success"]["episodes"] == PLAN.rollouts
    assert after["collected"]["planning"] is None  # the first policy's heads know no failure
    for name, gained in (
        ("planner_gain", after["planner"]["rate"] - after["one"]["rate"]),
        ("gain_over_round0", after["one"]["rate"] - before["one"]["rate"]),
        ("gain_over_control", after["one"]["rate"] - after["control"]["rate"]),
    ):
        assert after[name]["value"] == pytest.approx(gained)
    assert "control" not in before


def sources(folder, run):
    return load_recipe(folder / run / "checkpoints/last/pretrained_model").stages[0].sources


def test_each_half_of_the_rollouts_is_judged_by_heads_that_were_not_shown_it(finished):
    output, _, path = finished
    for half in (0, 1):
        demonstrations, shown = sources(output / "round1", f"heads{half}")
        assert (demonstrations.imitate, demonstrations.outcomes) == (True, "")
        assert (shown.imitate, shown.outcomes) == (False, "recorded")
        assert shown.episodes == tuple(range(1 - half, PLAN.rollouts, 2))
    expected, ended = np.load(output / "round1/foreseen1.npy")
    (reader,) = open_readers(
        [DatasetSource(str(output / "round1/rollouts"), outcomes="recorded")],
        policy_window(Actor.load(output / "round1/heads0/checkpoints/last/pretrained_model").policy.config),
        output / "cache", image_size=(96, 96),
    )  # fmt: skip
    for half in (0, 1):
        judge = Actor.load(output / f"round1/heads{half}/checkpoints/last/pretrained_model")
        alone, ends = foresee(judge.policy, judge.preprocessor, reader)
        for episode in range(half, PLAN.rollouts, 2):
            rows = slice(reader.cache.episode_from[episode], reader.cache.episode_to[episode])
            np.testing.assert_array_equal(expected[rows], alone[rows])
        np.testing.assert_array_equal(ended, ends)
    heads = json.loads(path.read_text())["rounds"][1]["heads"]
    assert heads["brier"] == pytest.approx(np.square(expected - ended).mean(), rel=1e-5)


def test_policy_and_control_differ_in_what_they_imitate_alone(finished):
    output, _, path = finished
    demonstrations, acted, shown = sources(output / "round1", "policy")
    taught, control_shown = sources(output / "round1", "control")
    assert [s.imitate for s in (demonstrations, acted, shown, taught)] == [True, True, False, True]
    assert [bool(s.frame_weights) for s in (demonstrations, acted, taught)] == [True, True, False]
    assert shown == control_shown
    assert (
        taught.weight == pytest.approx(demonstrations.weight + acted.weight) == 1.0 - improvement.HEADS_SHARE
    )
    weights = json.loads(path.read_text())["rounds"][1]["weights"]
    assert weights["share_of_rollouts"] == pytest.approx(acted.weight / taught.weight)
    base = output / "train/checkpoints/last/pretrained_model"
    for name in ("policy", "control", "heads0"):
        saved = output / "round1" / name / "checkpoints/last/pretrained_model"
        assert Path(load_recipe(saved).policy.pretrained_path).resolve() == base.resolve()
        before, after = (Actor.load(folder).policy for folder in (base, saved))
        assert int(after.train_step) == int(before.train_step) + 2  # it went on


def test_a_frame_is_drawn_as_often_as_it_weighs(finished):
    """Demonstrations that are held out, the last two, weigh nothing."""
    demonstrations, rollouts, _ = sources(finished[0] / "round1", "policy")
    assert (len(demonstrations.episodes), len(rollouts.episodes)) == (4, PLAN.rollouts)
    weighed = []
    for source in (demonstrations, rollouts):
        lengths = LeRobotDatasetMetadata("local/any", root=source.root).episodes["length"]
        weighed.append(np.load(source.frame_weights)[: sum(lengths[: len(source.episodes)])].sum())
    assert rollouts.weight / demonstrations.weight == pytest.approx(weighed[1] / weighed[0], rel=1e-4)


def test_run_again_it_trains_and_plays_nothing(finished, monkeypatch):
    output, config, path = finished
    before = json.loads(path.read_text())
    monkeypatch.setattr(improvement.suites, "play", None)
    monkeypatch.setattr(improvement, "collect", None)
    again = run_improvement(config, output, MINI, PLAN, Variation(), progress=progress, workers=0)
    assert json.loads(again.read_text())["rounds"] == before["rounds"]


def test_what_was_made_otherwise_is_refused(finished):
    output, config, _ = finished
    for changed, what in (
        ({"noise": 0.5}, "settings"),
        ({"evaluate": 3}, "scenes"),
        ({"candidates": 3}, "planner"),
    ):
        with pytest.raises(ConfigurationError, match=f"made with other {what}; choose an empty folder"):
            run_improvement(config, output, MINI, replace(PLAN, **changed), Variation(), progress=progress)


def test_what_cannot_be_planned_with_is_refused_before_anything_is_recorded(tmp_path):
    config = recipe(str(tmp_path))
    for fields, why in (
        ({"coupling": "vla", "imagine": None}, "coupling = vla cannot imagine"),
        ({"action_law": "regress", "action_steps": 1}, "action_law = regress"),
        ({"outcome_weight": 0.0}, "outcome_weight = 0; heads judge the rollouts"),
    ):
        changed = replace(config, policy=replace(config.policy, **fields))
        with pytest.raises(ConfigurationError, match=why):
            run_improvement(changed, tmp_path / "run", MINI, PLAN, Variation(), progress=progress)
    assert not (tmp_path / "run").exists()


def test_every_frame_is_judged_by_itself(still, tmp_path):
    actor = still(outcome_weight=1.0)
    root = tmp_path / "own"
    collect(actor, root, CollectSettings(2, seed=3, families=("absent", "touch")), workers=0)
    source = DatasetSource(str(root), outcomes="recorded")
    (reader,) = open_readers([source], policy_window(actor.policy.config), tmp_path, image_size=(32, 32))
    expected, ended = foresee(actor.policy, actor.preprocessor, reader)
    won = np.repeat([True, False], reader.cache.episode_to - reader.cache.episode_from)
    np.testing.assert_array_equal(ended > 0.5, won)
    with torch.no_grad():
        context = actor.policy.context(actor.preprocessor(reader.gather(np.arange(len(won)), world=False)))
        by_itself = actor.policy.queries.evaluate(context).success.numpy()
    np.testing.assert_allclose(expected, by_itself, rtol=1e-4)
    (unlabelled,) = open_readers([DatasetSource(str(root))], reader._window, tmp_path, image_size=(32, 32))
    with pytest.raises(ConfigurationError, match="outcomes = ''; weights need 'recorded'"):
        foresee(actor.policy, actor.preprocessor, unlabelled)


def test_a_weight_is_how_much_better_it_ended_than_was_expected():
    expected, ended = np.array([0.2, 0.2, 0.9, 1.0], np.float32), np.array([1, 0, 1, 1], np.float32)
    weights = advantage_weights(expected, ended, beta=0.5, limit=2.0)
    np.testing.assert_allclose(weights, [2.0, np.exp(-0.4), np.exp(0.2), 1.0], rtol=1e-6)
    with pytest.raises(ConfigurationError, match=r"beta = 0\.0"):
        advantage_weights(expected, ended, beta=0.0)


def test_the_recipe_can_be_planned_with_and_judged(tmp_path):
    config = recipe(str(tmp_path))
    assert config.policy.action_law == "flow"
    assert config.policy.outcome_weight > 0
    source = config.stages[-1].sources[0]
    assert source.outcomes == "demonstrations"
    assert len(source.episodes) == BUDGET.demonstrations - BUDGET.held_out  # the rest is measured on
