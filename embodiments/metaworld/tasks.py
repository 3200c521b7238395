"""Names, groups and texts of Meta-World's tasks, read from LeRobot's table so that texts are identical."""

import functools
import importlib.util
import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

# Eight tasks a small policy can learn together: one reach, one free push, six articulated objects.
MT8: tuple[str, ...] = (
    "reach-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "window-open-v3",
    "door-open-v3",
    "push-v3",
    "faucet-open-v3",
)

CONTROL_HZ = 80  # Meta-World: 5 physics steps of 2.5 ms
MAX_CONTROL_STEPS = 500  # Meta-World's max_path_length; one more step raises there

# A layout is a function of its seed, so disjoint seeds are disjoint object and goal positions.
# lerobot-eval counts up from --seed (default 1000): everything below the base is for evaluation.
TRAIN_SEED_BASE = 1_000_000
TRAIN_SEEDS_PER_RUN = 100_000


@functools.cache
def lerobot_task_table() -> dict[str, Any]:
    """LeRobot's metaworld_config.json: TASK_DESCRIPTIONS, DIFFICULTY_TO_TASKS, TASK_POLICY_MAPPING.

    The file is found without importing lerobot, which costs seconds and hundreds of megabytes.
    """
    package = importlib.util.find_spec("lerobot")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            "metaworld: task texts come from lerobot's envs/metaworld_config.json, and lerobot is not "
            "installed; install lerobot==0.6.1"
        )
    path = Path(package.submodule_search_locations[0]) / "envs" / "metaworld_config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"metaworld: {path} is missing; this lerobot keeps its task texts elsewhere, "
            "install lerobot==0.6.1"
        )
    table: dict[str, Any] = json.loads(path.read_text())
    return table


def task_groups() -> dict[str, tuple[str, ...]]:
    """Group name -> task names: mt8, and LeRobot's easy, medium, hard, very_hard."""
    groups = {name: tuple(tasks) for name, tasks in lerobot_task_table()["DIFFICULTY_TO_TASKS"].items()}
    return {"mt8": MT8, **groups}


def task_description(task: str) -> str:
    """The instruction LeRobot gives a policy for `task`, e.g. "Reach a goal position"."""
    text: str = lerobot_task_table()["TASK_DESCRIPTIONS"][check_task(task)]
    return text


def expert_class_name(task: str) -> str:
    """Name of the scripted expert in `metaworld.policies`."""
    name: str = lerobot_task_table()["TASK_POLICY_MAPPING"][check_task(task)]
    return name


def check_task(task: str) -> str:
    """`task` without LeRobot's "metaworld-" prefix; ValueError names the nearest known tasks."""
    known = lerobot_task_table()["TASK_DESCRIPTIONS"]
    name = task.removeprefix("metaworld-")
    if name in known:
        return name
    nearest = get_close_matches(name, [*known, *task_groups()], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "see embodiments.metaworld.tasks.MT8"
    raise ValueError(f"metaworld: unknown task {task!r}; the {len(known)} tasks end in -v3; {hint}")


def resolve_tasks(spec: str) -> dict[str, tuple[str, ...]]:
    """Suite -> task names for a comma list of tasks and groups, in the order given.

    "mt8" -> {"mt8": (...)}; "reach-v3,push-v3" -> {"reach-v3": ("reach-v3",), "push-v3": ("push-v3",)}.
    ValueError if the list is empty or holds an unknown name.
    """
    entries = [entry.strip() for entry in spec.split(",") if entry.strip()]
    if not entries:
        raise ValueError(
            f"metaworld: task={spec!r} names no task; give a task, a comma list, or a group such as mt8"
        )
    groups = task_groups()
    suites: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        if entry in groups:
            suites[entry] = groups[entry]
        else:
            name = check_task(entry)
            suites[name] = (name,)
    return suites


def train_seed(run_seed: int, attempt: int) -> int:
    """Layout seed of a training demonstration; never below TRAIN_SEED_BASE, where evaluation lives."""
    if run_seed < 0:
        raise ValueError(f"metaworld: seed={run_seed} must be 0 or more")
    if not 0 <= attempt < TRAIN_SEEDS_PER_RUN:
        raise ValueError(
            f"metaworld: demonstration {attempt} is outside 0..{TRAIN_SEEDS_PER_RUN - 1}; record under "
            "another seed"
        )
    return TRAIN_SEED_BASE + run_seed * TRAIN_SEEDS_PER_RUN + attempt


def check_evaluation_seed(seed: int) -> int:
    """`seed` if no training demonstration can have used it, else ValueError."""
    if not 0 <= seed < TRAIN_SEED_BASE:
        raise ValueError(
            f"metaworld: evaluation seed {seed} is outside 0..{TRAIN_SEED_BASE - 1}; "
            "seeds from there on are layouts that demonstrations were recorded on"
        )
    return seed
