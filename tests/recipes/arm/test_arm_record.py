"""The record of a run: what LeRobot reads back, and how much of the disk it takes."""

import json
import threading
import time

import av
import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from embodiments.so101.constants import JOINT_NAMES
from recipes.arm.record import Frame, Recorder, run_folder, write_identity

SHAPES = {"front": (24, 32, 3)}


def frame(number, event=False, imagined=False):
    pixels = {"front": np.full((24, 32, 3), 10 * number % 256, np.uint8)}
    return Frame(pixels, [float(number)] * 6, [number + 0.5] * 6, "touch it", event, imagined)


@pytest.fixture
def recorder(tmp_path):
    made = []

    def make(keep_gb=1.0):
        folder = run_folder(tmp_path)
        write_identity(folder, {"policy": "p"})
        made.append(Recorder(folder, 10.0, JOINT_NAMES, SHAPES, keep_gb))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_no_other_video_decoder_is_looked_for(recorder, monkeypatch):
    """LeRobot prints a page where the decoder it prefers cannot be loaded."""
    asked = []

    def look():
        asked.append(1)
        return "pyav"

    monkeypatch.setattr("lerobot.datasets.lerobot_dataset.get_safe_default_video_backend", look)
    recorder()
    assert asked == []


def test_the_action_is_what_was_sent_by_the_end_of_the_frame(recorder):
    kept = recorder()
    for number in range(4):
        kept.add(frame(number, event=number == 2, imagined=number >= 3))
    kept.end(True, "success", [9.0] * 6, intervened=True)
    kept.close()
    dataset = LeRobotDataset("local/x", root=kept.folder / "dataset")
    rows = dataset.hf_dataset.with_format("numpy")
    assert len(rows) == 4
    assert np.stack(rows["observation.state"])[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert np.stack(rows["action"])[:, 0].tolist() == [1.5, 2.5, 3.5, 9.0]
    flags = {name: np.asarray(rows[name]).ravel().tolist() for name in ("next.success", "next.done")}
    assert flags == {name: [False, False, False, True] for name in flags}
    assert np.asarray(rows["intervention"]).ravel().tolist() == [False, False, False, True]
    assert np.asarray(rows["outcome.event"]).ravel().tolist() == [False, True, False, False]
    assert np.asarray(rows["policy.imagined"]).ravel().tolist() == [False, False, True, True]
    assert [str(reason) for reason in np.asarray(rows["outcome.stop_reason"]).ravel()] == [
        *[""] * 3,
        "success",
    ]
    assert dataset.meta.tasks.index.tolist() == ["touch it"]
    assert tuple(dataset[1]["observation.images.front"].shape) == (3, 24, 32)


def test_a_run_without_an_episode_leaves_no_dataset(recorder):
    kept = recorder()
    kept.end(False, "nothing", [0.0] * 6)
    kept.close()
    assert not (kept.folder / "dataset").exists()
    assert (kept.folder / "identity.json").is_file()


def test_the_oldest_runs_go_first_and_nothing_else_is_touched(recorder, tmp_path):
    for name in ("20260101-000000", "20260102-000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "identity.json").write_text(json.dumps({}))
        (tmp_path / name / "big").write_bytes(b"x" * 600_000)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_bytes(b"x" * 5_000_000)
    recorder(keep_gb=0.001)
    assert not (tmp_path / "20260101-000000").exists()
    assert (tmp_path / "20260102-000000").exists()
    assert (tmp_path / "mine" / "precious").exists()


def test_a_run_that_fills_its_share_stops_recording_and_says_so(recorder):
    kept = recorder(keep_gb=1e-8)
    assert kept.full is True
    kept.add(frame(0))
    kept.end(False, "time limit", [0.0] * 6)
    assert kept.episodes == 0
    assert "record is full" in (kept.folder / "events.jsonl").read_text()


def test_runs_that_begin_together_have_folders_of_their_own(tmp_path):
    assert len({run_folder(tmp_path) for _ in range(3)}) == 3


def test_an_episode_of_one_frame_is_noted_and_not_kept(recorder):
    kept = recorder()
    kept.add(frame(0))
    kept.end(False, "stopped", [9.0] * 6)
    assert kept.episodes == 0
    for number in range(2):
        kept.add(frame(number))
    kept.end(True, "success", [9.0] * 6)
    assert kept.episodes == 1
    kept.add(frame(5))
    kept.end(False, "stopped", [9.0] * 6)
    assert kept.episodes == 1
    kept.close()
    assert "one frame" in (kept.folder / "events.jsonl").read_text()
    rows = LeRobotDataset("local/x", root=kept.folder / "dataset").hf_dataset
    assert len(rows) == 2


def test_no_frame_is_lost_while_its_video_waits(recorder, monkeypatch):
    """LeRobot's encoder is held up until a hundred frames wait: all of them are in the video."""
    from lerobot.datasets import video_utils

    waiting, encode = threading.Event(), video_utils._CameraEncoderThread.run

    def late(thread):
        waiting.wait(20.0)
        encode(thread)

    monkeypatch.setattr(video_utils._CameraEncoderThread, "run", late)
    kept = recorder()
    since = time.perf_counter()
    for number in range(100):
        kept.add(frame(number))
    assert time.perf_counter() - since < 10.0, "nobody waits for the encoder"
    waiting.set()
    kept.end(True, "success", [9.0] * 6)
    kept.close()
    dataset = LeRobotDataset("local/x", root=kept.folder / "dataset")
    assert len(dataset) == 100
    for video in (kept.folder / "dataset").rglob("*.mp4"):
        with av.open(str(video)) as opened:
            assert sum(1 for _ in opened.decode(video=0)) == 100
