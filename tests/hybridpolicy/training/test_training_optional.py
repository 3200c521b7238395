"""Optional context from the dataset's files to the trained policy's action, through the real loader."""

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.factory import resolve_delta_timestamps
from tiny_training import CAMERAS, SIZE, STATE, make_dataset

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.context import present
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.training.config import AugmentationConfig, DatasetSource, StageConfig, TrainConfig
from hybridpolicy.training.feed import policy_window
from hybridpolicy.training.loader import BatchPlan, MixtureLoader, open_readers
from hybridpolicy.training.metrics import read_metrics
from hybridpolicy.training.run import build_policy, train_recipe

ENTRIES = ["force", "quality", "camera_pose", "past", "goal_image"]
COLUMNS = (("observation.force", 2), ("observation.quality", 1), ("observation.camera_pose.front", 7))
LENGTHS = (9, 6)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optional") / "dataset"
    return make_dataset(folder, dtype="image", lengths=LENGTHS, objects=False, columns=COLUMNS)


def make_config(**fields):
    small = {
        "width": 16,
        "depth": 1,
        "heads": 2,
        "frame_channels": 8,
        "num_keypoints": 4,
        "tokens_per_view": 2,
    }
    lengths = {"chunk_size": 4, "rtc_max_delay": 2, "world_offsets": [2, 4], "past_offsets": [-4, -2]}
    settings = small | lengths | {"image_size": [SIZE, SIZE], "world_share": 0.5, "keypoint_features": 2}
    return HybridConfig(device="cpu", optional_context=ENTRIES, **settings, **fields)


def make_run(root, folder, **fields):
    bare = ("action", "observation.state", "observation.force", "observation.quality", "task")
    return TrainConfig(
        name="optional",
        policy=make_config(**fields),
        stages=[
            StageConfig(
                "video", samples=8, batch_size=4, lr=1e-3, sources=[DatasetSource(str(root), drop=bare)]
            ),
            StageConfig("act", samples=24, batch_size=4, lr=1e-3, sources=[DatasetSource(str(root))]),
        ],
        output_dir=str(folder / "run"),
        cache_dir=str(folder / "cache"),
        log_every=1,
        augmentation=AugmentationConfig(brightness=0.2, shift_px=1),
    )


def test_a_policy_is_trained_saved_and_acts_with_all_of_it(root, tmp_path):
    summary = train_recipe(make_run(root, tmp_path))
    lines = list(read_metrics(tmp_path / "run/metrics.jsonl"))
    assert [line["stage"] for line in lines] == ["video"] * 2 + ["act"] * 6
    foretold = ["world_loss.observation_force" in line for line in lines]
    assert foretold[:2] == [False, False]  # the video source drops the column
    assert 0 < sum(foretold) < 6  # half of the batches carry a future
    actor = Actor.load(tmp_path / f"run/checkpoints/{summary.checkpoint.name}/pretrained_model")
    rng = np.random.default_rng(0)
    pixels = {key.split(".")[-1]: rng.integers(0, 255, (1, SIZE, SIZE, 3), dtype=np.uint8) for key in CAMERAS}
    state, texts = np.zeros((1, STATE), np.float32), ["task 0"]
    given = {
        "observation.force": np.ones((1, 2), np.float32),
        "observation.camera_pose.front": np.ones((1, 7), np.float32),
        f"goal.{CAMERAS[0]}": 255 - pixels["front"],
    }

    def act(extra):
        actor.reset()
        return actor.chunk(pixels, state, texts, extra)

    whole = act(given)
    assert whole.shape == (1, 4, STATE)
    assert np.array_equal(act(given), whole)
    for key in given:
        assert not np.array_equal(act({k: v for k, v in given.items() if k != key}), whole), key
    assert (
        not np.array_equal(actor.chunk(pixels, state, texts, given), whole)
        or actor.policy.config.n_action_steps != 2
    )


def test_goals_are_later_moments_of_the_episode_and_a_function_of_the_step(root, tmp_path):
    config = make_config()
    (reader,) = open_readers([DatasetSource(str(root))], policy_window(config), tmp_path)
    plan = BatchPlan(policy_window(config), 64)
    loader = MixtureLoader([reader], plan)
    batch, again = loader.batch(3), loader.batch(3)
    frames = reader.cache.frames[CAMERAS[0]]
    ahead = []
    for goal, row in zip(batch[f"goal.{CAMERAS[0]}"], batch["index"], strict=True):
        (found,) = np.flatnonzero((frames == goal.numpy()).all(axis=(1, 2, 3)))
        last = LENGTHS[0] - 1 if row < LENGTHS[0] else sum(LENGTHS) - 1
        assert min(int(row) + 1, last) <= found <= last
        ahead.append(int(found - row))
    assert len(set(ahead)) > 5
    assert 0 in ahead  # only from the last frame, which has no later one
    assert torch.equal(batch[f"goal.{CAMERAS[0]}"], again[f"goal.{CAMERAS[0]}"])
    halves = [
        MixtureLoader([reader], BatchPlan(plan.window, 64, num_processes=2, rank=r)).batch(3) for r in (0, 1)
    ]
    joined = torch.cat([half[f"goal.{CAMERAS[0]}"] for half in halves])
    assert torch.equal(joined, batch[f"goal.{CAMERAS[0]}"])


def test_the_past_is_gathered_as_lerobots_loader_gathers_it(root, tmp_path):
    """So LeRobot's own training carries the past, and every named column, too; a goal it cannot."""
    config = make_config()
    assert config.observation_delta_indices == [0, 2, 4, -4, -2]
    assert make_config(coupling="vla").observation_delta_indices == [0, -4, -2]
    (reader,) = open_readers([DatasetSource(str(root))], policy_window(config), tmp_path)
    meta = LeRobotDatasetMetadata("local/tiny", root=root)
    deltas = resolve_delta_timestamps(config, meta)
    stock = LeRobotDataset("local/tiny", root=root, delta_timestamps=deltas)
    rows = np.array([0, 3, 8, 10, 14])
    own, alone = reader.gather(rows, world=True), reader.gather(rows, world=False)
    theirs = torch.utils.data.default_collate([stock[int(row)] for row in rows])
    keys = [CAMERAS[0], "observation.state", *(name for name, _ in COLUMNS)]
    for key in keys:
        value, expected = own[key], theirs[key]
        value = value.float() / 255 if "images" in key else value
        torch.testing.assert_close(value.reshape(expected.shape), expected)
        assert torch.equal(own[f"{key}_is_pad"], theirs[f"{key}_is_pad"])
        assert torch.equal(alone[key], own[key][:, [0, 3, 4]])
    assert int(own["observation.state_is_pad"][:, 3:].sum()) == 5  # rows 0, 3 and 10 are near a beginning
    assert not any(key.startswith("goal.") for key in theirs)
    policy, pre, _ = build_policy(make_run(root, tmp_path))
    for batch, goals in (
        (own, 0),
        (theirs, 0),
        (alone, 0),
        (reader.gather(rows, world=True, goals=rows / 20), 2),
    ):
        sample = present(
            {**pre(batch), **{k: v for k, v in batch.items() if k.startswith("goal.")}}, policy.config
        )
        assert sample.times == (1 if batch is alone else 3)
        assert sample.past.frames["front"].shape == (5, 2, 3, SIZE, SIZE)
        assert {name: x.shape[2] for name, x in sample.vectors.items()} == {
            "observation_force": 2, "observation_quality": 1, "observation_camera_pose_front": 7,
        }  # fmt: skip
        assert len(sample.goal) == goals
