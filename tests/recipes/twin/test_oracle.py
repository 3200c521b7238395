"""Candidates executed from restored states: what is counted, and that states are really restored."""

import json

import numpy as np
import pytest

from embodiments.so101.twin.scenario import draw_scenarios
from embodiments.so101.twin.vector_env import SO101TwinVectorEnv
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Proposals
from recipes.commands import main
from recipes.twin.oracle import Decision, OracleSettings, _Dissection, decision_figures


def decision(episode, outcomes, chosen):
    return Decision(episode, np.array(outcomes, bool), np.zeros(len(outcomes)), chosen, spread=1.0 + episode)


def test_figures_are_what_their_definition_says():
    found = decision_figures(
        [
            decision(0, [1, 1, 1, 1], 2),
            decision(0, [0, 0, 0, 0], 1),
            decision(1, [0, 1, 0, 0], 1),
            decision(2, [1, 1, 0, 0], 3),
        ]
    )
    assert found["points"] == 4
    success = found["success"]
    assert success["one"]["rate"] == 0.5
    assert success["random"] == pytest.approx((1 + 0 + 0.25 + 0.5) / 4)
    assert success["planner"]["rate"] == 0.5
    assert success["oracle"]["rate"] == 0.75
    assert found["gain"]["planner"]["value"] == pytest.approx(0.5 - success["random"])
    assert found["gain"]["oracle"]["value"] == pytest.approx(0.75 - success["random"])
    assert found["divided"] == {"points": 2, "random": pytest.approx(0.375), "planner": 0.5}
    assert found["spread"] == {"mean": 1.75, "least": 1.0, "most": 3.0}
    alike = decision_figures([decision(0, [1, 1], 0)])
    assert alike["divided"] == {"points": 0, "random": None, "planner": None}


class Offered:
    """A planner that offers to stay, to turn far away, and to stay again; it prefers to turn away."""

    def __init__(self):
        self.asked = []

    def propose(self, pixels, state, texts):
        self.asked.append(state.copy())
        chunks = np.repeat(np.repeat(state[:, None, None], 3, axis=1), 8, axis=2)
        chunks[:, 1, :, 0] += 40.0
        return Proposals(chunks, np.zeros((len(state), 3)), np.ones(len(state), np.int64))


@pytest.mark.parametrize("tables", [2, 3], ids=["all tables", "one over"])
def test_every_candidate_starts_where_the_episode_was(still, tables):
    """Asked for a block that is not there, the arm must hold still: staying succeeds, turning away fails."""
    scenarios = draw_scenarios(2, 71, ("absent",))
    env, planner = SO101TwinVectorEnv(tables, image_size=32), Offered()
    found = _Dissection(still(), planner, env, scenarios, first_episode=5).decisions(every=5)
    assert [one.episode for one in found] == [5, 6, 5, 6]  # plans 0 and 5; holding takes 20 ticks
    for one in found:
        assert one.outcomes.tolist() == [True, False, True]
        assert one.chosen == 1
        assert one.spread == pytest.approx(np.std([0, 40, 0]) / 6)
    assert len(planner.asked) == 2
    moved = np.abs(planner.asked[1] - planner.asked[0])[:2]
    assert 0 < moved.max() < 8  # the second point is later in the same, undisturbed episode


def test_settings_are_checked():
    for wrong, message in (
        ({"candidates": 1}, "candidates = 1; must be 2"),
        ({"every": 0}, "every = 0; must be 1"),
        ({"episodes": 0}, "episodes = 0; must be 1"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            OracleSettings(**wrong)


def test_the_command_measures_a_real_planner(make_policy_folder, tmp_path, capsys):
    folder = make_policy_folder(action_law="flow", action_steps=2, outcome_weight=1.0)
    file = tmp_path / "new" / "planner.json"
    asked = ["bench", "planner", "--policy", folder, "--episodes", "2", "--candidates", "3", "--every", "12"]
    assert main([*asked, "--output", str(file)]) == 0
    shown = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert found["points"] == 4
    assert found["spread"]["least"] > 0.01
    assert found["success"]["oracle"]["episodes"] == 4
    assert found["closed_loop"]["planner"]["episodes"] == 2
    assert found["settings"]["seed"] == 60_000_000
    assert "4 decision points" in shown
    assert main([*asked[:3], make_policy_folder(), *asked[4:]]) == 2
    assert "action_law = regress, which has one answer" in capsys.readouterr().err
