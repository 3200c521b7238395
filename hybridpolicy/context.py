"""The batch as the policy understands it, from whatever loader made it.

LeRobot gives floats with a time axis in training and without one at inference; our loader gives uint8.
`present` is the one place that knows.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.errors import DatasetError
from hybridpolicy.frames import unit_range
from hybridpolicy.optional_keys import GOAL_IMAGE, VectorKey

LARGEST_NORMALISED = 20.0


@dataclass(frozen=True)
class Past:
    """What was observed at the M `past_offsets`, nearest last; shapes as in `Sample` with n = M."""

    frames: dict[str, Tensor]
    frame_valid: dict[str, Tensor]
    state: Tensor | None
    state_valid: Tensor | None


@dataclass(frozen=True)
class Sample:
    """One micro-batch. n = 1 + H observation times in training, 1 at inference.

    Attributes:
        frames: {camera: (B, n, 3, H, W)} uint8 or float in [0, 1], resized to the policy's image size.
        frame_valid: {camera: (B, n)} bool, False where the loader padded.
        state: (B, n, S) normalised, or None (action-free video).
        state_valid: (B, n) bool.
        action: (B, T, A) normalised, or None.
        action_valid: (B, T) bool; all False marks an unlabelled sample.
        task: B texts, or None.
        index: (B,) int64 identity of each sample, for counter-based noise.
        waypoints: (B, n, S) physical units, states at `waypoint_offsets`, the last one past the end; or None.
        ahead: {camera: (B, n, 3, H, W)} frames at `change_offsets`, the last one past the end; or empty.
        outcome: (B, 3) labels of progress, success and risk, and (B, 3) bool which are known; or None.
        objects: (B, K, 2) m and (B, K) bool present, privileged; or None.
        target: (B, 2) m and (B,) bool present, the object the instruction names, privileged; or None.
        vectors: {name: (B, n, S)} normalised, those of `HybridConfig.vectors` that are there.
        vector_valid: {name: (B, n)} bool.
        goal: {camera: (B, 3, H, W)} frames of how it shall look, or (B, P, F) latents of them; or empty.
        past: or None.
        imitate: the actions are to be learned; False: they are known, as what led to what followed.
    """

    frames: dict[str, Tensor]
    frame_valid: dict[str, Tensor]
    state: Tensor | None
    state_valid: Tensor | None
    action: Tensor | None
    action_valid: Tensor | None
    task: list[str] | None
    index: Tensor
    waypoints: Tensor | None
    ahead: dict[str, Tensor]
    outcome: tuple[Tensor, Tensor] | None
    objects: tuple[Tensor, Tensor] | None
    target: tuple[Tensor, Tensor] | None
    vectors: dict[str, Tensor] = field(default_factory=dict)
    vector_valid: dict[str, Tensor] = field(default_factory=dict)
    goal: dict[str, Tensor] = field(default_factory=dict)
    past: Past | None = None
    imitate: bool = True

    @property
    def acted(self) -> bool:
        """What was done is known of some of the samples."""
        return self.action is not None and bool(self.action_valid.any())

    @property
    def size(self) -> int:
        return len(self.index)

    @property
    def times(self) -> int:
        return next(iter(self.frames.values())).shape[1]


@dataclass(frozen=True)
class Shown:
    """What the context of each sample may hold, (B,) bool each; None shows all there is.

    Training hides text, state, a camera or an entry of the optional context now and then, so that one that is
    absent at run time is familiar.
    """

    text: Tensor | None = None
    state: Tensor | None = None
    cameras: dict[str, Tensor] | None = None
    optional: dict[str, Tensor] | None = None


EVERYTHING = Shown()


def _frames(value: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(B, [n,] 3, H, W) uint8 or float → (B, n, 3, h, w): as it is, or of another size as float in [0, 1]."""
    if value.ndim == 4:
        value = value.unsqueeze(1)
    if tuple(value.shape[-2:]) == image_size:
        return value if value.dtype == torch.uint8 else value.float()
    resized = F.interpolate(unit_range(value).flatten(0, 1), image_size, mode="area")
    return resized.view(*value.shape[:2], 3, *image_size)


def _valid(batch: dict, key: str, shape: tuple[int, int], device: torch.device) -> Tensor:
    pad = batch.get(f"{key}_is_pad")
    if pad is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    return ~pad.view(shape[0], -1)[:, : shape[1]].to(device)


def _vector(batch: dict, vector: VectorKey, count: int, times: int) -> Tensor:
    """(B, n, S) of a column, which loaders give without the time axis or, of one number, without its own."""
    value = batch[vector.key]
    if value.numel() != count * times * vector.size:
        raise DatasetError(
            f"hybrid: {vector.key} is {tuple(value.shape)} in the batch; the policy takes {vector.size} "
            f"numbers at {times} times of {count} samples. Choose the policy trained with this column"
        )
    return value.float().reshape(count, times, vector.size)


def _numbers(value: Tensor, size: int, times: int) -> Tensor:
    """A state or chunk as floats; of one number LeRobot's loader gives (B, n), here it is (B, n, 1)."""
    alone = size == 1 and value.shape[1:] in ((), (times,))
    return value.float().reshape(len(value), -1, 1) if alone else value.float()


def _num_past(config: HybridConfig, times: int) -> int:
    """How many of a batch's observation times are past ones: all or none."""
    past = len(config.past_offsets)
    if not past or times == 1:
        return 0
    known = (1 + past, 1 + len(config.world_offsets) + past)
    if times not in known:
        raise DatasetError(
            f"hybrid: a batch of {times} observation times; with past_offsets = {list(config.past_offsets)} "
            f"it has 1, to act on, or {known[0]} or {known[1]}: the present, the future if any, the past"
        )
    return past


def _goal(batch: dict, config: HybridConfig, size: tuple[int, int]) -> dict[str, Tensor]:
    """{camera: frames (B, 3, H, W)}, or {camera: latents (B, P, F)} where those are given."""
    if GOAL_IMAGE not in config.optional_context:
        return {}
    keys = {name: f"goal.{key}" for name, key in config.cameras.items()}
    given = {name: batch[key] for name, key in keys.items() if key in batch}
    return {n: value.float() if value.ndim == 3 else _frames(value, size)[:, 0] for n, value in given.items()}


def check_normalised(name: str, value: Tensor) -> None:
    """Raises `DatasetError` if `value` reaches further than any that was normalised."""
    largest = float(value.detach().abs().max()) if value.numel() else 0.0
    if largest > LARGEST_NORMALISED:
        raise DatasetError(
            f"hybrid: {name} reaches {largest:.0f} after normalisation; allowed up to "
            f"{LARGEST_NORMALISED:.0f} standard deviations. The pipeline has no statistics for it, or those "
            "of another dataset, or a joint that never moved in the data moves now"
        )


def present(batch: dict, config: HybridConfig, check_range: bool = False) -> Sample:
    """Returns the micro-batch in one form.

    Raises:
        DatasetError: no configured camera is in the batch, the action or a named column has another size, or
            (`check_range`) values were plainly never normalised.
    """
    size = (config.image_size[0], config.image_size[1])
    frames = {name: _frames(batch[key], size) for name, key in config.cameras.items() if key in batch}
    if not frames:
        given = sorted(key for key in batch if key.startswith("observation.image"))
        raise DatasetError(
            f"hybrid: none of the policy's cameras {sorted(config.cameras.values())} is in the batch; it has "
            f"{given}. Rename cameras with LeRobot's rename_map, or train on this dataset"
        )
    first = next(iter(frames.values()))
    count, times, device = first.shape[0], first.shape[1], first.device
    here = times - _num_past(config, times)
    frame_valid = {n: _valid(batch, config.cameras[n], (count, times), device) for n in frames}
    state, state_valid = batch.get("observation.state") if config.state_size else None, None
    if state is not None:
        state = _numbers(state, config.state_size, times)
        state = state.unsqueeze(1) if state.ndim == 2 else state
        state_valid = _valid(batch, "observation.state", (count, state.shape[1]), device)
    vectors = {v: _vector(batch, v, count, times) for v in config.vectors if v.key in batch}
    action, task = _action(batch, config), batch.get("task")
    if check_range:
        named = {"observation.state": state, "action": action} | {v.key: x for v, x in vectors.items()}
        for name, value in named.items():
            if value is not None:
                check_normalised(name, value)
    index = batch.get("sample_index", batch.get("index"))
    ahead = {n: batch[f"ahead.{key}"] for n, key in config.cameras.items() if f"ahead.{key}" in batch}
    return Sample(
        frames={name: x[:, :here] for name, x in frames.items()},
        frame_valid={name: x[:, :here] for name, x in frame_valid.items()},
        state=None if state is None else state[:, :here],
        state_valid=None if state_valid is None else state_valid[:, :here],
        action=action,
        action_valid=None if action is None else _valid(batch, "action", tuple(action.shape[:2]), device),
        task=[task] * count if isinstance(task, str) else task,
        index=torch.arange(count, device=device) if index is None else index.view(-1).long().to(device),
        waypoints=batch.get("waypoints"),
        ahead={name: _frames(value, size) for name, value in ahead.items()},
        vectors={v.name: x[:, :here] for v, x in vectors.items()},
        vector_valid={v.name: _valid(batch, v.key, (count, times), device)[:, :here] for v in vectors},
        goal=_goal(batch, config, size),
        imitate=bool(batch.get("imitate", True)),
        past=_past(frames, frame_valid, state, state_valid, here) if here < times else None,
        **_labels(batch, count),
    )


def _past(
    frames: dict[str, Tensor],
    frame_valid: dict[str, Tensor],
    state: Tensor | None,
    state_valid: Tensor | None,
    first: int,
) -> Past:
    """The observation times from number `first` on."""
    return Past(
        {name: x[:, first:] for name, x in frames.items()},
        {name: x[:, first:] for name, x in frame_valid.items()},
        None if state is None else state[:, first:],
        None if state_valid is None else state_valid[:, first:],
    )


def _action(batch: dict, config: HybridConfig) -> Tensor | None:
    action = batch.get("action")
    action = None if action is None else _numbers(action, config.action_size, config.chunk_size)
    if action is not None and action.shape[-1] != config.action_size:
        raise DatasetError(
            f"hybrid: the batch has {action.shape[-1]} action dimensions, the policy {config.action_size} "
            f"({config.action_feature_names}); choose the policy trained for this arm"
        )
    return action


def _labels(batch: dict, count: int) -> dict[str, tuple[Tensor, Tensor] | None]:
    """Fields of `Sample` that say how it ended and, privileged, where objects are."""
    outcome = objects = target = None
    if "outcome.labels" in batch:
        outcome = (batch["outcome.labels"].float(), batch["outcome.known"].bool())
    if "privileged.objects" in batch:
        positions = batch["privileged.objects"].float().view(count, -1, 2)
        objects = (positions, batch["privileged.present"].view(count, -1) > 0.5)
    if "privileged.target" in batch:
        named = batch["privileged.target"].float().view(count, 3)
        target = (named[:, :2], named[:, 2] > 0.5)
    return {"outcome": outcome, "objects": objects, "target": target}


def num_given(left_over: Tensor) -> int:
    """Actions in (…, n, A) of a chunk's rest.

    LeRobot pads it to a fixed length with zeros; read as actions they are the mean posture.
    """
    given = left_over.ne(0).any(dim=-1)
    filled = given.flatten(0, -2).any(dim=0).nonzero() if given.ndim > 1 else given.nonzero()
    return int(filled[-1]) + 1 if len(filled) else 0


def num_taken(left_over: Tensor, last: Tensor | None, chunk_size: int) -> int:
    """Control ticks since `last` (B, T, A), the chunk of which (…, n, A) is left over, was asked for.

    LeRobot cuts what is left to its `execution_horizon`: where it begins in `last` tells, not how long it is.
    What is no part of `last` is taken to be the whole rest of a chunk.
    """
    given = num_given(left_over)
    most = max(chunk_size - given, 0)
    rest = left_over[..., :given, :]
    rest = rest if rest.ndim == 3 else rest.unsqueeze(0)
    if last is None or not 0 < given <= last.shape[1] or len(rest) not in (1, len(last)):
        return most
    parts = last.unfold(1, given, 1).transpose(2, 3)  # (B, T - n + 1, n, A)
    begins = (parts == rest.to(last).unsqueeze(1)).flatten(2).all(dim=2).all(dim=0).nonzero()
    return int(begins[-1]) if len(begins) else most
