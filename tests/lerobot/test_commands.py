"""LeRobot's own commands, unmodified, with the policy, the twin and a robot: what a user types."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file

FPS = 10
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
NAMES = [f"{joint}.pos" for joint in JOINTS]


def weights(folder):
    return load_file(folder / "model.safetensors")


def losses(output):
    return {int(step): float(loss) for step, loss in re.findall(r"step:(\d+) .*?loss:([\d.]+|nan)", output)}


# -- lerobot-train
def test_training_writes_a_whole_checkpoint(trained, checkpoint):
    said = (trained / "said.txt").read_text()
    found = losses(said)
    assert sorted(found) == [1, 2, 3, 4]
    assert all(math.isfinite(loss) for loss in found.values())
    names = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
    assert {
        "config.json",
        "model.safetensors",
        "train_config.json",
        "policy_preprocessor.json",
        "policy_postprocessor.json",
        "goal_tokenizer/tokenizer.json",
    } <= names
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["type"] == "hybrid"
    assert config["fps"] == FPS
    assert config["action_feature_names"] == config["state_feature_names"] == NAMES
    assert "zone" in config["lexicon"]
    assert int(weights(checkpoint)["train_step"]) == 4


def test_a_resumed_training_ends_where_the_whole_one_did(command, trained, checkpoint, workplace):
    """LeRobot's order of samples and our noise are both functions of the step."""
    import shutil

    copy = workplace / "resumed"
    shutil.copytree(trained, copy, symlinks=True)
    shutil.rmtree(copy / "checkpoints" / "000004")
    (copy / "checkpoints" / "last").unlink()
    half = copy / "checkpoints" / "000002" / "pretrained_model"
    result = command(
        "train", f"--config_path={half / 'train_config.json'}", "--resume=true", f"--output_dir={copy}"
    )
    assert result.code == 0, result.output[-3000:]
    assert sorted(losses(result.output)) == [3, 4]
    first, second = weights(checkpoint), weights(copy / "checkpoints" / "000004" / "pretrained_model")
    assert first.keys() == second.keys()
    assert [
        name for name in first if not torch.equal(first[name].nan_to_num(), second[name].nan_to_num())
    ] == []


@pytest.fixture(scope="module")
def adapter(command, checkpoint, dataset, workplace, loading):
    """Folder of an adapter made by `lerobot-train --policy.path=… --peft.…`."""
    output = workplace / "adapter"
    result = command(
        "train",
        f"--policy.path={checkpoint}",
        "--policy.device=cpu",
        "--peft.method_type=LORA",
        "--peft.r=4",
        *loading,
        "--dataset.repo_id=tests/tiny",
        f"--dataset.root={dataset()}",
        f"--output_dir={output}",
        "--steps=2",
        "--log_freq=1",
    )
    assert result.code == 0, result.output[-3000:]
    return output / "checkpoints" / "last" / "pretrained_model"


def test_an_adapter_holds_only_what_it_adds(adapter):
    assert not (adapter / "model.safetensors").exists()
    names = list(load_file(adapter / "adapter_model.safetensors"))
    lora = [name for name in names if "lora_" in name]
    assert len(lora) == 2 * 4 * 2  # A and B, four layers a block, two blocks of the action stream
    assert all(".streams.action." in name for name in lora)
    rest = [name for name in names if name not in lora]
    assert rest
    assert all("embodiments.arm" in name for name in rest)
    assert any(name.endswith("action_mean") for name in rest), "with the statistics it was trained under"


def test_an_adapter_is_trained_further(command, adapter, dataset, workplace, loading):
    arguments = ("--peft.r=4", *loading, "--dataset.repo_id=tests/tiny", f"--dataset.root={dataset()}")
    output = workplace / "adapter-further"
    result = command("train", f"--policy.path={adapter}", *arguments, f"--output_dir={output}", "--steps=1")
    assert result.code == 0, result.output[-3000:]
    before, after = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (adapter, output / "checkpoints" / "last" / "pretrained_model")
    )
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name].nan_to_num(), after[name].nan_to_num())]
    assert any("lora_" in name for name in moved)


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ({"fps": 30}, (), "made for 10 Hz and the dataset is 30 Hz"),
        ({"names": NAMES[::-1]}, (), r"action is \['shoulder_pan.pos'.*joints are matched by name and order"),
        ({"names": NAMES[:5]}, (), "joints are matched by name"),
        ({}, ("--policy.imagine=sometimes",), "allowed are always, never"),
        ({}, ("--policy.depth=3",), r"\d+ missing .*Load it with the config\.json saved beside it"),
    ],
    ids=["rate", "joint order", "joint count", "setting", "architecture"],
)
def test_fine_tuning_what_does_not_fit_ends_with_one_message(
    command, checkpoint, dataset, workplace, loading, data, arguments, message
):
    result = command(
        "train",
        f"--policy.path={checkpoint}",
        *arguments,
        *loading,
        "--dataset.repo_id=tests/tiny",
        f"--dataset.root={dataset(**data)}",
        f"--output_dir={workplace / 'refused'}",
        "--steps=1",
    )
    assert result.code != 0
    assert re.search(message, result.output, re.DOTALL), result.output[-3000:]


# -- lerobot-eval
@pytest.fixture(scope="module")
def relative(command, dataset, workplace, small_policy, loading):
    """A policy of relative actions, trained by `lerobot-train`."""
    output, data = workplace / "relative", ("--dataset.repo_id=tests/tiny", f"--dataset.root={dataset()}")
    arguments = (*small_policy, "--policy.action_convention=relative", *loading, *data, "--steps=1")
    result = command("train", *arguments, f"--output_dir={output}")
    assert result.code == 0, result.output[-3000:]
    return output / "checkpoints" / "last" / "pretrained_model"


@pytest.mark.parametrize("kind", ["policy", "adapter", "relative", "imagine"])
def test_evaluation_in_the_twin(command, checkpoint, adapter, relative, workplace, kind):
    output = workplace / f"eval-{kind}"
    folder = {"adapter": adapter, "relative": relative}.get(kind, checkpoint)
    result = command(
        "eval",
        f"--policy.path={folder}",
        *(["--policy.imagine=always"] if kind == "imagine" else []),
        "--policy.device=cpu",
        "--env.type=so101_twin",
        "--env.task=touch",
        "--eval.n_episodes=2",
        "--eval.batch_size=2",
        f"--output_dir={output}",
        "--seed=3",
    )
    assert result.code == 0, result.output[-3000:]
    info = json.loads((output / "eval_info.json").read_text())
    assert info["overall"]["n_episodes"] == 2
    assert 0.0 <= info["overall"]["pc_success"] <= 100.0


# -- lerobot-rollout
@pytest.fixture
def rollout(command, checkpoint, tmp_path):
    def run(*arguments):
        log = tmp_path / "commands.json"
        result = command(
            "rollout",
            f"--policy.path={checkpoint}",
            "--policy.device=cpu",
            "--plugins.discover_packages_path=scripted_arm",
            "--robot.type=scripted_arm",
            f"--robot.log={log}",
            "--strategy.type=base",
            "--task=touch the red block",
            f"--fps={FPS}",
            "--duration=2",
            "--device=cpu",
            "--play_sounds=false",
            "--return_to_initial_position=false",
            *arguments,
        )
        assert result.code == 0, result.output[-3000:]
        return result, json.loads(log.read_text())

    return run


RTC = ("--inference.type=rtc", "--inference.rtc.execution_horizon=10")


def test_a_rollout_at_another_rate_is_told(rollout):
    result, _ = rollout("--inference.type=sync", "--fps=60", "--duration=2")
    assert "the policy was trained at 10 Hz" in result.output


@pytest.mark.parametrize("inference", [("--inference.type=sync",), RTC], ids=["sync", "rtc"])
def test_a_rollout_moves_a_robot(rollout, inference):
    result, sent = rollout(*inference)
    assert "RTC inference error" not in result.output
    assert 5 <= len(sent) <= 22, "two seconds at ten a second"
    assert all(sorted(command) == sorted(NAMES) for command in sent)
    values = torch.tensor([[command[name] for name in NAMES] for command in sent])
    assert bool(torch.isfinite(values).all())
    assert float(values.abs().max()) < 200.0, "degrees, not normalised and not exploded"
    assert float(values.std(dim=0).max()) > 1e-4
