"""The real policy through the real trainer: resuming repeats the run, and LeRobot loads what it exports."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from safetensors.torch import load_file
from tiny_training import CAMERAS, SIZE, STATE, make_dataset

from hybridpolicy.adapters import add_adapter, load_adapter
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.errors import CheckpointError, CollapseError, ConfigurationError, DatasetError
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.objective import LATENT_RANK
from hybridpolicy.processor_hybrid import make_hybrid_pre_post_processors
from hybridpolicy.training.collapse import LEAST_RANK, require_rank
from hybridpolicy.training.config import AugmentationConfig, DatasetSource, StageConfig, TrainConfig
from hybridpolicy.training.metrics import read_metrics
from hybridpolicy.training.trainer import Trainer


def make_run(root, output_dir, cache_dir, beside=()):
    """beside: further sources of the labelled stage."""
    torch.manual_seed(0)
    meta = LeRobotDatasetMetadata(root.name, root=root)
    visual = {name: PolicyFeature(FeatureType.VISUAL, (3, SIZE, SIZE)) for name in CAMERAS}
    config = HybridConfig(
        device="cpu",
        input_features=visual | {"observation.state": PolicyFeature(FeatureType.STATE, (STATE,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (STATE,))},
        image_size=[SIZE, SIZE],
        width=32,
        depth=1,
        frame_channels=16,
        chunk_size=4,
        rtc_max_delay=2,
        world_offsets=[2, 4],
    )
    policy = HybridPolicy(config, dataset_stats=meta.stats, dataset_meta=meta)
    labelled = DatasetSource(str(root))
    video = DatasetSource(str(root), drop=("action", "observation.state", "task"))
    train = TrainConfig(
        name="hybrid",
        policy=config,
        stages=[
            StageConfig("video", samples=32, batch_size=8, lr=1e-3, sources=[video]),
            StageConfig(
                "act", samples=64, batch_size=8, lr=1e-3, sources=[labelled, *beside], trunk_lr_scale=0.3
            ),
        ],
        output_dir=str(output_dir),
        cache_dir=str(cache_dir),
        save_every_samples=48,
        log_every=1,
        keep_last=9,
        augmentation=AugmentationConfig(0.2, 0.2, 0.2, shift_px=2),
    )
    return Trainer(train, policy, *make_hybrid_pre_post_processors(config, meta.stats))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("hybrid") / "dataset", objects=False)


def losses(output_dir):
    return [
        (line["step"], line["stage"], line["loss"]) for line in read_metrics(output_dir / "metrics.jsonl")
    ]


def same(first, second):
    """Equal to the bit; a statistic that is not set yet is NaN."""
    return torch.equal(first.nan_to_num(), second.nan_to_num())


def test_resuming_at_any_checkpoint_repeats_the_run(root, tmp_path):
    whole = make_run(root, tmp_path / "whole", tmp_path / "cache").run()
    checkpoints = sorted(path for path in (tmp_path / "whole/checkpoints").iterdir() if path.name.isdigit())
    assert [int(path.name) for path in checkpoints] == [32, 48, 96]
    for path in checkpoints[:2]:
        output_dir = tmp_path / path.name
        shutil.copytree(path, output_dir / "checkpoints" / path.name)
        shutil.copy(tmp_path / "whole/metrics.jsonl", output_dir)
        resumed = make_run(root, output_dir, tmp_path / "cache").run()
        assert resumed.resumed_from.name == path.name
        assert losses(output_dir) == losses(tmp_path / "whole")
        for name in ("weights", "average", "optimizer"):
            file = f"training_state/{name}.safetensors"
            expected, tensors = load_file(whole.checkpoint / file), load_file(resumed.checkpoint / file)
            assert expected.keys() == tensors.keys()
            assert not [key for key in expected if not same(tensors[key], expected[key])]


def test_a_run_does_not_go_on_with_other_statistics(root, tmp_path):
    """The network would convert chunks by those it was made with, and the pipeline by the new ones."""
    copied = tmp_path / "dataset"
    shutil.copytree(root, copied)
    make_run(copied, tmp_path / "run", tmp_path / "cache").run()
    assert make_run(copied, tmp_path / "run", tmp_path / "cache").resumed_from is not None
    file = copied / "meta" / "stats.json"  # as another episode would change it
    stats = json.loads(file.read_text())
    stats["action"]["mean"] = [mean + 0.5 for mean in stats["action"]["mean"]]
    file.write_text(json.dumps(stats))
    with pytest.raises(CheckpointError, match=r"other statistics \(action\.mean\): the dataset has changed"):
        make_run(copied, tmp_path / "run", tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "drop", "message"),
    [
        ({"fps": 30}, ("action", "observation.state"), "recorded at 30 Hz, and the policy learns 10 Hz"),
        ({"action": ["b.pos", "a.pos", "gripper.pos"]}, (), r"action is \['b\.pos', .* learns \['a\.pos'"),
        ({"observation.state": [*"xyz"]}, ("action",), r"observation\.state is \['x', 'y', 'z'\]"),
        ({"observation.state": [*"xyz"]}, ("action", "observation.state"), None),
    ],
)
def test_every_source_is_of_one_rate_and_one_body(root, tmp_path, change, drop, message):
    copied = tmp_path / "dataset"
    shutil.copytree(root, copied)
    file = copied / "meta" / "info.json"
    info = json.loads(file.read_text())
    for key, value in change.items():
        if key == "fps":
            info["fps"] = value
        else:
            info["features"][key]["names"] = value
    file.write_text(json.dumps(info))
    run = make_run(root, tmp_path / "run", tmp_path / "cache", [DatasetSource(str(copied), drop=drop)])
    stage = run.config.stages[1]
    if message is None:
        assert len(run.feed.open(stage, run.position, lambda done, total: None).readers) == 2
        return
    with pytest.raises(DatasetError, match=message):
        run.feed.open(stage, run.position, lambda done, total: None)


def test_the_exported_policy_loads_and_acts(root, tmp_path):
    summary = make_run(root, tmp_path, tmp_path / "cache").run()
    policy = HybridPolicy.from_pretrained(summary.policy_path)
    batch = {name: torch.rand(1, 3, SIZE, SIZE) for name in CAMERAS}
    batch |= {"observation.state": torch.zeros(1, STATE), "task": ["task 0"]}
    assert policy.select_action(batch).shape == (1, STATE)


def test_an_adapter_is_exported_beside_its_base(root, tmp_path):
    plain = make_run(root, tmp_path / "plain", tmp_path / "cache")
    policy, config = plain.policy, replace(plain.config, stages=plain.config.stages[1:])
    add_adapter(policy, "koch")
    summary = Trainer(config, policy, *plain.processors).run()
    exported = HybridPolicy.from_pretrained(summary.policy_path)
    batch = {key: torch.rand(1, 3, SIZE, SIZE) for key in CAMERAS} | {"task": ["task 0"]}
    batch["observation.state"] = torch.zeros(1, STATE)
    base = exported.predict_action_chunk(batch)
    assert load_adapter(exported, summary.policy_path / "embodiments" / "koch") == "koch"
    exported.reset()
    adapted = exported.predict_action_chunk(batch)
    assert not torch.equal(adapted, base)
    averaged = load_file(summary.checkpoint / "training_state" / "average.safetensors")
    trained = {name: x for name, x in exported.state_dict().items() if ".koch." in name and name in averaged}
    assert any("lora_B" in name and x.any() for name, x in trained.items())
    assert all(torch.equal(x, averaged[name]) for name, x in trained.items())


def test_an_adapter_that_nothing_teaches_is_told_of(root, tmp_path):
    """Video without states: neither the adapter of the action stream nor a projector sees it."""
    plain = make_run(root, tmp_path / "plain", tmp_path / "cache")
    policy, config = plain.policy, replace(plain.config, stages=plain.config.stages[:1])
    add_adapter(policy, "koch")
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_("lora_" in name)
    with pytest.raises(ConfigurationError, match=r"nothing that is trained .* learns from actions"):
        Trainer(config, policy, *plain.processors).run()


def test_latents_that_have_become_alike_end_the_run(root, tmp_path):
    trainer = make_run(root, tmp_path / "run", tmp_path / "cache")
    with torch.no_grad():
        for readout in trainer.policy.network.target_frames.latents.values():
            readout.heads.weight.zero_()  # every heat map flat, every picture the same
    with pytest.raises(CollapseError, match=r"step 1: .* \(effective rank 1\.00; .* policy\.collapse_weight"):
        trainer.run()
    (line,) = read_metrics(tmp_path / "run/metrics.jsonl")  # it is told before it stops
    assert line[LATENT_RANK] == pytest.approx(1.0)


def test_latents_that_tell_samples_apart_go_on():
    require_rank({"loss": 1.0}, 5)  # a row without a world prior reports none
    require_rank({LATENT_RANK: LEAST_RANK}, 5)
    with pytest.raises(CollapseError):
        require_rank({LATENT_RANK: LEAST_RANK - 0.1}, 5)
