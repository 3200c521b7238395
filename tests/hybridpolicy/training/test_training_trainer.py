"""Runs: they learn, they survive being killed to the bit, and they stop at the first NaN."""

import json
import logging
import math
import signal
import socket

import pytest
import tiny_training
import torch
from safetensors.torch import load_file
from tiny_training import TinyPolicy, make_dataset, make_trainer, train_as_one_of, train_in_process

from hybridpolicy.errors import CheckpointError, ConfigurationError, NonFiniteError
from hybridpolicy.training.config import AugmentationConfig, StageConfig, load_recipe
from hybridpolicy.training.metrics import read_metrics
from hybridpolicy.training.schedule import lr_factor

CLOCKS = {"samples_per_s", "seconds"}


def curve(output_dir):
    """All lines of metrics.jsonl without what depends on the clock."""
    lines = read_metrics(output_dir / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def final_tensors(output_dir):
    """Every tensor of the newest checkpoint, by file and name."""
    folder = output_dir / "checkpoints" / "last"
    files = [path for path in sorted(folder.rglob("*.safetensors")) if path.name != "random.safetensors"]
    return {(path.name, name): tensor for path in files for name, tensor in load_file(path).items()}


def in_process(processes, target, *arguments):
    """Exit code of `target` run in a new process."""
    child = processes.Process(target=target, args=arguments)
    child.start()
    child.join(120)
    return child.exitcode


@pytest.fixture(scope="module")
def whole_run(processes, video_dataset, tmp_path_factory):
    """Output folder of a run that nothing interrupted."""
    output_dir = tmp_path_factory.mktemp("whole")
    assert in_process(processes, train_in_process, video_dataset, output_dir) == 0
    return output_dir


@pytest.mark.parametrize(
    "die",
    [("log", 24), ("log", 96), ("fill", 2), ("rename", 1), ("rename", 3), ("link", 2)],
    ids=lambda die: f"{die[0]}-{die[1]}",
)
def test_killed_and_resumed_is_the_same_to_the_bit(processes, video_dataset, whole_run, tmp_path, die):
    assert in_process(processes, train_in_process, video_dataset, tmp_path, die) == -signal.SIGKILL
    interrupted = curve(tmp_path)
    assert interrupted != curve(whole_run)
    assert in_process(processes, train_in_process, video_dataset, tmp_path) == 0
    assert curve(tmp_path) == curve(whole_run)
    expected, resumed = final_tensors(whole_run), final_tensors(tmp_path)
    assert len(expected) > 20
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(resumed[key], tensor) for key, tensor in expected.items())
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_run_learns_and_describes_itself(video_dataset, tmp_path):
    events = []
    trainer = make_trainer(video_dataset, tmp_path, progress=events.append)
    summary = trainer.run()
    assert [(stage.name, stage.samples, stage.ended_early) for stage in summary.stages] == [
        ("video", 40, False),
        ("act", 120, False),
    ]
    assert summary.samples == events[-1].done == 160
    lines = read_metrics(summary.metrics)
    assert lines[-1]["samples"] == 160
    assert lines[-1]["world_loss"] < lines[0]["world_loss"] / 2
    assert {"stage", "step", "loss", "lr", "grad_norm", "samples_per_s", "seconds"} <= lines[0].keys()
    assert int(trainer.policy.train_step) == summary.steps == 20
    assert load_recipe(summary.policy_path) == trainer.config


def test_losses_on_held_out_episodes_are_logged_now_and_then(video_dataset, tmp_path):
    trainer = make_trainer(video_dataset, tmp_path / "with", held_out=1, validate_every_samples=40)
    seen = []
    load = trainer.feed.load

    def note(loader, step):
        batch = load(loader, step)
        if loader is trainer._held_out:
            seen.extend(batch["episode_index"].tolist())
        return batch

    trainer.feed.load = note
    lines = read_metrics(trainer.run().metrics)
    validated = [line["samples"] for line in lines if "held_out_loss" in line]
    assert validated == [48, 96, 120, 160]  # the log lines after each 40; the video stage leaves nothing out
    assert all(math.isfinite(line["held_out_loss"]) for line in lines if "held_out_loss" in line)
    assert set(seen) == {max(seen)}
    assert trainer.policy.training

    plain = make_trainer(video_dataset, tmp_path / "without", held_out=1, validate_every_samples=0).run()
    assert not any("held_out_loss" in line for line in read_metrics(plain.metrics))


def test_the_exported_policy_holds_the_averaged_weights(video_dataset, tmp_path):
    trainer = make_trainer(video_dataset, tmp_path)
    summary = trainer.run()
    exported = TinyPolicy.from_pretrained(summary.policy_path)
    state = summary.checkpoint / "training_state"
    average, online = load_file(state / "average.safetensors"), load_file(state / "weights.safetensors")
    assert len(average) == 6
    for name, tensor in average.items():
        assert torch.equal(exported.state_dict()[name], tensor)
        assert not torch.equal(online[name], tensor)
        assert torch.equal(trainer.policy.state_dict()[name], online[name])  # training goes on with these
    assert int(exported.train_step) == 20
    assert (summary.policy_path / "policy_preprocessor.json").is_file()


def test_a_finished_run_has_nothing_left_to_do(video_dataset, tmp_path):
    first = make_trainer(video_dataset, tmp_path).run()
    again = make_trainer(video_dataset, tmp_path).run()
    assert again.resumed_from == again.checkpoint == first.checkpoint
    assert again.stages == first.stages


def test_a_folder_with_another_run_is_refused_naming_the_difference(video_dataset, tmp_path):
    make_trainer(video_dataset, tmp_path).run()
    with pytest.raises(CheckpointError, match="seed was 0, is 1"):
        make_trainer(video_dataset, tmp_path, seed=1)
    with pytest.raises(CheckpointError, match=r"policy\.dropout was 0\.0, is 0\.5"):
        make_trainer(video_dataset, tmp_path, dropout=0.5)
    make_trainer(video_dataset, tmp_path, log_every=7)  # this may change


def test_two_processes_train_as_one(processes, video_dataset, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = [
        processes.Process(target=train_as_one_of, args=(rank, 2, port, video_dataset, tmp_path / "two"))
        for rank in range(2)
    ]
    for child in pair:
        child.start()
    for child in pair:
        child.join(120)
    assert [child.exitcode for child in pair] == [0, 0]
    assert in_process(processes, train_as_one_of, 0, 1, port, video_dataset, tmp_path / "one") == 0
    one, two = final_tensors(tmp_path / "one"), final_tensors(tmp_path / "two")
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        assert torch.allclose(two[key].float(), tensor.float(), atol=1e-4), key


def test_nan_in_the_dataset_stops_and_saves_the_batch(video_dataset, tmp_path, monkeypatch):
    from hybridpolicy.training.loader import SourceReader

    real = SourceReader.gather

    def gather(reader, rows, **options):
        batch = real(reader, rows, **options)
        if "action" in batch:
            batch["action"][2, 1, 0] = math.nan
        return batch

    monkeypatch.setattr(SourceReader, "gather", gather)
    trainer = make_trainer(video_dataset, tmp_path)
    with pytest.raises(NonFiniteError, match=r"the batch is NaN or infinite \(action\)"):
        trainer.run()
    (file,) = (tmp_path / "nonfinite").glob("*.safetensors")
    saved, notes = load_file(file), json.loads(file.with_suffix(".json").read_text())
    assert torch.isnan(saved["action"]).sum() == 1
    assert notes["tensors"] == ["action"]
    assert len(saved["index"]) == len(notes["batch"]["task"]) == 8


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_nan_in_the_network_stops_before_the_weights_change(video_dataset, tmp_path, monkeypatch, where):
    trainer = make_trainer(video_dataset, tmp_path)
    real = TinyPolicy.forward

    def forward(policy, batch):
        loss, parts = real(policy, batch)
        if int(policy.train_step) == 4:
            if where == "loss":
                return loss * math.inf, parts
            zero = policy.trunk.weight.sum() * 0
            return loss + torch.sqrt(zero), parts  # the root of 0 has an infinite slope
        return loss, parts

    monkeypatch.setattr(TinyPolicy, "forward", forward)
    with pytest.raises(NonFiniteError, match=f"step 4: the {where} is NaN or infinite"):
        trainer.run()
    assert all(torch.isfinite(parameter).all() for parameter in trainer.policy.parameters())
    assert list((tmp_path / "nonfinite").glob("step_000000004*"))


def test_a_time_limit_ends_a_stage_and_says_so(video_dataset, tmp_path):
    source = make_trainer(video_dataset, tmp_path / "unused").config.stages[1].sources
    stage = StageConfig("act", samples=10**7, batch_size=8, lr=1e-2, sources=source, max_minutes=0.01)
    summary = make_trainer(video_dataset, tmp_path, stages=[stage], save_every_samples=10**7).run()
    assert summary.stages[0].ended_early
    assert 0.6 <= summary.stages[0].seconds < 5
    lines = read_metrics(summary.metrics)
    assert lines[-1]["lr"] < 0.2 * max(line["lr"] for line in lines)  # the cosine followed the clock


def test_a_disk_that_fills_up_stops_with_one_message(video_dataset, tmp_path, monkeypatch):
    trainer = make_trainer(video_dataset, tmp_path)
    monkeypatch.setattr("hybridpolicy.training.checkpoint.SPARE_BYTES", 10**18)
    with pytest.raises(CheckpointError, match="MB free, a checkpoint needs"):
        trainer.run()


def test_bf16_and_augmentation_run(video_dataset, tmp_path):
    jitter = AugmentationConfig(0.2, 0.2, 0.2, shift_px=2)
    summary = make_trainer(video_dataset, tmp_path, precision="bf16", augmentation=jitter).run()
    assert all(math.isfinite(line["loss"]) for line in read_metrics(summary.metrics))


def test_learning_rates_follow_stage_group_and_schedule(video_dataset, tmp_path):
    trainer = make_trainer(video_dataset, tmp_path)
    stage = StageConfig(
        "act", 8, 8, 1e-2, trainer.config.stages[1].sources, trunk_lr_scale=0.1, warmup_fraction=0
    )
    from hybridpolicy.training.schedule import schedule

    assert schedule(trainer.optimizer.param_groups, stage, 0.5) == pytest.approx(5e-3)
    rates = {group["name"]: group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == {"trunk": pytest.approx(5e-3 * 0.5 * 0.1), "heads": pytest.approx(5e-3)}
    factors = [lr_factor(i / 100, 0.1) for i in range(101)]
    assert factors.index(max(factors)) == 10
    assert factors[0] == 0
    assert factors[-1] == pytest.approx(0)


def test_a_missing_preprocessor_names_those_there_are(video_dataset, tmp_path):
    trainer = make_trainer(video_dataset, tmp_path)
    trainer.feed._preprocessor = {"koch": None, "so101": None}
    with pytest.raises(ConfigurationError, match=r"embodiment 'arm'; .*koch, so101"):
        trainer.run()


def test_half_written_checkpoints_are_reported(video_dataset, tmp_path, caplog):
    (tmp_path / "checkpoints" / ".000000048.partial").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(video_dataset, tmp_path)
    assert trainer.resumed_from is None
    assert "writing was interrupted" in caplog.text


def test_config_mistakes_name_the_field(video_dataset):
    source = tiny_training.DatasetSource(str(video_dataset))
    with pytest.raises(ConfigurationError, match="batch_size = 0; must be 1 or more"):
        StageConfig("act", 10, 0, 1e-3, [source])
    with pytest.raises(ConfigurationError, match="drop = 'actoin'; did you mean 'action'"):
        tiny_training.DatasetSource("x", drop=("actoin",))
    with pytest.raises(ConfigurationError, match=r"weight = -1; must be above 0"):
        tiny_training.DatasetSource("x", weight=-1)
    with pytest.raises(ConfigurationError, match="targets = 'non'; did you mean 'none'"):
        AugmentationConfig(targets="non")


def test_two_datasets_of_the_same_name_have_their_own_caches(video_dataset, tmp_path):
    other = make_dataset(tmp_path / "dataset", lengths=(6, 7), seed=5)
    cache_dir = str(tmp_path / "cache")
    first = make_trainer(video_dataset, tmp_path / "a", cache_dir=cache_dir)
    second = make_trainer(other, tmp_path / "b", cache_dir=cache_dir)
    first.run()
    second.run()
    assert len(list((tmp_path / "cache").iterdir())) == 2
