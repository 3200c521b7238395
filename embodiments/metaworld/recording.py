"""Demonstrations of Meta-World's scripted experts, written as a LeRobotDataset that stock LeRobot reads."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embodiments.dataset_writer import EncodedEpisode, create_metadata, finish_dataset
from embodiments.metaworld.env import CAMERA, EnvSettings
from embodiments.metaworld.rendering import FrameRenderer
from embodiments.metaworld.simulation import ACTION_DIM, STATE_DIM, MetaworldSimulation
from embodiments.metaworld.tasks import resolve_tasks, task_description, train_seed
from embodiments.partial_folder import PartialFolder
from embodiments.video_shard import VideoShard, count_values

ROBOT_TYPE = "sawyer_metaworld"
VIDEO_KEY = f"observation.images.{CAMERA}"
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
    """T policy steps: pictures (T, S, S, 3) uint8, states (T, 4) and the expert's actions (T, 4) float32."""

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
    threshold and not to stop short of it. `action_noise` is the standard deviation of what is added to the
    hand motion when it is executed; the action written is the expert's own, so that noise shows states off
    the expert's path together with the way back (DART, Laskey et al. 2017).
    """
    rng = np.random.default_rng(seed)
    demonstration = Demonstration(simulation.task, [], [], [])
    simulation.reset(seed)
    steps_left, succeeded = settings.max_policy_steps, False
    while steps_left > 0:
        action = np.clip(simulation.expert_action(), -1.0, 1.0)
        executed = action.copy()
        executed[:3] = np.clip(action[:3] + rng.normal(0.0, action_noise, 3), -1.0, 1.0)
        demonstration.images.append(renderer.frame(simulation))
        demonstration.states.append(simulation.agent_pos)
        demonstration.actions.append(action)
        _, success = simulation.step(executed, settings.action_repeat, stop_on_success=False)
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
    progress: Callable[[int, int], None] | None = None,
) -> RecordingSummary:
    """What was written: `episodes_per_task` successes of every task, in a new LeRobotDataset at `root`.

    Layouts come from training seeds only (see tasks.py), so no evaluation seed is among them. Raises
    ValueError for a bad argument or an expert that fails too often, FileExistsError if `root` exists; then
    nothing is left behind.
    """
    settings = settings or EnvSettings()
    names = _flatten(tasks if isinstance(tasks, str) else ",".join(tasks))
    _check(episodes_per_task, action_noise, hold_steps)
    root = Path(root)
    started = time.perf_counter()
    summary = RecordingSummary(root, settings.fps)
    episodes: list[EncodedEpisode] = []
    with PartialFolder(root) as folder:
        features = _features(settings.render.image_size)
        meta = create_metadata(folder.path, repo_id, settings.fps, ROBOT_TYPE, features)
        for shard, name in enumerate(names):
            found = _successful(name, episodes_per_task, seed, settings, action_noise, hold_steps, summary)
            for episode in _encode(found, meta, shard, settings):
                episodes.append(episode)
                summary.episodes[name] = summary.episodes.get(name, 0) + 1
                summary.frames[name] = summary.frames.get(name, 0) + episode.length
                if progress is not None:
                    progress(len(episodes), episodes_per_task * len(names))
        finish_dataset(meta, episodes)
        folder.finish()
    summary.duration_s = time.perf_counter() - started
    return summary


def _encode(
    demonstrations: Iterable[Demonstration], meta: Any, shard: int, settings: EnvSettings
) -> Iterator[EncodedEpisode]:
    """The episodes of one video file."""
    path = meta.root / meta.video_path.format(video_key=VIDEO_KEY, chunk_index=0, file_index=shard)
    video = VideoShard(path, settings.render.image_size, settings.fps)
    for demonstration in demonstrations:
        start = video.num_frames
        video.append(demonstration.images)
        columns = {
            "observation.state": np.stack(demonstration.states),
            "action": np.stack(demonstration.actions),
        }
        histograms = {VIDEO_KEY: count_values(demonstration.images)}
        yield EncodedEpisode(columns, task_description(demonstration.task), shard, start, histograms)
    video.close()


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
        raise ValueError(
            f"metaworld {task}: the expert succeeded {found} times in {episodes * _ATTEMPTS_PER_EPISODE} "
            f"attempts at action_repeat={settings.action_repeat}, {episodes} wanted; "
            "lower action_repeat or action_noise"
        )


def _features(size: int) -> dict[str, dict[str, Any]]:
    return {
        VIDEO_KEY: {
            "dtype": "video",
            "shape": (size, size, 3),
            "names": ["height", "width", "channels"],
        },
        "observation.state": {"dtype": "float32", "shape": (STATE_DIM,), "names": list(STATE_NAMES)},
        "action": {"dtype": "float32", "shape": (ACTION_DIM,), "names": list(ACTION_NAMES)},
    }


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
