"""A study in miniature: equal samples, cells kept and gone on with, effects of what differs in one thing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from embodiments.so101.twin.scenario import draw_scenarios
from embodiments.so101.twin.variation import Variation
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.errors import ConfigurationError, DatasetError
from hybridpolicy.evaluation.acting import Actor
from recipes import couplings_study, stage1_study
from recipes.commands.progress import progress
from recipes.twin import study, suites
from recipes.twin.job import Budget
from recipes.twin.study import Variant, run_study

BUDGET = Budget(
    demonstrations=12, play=4, held_out=3, success=3, swapped=3, paraphrase=0, absent=0, two_stage=0
)


def small(root):
    """The study's own recipe on numbers too small to learn anything."""
    config = stage1_study.recipe(str(root))
    seen = tuple(range(BUDGET.demonstrations - BUDGET.held_out))
    stages = [
        replace(
            stage,
            samples=64,
            batch_size=16,
            sources=[replace(s, episodes=seen) if s.episodes else s for s in stage.sources],
        )
        for stage in config.stages
    ]
    return replace(config, stages=stages, log_every=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("study")
    variants = stage1_study.variants(small(output))
    chosen = [variant for variant in variants if variant.factors["privileged"] == "without"]
    path = run_study("mini", "command", chosen, (0,), output, BUDGET, Variation(), progress)
    return output, chosen, path


@pytest.mark.parametrize(
    ("module", "policy", "named"),
    [
        (couplings_study, {"coupling": "vla"}, "policy.coupling"),
        (couplings_study, {"streams": "tied"}, "policy.streams"),
        (stage1_study, {"objects_weight": 0.5}, "policy.objects_weight"),
    ],
)
def test_what_a_study_varies_is_not_to_be_set(module, policy, named):
    config = module.recipe()
    with pytest.raises(ConfigurationError, match=f"{named} set, which the study varies; leave it out"):
        module.variants(replace(config, policy=replace(config.policy, **policy)))
    with pytest.raises(ConfigurationError, match="stages set"):
        module.variants(replace(config, stages=config.stages[-1:]))


def test_the_four_cells_see_equally_many_samples(tmp_path):
    variants = stage1_study.variants(stage1_study.recipe(str(tmp_path)))
    assert len({variant.name for variant in variants}) == 4
    assert len({variant.config.total_samples for variant in variants}) == 1
    for variant in variants:
        assert len(variant.config.stages) == (2 if variant.factors["stage1"] == "with" else 1)
        assert (variant.config.policy.objects_weight > 0) == (variant.factors["privileged"] == "with")


def test_every_coupling_is_a_cell_of_as_many_samples(tmp_path):
    variants = couplings_study.variants(couplings_study.recipe(str(tmp_path)))
    plain = {"streams": "two", "stage1": "without"}
    assert [v.factors["coupling"] for v in variants if plain.items() <= v.factors.items()] == list(COUPLINGS)
    assert variants[0].factors == {"coupling": "joint", "streams": "two", "stage1": "with"}
    assert variants[0].config == couplings_study.recipe(
        str(tmp_path)
    )  # what a success is looked up for first
    assert {variant.config.policy.streams for variant in variants} == {"two", "tied"}
    assert len({variant.config.total_samples for variant in variants}) == 1
    for variant in variants:
        row = COUPLINGS[variant.factors["coupling"]]
        assert variant.config.policy.imagine == row.imagine[0]
        assert (variant.config.stages[0].name == "world") == (variant.factors["stage1"] == "with")


def test_the_table_holds_every_cell_and_what_one_factor_changes(finished):
    _, chosen, path = finished
    study = json.loads(path.read_text())
    assert [row["stage1"] for row in study["variants"]] == ["with", "without"]
    assert study["samples"] == chosen[0].config.total_samples
    for row in study["variants"]:
        assert row["success"]["episodes"] == BUDGET.success
        assert len(row["success"]["by_seed"]) == 1
        assert {
            mode: found["share"] for mode, found in row["imagine"].items() if mode != "on_uncertainty"
        } == {
            "never": 0.0,
            "always": 1.0,
        }
        assert 0.0 <= row["imagine"]["on_uncertainty"]["share"] <= 1.0
        assert row["imagine"]["never"]["rate"] == row["success"]["rate"]
        gained = row["imagine"]["always"]["rate"] - row["imagine"]["never"]["rate"]
        assert row["always_minus_never"]["value"] == pytest.approx(gained)
    (effect,) = study["effects"]
    assert effect["factor"] == "stage1"
    assert effect["holding"] == {"privileged": "without"}
    rates = [row["success"]["rate"] for row in study["variants"]]
    assert effect["difference"]["value"] == pytest.approx(rates[0] - rates[1])


def test_a_study_goes_on_with_the_cells_that_are_missing(finished, tmp_path):
    output, chosen, path = finished
    before = json.loads(path.read_text())
    again = run_study("mini", "command", chosen, (0,), output, BUDGET, Variation(), progress)
    assert json.loads(again.read_text()) == before
    first = chosen[0].name
    part = before | {"cells": {first: before["cells"][first]}}  # committed, then gone on with
    (tmp_path / "study.json").write_text(json.dumps(part))
    shutil.copytree(output / "data", tmp_path / "data")
    moved = [replace(v, config=retold(v.config, output, tmp_path)) for v in chosen]
    study = json.loads(
        run_study("mini", "command", moved, (0,), tmp_path, BUDGET, Variation(), progress).read_text()
    )
    assert not (tmp_path / "cells" / chosen[0].name).exists()
    assert study["cells"][chosen[0].name] == before["cells"][chosen[0].name]
    assert study["cells"][chosen[1].name][0]["outcomes"] == before["cells"][chosen[1].name][0]["outcomes"]
    assert study["missing"] == []
    with pytest.raises(ConfigurationError, match="another study's \\(title\\)"):
        run_study("maxi", "command", chosen, (0,), output, BUDGET, Variation(), progress)
    slower = [replace(v, config=replace(v.config, ema_decay=0.5)) for v in chosen]
    with pytest.raises(ConfigurationError, match="measured with another recipe than it would be now"):
        run_study("mini", "command", slower, (0,), output, BUDGET, Variation(), progress)
    for row in before["variants"]:
        (cell,) = before["cells"][f"stage1-{row['stage1']}_privileged-without"]
        assert row["network"] == cell["network"] == chosen[0].config.policy.network


def test_a_cell_that_fails_ends_the_study_and_loses_no_other(finished, tmp_path):
    output, chosen, _ = finished
    shutil.copytree(output / "data", tmp_path / "data")
    good, bad = (replace(v, config=retold(v.config, output, tmp_path)) for v in chosen)
    last = bad.config.stages[-1]
    gone = replace(last, sources=[replace(last.sources[0], root=str(tmp_path / "gone"))])
    bad = replace(bad, config=replace(bad.config, stages=[*bad.config.stages[:-1], gone]))
    with pytest.raises(DatasetError, match="gone"):
        run_study("mini", "command", [bad, good], (0,), tmp_path, BUDGET, Variation(), progress, workers=2)
    study = json.loads((tmp_path / "study.json").read_text())
    assert [len(study["cells"][good.name]), study["missing"]] == [1, [bad.name]]


def retold(config, old, new):
    """`config` with its data and caches below `new`."""
    stages = [
        replace(stage, sources=[replace(s, root=s.root.replace(str(old), str(new))) for s in stage.sources])
        for stage in config.stages
    ]
    folders = {
        name: getattr(config, name).replace(str(old), str(new)) for name in ("cache_dir", "output_dir")
    }
    return replace(config, stages=stages, **folders)


def test_unequal_samples_are_refused(tmp_path):
    config = small(tmp_path)
    shorter = replace(config, stages=config.stages[1:])
    pair = [Variant({"stage1": "with"}, config), Variant({"stage1": "without"}, shorter)]
    with pytest.raises(ConfigurationError, match="make them equal"):
        run_study("mini", "command", pair, (0,), tmp_path, BUDGET, Variation(), progress)
    assert not (tmp_path / "data").exists()


def test_doubt_is_measured_on_the_kinds_of_task_that_are_played(monkeypatch, make_policy_folder):
    """Left to itself the twin also asks for what is not there, and most of the doubt is there."""
    folder, asked = Path(make_policy_folder(coupling="joint")), {}
    actor = Actor.load(folder)
    scenes = draw_scenarios(6, 0, suites.FAMILIES, Variation())

    def calibrated(policy, env, rate, **settings):
        asked.update(settings)
        return SimpleNamespace(threshold=0.5)

    def play(actor, scenarios, **_):
        return [SimpleNamespace(success=(True,), imagined=0, plans=1) for _ in scenarios]

    monkeypatch.setattr(study, "calibrate_imagination", calibrated)
    monkeypatch.setattr(suites, "play", play)
    _, modes = study._play_modes(actor, folder, scenes, progress)
    assert set(modes) == {"never", "on_uncertainty", "always"}
    assert set(asked["tasks"]) == {scene.family for scene in scenes}
    assert asked["seed"] != suites.SEED
    assert actor.policy.config.imagine_threshold == 0.5
