"""The study of dreams: how policies are weakened, and what is said of how well two rates agree."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.factory import make_pre_post_processors

from embodiments.so101.constants import JOINT_NAMES
from embodiments.so101.recording import record_demonstrations
from embodiments.so101.twin.language import LEXICON
from embodiments.so101.twin.variation import REST_DEG
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.processor_hybrid import make_hybrid_pre_post_processors
from hybridpolicy.training.config import RECIPE_FILE, DatasetSource, StageConfig, TrainConfig, save_recipe
from recipes.commands import main
from recipes.twin import dream, dream_study
from recipes.twin.dream_study import FEWEST_POLICIES, NOISES, SCALES, SHIFTS, Weakened, agreement


def rows(true, imagined):
    def side(rate):
        return {"rate": rate, "outcomes": [int(scene < 20 * rate) for scene in range(20)]}

    return [{"true": side(t), "imagined": side(i)} for t, i in zip(true, imagined, strict=True)]


def test_one_checkpoint_makes_enough_policies():
    assert 1 + len(NOISES) + len(SCALES) + len(SHIFTS) >= FEWEST_POLICIES


def test_weakening_does_what_it_says(monkeypatch):
    planned = np.full((2, 4, 6), 10.0, np.float32)
    monkeypatch.setattr(Actor, "chunk", lambda *_: planned.copy())
    state = np.zeros((2, 6), np.float32)

    def chunk(**settings):
        return Weakened(SimpleNamespace(), None, None, **settings).chunk({}, state, [])

    np.testing.assert_array_equal(chunk(), planned)
    np.testing.assert_allclose(chunk(scale=0.3), 3.0)
    shifted = chunk(shift=5.0)
    np.testing.assert_allclose(shifted[..., 0], 15.0)
    np.testing.assert_allclose(shifted[..., 1:], 10.0)
    noisy = chunk(noise=4.0)
    assert 3.0 < noisy.std() < 5.0
    np.testing.assert_array_equal(noisy, chunk(noise=4.0))  # the same policy, the same noise


def test_the_answer_is_plain():
    true = np.linspace(0.0, 1.0, 16)
    said = agreement(rows(true, 0.2 + 0.8 * true))
    assert said["spearman"]["value"] == pytest.approx(1.0)
    assert said["bias"] == pytest.approx(0.1)
    assert said["plainly"].startswith("The dream ranks policies: rho 1.00")
    assert said["middle"]["policies"] == 12
    assert said["middle"]["spearman"]["value"] == pytest.approx(1.0)
    assert said["same_outcome"] == pytest.approx(0.9, abs=0.01)
    assert said["same_by_chance"] == pytest.approx(np.mean(true * (0.2 + 0.8 * true) + 0.8 * (1 - true) ** 2))
    assert "off by 10 points on average (+10 of them bias)" in said["plainly"]
    shuffled = np.random.default_rng(1).permutation(true)
    assert agreement(rows(true, shuffled))["plainly"].startswith("The dream cannot be said to rank policies")
    constant = agreement(rows(true, np.zeros(16)))
    assert constant["spearman"] is None
    assert "no order to compare" in constant["plainly"]


def test_broken_and_whole_policies_alone_make_no_order_in_between():
    """A dream that tells the two apart and ranks nothing within them: its rho is high, and is not all."""
    true = np.array([0.0, 0.02, 0.04, 0.06, 0.08] * 2 + [0.95, 1.0] * 3)
    imagined = np.where(true > 0.5, 0.9, 0.1) + np.random.default_rng(0).normal(0, 0.03, 16)
    said = agreement(rows(true, imagined))
    assert said["spearman"]["value"] > 0.5
    assert said["middle"] == {"policies": 0, "spearman": None}
    assert "too few to say over those 0 between 10 and 90 %" in said["plainly"]


@pytest.fixture
def policy(tmp_path):
    """The folder of a small untrained policy for the twin, with its pipeline."""
    torch.manual_seed(0)
    picture, joints = (
        PolicyFeature(kind, shape)
        for kind, shape in ((FeatureType.VISUAL, (3, 32, 32)), (FeatureType.STATE, (6,)))
    )
    config = HybridConfig(
        device="cpu", image_size=[32, 32], width=32, depth=1, heads=2, num_keypoints=8, tokens_per_view=2,
        keypoint_features=2, frame_channels=16, fps=10.0, lexicon=[*LEXICON, ","], n_action_steps=8,
        action_feature_names=list(JOINT_NAMES), state_feature_names=list(JOINT_NAMES),
        input_features={"observation.images.front": picture, "observation.images.wrist": picture,
                        "observation.state": joints},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
    )  # fmt: skip
    stats = {name: {"mean": REST_DEG, "std": np.full(6, 10.0)} for name in ("observation.state", "action")}
    HybridPolicy(config, dataset_stats=stats).save_pretrained(tmp_path / "policy")
    for part in make_hybrid_pre_post_processors(config, stats):
        part.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_from_recordings_to_a_study(policy, tmp_path, monkeypatch, capsys):
    """Every part runs on the real ones: recordings, decoders, probe, judge, twin, dream, figures."""
    data, cache = tmp_path / "data", str(tmp_path / "cache")
    record_demonstrations(data, 6, image_size=32, workers=1)
    for name, few in (("NOISES", (30.0,)), ("SCALES", ()), ("SHIFTS", ()), ("FEWEST_POLICIES", 2)):
        monkeypatch.setattr(dream_study, name, few)
    monkeypatch.setattr(dream, "FRAMES", 128)
    asked = ["--dataset", str(data), "--cache-dir", cache]
    trained_on(policy, DatasetSource(str(data), episodes=(0, 1, 2, 4, 5)))
    assert main(["dream", "fit", "--policy", str(policy), "--held-out", "2", *asked]) == 2
    assert "was trained on 5 of 6 episodes of" in (said := capsys.readouterr().err)
    assert "hold out 1 or fewer" in said
    trained_on(policy, DatasetSource(str(data), episodes=(0, 1, 2, 4)))
    assert main(["dream", "fit", "--policy", str(policy), "--held-out", "2", "--steps", "2", *asked]) == 0
    fitted = json.loads(capsys.readouterr().out)
    assert fitted["cameras"] == ["front", "wrist"]
    assert fitted["probe"]["episodes"] == 2
    assert 0 <= fitted["probe"]["false_alarms"] <= fitted["probe"]["hits"] <= 1
    path = dream_study.run_study(
        policy, [policy], tmp_path / "out", episodes=3, judge="auto", progress=quiet, workers=0
    )  # fmt: skip
    study = json.loads(path.read_text())
    assert study["made"]["judge"] == "probe"
    assert [row["policy"] for row in study["policies"]] == [f"as trained, {policy}", "noise 30"]
    for row in study["policies"]:
        assert (row["true"]["episodes"], row["imagined"]["episodes"]) == (3, 3)
        assert len(row["true"]["outcomes"]) == len(row["imagined"]["outcomes"]) == 3
    assert study["plainly"]
    monkeypatch.setattr(dream_study.suites, "play", None)  # it goes on with what is there
    again = {"episodes": 3, "judge": "auto", "progress": quiet, "workers": 0}
    assert dream_study.run_study(policy, [policy], tmp_path / "out", **again) == path
    assert json.loads(path.read_text()) == study
    with monkeypatch.context() as fewer:  # what is not asked for now is kept, and judged no more
        fewer.setattr(dream_study, "NOISES", ())
        fewer.setattr(dream_study, "FEWEST_POLICIES", 1)
        dream_study.run_study(policy, [policy], tmp_path / "out", **again)
    asked_for, kept = (json.loads(path.read_text())[name] for name in ("policies", "others"))
    assert (asked_for, kept) == (study["policies"][:1], study["policies"][1:])
    with pytest.raises(ConfigurationError, match="made with other episodes; choose an empty folder"):
        dream_study.run_study(policy, [policy], tmp_path / "out", **again | {"episodes": 4})
    assert main(["dream", "fit", "--policy", str(policy), "--held-out", "2", "--steps", "3", *asked]) == 0
    with pytest.raises(ConfigurationError, match="made with other kit; choose an empty folder"):
        dream_study.run_study(policy, [policy], tmp_path / "out", **again)
    other = stock_act(tmp_path / "act")
    lerobot_eval = Path(sys.executable).with_name("lerobot-eval")
    done = subprocess.run(
        [lerobot_eval, f"--policy.path={other}", "--policy.device=cpu", "--env.type=dream",
         f"--env.world={policy}", f"--env.dataset={data}", f"--env.cache_dir={cache}",
         "--env.episode_length=4", "--eval.batch_size=2", "--eval.n_episodes=2",
         f"--output_dir={tmp_path / 'eval'}"],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((tmp_path / "eval/eval_info.json").read_text())
    assert told["overall"]["n_episodes"] == 2


@pytest.mark.parametrize("column", [None, "next.success"])
def test_a_judge_misses_no_success_where_there_was_none(monkeypatch, column):
    """Four episodes of two frames: of rollouts, that of number 2 failed, and nobody sees a success in it."""
    rows = np.arange(8)
    columns = {"task_index": rows * 0, "observation.state": rows, "privileged.objects": np.zeros((8, 6)),
               "privileged.present": np.ones((8, 3))}  # fmt: skip
    if column:
        columns[column] = rows[:, None] % 2 * (rows[:, None] // 2 != 2) > 0
    cache = SimpleNamespace(columns=columns, tasks=["touch the red block"], episode_from=rows[::2],
                            episode_to=rows[::2] + 2)  # fmt: skip
    reader = SimpleNamespace(cache=cache, source=SimpleNamespace(episodes=range(4)))
    monkeypatch.setattr(dream, "latents_of", lambda *_: None)
    monkeypatch.setattr(dream, "_succeeds", lambda text, objects, there, state: state[0] != 4)
    actor, probe = SimpleNamespace(policy=None, preprocessor=None), SimpleNamespace(read=lambda _: None)
    found = dream.judge_real_episodes(actor, reader, probe)
    assert found == ({"hits": 1.0, "episodes": 3.0} if column else {"hits": 0.75, "episodes": 4.0})
    columns["next.success"] = np.zeros((8, 1), bool)
    with pytest.raises(ConfigurationError, match="no held-out episode that succeeded"):
        dream.judge_real_episodes(actor, reader, probe)


def trained_on(policy, source):
    """Says beside the weights what they were trained on."""
    stage = StageConfig("policy", samples=8, batch_size=8, lr=1e-3, sources=[source])
    config = HybridConfig.from_pretrained(policy)
    save_recipe(
        TrainConfig(name="small", policy=config, stages=[stage], output_dir="here"), policy / RECIPE_FILE
    )


def stock_act(folder):
    """The folder of an untrained ACT of LeRobot's own, for the same cameras, state and actions."""
    pictures = {f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, 32, 32))
                for name in ("front", "wrist")}  # fmt: skip
    joints = {"observation.state": PolicyFeature(FeatureType.STATE, (6,))}
    config = ACTConfig(
        device="cpu", input_features=pictures | joints, pretrained_backbone_weights=None, chunk_size=4,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))}, n_action_steps=2, dim_model=32,
        n_heads=2, dim_feedforward=32, n_encoder_layers=1, n_decoder_layers=1, push_to_hub=False,
    )  # fmt: skip
    stats = {name: {"mean": torch.tensor(REST_DEG, dtype=torch.float32), "std": torch.full((6,), 10.0)}
             for name in ("observation.state", "action")}  # fmt: skip
    stats |= {name: {"mean": torch.zeros(3, 1, 1), "std": torch.ones(3, 1, 1)} for name in pictures}
    ACTPolicy(config).save_pretrained(folder)
    for part in make_pre_post_processors(config, dataset_stats=stats):
        part.save_pretrained(folder)
    return folder


@contextmanager
def quiet(label, total, unit):
    yield SimpleNamespace(advance=lambda: None)
