"""Names, texts and seeds: no simulator."""

import subprocess
import sys

import pytest

from embodiments.metaworld import tasks


def test_groups_hold_known_tasks_and_mt8_has_eight() -> None:
    groups = tasks.task_groups()
    assert set(groups) == {"mt8", "easy", "medium", "hard", "very_hard"}
    names = [name for group in groups.values() for name in group]
    assert len(names) == 58
    assert len(tasks.MT8) == len(set(tasks.MT8)) == 8
    assert all(tasks.check_task(name) == name for name in names)


def test_every_task_has_a_text_and_an_expert() -> None:
    table = tasks.lerobot_task_table()
    assert len(table["TASK_DESCRIPTIONS"]) == 50
    assert tasks.task_description("reach-v3") == "Reach a goal position"
    assert tasks.task_description("metaworld-push-v3") == "Push the puck to a goal"
    assert tasks.expert_class_name("faucet-open-v3") == "SawyerFaucetOpenV3Policy"


def test_resolve_keeps_the_order_of_the_list() -> None:
    suites = tasks.resolve_tasks(" push-v3, mt8,reach-v3 ")
    assert list(suites) == ["push-v3", "mt8", "reach-v3"]
    assert suites["push-v3"] == ("push-v3",)
    assert suites["mt8"] == tasks.MT8


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("metaworld-push-v2", r"unknown task 'metaworld-push-v2'.*push-v3"),
        ("mt9", r"unknown task 'mt9'.*mt8"),
        (" , ", r"task=' , ' names no task"),
    ],
)
def test_unknown_tasks_are_answered_with_the_nearest(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks.resolve_tasks(spec)


def test_training_and_evaluation_seeds_cannot_meet() -> None:
    lowest, highest = tasks.train_seed(0, 0), tasks.train_seed(0, tasks.TRAIN_SEEDS_PER_RUN - 1)
    assert tasks.check_evaluation_seed(lowest - 1) == lowest - 1
    assert highest < tasks.train_seed(1, 0)
    with pytest.raises(ValueError, match=f"evaluation seed {lowest} is outside"):
        tasks.check_evaluation_seed(lowest)
    with pytest.raises(ValueError, match="demonstration 100000 is outside"):
        tasks.train_seed(0, tasks.TRAIN_SEEDS_PER_RUN)
    with pytest.raises(ValueError, match="seed=-1 must be 0 or more"):
        tasks.train_seed(-1, 0)


def test_workers_import_neither_torch_nor_lerobot() -> None:
    code = (
        "import sys, embodiments.metaworld.tasks as t; t.task_description('reach-v3')\n"
        "assert 'mujoco' not in sys.modules and 'metaworld' not in sys.modules\n"
        "import embodiments.metaworld.worker, embodiments.metaworld.vector\n"
        "assert 'mujoco' in sys.modules\n"
        "print([m for m in ('torch', 'lerobot', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
