"""What is left of a run: a LeRobotDataset, an event log, and the identity of everything that took part.

Columns are those lerobot-record writes for the robot, plus those of `hybridpolicy.outcome_schema`. The action
of a frame is the goal that was really sent by its end.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embodiments.control.link import Severity
from embodiments.control.spec import ControlSpec
from hybridpolicy import outcome_schema
from hybridpolicy.files import write_json
from recipes.arm.errors import ArmRunError

IDENTITY, EVENTS, DATASET, CONTROL_LOG = "identity.json", "events.jsonl", "dataset", "control.jsonl"
ROBOT_TYPE = "so_follower"
PACKAGES = ("lerobot_policy_hybrid", "lerobot", "torch", "numpy", "pyserial")
BYTES_PER_GB = 1e9
ENCODER_THREADS = 1


class Frame(NamedTuple):
    """One tick: pictures, joints measured, the goal sent before it, the task, and since the last one: whether
    something happened, whether what was followed is of an imagining plan.
    """

    pixels: Mapping[str, NDArray[np.uint8]]
    measured: Sequence[float]
    sent: Sequence[float]
    task: str
    event: bool
    imagined: bool = False
    intervention: bool = False


def run_folder(root: Path) -> Path:
    """A folder of its own for this run, under `root`."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = root / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ArmRunError(f"{root}: a thousand runs began within this second; choose another --record folder")


def discard_unbegun(folder: Path) -> None:
    """Removes the folder of a run that was refused: it never got an identity, and nothing was energised."""
    if not (folder / IDENTITY).exists():
        shutil.rmtree(folder, ignore_errors=True)


def dataset_features(joints: Sequence[str], shapes: Mapping[str, tuple[int, int, int]]) -> dict[str, Any]:
    """LeRobot's feature dictionary; joints by LeRobot's names, cameras name → (H, W, 3)."""
    numbers = {"dtype": "float32", "shape": (len(joints),), "names": list(joints)}
    features: dict[str, Any] = {
        f"observation.images.{name}": {
            "dtype": "video",
            "shape": shape,
            "names": ["height", "width", "channels"],
        }
        for name, shape in shapes.items()
    }
    features |= {"observation.state": dict(numbers), "action": dict(numbers)}
    return features | outcome_schema.outcome_features()


class Recorder:
    """The record of one run in `folder`, which is one of several in its parent, kept within `keep_gb`."""

    def __init__(
        self,
        folder: Path,
        fps: float,
        joints: Sequence[str],
        shapes: Mapping[str, tuple[int, int, int]],
        keep_gb: float,
    ) -> None:
        import av
        import datasets
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        from embodiments.dataset_writer import video_encoder

        av.logging.set_libav_level(av.logging.ERROR)  # LeRobot hands the encoder's chatter to the terminal
        datasets.disable_progress_bars()
        self.folder = folder
        self.episodes = 0
        self.full = False
        self._keep = keep_gb * BYTES_PER_GB
        self._held: Frame | None = None
        self._written = 0  # frames of the running episode
        self._began_us = time.monotonic_ns() // 1000
        self._events = (folder / EVENTS).open("a", encoding="utf-8")
        self._make_room()
        self._dataset = LeRobotDataset.create(
            f"local/{folder.name}",
            round(fps),
            dataset_features(joints, shapes),
            root=folder / DATASET,
            robot_type=ROBOT_TYPE,
            rgb_encoder=video_encoder(),
            video_backend="pyav",  # else LeRobot looks for another, and prints a page where it cannot load
            streaming_encoding=True,
            encoder_threads=ENCODER_THREADS,
            encoder_queue_maxsize=0,  # no limit: LeRobot drops what a full queue does not take
        )

    def note(self, severity: Severity, text: str) -> None:
        """One line of the event log."""
        line = {"monotonic_us": time.monotonic_ns() // 1000, "wall_s": round(time.time(), 3)}
        self._events.write(json.dumps(line | {"severity": severity.name, "text": text}) + "\n")
        self._events.flush()

    def add(self, frame: Frame) -> None:
        """One tick of the running episode. It is written when the next one says what was sent."""
        if self.full:
            return
        held, self._held = self._held, frame
        if held is not None:
            self._write(held._replace(event=frame.event, imagined=frame.imagined), frame.sent)

    def end(
        self,
        success: bool,
        reason: str,
        sent: Sequence[float],
        intervened: bool = False,
        event: bool = False,
    ) -> None:
        """The episode is over; `sent` is the last goal, `intervened` whether a person stopped it, `event`
        whether something happened since the last tick.
        """
        held, self._held = self._held, None
        if held is None:
            return
        if not self._written:  # LeRobot has no statistics of its pictures, and fails over them
            self.note(Severity.WARNING, "the episode was over after one frame: it is not in the dataset")
            return
        held = held._replace(intervention=intervened, event=held.event or event)
        self._write(held, sent, success, reason)
        self._dataset.save_episode()
        self._written = 0
        self.episodes += 1
        self._make_room()

    def _write(self, frame: Frame, sent: Sequence[float], success: bool = False, reason: str = "") -> None:
        self._written += 1
        flags = (success, bool(reason), frame.intervention, frame.event, frame.imagined)
        self._dataset.add_frame(
            {f"observation.images.{name}": picture for name, picture in frame.pixels.items()}
            | {name: np.array([flag]) for name, flag in zip(outcome_schema.FLAGS, flags, strict=True)}
            | {
                "observation.state": np.asarray(frame.measured, np.float32),
                "action": np.asarray(sent, np.float32),
                outcome_schema.STOP_REASON: reason,
                "task": frame.task,
            }
        )

    def _make_room(self) -> None:
        """Removes the oldest runs until all fit; if this one alone does not, it ends recording."""
        runs = sorted(found.parent for found in self.folder.parent.glob(f"*/{IDENTITY}"))
        sizes = {run: _bytes_in(run) for run in (*runs, self.folder)}
        for run in runs:
            if run != self.folder and sum(sizes.values()) > self._keep:
                shutil.rmtree(run)
                del sizes[run]
        over = sum(sizes.values()) > self._keep
        if over and not self.full:
            limit = f"{self._keep / BYTES_PER_GB:g} GB"
            self.note(Severity.WARNING, f"the record is full ({limit}): nothing more is kept")
        self.full = over

    def close(self) -> None:
        """Finishes the dataset; a run without an episode leaves none."""
        self._dataset.finalize()
        self._events.close()
        if not self.episodes:
            shutil.rmtree(self.folder / DATASET, ignore_errors=True)


def identity(
    spec: ControlSpec,
    policy: Mapping[str, Any],
    settings: Mapping[str, Any],
    checks: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """Everything that took part: hashes of policy, calibration and limits, versions, what was asked."""
    import hashlib

    from recipes.job import git_revision, machine

    limits = json.dumps([vars(limit) for limit in spec.limits], sort_keys=True)
    return {
        "policy": dict(policy),
        "calibration": spec.load_calibration().digest,
        "limits": hashlib.sha256(limits.encode()).hexdigest()[:16],
        "git": git_revision(),
        "versions": {name: version(name) for name in PACKAGES},
        "machine": machine(),
        "settings": dict(settings),
        "checks": dict(checks),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def write_identity(folder: Path, content: Mapping[str, Any]) -> None:
    """As `identity.json`; what marks a folder as one of our runs."""
    write_json(folder / IDENTITY, content)


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
