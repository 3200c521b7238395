"""Datasets shared by the training tests, and a server that starts processes with everything imported."""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)

import tiny_training  # noqa: E402 — found through the line above


@pytest.fixture(scope="session")
def video_dataset(tmp_path_factory):
    return tiny_training.make_dataset(tmp_path_factory.mktemp("video") / "dataset")


@pytest.fixture(scope="session")
def image_dataset(tmp_path_factory):
    return tiny_training.make_dataset(tmp_path_factory.mktemp("image") / "dataset", dtype="image")


@pytest.fixture(scope="session")
def many_files_dataset(tmp_path_factory):
    """AV1, LeRobot's default, and a new video file for every episode."""
    root = tmp_path_factory.mktemp("many") / "dataset"
    return tiny_training.make_dataset(root, vcodec="libsvtav1", file_mb=0.001)


@pytest.fixture(scope="session")
def processes():
    """Starts functions of tiny_training in new processes that need not import torch again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny_training"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", HERE, prepend=os.pathsep)  # the server ignores this process's sys.path
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context
