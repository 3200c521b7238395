"""The frame cache: equal to LeRobot's own reading, rebuilt when stale, never half-written."""

import errno
import os
import shutil
import subprocess
from collections import namedtuple

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset
from tiny_training import CAMERAS, LENGTHS, SIZE

from hybridpolicy.errors import CacheError, DatasetError
from hybridpolicy.training.cache import open_cache, resize_by_area
from hybridpolicy.training.decode import resolve_root


@pytest.mark.parametrize("kind", ["video_dataset", "image_dataset", "many_files_dataset"])
def test_every_frame_and_column_equals_lerobots(kind, request, tmp_path):
    root = request.getfixturevalue(kind)
    cache = open_cache(root, tmp_path)
    stock = LeRobotDataset("local/tiny", root=root, video_backend="pyav", return_uint8=True)
    assert cache.num_frames == len(stock) == sum(LENGTHS)
    seen = set()
    for i in range(len(stock)):
        item = stock[i]
        for key, value in item.items():
            if key in CAMERAS:
                if value.is_floating_point():  # LeRobot gives stored images as floats whatever is asked
                    value = (value * 255).round().to(torch.uint8)
                assert torch.equal(value, torch.from_numpy(cache.frames[key][i].copy())), (key, i)
            elif key == "task":
                assert cache.tasks[cache.columns["task_index"][i]] == value
            else:
                assert np.array_equal(cache.columns[key][i], value.numpy()), (key, i)
            seen.add(key)
    assert seen >= {*CAMERAS, "observation.state", "action", "privileged.objects", "index", "timestamp"}
    assert cache.episode_to.tolist() == np.cumsum(LENGTHS).tolist()


def test_the_datasets_cover_both_layouts(video_dataset, many_files_dataset):
    assert len(list(video_dataset.rglob("*.mp4"))) == len(CAMERAS)
    assert len(list(many_files_dataset.rglob("*.mp4"))) == len(CAMERAS) * len(LENGTHS)


def test_progress_counts_every_frame_of_every_camera(video_dataset, tmp_path):
    events = []
    open_cache(video_dataset, tmp_path, progress=lambda done, total: events.append((done, total)))
    assert events[-1] == (sum(LENGTHS) * len(CAMERAS),) * 2
    events.clear()
    open_cache(video_dataset, tmp_path, progress=lambda done, total: events.append((done, total)))
    assert events == []  # found complete, nothing decoded


def test_resize_averages_areas(video_dataset, tmp_path):
    full, half = (open_cache(video_dataset, tmp_path, image_size=size) for size in (None, (16, 16)))
    name = CAMERAS[0]
    blocks = full.frames[name].reshape(-1, 3, 16, 2, 16, 2).astype(np.float64).mean((3, 5))
    assert half.frames[name].shape == (sum(LENGTHS), 3, 16, 16)
    assert np.abs(half.frames[name] - blocks).max() <= 0.5
    untouched = np.zeros((2, 3, SIZE, SIZE), np.uint8)
    assert resize_by_area(untouched, (SIZE, SIZE)) is untouched


def test_a_changed_dataset_is_decoded_again_and_its_old_cache_removed(video_dataset, tmp_path):
    root = shutil.copytree(video_dataset, tmp_path / "copy")
    first = open_cache(root, tmp_path / "cache")
    path = next(root.rglob("*.mp4"))
    os.utime(path, ns=(1, 1))
    second = open_cache(root, tmp_path / "cache")
    assert first.path != second.path
    assert list((tmp_path / "cache").iterdir()) == [second.path]


def test_an_unknown_camera_lists_those_present(video_dataset, tmp_path):
    with pytest.raises(DatasetError, match=r"'observation\.images\.top'; present are: .*front, .*wrist"):
        open_cache(video_dataset, tmp_path, cameras=["observation.images.top"])


def test_a_folder_without_a_dataset_says_what_is_missing(tmp_path):
    with pytest.raises(DatasetError, match=r"meta/info\.json is missing"):
        resolve_root(str(tmp_path), None)


@pytest.mark.parametrize(
    "pattern", ["*.mp4", "data/*/*.parquet", "meta/info.json", "meta/episodes/*/*.parquet"]
)
def test_a_corrupt_file_is_named_and_leaves_no_cache(pattern, video_dataset, tmp_path):
    root = shutil.copytree(video_dataset, tmp_path / "copy")
    path = next(root.rglob(pattern)) if pattern == "*.mp4" else next(root.glob(pattern))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(DatasetError, match=r"unreadable|cut off"):
        open_cache(root, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))


def test_a_missing_video_is_named(video_dataset, tmp_path):
    root = shutil.copytree(video_dataset, tmp_path / "copy")
    path = next(root.rglob("*.mp4"))
    path.unlink()
    with pytest.raises(DatasetError, match=r"file-000\.mp4: unreadable"):
        open_cache(root, tmp_path / "cache")


def test_a_full_disk_is_refused_before_decoding(video_dataset, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(CacheError, match="0 MB free, the decoded frames need"):
        open_cache(video_dataset, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))


def test_a_disk_that_fills_up_while_decoding_leaves_nothing(video_dataset, tmp_path, monkeypatch):
    real, written = os.pwrite, []

    def pwrite(descriptor, data, offset):
        written.append(len(data))
        if len(written) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(CacheError, match="the disk filled up"):
        open_cache(video_dataset, tmp_path / "cache")
    assert len(written) > 20
    assert not list((tmp_path / "cache").glob("*"))
    assert not list((tmp_path / "cache").glob(".*"))


def test_a_build_that_was_killed_is_not_taken_for_a_cache(video_dataset, tmp_path):
    complete = open_cache(video_dataset, tmp_path / "cache").path
    ended = subprocess.Popen(["true"])
    ended.wait()
    partial = complete.rename(complete.with_name(f".{complete.name}.{ended.pid}.partial"))
    (partial / "cache.json").unlink()
    assert open_cache(video_dataset, tmp_path / "cache").path == complete
    assert not partial.exists()
