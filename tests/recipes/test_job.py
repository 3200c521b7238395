"""What every job shares."""

import subprocess
import sys
import time

import pytest

from recipes.job import Phases, peak_memory_mib


def test_a_job_run_again_counts_what_earlier_runs_did(tmp_path):
    path = tmp_path / "phases.json"
    first = Phases(path)
    with first.phase("train", continues=True):
        time.sleep(0.2)
    with first.phase("evaluate"):
        time.sleep(0.2)
    again = Phases(path)
    with again.phase("train", continues=True):
        pass
    with again.phase("evaluate"):
        pass
    spent = {phase["name"]: phase["seconds"] for phase in again.seconds}
    assert spent["train"] >= 0.2
    assert spent["evaluate"] < 0.2
    assert spent["start"] > 0
    assert again.wall_s == pytest.approx(sum(spent.values()))


def test_what_was_interrupted_took_its_time(tmp_path):
    path = tmp_path / "phases.json"

    def train():
        with Phases(path).phase("train", continues=True):
            time.sleep(0.2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    again = Phases(path)
    with again.phase("train", continues=True):
        pass
    assert 0.2 <= again.wall_s - again.seconds[0]["seconds"] < 100.0
    again.at_least("train", 100.0)  # a run that was killed: known from the checkpoint
    assert again.wall_s > 100.0
    again.at_least("train", 1.0)
    assert again.wall_s > 100.0


def test_the_peak_is_of_this_process_and_not_of_what_started_it():
    """Linux lets a child's rusage begin with its parent's."""
    held = bytearray(2 << 30)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    script = "from recipes.job import peak_memory_mib; print(peak_memory_mib())"
    child = float(subprocess.check_output([sys.executable, "-c", script]))
    assert 100 < child < 1500
    assert peak_memory_mib() > 2048
