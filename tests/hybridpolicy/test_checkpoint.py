"""Saving and loading: the same action bit for bit, strictly, wherever the folder is."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from lerobot.policies.factory import (
    get_policy_class,
    make_pre_post_processors,
)
from lerobot.policies.factory import (
    make_policy as lerobot_make_policy,
)
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.errors import CheckpointError, ConfigurationError
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.processor_hybrid import make_hybrid_pre_post_processors

CONFIGURATIONS = [
    *(
        {"coupling": row.name, "imagine": imagine, "imagine_threshold": 0.5}
        for row in COUPLINGS.values()
        for imagine in row.imagine
    ),
    {"coupling": "joint", "action_law": "flow", "world_law": "flow"},
    {"action_convention": "relative"},
    {"objects_weight": 1.0, "objects_count": 3},
    {"waypoint_weight": 1.0, "waypoint_offsets": [3, 6]},
    {"change_weight": 1.0, "change_offsets": [2, 4]},
    {"state": False},
    {"goal_layers": 1, "goal_tokens": 3},
]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture
def saved(make_policy, tmp_path):
    """A checkpoint folder and the policy that was saved there."""

    def save(folder="checkpoint", **fields):
        policy = make_policy(**fields)
        policy.save_pretrained(tmp_path / folder)
        return policy.eval(), tmp_path / folder

    return save


@pytest.mark.parametrize("fields", CONFIGURATIONS, ids=str)
def test_a_loaded_policy_acts_the_same_bit_for_bit(saved, make_batch, fields):
    policy, folder = saved(**fields)
    policy.train_step += 17
    policy.save_pretrained(folder)
    batch = make_batch(2, 0, state=fields.get("state", True))
    actions = [policy.select_action(batch) for _ in range(3)]
    loaded = HybridPolicy.from_pretrained(folder)
    assert same([loaded.select_action(batch) for _ in range(3)], actions)
    assert int(loaded.train_step) == 17
    assert not loaded.training


def test_training_continues_the_same_after_loading(saved, make_batch, train_steps):
    policy, folder = saved(action_law="flow", world_law="flow")
    batch = make_batch(8)
    train_steps(policy, batch, 2)
    policy.save_pretrained(folder)
    loaded = HybridPolicy.from_pretrained(folder)
    assert train_steps(loaded, batch, 3) == train_steps(policy, batch, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"1 missing \(network\.streams\.world\.0\.qkv\.weight…\), 0 surplus"),
        ("surplus", r"0 missing, 1 surplus \(network\.new\.weight…\)"),
        ("shape", r"0 missing, 0 surplus, 1 of another shape \(embodiments\.arm\.action_out\.weight…\)"),
    ],
    ids=["missing", "surplus", "shape"],
)
def test_weights_that_do_not_fit_are_refused(saved, change, message):
    _, folder = saved()
    file = folder / "model.safetensors"
    weights = load_file(file)
    if change == "missing":
        del weights["network.streams.world.0.qkv.weight"]
    elif change == "surplus":
        weights["network.new.weight"] = torch.zeros(1)
    else:
        weights["embodiments.arm.action_out.weight"] = torch.zeros(5, 32)
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=message):
        HybridPolicy.from_pretrained(folder, strict=False)


def test_another_architecture_is_refused(saved, make_config):
    _, folder = saved()
    with pytest.raises(CheckpointError, match=r"16 missing|missing .*streams\.action\.2"):
        HybridPolicy.from_pretrained(folder, config=make_config(depth=3))


def test_a_checkpoint_moves_whole(saved, make_batch, tmp_path):
    policy, folder = saved()
    batch = make_batch(1, 0)
    expected = policy.predict_action_chunk(batch)
    moved = tmp_path / "elsewhere" / "policy"
    shutil.move(folder, moved)
    loaded = HybridPolicy.from_pretrained(moved)
    assert torch.equal(loaded.predict_action_chunk(batch), expected)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(moved / "goal_tokenizer" / "tokenizer.json"))
    text = "Push the red block"
    assert tokenizer(text)["input_ids"] == loaded.network.goal.tokenizer(text)["input_ids"]
    assert len(set(tokenizer(text)["input_ids"])) == 4
    kept = {path.suffix for path in moved.rglob("*") if path.is_file()}
    assert kept == {".safetensors", ".json"}, "an upload to the hub keeps only these"


def test_paths_of_this_machine_stay_out_of_the_checkpoint(saved, tmp_path):
    _, folder = saved()
    read = list(folder.rglob("*.json"))
    assert len(read) >= 2
    assert not [path.name for path in read if str(tmp_path) in path.read_text()]


# -- what a dataset says, against what the policy knows
def meta(stats, fps=10, joints=None, states=None, tasks=("push the red block",)):
    names = joints or ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "gripper.pos"]
    image = {"dtype": "video", "shape": (32, 32, 3), "names": ["height", "width", "channels"]}
    features = {
        "observation.images.front": image,
        "observation.images.wrist": image,
        "observation.state": {"dtype": "float32", "shape": (4,), "names": states or names},
        "action": {"dtype": "float32", "shape": (4,), "names": names},
    }
    return SimpleNamespace(
        fps=fps, features=features, stats=stats, tasks=pd.DataFrame(index=list(tasks)), root=""
    )


def fresh_config(make_config, **fields):
    blank = {"action_feature_names": None, "state_feature_names": None, "lexicon": []}
    return make_config(**(blank | fields))


@pytest.fixture
def checkpoint(make_config, stats, tmp_path):
    """A policy made by LeRobot's factory from a 10 Hz dataset, saved with its pipeline."""
    policy = lerobot_make_policy(fresh_config(make_config), ds_meta=meta(stats))
    policy.save_pretrained(tmp_path / "base")
    for pipeline in make_hybrid_pre_post_processors(policy.config, stats):
        pipeline.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def again(checkpoint, **changes):
    """The config as LeRobot's commands load it for `--policy.path`."""
    config = HybridPolicy.config_class.from_pretrained(checkpoint)
    config.pretrained_path = str(checkpoint)
    return dataclasses.replace(config, **changes)


def test_lerobots_factory_fills_what_the_dataset_knows(checkpoint):
    config = again(checkpoint)
    assert config.fps == 10.0
    assert config.action_feature_names[-1] == "gripper.pos"
    assert config.state_feature_names == config.action_feature_names
    assert config.lexicon == ["block", "push", "red", "the"]
    assert get_policy_class("hybrid") is HybridPolicy


def test_grouped_joint_names_of_older_datasets_are_read(make_config, stats):
    grouped, names = meta(stats), ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "gripper.pos"]
    for key in ("action", "observation.state"):
        grouped.features[key] = grouped.features[key] | {"names": {"motors": names}}
    config = lerobot_make_policy(fresh_config(make_config), ds_meta=grouped).config
    assert config.action_feature_names == config.state_feature_names == names


def test_another_rate_is_refused(checkpoint, stats):
    assert lerobot_make_policy(again(checkpoint), ds_meta=meta(stats)).config.fps == 10.0
    with pytest.raises(ConfigurationError, match="made for 10 Hz and the dataset is 30 Hz"):
        lerobot_make_policy(again(checkpoint), ds_meta=meta(stats, fps=30))


def test_going_on_from_a_policy_keeps_its_words_and_its_rate(checkpoint, make_config, stats):
    """A recipe's configuration comes without either: those of another dataset would pass as the policy's."""
    recipe = fresh_config(make_config, pretrained_path=str(checkpoint))
    other = meta(stats, tasks=("lift the blue cube",))  # as many words
    config = lerobot_make_policy(recipe, ds_meta=other).config
    assert config.lexicon == ["block", "push", "red", "the"]
    for given in ({}, {"fps": 30.0}):
        recipe = fresh_config(make_config, pretrained_path=str(checkpoint), **given)
        with pytest.raises(ConfigurationError, match="made for 10 Hz and the dataset is 30 Hz"):
            lerobot_make_policy(recipe, ds_meta=meta(stats, fps=30))
    recipe = fresh_config(
        make_config, pretrained_path=str(checkpoint), lexicon=["the", "red", "cube", "push"]
    )
    with pytest.raises(ConfigurationError, match=r"the checkpoint's 4, not the same: \['block', 'cube'\]"):
        lerobot_make_policy(recipe, ds_meta=other)


@pytest.mark.parametrize("column", ["action", "observation.state"])
def test_joints_in_another_order_are_refused(checkpoint, stats, column):
    """Also the action's, whose names LeRobot overwrites in the config before the policy sees it."""
    order = ["shoulder_lift.pos", "shoulder_pan.pos", "elbow_flex.pos", "gripper.pos"]
    usual = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "gripper.pos"]
    joints, states = (order, usual) if column == "action" else (usual, order)
    with pytest.raises(
        ConfigurationError, match=rf"{column} is \['shoulder_pan\.pos'.* and \['shoulder_lift\.pos'"
    ):
        lerobot_make_policy(again(checkpoint), ds_meta=meta(stats, joints=joints, states=states))


def test_another_number_of_joints_is_refused(checkpoint, stats):
    wider = meta(stats)
    wider.features["action"] = {"dtype": "float32", "shape": (5,), "names": [*"abcde"]}
    with pytest.raises(ConfigurationError, match=r"action is .* and \['a', 'b', 'c', 'd', 'e'\]"):
        lerobot_make_policy(again(checkpoint), ds_meta=wider)


def test_fine_tuning_takes_the_new_statistics(checkpoint, stats):
    other = {key: {"mean": value["mean"] + 1.0, "std": value["std"] * 2} for key, value in stats.items()}
    policy = lerobot_make_policy(again(checkpoint), ds_meta=meta(other))
    expected = torch.tensor(other["action"]["mean"], dtype=torch.float32)
    assert torch.equal(policy.embodiment.action_mean, expected)


def test_relative_actions_survive_lerobots_adapters(
    make_config, make_batch, stats, tmp_path, monkeypatch, train_steps
):
    """`--peft.*` on other data: the adapter carries the statistics its chunks are relative by."""
    config = fresh_config(make_config, action_convention="relative", state_feature_names=[*"abcd"])
    config.action_feature_names = config.state_feature_names
    base = HybridPolicy(dataclasses.replace(config, lexicon=["push"]), dataset_stats=stats)
    base.embodiment.relative_std.fill_(3.0)
    base.save_pretrained(tmp_path / "base")
    policy = HybridPolicy.from_pretrained(tmp_path / "base")
    policy.config.pretrained_path = str(tmp_path / "base")
    policy.set_statistics(
        {key: {"mean": value["mean"] * 2, "std": value["std"] * 3} for key, value in stats.items()}
    )
    wrapped = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 2})
    trainable = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in name or "embodiments.arm" in name for name in trainable)
    train_steps(wrapped, make_batch(8), 3)
    wrapped.eval()
    wrapped.reset()
    batch = make_batch(2, 0)
    expected = wrapped.predict_action_chunk(batch)
    wrapped.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(
        HybridPolicy.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    ).eval()
    again.reset()
    assert torch.equal(again.predict_action_chunk(batch), expected)
    plain = HybridPolicy.from_pretrained(tmp_path / "base")
    assert not torch.equal(plain.predict_action_chunk(batch), expected)


# -- the pipeline
def test_the_pipeline_is_lerobots_own_and_round_trips(checkpoint, stats, make_batch):
    names = [
        step["registry_name"]
        for step in json.loads((checkpoint / "policy_preprocessor.json").read_text())["steps"]
    ]
    assert names == [
        "rename_observations_processor",
        "to_batch_processor",
        "device_processor",
        "normalizer_processor",
    ]
    overrides = {"device_processor": {"device": "cpu"}, "rename_observations_processor": {"rename_map": {}}}
    config = again(checkpoint)
    pre, post = make_pre_post_processors(
        config, pretrained_path=str(checkpoint), preprocessor_overrides=overrides
    )
    state = torch.tensor([[30.0, -50.0, 80.0, 40.0]])
    batch = pre(make_batch(1, 0) | {"observation.state": state})
    torch.testing.assert_close(batch["observation.state"], torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    assert batch["task"] == ["push the red block"]
    torch.testing.assert_close(post(torch.ones(1, 4)), torch.tensor([[30.0, -35.0, 105.0, 70.0]]))


@pytest.mark.parametrize("lacking", ["action", "observation.state", "everything"])
def test_a_pipeline_without_statistics_is_refused(make_config, stats, lacking):
    given = None if lacking == "everything" else {k: v for k, v in stats.items() if k != lacking}
    name = "action" if lacking == "everything" else lacking
    with pytest.raises(ConfigurationError, match=f"no statistics for '{name}'"):
        make_hybrid_pre_post_processors(make_config(), given)
