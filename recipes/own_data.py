"""Your own recordings: the arm is read from the dataset, shown, checked, and a fitting run is made."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embodiments.feetech.calibration import Calibration
from embodiments.so101.constants import MOTORS, SO101
from embodiments.spec import EmbodimentSpec
from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.dataset_facts import task_texts
from hybridpolicy.errors import ConfigurationError, DatasetError
from hybridpolicy.outcome_schema import EVENT, SUCCESS
from hybridpolicy.training.config import AugmentationConfig, DatasetSource, StageConfig, TrainConfig
from hybridpolicy.training.decode import height_width
from hybridpolicy.training.run import read_metadata
from recipes.arm.record import IDENTITY
from recipes.commands.data.location import locate

KNOWN_ARMS: tuple[EmbodimentSpec, ...] = (SO101,)
SMALLEST_SIDE = 96  # pixels of the shorter image side after resizing
HELD_OUT_SHARE = 20  # one episode in so many is only looked at to see what generalises
HELD_OUT_ROLLOUTS = 8  # one rollout in so many is kept to measure the outcome heads on
FEWEST_EPISODES = 5  # of which one is held out
CHUNK_S, REPLAN_S = 0.8, 0.2
WAYPOINTS_S = (0.4, 0.8, 1.2, 1.6, 2.0)
CHANGES_S = (0.8, 1.6)
ONSET_S, ONSET_SHARE = 0.3, 0.4  # with several instructions: the moments that tell what was asked
PASSES = 25  # over the frames of the dataset, within the bounds below
SAMPLES = (120_000, 2_000_000)
ROLLOUTS_SHARE = 0.3  # of samples, seen for their outcome alone
OUTCOME_WEIGHT = 0.3  # of the outcome heads, where there are rollouts


@dataclass(frozen=True)
class DerivedArm:
    """What a dataset says about the arm that recorded it.

    known: the arm of this project it matches, if any. unit: of the joints, deg, normalised or unknown.
    """

    robot_type: str
    fps: float
    joints: tuple[str, ...]
    cameras: dict[str, tuple[int, int]]
    state_matches_action: bool
    unit: str
    known: EmbodimentSpec | None
    episodes: int
    frames: int
    tasks: tuple[str, ...]
    has_state: bool
    depth: tuple[str, ...] = ()

    def describe(self) -> str:
        """A few lines for a person."""
        views = ", ".join(f"{key.split('.')[-1]} {w}x{h}" for key, (h, w) in self.cameras.items())
        depth = f"; not looked at, depth: {', '.join(self.depth)}" if self.depth else ""
        arm = (
            f"{self.known.tag}, known here" if self.known else "not one this project knows; limits unchecked"
        )
        return "\n".join(
            (
                f"arm      {self.robot_type} ({arm})",
                f"joints   {', '.join(self.joints)}",
                f"units    {self.unit}",
                f"cameras  {views}{depth}",
                f"rate     {self.fps:g} Hz",
                f"data     {self.episodes} episodes, {self.frames} frames, {len(self.tasks)} instructions",
                f"held out {_say_held_out(self.episodes, HELD_OUT_SHARE)}",
            )
        )


def derive_arm(meta: Any) -> DerivedArm:
    """Reads the arm off LeRobot's metadata.

    Raises:
        DatasetError: no camera, no action, or joint values outside what the known arm of that name can reach.
    """
    features = meta.features
    colour = [key for key in meta.camera_keys if key not in meta.depth_keys]
    if "action" not in features or not colour:
        raise DatasetError(
            f"{meta.root}: columns {sorted(features)}; training needs `action` and at least one "
            "observation.images.<name>. Record with lerobot-record"
        )
    joints = _names(features["action"])
    cameras = {key: height_width(features[key]) for key in colour}
    known = next((arm for arm in KNOWN_ARMS if arm.joint_names == joints), None)
    unit = _unit(meta.stats["action"], joints)
    arm = DerivedArm(
        robot_type=str(meta.robot_type or "unknown"),
        fps=float(meta.fps),
        joints=joints,
        cameras=cameras,
        state_matches_action=bool(joints) and _names(features.get("observation.state") or {}) == joints,
        unit=unit,
        known=known,
        episodes=meta.total_episodes,
        frames=meta.total_frames,
        tasks=tuple(task_texts(meta)),
        has_state="observation.state" in features,
        depth=tuple(key.split(".")[-1] for key in meta.depth_keys),
    )
    if known is not None:
        _check_radians(meta, arm, known)
    if known is not None and unit == "deg":
        _check_ranges(meta, arm, known)
    return arm


def _names(feature: dict[str, Any]) -> tuple[str, ...]:
    names = feature.get("names") or ()
    if isinstance(names, dict):
        names = [name for group in names.values() for name in group]
    return tuple(str(name) for name in names)


def _unit(stats: dict[str, Any], joints: tuple[str, ...]) -> str:
    """deg if a body joint leaves ±100, the range of LeRobot's normalised units; unknown if none ever does."""
    body = [i for i, name in enumerate(joints) if "gripper" not in name]
    if not body:
        return "unknown"
    low, high = (np.asarray(stats[key], float).flatten()[body] for key in ("min", "max"))
    if max(np.abs(low).max(), np.abs(high).max()) > 100.5:
        return "deg"
    return "deg or ±100 (no joint left ±100, so the values do not tell)"


def _check_radians(meta: Any, arm: DerivedArm, known: EmbodimentSpec) -> None:
    """A recording of an arm driven in degrees that hardly moves is in radians; `arm run` would refuse it."""
    body = [i for i, name in enumerate(arm.joints) if "gripper" not in name]
    ends = (np.asarray(meta.stats["action"][key], float).flatten()[body] for key in ("min", "max"))
    most = max(float(np.abs(end).max()) for end in ends)
    if most <= math.pi:
        raise DatasetError(
            f"{meta.root}: no joint was commanded beyond ±{most:.2f}, which are radians; the {known.tag} "
            "takes degrees (LeRobot's use_degrees). Convert the dataset, or record again"
        )


def _check_ranges(meta: Any, arm: DerivedArm, known: EmbodimentSpec) -> None:
    slack = 25.0  # an owner's zero is the middle of the range he recorded
    low, high = (np.asarray(meta.stats["action"][key], float).flatten() for key in ("min", "max"))
    for i, joint in enumerate(known.joints):
        if joint.unit == "deg" and (
            low[i] < joint.lower.value - slack or high[i] > joint.upper.value + slack
        ):
            raise DatasetError(
                f"{meta.root}: {joint.name} was commanded to {low[i]:.0f} … {high[i]:.0f} deg, "
                f"the {known.tag} reaches {joint.lower.value:.0f} … {joint.upper.value:.0f}; "
                f"the arm was calibrated differently or the dataset is of another arm ({arm.robot_type}). "
                "Calibrate and record again"
            )


def image_size(cameras: dict[str, tuple[int, int]]) -> list[int]:
    """[H, W] every view is resized to: the shorter side of the first camera 96 pixels, a multiple of 8."""
    height, width = next(iter(cameras.values()))
    scale = SMALLEST_SIDE / min(height, width)
    return [max(8, round(side * scale / 8) * 8) for side in (height, width)]


def read_arm(dataset: str) -> DerivedArm:
    """The arm that recorded `dataset`, a folder or hub id. Raises as `derive_arm`."""
    return derive_arm(read_metadata(DatasetSource(*locate(dataset))))


def recorded_calibration(root: Path) -> str | None:
    """Digest of the calibration that `root` was recorded with, as far as it says so.

    From meta/calibration.json, LeRobot's file of the arm copied there by its owner, or from the identity that
    `hybridpolicy arm run --record` leaves beside its dataset. CalibrationError or DatasetError for a file
    that is none.
    """
    file, identity = root / "meta" / "calibration.json", root.parent / IDENTITY
    if file.is_file():
        return Calibration.load(file, MOTORS).digest
    if identity.is_file():
        try:
            return str(json.loads(identity.read_text(encoding="utf-8"))["calibration"])
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{identity}: not what `hybridpolicy arm run --record` leaves beside a dataset ({error!r}); "
                "move the dataset elsewhere, or put the file right"
            ) from error
    return None


def seen_episodes(episodes: int, every: int = HELD_OUT_SHARE) -> tuple[int, ...]:
    """Those to learn from: all but one in `every`, one at least; () for all of a few.

    What is left out lies evenly among them: recordings of several tasks are mostly made task by task.
    """
    if episodes < FEWEST_EPISODES:
        return ()
    count = max(1, episodes // every)
    left_out = {episodes * (n + 1) // count - 1 for n in range(count)}
    return tuple(episode for episode in range(episodes) if episode not in left_out)


def _say_held_out(episodes: int, every: int) -> str:
    seen = len(seen_episodes(episodes, every))
    if not seen:
        return f"nothing of {episodes} episodes, fewer than {FEWEST_EPISODES}: nothing is measured on them"
    return f"{episodes - seen} of {episodes} episodes, evenly among them, to measure on"


def describe_rollouts(given: str) -> str:
    """One line for a person, of rollouts in a folder or hub id."""
    episodes = read_metadata(DatasetSource(*locate(given))).total_episodes
    return f"rollouts {given}: held out {_say_held_out(episodes, HELD_OUT_ROLLOUTS)}"


def read_rollouts(given: str, demonstrated: Any) -> DatasetSource:
    """Rollouts in a folder or hub id, not to be imitated, beside demonstrations of that metadata.

    Raises:
        DatasetError: they do not say how they ended, or are of other joints, cameras or another rate.
    """
    source = DatasetSource(*locate(given))
    meta = read_metadata(source)
    missing = [name for name in (SUCCESS, EVENT) if name not in meta.features]
    if missing:
        raise DatasetError(
            f"rollouts {given}: no column {' and '.join(missing)}, which say how a try went; record it with "
            "`hybridpolicy data collect` or `hybridpolicy arm run --record`"
        )
    wanted, found = _kind(demonstrated), _kind(meta)
    for what in wanted:
        if found[what] != wanted[what]:
            raise DatasetError(
                f"rollouts {given}: {what} {found[what]}, and the demonstrations have {wanted[what]}; give "
                "rollouts of a policy that was trained on these demonstrations"
            )
    absent = sorted(set(demonstrated.camera_keys) - set(demonstrated.depth_keys) - set(meta.camera_keys))
    if absent:
        raise DatasetError(
            f"rollouts {given}: no {', '.join(absent)}, there are {sorted(meta.camera_keys)}; record them "
            "with the cameras of the demonstrations"
        )
    seen = seen_episodes(meta.total_episodes, HELD_OUT_ROLLOUTS)
    return replace(source, episodes=seen, imitate=False, outcomes="recorded")


def _kind(meta: Any) -> dict[str, Any]:
    """What is the same of everything that one policy learns from, cameras aside."""
    names = {key: list(_names(meta.features.get(key) or {})) for key in ("action", "observation.state")}
    return names | {"a rate in Hz of": meta.fps}


def recipe(dataset: str = "", output: str = "outputs/own_data", rollouts: Sequence[str] = ()) -> TrainConfig:
    """World prior on the dataset's own video, then trunk and expert on its demonstrations.

    Args:
        dataset: folder or hub id of what `lerobot-record` wrote.
        rollouts: the same of a policy's own tries, from which outcome heads learn how they end.

    Raises:
        ConfigurationError: no dataset. DatasetError: as `derive_arm` and `read_rollouts`.
    """
    if not dataset:
        raise ConfigurationError(
            "recipe own_data: no dataset; use hybridpolicy train --dataset <folder or hub id>"
        )
    root, repo_id = locate(dataset)
    meta = read_metadata(DatasetSource(root, repo_id))
    arm = derive_arm(meta)
    chunk = max(round(CHUNK_S * arm.fps), 2)
    samples = int(np.clip(PASSES * arm.frames, *SAMPLES))
    tag = arm.known.tag if arm.known else "arm"
    video, labelled = _sources(arm, root, repo_id, tag)
    tried = [
        replace(read_rollouts(given, meta), weight=ROLLOUTS_SHARE / len(rollouts), embodiment=tag)
        for given in rollouts
    ]
    if tried:  # of the demonstrations no outcome is learned: they say nothing of how a policy's tries end
        labelled = replace(labelled, weight=1.0 - ROLLOUTS_SHARE)
    return TrainConfig(
        name="own_data",
        policy=HybridConfig(
            device=None,
            embodiment=tag,
            fps=arm.fps,
            calibration=recorded_calibration(Path(root)) if root and arm.known else None,
            action_convention="relative" if arm.state_matches_action else "absolute",
            chunk_size=chunk,
            n_action_steps=max(round(REPLAN_S * arm.fps), 1),
            rtc_max_delay=max(chunk // 2, 1),
            world_offsets=[max(chunk // 2, 1), chunk],
            image_size=image_size(arm.cameras),
            world_share=0.4,
            world_weight=0.5,
            waypoint_weight=4.0 if arm.has_state else 0.0,
            waypoint_offsets=sorted({max(round(s * arm.fps), 1) for s in WAYPOINTS_S}),
            change_weight=12.0,
            change_offsets=sorted({max(round(s * arm.fps), 1) for s in CHANGES_S}),
            outcome_weight=OUTCOME_WEIGHT if tried else 0.0,
        ),
        stages=[
            StageConfig("world", samples // 4, 32, 1e-3, [video]),
            StageConfig("policy", samples, 32, 1e-3, [labelled, *tried]),
        ],
        output_dir=output,
        cache_dir=f"{output}/cache",
        precision="bf16",
        ema_decay=0.998,
        augmentation=AugmentationConfig(brightness=0.2, contrast=0.2, saturation=0.2, shift_px=4),
    )


def _sources(
    arm: DerivedArm, root: str, repo_id: str | None, tag: str
) -> tuple[DatasetSource, DatasetSource]:
    """Action-free video of a dataset, and its demonstrations; the same episodes of both."""
    seen = seen_episodes(arm.episodes)
    video = DatasetSource(
        root, repo_id, drop=("action", "observation.state", "task"), embodiment=tag, episodes=seen
    )
    labelled = DatasetSource(
        root,
        repo_id,
        embodiment=tag,
        episodes=seen,
        onset_share=ONSET_SHARE if len(arm.tasks) > 1 else 0.0,
        onset_frames=max(round(ONSET_S * arm.fps), 1),
    )
    return video, labelled
