"""Checkpoints: complete or absent, whatever fails while one is written."""

import errno
import logging
import os
import shutil
from collections import namedtuple

import pytest

from hybridpolicy.errors import CheckpointError
from hybridpolicy.training.checkpoint import CheckpointStore, verify


def fill(folder):
    (folder / "pretrained_model").mkdir()
    (folder / "pretrained_model" / "model.safetensors").write_bytes(b"weights of " + folder.name.encode())


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep_last=2)


def test_newest_is_found_and_old_ones_are_pruned(store):
    assert store.newest() is None
    for samples in (100, 200, 300):
        path = store.write(samples, fill, 10)
    assert store.newest() == path
    assert store.complete_names() == ["000000200", "000000300"]
    assert (store.root / "last").resolve() == path.resolve()
    assert os.readlink(store.root / "last") == "000000300"  # relative: the folder may be moved
    assert sorted(p.name for p in store.root.iterdir()) == ["000000200", "000000300", "last"]


@pytest.mark.parametrize("damage", ["truncate", "alter", "delete", "manifest"])
def test_a_damaged_checkpoint_is_passed_over(store, damage, caplog):
    good, bad = store.write(100, fill, 10), store.write(200, fill, 10)
    file = bad / "pretrained_model" / "model.safetensors"
    content = file.read_bytes()
    if damage == "truncate":
        file.write_bytes(content[:-1])
    elif damage == "alter":
        file.write_bytes(content[:-1] + b"?")
    elif damage == "delete":
        file.unlink()
    else:
        (bad / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"000000200: .*the checkpoint is damaged"):
        verify(bad)
    with caplog.at_level(logging.WARNING):
        assert store.newest() == good
    assert "000000200" in caplog.text
    shutil.rmtree(good)
    with pytest.raises(CheckpointError, match="no undamaged checkpoint"):
        store.newest()
    assert store.write(200, fill, 10) == bad  # a run that gets here again replaces it
    verify(bad)
    assert not store.leftovers()


def test_a_half_written_folder_is_ignored_reported_and_removed_later(store, caplog):
    good = store.write(100, fill, 10)
    partial = store.root / ".000000200.partial"
    partial.mkdir()
    fill(partial)
    with caplog.at_level(logging.WARNING):
        assert store.newest() == good
    assert ".000000200.partial: writing was interrupted" in caplog.text
    store.write(200, fill, 10)
    assert not partial.exists()


def test_too_little_space_is_refused_before_writing(store, monkeypatch):
    good = store.write(100, fill, 10)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 2 * 10**6))
    with pytest.raises(CheckpointError, match="2 MB free, a checkpoint needs 50 MB"):
        store.write(200, fill, 50 * 10**6)
    assert store.newest() == good
    assert not store.leftovers()


def test_a_disk_that_fills_up_leaves_the_old_checkpoint(store):
    good = store.write(100, fill, 10)

    def fill_half(folder):
        fill(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(
        CheckpointError, match="000000200: the disk is full; earlier checkpoints are untouched"
    ):
        store.write(200, fill_half, 10)
    assert store.newest() == good
    assert not store.leftovers()


def test_a_really_full_disk(tmp_path):
    """On the small in-memory disk that some machines mount writable; elsewhere the test above must do."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=1m tmpfs {mount} 2>/dev/null") != 0:
        pytest.skip("needs the right to mount a small disk")
    try:
        store = CheckpointStore(mount / "checkpoints", keep_last=2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hybridpolicy.training.checkpoint.SPARE_BYTES", 0)
            good = store.write(100, fill, 10)
            with pytest.raises(CheckpointError, match="the disk is full"):
                store.write(200, lambda folder: (folder / "big.bin").write_bytes(b"0" * 2_000_000), 10)
        assert store.newest() == good
    finally:
        os.system(f"umount {mount}")


def test_a_damaged_checkpoint_is_not_kept_in_place_of_a_good_one(tmp_path):
    """A run resumed before it may write at other numbers, by another save_every_samples or time limit."""
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=2)
    store.write(200, fill, 10)
    (store.write(300, fill, 10) / "manifest.json").unlink()
    store = CheckpointStore(store.root, keep_last=1)
    path = store.write(250, fill, 10)
    assert store.newest() == path == (store.root / "last").resolve()
