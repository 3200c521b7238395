"""The quickstart in miniature: everything it does, once, on numbers too small to learn anything."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from embodiments.so101.twin.scenario import MAX_STEPS
from embodiments.so101.twin.variation import Variation
from hybridpolicy.evaluation import evaluate_policy
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.training.checkpoint import verify
from recipes.arm.deploy import deploy_on_twin as deploy
from recipes.commands import main
from recipes.commands.progress import progress
from recipes.so101_quickstart import recipe
from recipes.twin import job as twin_job

BUDGET = twin_job.Budget(
    demonstrations=14, play=6, held_out=3, success=6, swapped=6, paraphrase=3, absent=3, two_stage=2,
    serial=1, decoder_steps=10, loader_s=0.2, clips=4, strips=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("quickstart")
    config = recipe(str(output))
    stages = []
    for stage in config.stages:
        seen = tuple(range(BUDGET.demonstrations - BUDGET.held_out))
        sources = [replace(s, episodes=seen) if s.episodes else s for s in stage.sources]
        stages.append(replace(stage, samples=64, batch_size=16, sources=sources))
    config = replace(config, stages=stages, log_every=2)
    deployed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            twin_job, "deploy_on_twin", lambda *a, **k: deployed.append(deploy(*a, **k)) or deployed[0]
        )
        page = twin_job.run_job(config, output, BUDGET, Variation(), progress=progress)
    return output, page, deployed[0]


def test_the_report_says_everything_that_was_promised(finished):
    output, page, _ = finished
    report = json.loads((output / "report.json").read_text())
    assert report["success"]["episodes"] == BUDGET.success
    assert report["language"]["swapped_episodes"] == BUDGET.swapped
    assert set(report["latency_ms"]) == {"never", "always"}
    assert set(report["world"]["skill_by_offset"]) == {"4", "8"}
    assert report["stage1"]["share_not_demonstrations"] == pytest.approx(0.6)
    assert any("privileged" in option for option in report["options"])
    assert {bar["key"] for bar in report["bars"]} >= {"wall_s", "success.rate", "world.skill"}
    serial = report["serial"]
    assert serial["episodes"] == BUDGET.serial
    assert serial["rate_hz"] == 100
    assert serial["cycles"] > 300  # three seconds to the start pose, and the episode
    assert serial["rate"] in (0.0, 1.0)
    assert serial["latency_ms"]["p50"] > 0
    assert report["phases"][-1]["name"] == "serial port"
    assert report["wall_s"] == pytest.approx(sum(phase["seconds"] for phase in report["phases"]))
    html = page.read_text()
    assert html.count("<video") == BUDGET.clips + BUDGET.serial
    assert report["git"] in html


def test_the_drive_over_the_port_has_figures_and_pictures(finished):
    _, page, deployed = finished
    (episode,) = deployed.figures["episodes"]
    assert episode["task"] == deployed.scenarios[0].instruction
    assert episode["plans"] >= 2
    (clip,) = deployed.clips(10.0)
    assert clip.cameras["front"].shape[1:] == (96, 96, 3)
    assert len(clip.cameras["front"]) >= 8
    assert clip.task.endswith("(serial port)")
    assert clip.task in page.read_text()


@pytest.mark.parametrize("coupling", ["vla", "representation", "features"])
def test_a_coupling_no_report_can_be_made_of_is_refused_first(coupling, tmp_path, capsys):
    asked = ["train", "--recipe", "so101_twin", "--output", str(tmp_path / "run/train")]
    assert main([*asked, f"--set=policy.coupling={coupling}"]) == 2
    assert re.search(rf"coupling = {coupling}; .* joint and cascaded can", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_running_it_again_goes_on_from_what_is_there(finished):
    output, _, _ = finished
    before = (output / "train" / "metrics.jsonl").read_text()
    recorded = (output / "data" / "demonstrations" / "meta" / "info.json").stat().st_mtime_ns
    twin_job.record(output / "data", BUDGET, Variation(), 0, progress)
    assert (output / "data" / "demonstrations" / "meta" / "info.json").stat().st_mtime_ns == recorded
    assert (output / "train" / "metrics.jsonl").read_text() == before


def test_a_calibrated_policy_imagines_on_demand(finished, tmp_path, capsys):
    output, _, _ = finished
    checkpoint = tmp_path / "000000064"
    shutil.copytree((output / "train" / "checkpoints" / "last").resolve(), checkpoint)
    policy = checkpoint / "pretrained_model"
    asked = ["calibrate", "--policy", str(policy), "--env", "so101_twin", "--imagine-rate", "0.25"]
    asked += ["--episodes", "8"]  # two of each family
    assert main([*asked, "--dry-run"]) == 0
    assert json.loads((policy / "config.json").read_text())["imagine"] == "never"
    capsys.readouterr()
    assert main(asked) == 0
    shown = json.loads(capsys.readouterr().out)
    config = json.loads((policy / "config.json").read_text())
    assert config["imagine"] == "on_uncertainty"
    assert config["imagine_threshold"] == shown["imagine_threshold"] > 0
    verify(checkpoint)  # training can go on from it
    actor = Actor.load(policy)
    assert actor.policy.config.imagine == "on_uncertainty"
    assert shown["success_without_imagination"] == 0.0
    assert shown["plans"] == 8 * MAX_STEPS // actor.policy.config.n_action_steps  # first ones included
    found = evaluate_policy(actor, "so101_twin", episodes=8, seed=100_000)
    assert found["imagined_share"] == pytest.approx(0.25, abs=0.08)
    assert main([*asked, "--imagine-rate", "1.5"]) == 2
    assert "imagine rate 1.5; allowed above 0" in capsys.readouterr().err
