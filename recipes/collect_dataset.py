"""Episodes of a policy as a LeRobotDataset that appears when it is complete."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import datasets
import numpy as np
from lerobot.datasets import LeRobotDataset

from embodiments.dataset_writer import video_encoder
from embodiments.partial_folder import PartialFolder
from hybridpolicy import outcome_schema as schema
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.evaluation.closed_loop import Step
from recipes.own_data import KNOWN_ARMS

# Why an episode ends; the environment itself ends it by the last one, without a success.
SUCCESS, TIME_LIMIT, TERMINATED = "success", "time limit", "terminated"


@dataclass
class Episode:
    """One running episode. cameras: short names → columns. has_state: the policy feels one.

    ended: why, empty while it runs. frames: columns of each without those of the outcome schema.
    imagined: of each, its plan was made with an imagined future.
    """

    cameras: Mapping[str, str]
    has_state: bool
    task: str = ""
    text: str = ""
    ended: str = ""
    frames: list[dict[str, np.ndarray]] = field(default_factory=list)
    imagined: list[bool] = field(default_factory=list)

    @property
    def success(self) -> bool:
        """Whether it ended in one."""
        return self.ended == SUCCESS

    def add(self, step: Step, table: int) -> None:
        """What was seen on `table` before `step`, and what was sent."""
        self.task, self.text = step.tasks[table], step.texts[table]
        frame = {key: np.array(step.pixels[name][table]) for name, key in self.cameras.items()}
        numbers = dict(step.extra)
        if self.has_state:
            numbers["observation.state"] = step.state
        numbers["action"] = step.action
        self.frames.append(frame | {key: np.array(v[table], np.float32) for key, v in numbers.items()})
        self.imagined.append(bool(step.imagined[table]))

    def rows(self) -> list[dict[str, Any]]:
        """Frames as LeRobot's `add_frame` takes them."""
        rows = []
        for index, frame in enumerate(self.frames):
            last = index == len(self.frames) - 1
            flags = dict.fromkeys(schema.FLAGS, False) | {
                schema.SUCCESS: last and self.success,
                schema.DONE: last,
                schema.IMAGINED: self.imagined[index],
            }
            told = {schema.STOP_REASON: self.ended if last else "", "task": self.text}
            rows.append(frame | {name: np.array([flag]) for name, flag in flags.items()} | told)
        return rows


def robot_type(embodiment: str) -> str | None:
    """What demonstrations of that tag have as robot_type; None where the policy does not know it."""
    if embodiment == HybridConfig.embodiment:  # the tag of whatever has none
        return None
    return next((arm.robot_type for arm in KNOWN_ARMS if arm.tag == embodiment), embodiment)


def dataset_features(config: HybridConfig, frame: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """LeRobot's features of `frame`, numbers by the policy's names, and those of the outcome schema."""
    names = {"action": config.action_feature_names, "observation.state": config.state_feature_names}
    features: dict[str, dict[str, Any]] = {}
    for key, value in frame.items():
        if value.ndim == 3:
            axes = ["height", "width", "channels"]
            features[key] = {"dtype": "video", "shape": value.shape, "names": axes}
        else:
            features[key] = {"dtype": "float32", "shape": value.shape, "names": names.get(key)}
    return features | schema.outcome_features()


class CollectedDataset:
    """A dataset that grows by batches of episodes. Leave it with `with`: without `finish`, nothing stays.

    Raises:
        FileExistsError: `root` is there already.
    """

    def __init__(self, root: str | Path, config: HybridConfig) -> None:
        self._folder = PartialFolder(root)
        self._config = config
        self._dataset: Any = None

    def add(self, episodes: Sequence[Episode], fps: int) -> None:
        """Writes episodes; the first one says what columns there are."""
        for episode in episodes:
            if self._dataset is None:
                self._dataset = self._create(episode, fps)
            for row in episode.rows():
                self._dataset.add_frame(row)
            self._dataset.save_episode()

    def _create(self, episode: Episode, fps: int) -> Any:
        av.logging.set_libav_level(av.logging.ERROR)  # LeRobot hands the encoder's chatter to the terminal
        datasets.disable_progress_bars()
        return LeRobotDataset.create(
            f"local/{self._folder.root.name}",
            fps,
            dataset_features(self._config, episode.frames[0]),
            root=self._folder.path,
            robot_type=robot_type(self._config.embodiment),
            rgb_encoder=video_encoder(),
            video_backend="pyav",  # else LeRobot looks for another, and prints a page where it cannot load
            streaming_encoding=True,
            encoder_queue_maxsize=0,  # without a limit: LeRobot drops what a full queue does not take
            encoder_threads=1,
        )

    def finish(self, facts: Mapping[str, Any], name: str) -> Path:
        """The folder, complete, with `facts` as JSON in the file `name`."""
        self._dataset.finalize()
        self._dataset = None
        (self._folder.path / name).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return self._folder.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._dataset is not None:
                with contextlib.suppress(OSError, ValueError):  # the first error is the one to tell
                    self._dataset.clear_episode_buffer()
                    self._dataset.finalize()  # else LeRobot does it later, and makes the folder anew
        finally:
            self._folder.__exit__(kind, error, trace)
