"""Demonstrations of Meta-World's scripted experts, written as a LeRobotDataset that stock LeRobot reads."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodiments.metaworld.env import CAMERA, EnvSettings
from embodiments.metaworld.rendering import FrameRenderer
from embodiments.metaworld.simulation import ACTION_DIM, STATE_DIM, MetaworldSimulation
from embodiments.metaworld.tasks import resolve_tasks, task_description, train_seed

ROBOT_TYPE = "sawyer_metaworld"
STATE_NAMES = ("hand.x", "hand.y", "hand.z", "gripper.opening")
ACTION_NAMES = ("hand.dx", "hand.dy", "hand.dz", "gripper.effort")

_ATTEMPTS_PER_EPISODE = 4  # the worst experts of Meta-World succeed every second time


@dataclass
class RecordingSummary:
    """What was written: episodes, frames and failed (left out) attempts per task, and how long it took."""

    root: Path
    fps: int
    episodes: dict[str, int] = field(default_factory=dict)
    frames: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    duration_s: float = 0.0


@dataclass(frozen=True)
class Demonstration:
    """T policy steps: pictures (T, S, S, 3) uint8, states (T, 4) and executed actions (T, 4) float32."""

    task: str
    images: list[NDArray[np.uint8]]
    states: list[NDArray[np.float32]]
    actions: list[NDArray[np.float32]]


def demonstrate(
    simulation: MetaworldSimulation,
    renderer: FrameRenderer,
    settings: EnvSettings,
    seed: int,
    action_noise: float = 0.0,
    hold_steps: int = 4,
) -> Demonstration | None:
    """One expert episode from the layout of `seed`, or None if it failed.

    The episode runs `hold_steps` policy steps past success, so that a policy learns to go beyond the
    threshold and not to stop short of it. `action_noise` is the standard deviation added to the hand
    motion; the action written is the one executed.
    """
    rng = np.random.default_rng(seed)
    demonstration = Demonstration(simulation.task, [], [], [])
    simulation.reset(seed)
    steps_left, succeeded = settings.max_policy_steps, False
    while steps_left > 0:
        action = simulation.expert_action()
        action[:3] += rng.normal(0.0, action_noise, 3) if action_noise else 0.0
        action = np.clip(action, -1.0, 1.0)
        demonstration.images.append(renderer.frame(simulation))
        demonstration.states.append(simulation.agent_pos)
        demonstration.actions.append(action)
        _, success = simulation.step(action, settings.action_repeat, stop_on_success=False)
        steps_left -= 1
        if success and not succeeded:
            succeeded, steps_left = True, min(hold_steps, steps_left)
    return demonstration if succeeded else None


def record_metaworld(
    root: str | Path,
    tasks: str | Sequence[str] = "mt8",
    episodes_per_task: int = 40,
    seed: int = 0,
    settings: EnvSettings | None = None,
    action_noise: float = 0.0,
    hold_steps: int = 4,
    repo_id: str = "local/metaworld",
) -> RecordingSummary:
    """What was written: `episodes_per_task` successes of every task, in a new LeRobotDataset at `root`.

    Layouts come from training seeds only (see tasks.py), so no evaluation seed is among them. Raises
    ValueError for a bad argument, FileExistsError if `root` exists, RuntimeError if an expert fails too
    often.
    """
    settings = settings or EnvSettings()
    names = _flatten(tasks if isinstance(tasks, str) else ",".join(tasks))
    _check(episodes_per_task, action_noise, hold_steps)
    root = Path(root)
    if root.exists():
        raise FileExistsError(f"metaworld: {root} exists; give a new folder, or delete it to record again")
    started = time.perf_counter()
    summary = RecordingSummary(root, settings.fps)
    with _quiet_encoder():
        dataset = _create_dataset(root, repo_id, settings)
        try:
            for name in names:
                episodes = _successful(
                    name, episodes_per_task, seed, settings, action_noise, hold_steps, summary
                )
                for demonstration in episodes:
                    _write(dataset, demonstration, summary)
        finally:
            dataset.finalize()
    summary.duration_s = time.perf_counter() - started
    return summary


def _successful(
    task: str,
    episodes: int,
    seed: int,
    settings: EnvSettings,
    action_noise: float,
    hold_steps: int,
    summary: RecordingSummary,
) -> Iterator[Demonstration]:
    simulation, renderer = MetaworldSimulation(task), FrameRenderer(settings.render)
    found = 0
    summary.failures[task] = 0
    for attempt in range(episodes * _ATTEMPTS_PER_EPISODE):
        demonstration = demonstrate(
            simulation, renderer, settings, train_seed(seed, attempt), action_noise, hold_steps
        )
        if demonstration is None:
            summary.failures[task] += 1
            continue
        found += 1
        yield demonstration
        if found == episodes:
            break
    simulation.close()
    if found < episodes:
        raise RuntimeError(
            f"metaworld {task}: the expert succeeded {found} times in {episodes * _ATTEMPTS_PER_EPISODE} "
            f"attempts at action_repeat={settings.action_repeat}, {episodes} wanted; "
            "lower action_repeat or action_noise"
        )


@contextmanager
def _quiet_encoder() -> Iterator[None]:
    """x264 prints ten lines an episode below the error level."""
    import av.logging

    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        yield
    finally:
        av.logging.set_level(level)


def _create_dataset(root: Path, repo_id: str, settings: EnvSettings) -> Any:
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets import LeRobotDataset

    size = settings.render.image_size
    features = {
        f"observation.images.{CAMERA}": {
            "dtype": "video",
            "shape": (size, size, 3),
            "names": ["height", "width", "channels"],
        },
        "observation.state": {"dtype": "float32", "shape": (STATE_DIM,), "names": list(STATE_NAMES)},
        "action": {"dtype": "float32", "shape": (ACTION_DIM,), "names": list(ACTION_NAMES)},
    }
    return LeRobotDataset.create(
        repo_id=repo_id,
        fps=settings.fps,
        features=features,
        root=root,
        robot_type=ROBOT_TYPE,
        # Full colour resolution: a goal marker is four pixels wide, and 4:2:0 would smear it.
        rgb_encoder=RGBEncoderConfig(vcodec="h264", pix_fmt="yuv444p", g=2, crf=16, preset="veryfast"),
        streaming_encoding=True,
    )


def _write(dataset: Any, demonstration: Demonstration, summary: RecordingSummary) -> None:
    text = task_description(demonstration.task)
    for image, state, action in zip(
        demonstration.images, demonstration.states, demonstration.actions, strict=True
    ):
        frame = {f"observation.images.{CAMERA}": image, "observation.state": state, "action": action}
        dataset.add_frame({**frame, "task": text})
    dataset.save_episode()
    task = demonstration.task
    summary.episodes[task] = summary.episodes.get(task, 0) + 1
    summary.frames[task] = summary.frames.get(task, 0) + len(demonstration.actions)


def _flatten(spec: str) -> list[str]:
    names = [name for group in resolve_tasks(spec).values() for name in group]
    return list(dict.fromkeys(names))  # a task may be in two groups


def _check(episodes_per_task: int, action_noise: float, hold_steps: int) -> None:
    if episodes_per_task < 1:
        raise ValueError(f"metaworld: episodes_per_task={episodes_per_task}; give 1 or more")
    if not 0.0 <= action_noise <= 1.0:
        raise ValueError(f"metaworld: action_noise={action_noise}; allowed 0..1, the range of an action")
    if hold_steps < 0:
        raise ValueError(f"metaworld: hold_steps={hold_steps}; give 0 or more policy steps")
