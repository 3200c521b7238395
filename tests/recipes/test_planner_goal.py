"""Planning towards pictures in a folder, from the command line to the planner."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from embodiments.control.limits import JointLimits
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.planner_settings import PlannerSettings
from hybridpolicy.queries import Queries
from recipes.arm.policy import Observation, Planning, PolicyProcess
from recipes.arm.setup import RunSettings
from recipes.commands import application, main
from recipes.commands.arm.run import _settings
from recipes.goal_pictures import read_goal

CAMERAS = ("front", "wrist")


@pytest.fixture(scope="module")
def policy_folder(make_policy_folder):
    """A policy that can be planned with, and has no outcome heads to do it by."""
    folder = make_policy_folder(action_law="flow", action_steps=2)
    policy = Actor.load(folder).policy
    torch.manual_seed(0)
    for weight in policy.parameters():  # as it begins, it imagines the same whatever is done
        weight.data.add_(torch.randn_like(weight) * 0.05)
    policy.save_pretrained(folder)
    return folder


def pictures(seed, size):
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, (1, *size, 3), np.uint8) for name in CAMERAS}


@pytest.fixture
def goal(tmp_path):
    """A folder of larger pictures than the policy looks at, and what is in it."""
    found = pictures(7, (48, 64))
    for name, picture in found.items():
        Image.fromarray(picture[0]).save(tmp_path / f"{name}.png")
    return tmp_path, found


def test_what_is_wrong_with_a_goal_is_said(goal):
    folder, found = goal
    read = read_goal(folder, CAMERAS)
    assert list(read) == list(CAMERAS)
    assert all(np.array_equal(read[name], found[name]) for name in CAMERAS)
    with pytest.raises(ConfigurationError, match=r"top\.png missing, there is front\.png, wrist\.png; .*top"):
        read_goal(folder, ("front", "top"))
    with pytest.raises(ConfigurationError, match=r"front\.png missing, there is no \.png"):
        read_goal(folder / "none", ("front",))
    content = (folder / "front.png").read_bytes()
    for broken in (b"no picture", content[: len(content) // 2]):
        (folder / "front.png").write_bytes(broken)
        with pytest.raises(ConfigurationError, match=r"front\.png: not a picture"):
            read_goal(folder, CAMERAS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--planner-goal", "."], "give --planner-k, too"),
        (["--planner-goal", "nowhere", "--planner-k", "2"], "--planner-goal nowhere: no such folder"),
        (["--planner-goal", ".", "--planner-k", "2", "--planner-risk", "1"], "leave out one of them"),
        (["--planner-goal", ".", "--planner-k", "2", "--planner-success", "0"], "leave out one of them"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ["eval", "--env", "so101_twin"],
        ["data", "collect", "--env", "so101_twin", "--episodes", "1", "--output", "x"],
        ["arm", "run", "--port", "x", "--task", "x"],
    ],
    ids=("eval", "collect", "run"),
)
def test_options_that_do_not_go_together_are_refused(command, words, message, capsys):
    assert main([*command, "--policy", "x", *words]) == 2
    assert message in capsys.readouterr().err


def test_eval_plans_towards_the_pictures(goal, policy_folder, tmp_path, monkeypatch, capsys):
    folder, found = goal
    actors, set_goal = [], Actor.set_goal
    monkeypatch.setattr(Actor, "set_goal", lambda self, given: (actors.append(self), set_goal(self, given)))
    asked = ["eval", "--policy", policy_folder, "--env", "so101_twin", "--episodes", "3", "--planner-k", "2"]
    written = ["--output", str(tmp_path / "out")]
    assert main([*asked, *written, "--planner-goal", str(folder)]) == 0
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["planner"]["goal"] == str(folder)
    assert report["planner"]["plans"] > 0
    assert (report["env"], report["seed"], report["success"]["episodes"]) == ("so101_twin", 1000, 3)
    assert main([*asked, *written, "--planner-goal", str(folder)]) == 2
    assert "evaluation.json is there already" in capsys.readouterr().err
    (actor,) = actors
    reference = Actor.load(policy_folder)
    set_goal(reference, found)
    assert np.allclose(actor.goal, reference.goal)
    assert main(asked) == 2
    assert "no outcome heads" in capsys.readouterr().err
    (folder / "wrist.png").unlink()
    assert main([*asked, "--planner-goal", str(folder)]) == 2
    assert "wrist.png missing" in capsys.readouterr().err


def test_the_candidate_that_leads_to_the_goal_is_chosen(policy_folder, monkeypatch):
    """A goal equal to the latents that a candidate is imagined to lead to chooses that candidate."""
    actor, seen = Actor.load(policy_folder), (pictures(1, (32, 32)), np.zeros((1, 6), np.float32), ["touch"])
    actor.set_planner(PlannerSettings(4))
    actor.set_goal(pictures(2, (32, 32)))
    futures, imagine = [], Queries.imagine

    def spied(*given):
        future = imagine(*given)
        futures.append(future.latents[:, -1])
        return future

    monkeypatch.setattr(Queries, "imagine", spied)
    actor.propose(*seen)
    for number, future in enumerate(futures[0]):
        actor.reset()  # the same noise, the same candidates
        actor.goal = future[None]
        found = actor.propose(*seen)
        assert found.chosen[0] == number
        assert found.scores[0, number] == pytest.approx(0.0, abs=1e-6)
    assert len(futures) == 5


def test_the_goal_reaches_the_arms_policy_process(goal, policy_folder):
    folder, found = goal
    parser = application.build_parser()
    words = ["arm", "run", "--port", "x", "--task", "x", "--policy", policy_folder, "--planner-k", "5"]
    settings = _settings(parser.parse_args([*words, "--planner-goal", str(folder)]))
    assert settings.planning() == Planning(PlannerSettings(5), goal=str(folder))
    now = pictures(1, (32, 32))
    process = PolicyProcess(policy_folder, planning=settings.planning())
    try:
        process.load()
        process.ask(Observation(0, 0, 0, (0.0,) * 6, {name: one[0] for name, one in now.items()}, "touch"))
        _, answer = process.wait(60.0)
    finally:
        process.close()
    actor = Actor.load(policy_folder)
    actor.set_planner(PlannerSettings(5))
    actor.set_goal(found)
    seen = now, np.zeros((1, 6), np.float32), ["touch"]
    expected = actor.propose(*seen)
    np.testing.assert_allclose(answer.positions, expected.best(seen[1])[0], atol=1e-4)
    chosen = set()
    for seed in range(20):
        actor.set_goal(pictures(seed, (32, 32)))
        actor.reset()
        chosen.add(int(actor.propose(*seen).chosen[0]))
    assert len(chosen) > 1  # it is these pictures that it chose by


def test_a_gated_planner_keeps_its_goal(monkeypatch):
    """Through the JSON for another process, limits beside it."""
    limits = (JointLimits("elbow_flex", -1.0, 1.0, 2.0, 3.0, 4.0),)
    monkeypatch.setattr(RunSettings, "control_spec", lambda *_: SimpleNamespace(limits=limits))
    settings = RunSettings("x", "p", planner=PlannerSettings(2), planner_goal="pictures", gate=True)
    planning = Planning.from_json(settings.planning().to_json())
    assert planning == Planning(PlannerSettings(2), limits, "pictures")
