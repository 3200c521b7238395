"""What every job shares."""

import time

import pytest

from recipes.job import Phases


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
