"""Candidates executed from restored states: what is counted, and that states are really restored."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from embodiments.so101.twin.scenario import draw_scenarios
from embodiments.so101.twin.vector_env import SO101TwinVectorEnv
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Proposals
from recipes.commands import main
from recipes.twin.oracle import Decision, OracleSettings, _Dissection, decision_figures


def decision(episode, outcomes, chosen, taken=None):
    taken = bool(outcomes[chosen]) if taken is None else taken
    scores = np.zeros(len(outcomes))
    return Decision(episode, np.array(outcomes, bool), scores, chosen, taken, spread=1.0 + episode)


def test_figures_are_what_their_definition_says():
    points = [([1, 1, 1, 1], 2), ([0, 0, 0, 0], 1), ([0, 1, 0, 0], 1), ([1, 1, 0, 0], 3)]
    found = decision_figures([decision(episode, *point) for episode in range(8) for point in points])
    assert found["points"] == 32
    success = found["success"]
    assert success["one"]["rate"] == 0.5
    assert success["random"] == pytest.approx((1 + 0 + 0.25 + 0.5) / 4)
    assert success["planner"]["rate"] == 0.5
    assert success["oracle"]["rate"] == 0.75
    for name, rate in (("planner", 0.5), ("oracle", 0.75)):  # all episodes are alike: nothing is uncertain
        gain = rate - success["random"]
        assert found["gain"][name] == {end: pytest.approx(gain) for end in ("value", "low", "high")}
    assert found["divided"] == {"points": 16, "random": pytest.approx(0.375), "planner": 0.5}
    assert found["spread"] == {"mean": 4.5, "least": 1.0, "most": 8.0}
    assert found["refused"] == 0
    alike = decision_figures([decision(episode, [1, 1], 0) for episode in range(8)])
    assert alike["divided"] == {"points": 0, "random": None, "planner": None}
    never = decision_figures([decision(episode, [0, 0], 0) for episode in range(8) for _ in range(3)])
    for figures, sure in ((alike, "high"), (never, "low")):  # of eight episodes, however many points of each
        one = figures["success"]["one"]
        assert one[sure] == one["rate"] == float(sure == "high")
        assert one["high"] - one["low"] == pytest.approx(0.324, abs=1e-3)


def test_where_no_candidate_passes_standing_is_what_counts():
    """Not the last candidate; and a budget may leave one point fewer candidates than another."""
    points = [([1, 0, 1], -1, False), ([0, 0], -1, True), ([1, 0], 0)]
    found = decision_figures([decision(episode, *point) for episode in range(8) for point in points])
    assert found["refused"] == 16
    assert found["success"]["planner"]["rate"] == pytest.approx(2 / 3)
    assert found["success"]["random"] == pytest.approx((2 / 3 + 0 + 1 / 2) / 3)
    assert found["success"]["oracle"]["rate"] == pytest.approx(2 / 3)
    assert found["divided"] == {"points": 16, "random": pytest.approx(7 / 12), "planner": 0.5}


class Offered:
    """A planner that offers to stay or to turn far away, as `turns` (degrees) says; it always prefers one."""

    def __init__(self, turns=(0.0, 40.0, 0.0), chosen=1):
        self.asked, self.turns, self.chosen = [], turns, chosen

    def propose(self, pixels, state, texts):
        self.asked.append(state.copy())
        chunks = np.repeat(np.repeat(state[:, None, None], len(self.turns), axis=1), 8, axis=2)
        chunks[..., 0] += np.array(self.turns)[None, :, None]
        scores = np.zeros((len(state), len(self.turns)))
        return Proposals(chunks, scores, np.full(len(state), self.chosen))


@pytest.mark.parametrize("tables", [2, 3], ids=["all tables", "one over"])
def test_every_candidate_starts_where_the_episode_was(still, tables):
    """Asked for a block that is not there, the arm must hold still: staying succeeds, turning away fails."""
    scenarios = draw_scenarios(2, 71, ("absent",))
    env, planner = SO101TwinVectorEnv(tables, image_size=32), Offered()
    found = _Dissection(still(), planner, env, scenarios, first_episode=5).decisions(every=5)
    assert [one.episode for one in found] == [5, 6, 5, 6]  # plans 0 and 5; holding takes 20 ticks
    for one in found:
        assert one.outcomes.tolist() == [True, False, True]
        assert (one.chosen, one.taken) == (1, False)
        assert one.spread == pytest.approx(np.std([0, 40, 0]) / 6)
    assert len(planner.asked) == 2
    moved = np.abs(planner.asked[1] - planner.asked[0])[:2]
    assert 0 < moved.max() < 8  # the second point is later in the same, undisturbed episode


def test_a_planner_whose_gate_lets_none_pass_stands(still):
    """All candidates turn away and fail; standing where the arm is succeeds."""
    scenarios = draw_scenarios(2, 71, ("absent",))
    env, planner = SO101TwinVectorEnv(2, image_size=32), Offered((40.0, -40.0), chosen=-1)
    found = _Dissection(still(), planner, env, scenarios, first_episode=0).decisions(every=5)
    assert len(found) == 4
    for one in found:
        assert one.outcomes.tolist() == [False, False]
        assert (one.chosen, one.taken) == (-1, True)


def test_settings_are_checked():
    for wrong, message in (
        ({"every": 0}, "every = 0; must be 1"),
        ({"episodes": 7}, "episodes = 7; must be 8"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            OracleSettings(**wrong)


class RefusesAll:
    """A gate that nothing passes."""

    def __init__(self, rate_hz):
        self.rate_hz = rate_hz

    def check(self, chunk, state):
        return SimpleNamespace(violations=[SimpleNamespace(reason="it may not")] * len(chunk))


def test_the_command_measures_the_planner_it_is_told(make_policy_folder, tmp_path, capsys, monkeypatch):
    folder = make_policy_folder(action_law="flow", action_steps=2, outcome_weight=1.0)
    file = tmp_path / "new" / "planner.json"
    asked = ["bench", "planner", "--policy", folder, "--episodes", "8", "--every", "12", "--planner-k"]
    assert main([*asked, "3", "--output", str(file)]) == 0
    shown = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert found["points"] == 16
    assert found["spread"]["least"] > 0.01
    assert found["success"]["oracle"]["points"] == found["points"] == 16
    assert found["closed_loop"]["planner"]["episodes"] == 8
    assert found["settings"]["seed"] == 60_000_000
    told = {"candidates": 3, "risk": 0.0, "success": 1.0, "budget_ms": None, "gate": False}
    assert found["planner"].items() >= (told | {"held": 0, "mean_candidates": 3.0}).items()
    assert "16 decision points" in shown
    assert "gate" not in shown

    monkeypatch.setattr("embodiments.so101.gate.SO101Gate", RefusesAll)
    bounded = [*asked, "3", "--gate", "--planner-success", "0.5", "--planner-budget-ms", "0.01"]
    assert main([*bounded, "--output", str(file)]) == 0
    shown = capsys.readouterr().out
    found = json.loads(file.read_text())
    told = {"candidates": 3, "risk": 0.0, "success": 0.5, "budget_ms": 0.01, "gate": True}
    assert found["planner"].items() >= told.items()
    assert found["planner"]["mean_candidates"] == 1.0  # which is all that fits
    assert found["refused"] == found["points"] == 16
    assert found["planner"]["held"] == found["planner"]["plans"] > 0
    assert "at 16 of them no candidate passed the gate: the planner stood" in shown


def test_the_command_refuses_what_cannot_be_measured(make_policy_folder, capsys):
    folder = make_policy_folder(action_law="flow", action_steps=2, outcome_weight=1.0)
    for options, given, message in (
        ([], make_policy_folder(), "action_law = regress, which has one answer"),
        (["--planner-k", "1"], folder, "--planner-k is 1; there is a choice from 2"),
        (["--planner-risk", "-1"], folder, "risk = -1.0; must be 0 or more"),
    ):
        assert main(["bench", "planner", "--policy", given, *options]) == 2
        assert message in capsys.readouterr().err
