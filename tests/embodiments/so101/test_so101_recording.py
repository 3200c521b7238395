"""Recordings: stock LeRobot loads them, and what it loads is what was recorded."""

import json
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("lerobot")

from lerobot.datasets import LeRobotDataset
from lerobot.datasets.compute_stats import aggregate_stats, get_feature_stats

from embodiments.dataset_writer import finish_dataset, image_stats, video_encoder
from embodiments.so101 import recording
from embodiments.so101.constants import JOINT_NAMES
from embodiments.so101.twin import shards
from embodiments.so101.twin.variation import Variation

NUM = 7


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A recording over three shards, with its summary and the progress it reported."""
    root = tmp_path_factory.mktemp("twin") / "demos"
    calls = []
    patch = pytest.MonkeyPatch()
    patch.setattr(recording, "EPISODES_PER_SHARD", 3)
    try:
        summary = recording.record_demonstrations(
            root,
            NUM,
            seed=4,
            variation=Variation(num_colours=4, joint_offset_deg=2.0),
            workers=2,
            progress=lambda done, total: calls.append((done, total)),
        )
    finally:
        patch.undo()
    return root, summary, calls


@pytest.fixture(scope="module")
def dataset(recorded):
    root, summary, _ = recorded
    return LeRobotDataset(summary.repo_id, root=root, video_backend="pyav")


@pytest.fixture(scope="module")
def played_again():
    """The same episodes, played here: (record, pictures) in dataset order."""
    episodes = []
    for index, quota in ((0, 3), (1, 3), (2, 1)):
        plan = recording._Plan(
            kind="demonstration",
            families=tuple(recording.DEFAULT_WEIGHTS),
            weights=tuple(recording.DEFAULT_WEIGHTS.values()),
            seed=4,
            variation=Variation(num_colours=4, joint_offset_deg=2.0),
            noise=shards.NoiseSettings(),
            image_size=96,
            play_ticks=0,
        )
        recorder = shards.ShardRecorder(plan.shard(index, ()))
        pictures = [Keeper(), Keeper()]
        recorder._videos = pictures
        kept = 0
        while kept < quota:
            record = recorder.record()
            if record.success:
                episodes.append((record, [camera.last for camera in pictures]))
                kept += 1
    return episodes


class Keeper:
    """Stands in for a video file and keeps the last episode's pictures."""

    def append(self, pictures):
        self.last = np.stack(pictures)

    def close(self):
        pass


def test_the_summary_counts_what_is_in_the_dataset(recorded, dataset):
    root, summary, calls = recorded
    assert dataset.num_episodes == summary.num_episodes == NUM
    assert dataset.num_frames == summary.num_frames
    assert sum(summary.attempts.values()) == NUM + sum(summary.failures.values())
    assert calls == [(done, NUM) for done in range(1, NUM + 1)]
    assert dataset.fps == 10
    assert dataset.meta.robot_type == "so_follower"
    assert len(list((root / "videos").rglob("*.mp4"))) == 6


def test_columns_are_those_of_a_recorded_follower(dataset):
    features = dataset.meta.features
    assert features["observation.state"]["names"] == list(JOINT_NAMES) == features["action"]["names"]
    assert features["observation.images.front"]["shape"] == (96, 96, 3)
    assert features["privileged.objects"]["names"][:2] == ["red.x", "red.y"]
    assert not [key for key in features if key.startswith("observation.") and "privileged" in key]
    item = dataset[0]
    assert item["observation.images.wrist"].shape == (3, 96, 96)
    assert item["privileged.objects"].shape == (8,)
    assert item["privileged.target"].shape == (3,)
    assert item["task"].split()


def test_every_loaded_frame_is_the_recorded_one(dataset, played_again):
    index = 0
    psnr = []
    for episode, (record, pictures) in enumerate(played_again):
        for frame in range(len(record.state)):
            item = dataset[index]
            assert int(item["episode_index"]) == episode
            assert int(item["frame_index"]) == frame
            assert item["task"] == record.task
            np.testing.assert_array_equal(item["observation.state"].numpy(), record.state[frame])
            np.testing.assert_array_equal(item["action"].numpy(), record.action[frame])
            objects = record.objects[frame].reshape(-1)
            np.testing.assert_array_equal(item["privileged.objects"].numpy(), objects)
            for camera, name in enumerate(("front", "wrist")):
                loaded = item[f"observation.images.{name}"].numpy().transpose(1, 2, 0) * 255.0
                error = np.mean((loaded - pictures[camera][frame]) ** 2)
                psnr.append(10 * np.log10(255.0**2 / max(error, 1e-9)))
            index += 1
    assert index == dataset.num_frames > 80
    assert min(psnr) > 36.0  # the picture of the next tick is around 23
    assert np.mean(psnr) > 39.0


def test_delta_timestamps_stop_at_the_episodes_ends(recorded):
    root, summary, _ = recorded
    steps = [0.0, 0.1, 0.8]
    dataset = LeRobotDataset(
        summary.repo_id,
        root=root,
        video_backend="pyav",
        delta_timestamps={"observation.images.front": steps, "action": [i / 10 for i in range(8)]},
    )
    first_end = int(dataset.meta.episodes[0]["dataset_to_index"])
    item, last = dataset[0], dataset[first_end - 1]
    assert item["observation.images.front"].shape == (3, 3, 96, 96)
    assert item["action"].shape == (8, 6)
    assert not item["action_is_pad"].any()
    assert last["action_is_pad"].tolist() == [False] + [True] * 7
    assert last["observation.images.front_is_pad"].tolist() == [False, True, True]


def test_statistics_are_lerobots(recorded, played_again):
    root, _, _ = recorded
    written = json.loads((root / "meta" / "stats.json").read_text())
    per_episode = []
    for record, pictures in played_again:
        stats = {
            "observation.state": get_feature_stats(record.state, axis=0, keepdims=False),
            "action": get_feature_stats(record.action, axis=0, keepdims=False),
        }
        for camera, name in enumerate(("front", "wrist")):
            # As float64: on bytes LeRobot sums in float32, which is off by 1e-3.
            channels_first = pictures[camera].transpose(0, 3, 1, 2).astype(np.float64)
            image = get_feature_stats(channels_first, axis=(0, 2, 3), keepdims=True)
            stats[f"observation.images.{name}"] = {
                key: value if key == "count" else np.squeeze(value / 255.0, axis=0)
                for key, value in image.items()
            }
        per_episode.append(stats)
    expected = aggregate_stats(per_episode)
    compared = 0
    for key, stats in expected.items():
        for name, value in stats.items():
            # LeRobot estimates quantiles of pictures from bins; ours are exact.
            tolerance = 1.5 / 255 if "images" in key and name.startswith("q") else 1e-6
            np.testing.assert_allclose(np.array(written[key][name]), value, atol=tolerance, rtol=1e-6)
            compared += 1
    assert compared == 4 * 10


def test_tables_have_the_columns_of_lerobots_own_writer(recorded, dataset, played_again, tmp_path):
    root, _, _ = recorded
    theirs = LeRobotDataset.create(
        "local/theirs",
        10,
        recording.dataset_features(96),
        root=tmp_path / "theirs",
        robot_type="so_follower",
        rgb_encoder=video_encoder(),
        streaming_encoding=True,
    )
    record, pictures = played_again[0]
    for frame in range(len(record.state)):
        theirs.add_frame(
            {
                "observation.images.front": pictures[0][frame],
                "observation.images.wrist": pictures[1][frame],
                "observation.state": record.state[frame],
                "action": record.action[frame],
                "privileged.objects": record.objects[frame].reshape(-1),
                "privileged.present": record.present[frame].astype(np.float32),
                "privileged.target": record.target[frame],
                "task": record.task,
            }
        )
    theirs.save_episode()
    theirs.finalize()
    for table in ("data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"):
        ours, other = pq.read_schema(root / table), pq.read_schema(theirs.root / table)
        assert set(ours.names) == set(other.names)
        for name in ours.names:
            assert ours.field(name).type == other.field(name).type, (table, name)
    ours_info = json.loads((root / "meta/info.json").read_text())
    their_info = json.loads((theirs.root / "meta/info.json").read_text())
    assert ours_info.keys() == their_info.keys()
    assert ours_info["features"].keys() == their_info["features"].keys()
    video = "observation.images.front"
    assert ours_info["features"][video]["info"] == their_info["features"][video]["info"]


def test_a_recording_does_not_depend_on_the_number_of_workers(recorded, tmp_path, monkeypatch):
    root, _, _ = recorded
    monkeypatch.setattr(recording, "EPISODES_PER_SHARD", 3)
    variation = Variation(num_colours=4, joint_offset_deg=2.0)
    recording.record_demonstrations(tmp_path / "one", NUM, seed=4, variation=variation, workers=1)
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.suffix in (".mp4", ".parquet"))
    assert len(files) == 6 + 3
    for name in files:
        assert (root / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name


@pytest.mark.parametrize("family", ["touch", "push", "bin"])
def test_the_expert_recovers_from_noise_and_from_being_interrupted(family):
    plan = recording._Plan(
        kind="demonstration",
        families=(family,),
        weights=(1.0,),
        seed=11,
        variation=Variation(light_strength=0.6, camera_jitter=0.5),
        noise=shards.NoiseSettings(),
        image_size=16,
        play_ticks=0,
    )
    recorder = shards.ShardRecorder(plan.shard(0, ()))
    recorder._videos = [Keeper(), Keeper()]
    assert sum(recorder.record().success for _ in range(40)) >= 38


def test_noise_moves_the_arm_and_leaves_the_label_the_experts():
    plan = recording._Plan(
        kind="demonstration",
        families=("push",),
        weights=(1.0,),
        seed=0,
        variation=Variation(),
        noise=shards.NoiseSettings(start_probability=0.25, joint_deg=12.0),
        image_size=32,
        play_ticks=0,
    )
    recorder = shards.ShardRecorder(plan.shard(0, ()))
    recorder._videos = [Keeper(), Keeper()]
    strayed, kept = 0.0, 0
    for _ in range(5):
        record = recorder.record()
        kept += record.success
        asked = np.abs(record.action - record.state)[:, :5].max()
        assert asked <= 9.01  # the expert's own limit, 90 degrees a second
        strayed = max(strayed, np.abs(record.state[1:] - record.action[:-1])[:, :5].max())
    assert strayed > 6.0
    assert kept >= 2  # the expert recovers


def test_play_loads_too(tmp_path):
    summary = recording.record_play(tmp_path / "play", 3, ticks=10, image_size=64, workers=1)
    dataset = LeRobotDataset(summary.repo_id, root=tmp_path / "play", video_backend="pyav")
    assert (dataset.num_episodes, dataset.num_frames) == (3, 30)
    assert dataset[29]["task"] == "play"
    assert dataset[29]["observation.images.front"].shape == (3, 64, 64)


def test_wrong_recordings_are_refused(tmp_path, recorded):
    with pytest.raises(FileExistsError, match="exists already; choose another folder"):
        recording.record_demonstrations(recorded[0], 1)
    with pytest.raises(ValueError, match="num_episodes 0"):
        recording.record_demonstrations(tmp_path / "none", 0)
    with pytest.raises(ValueError, match=r"'lift': 1\.0"):
        recording.record_demonstrations(tmp_path / "none", 1, weights={"lift": 1.0})
    with pytest.raises(ValueError, match="ticks is 1"):
        recording.record_play(tmp_path / "none", 1, ticks=1)
    with pytest.raises(ValueError, match="start_probability 2"):
        shards.NoiseSettings(start_probability=2)
    assert not (tmp_path / "none").exists()


def test_a_broken_recording_leaves_nothing_behind(tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recording.record_demonstrations(tmp_path / "half", 3, workers=1, progress=stop)
    assert not (tmp_path / "half").exists()


def test_a_recording_that_is_killed_is_no_dataset_and_is_made_again(tmp_path):
    script = (
        "import os, signal, sys; from embodiments.so101.recording import record_demonstrations\n"
        "record_demonstrations(sys.argv[1], 3, image_size=32, workers=1,\n"
        "                      progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))"
    )
    root = tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", script, str(root)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not root.exists()
    assert len(list(tmp_path.iterdir())) == 1  # hidden
    recording.record_demonstrations(root, 1, image_size=32, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["killed"]


def test_the_writer_refuses_wrong_columns(dataset):
    with pytest.raises(ValueError, match="no episodes to write"):
        finish_dataset(dataset.meta, [])


def test_image_statistics_of_a_known_histogram():
    histogram = np.zeros((3, 256), dtype=np.int64)
    histogram[:, 0], histogram[:, 255] = 3, 1
    stats = image_stats(histogram)
    assert stats["mean"].shape == (3, 1, 1)
    np.testing.assert_allclose(stats["mean"], 0.25)
    np.testing.assert_allclose(stats["std"], np.sqrt(0.1875))
    np.testing.assert_allclose(stats["q50"], 0.0)
    np.testing.assert_allclose(stats["q99"], 1.0)
