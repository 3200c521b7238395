"""The batch as the policy understands it, from whatever loader made it.

LeRobot gives floats with a time axis in training and without one at inference; our loader gives uint8.
`present` is the one place that knows.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.errors import DatasetError

LARGEST_NORMALISED = 20.0


@dataclass(frozen=True)
class Sample:
    """One micro-batch. n = 1 + H observation times in training, 1 at inference.

    Attributes:
        frames: {camera: (B, n, 3, H, W)} float in [0, 1], resized to the policy's image size.
        frame_valid: {camera: (B, n)} bool, False where the loader padded.
        state: (B, n, S) normalised, or None (action-free video).
        state_valid: (B, n) bool.
        action: (B, T, A) normalised, or None.
        action_valid: (B, T) bool; all False marks an unlabelled sample.
        task: B texts, or None.
        index: (B,) int64 identity of each sample, for counter-based noise.
        waypoints: (B, n, S) physical units, states at `waypoint_offsets`, the last one past the end; or None.
        outcome: (B, 3) labels of progress, success and risk, and (B, 3) bool which are known; or None.
        objects: (B, K, 2) m and (B, K) bool present, privileged; or None.
        target: (B, 2) m and (B,) bool present, the object the instruction names, privileged; or None.
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
    outcome: tuple[Tensor, Tensor] | None
    objects: tuple[Tensor, Tensor] | None
    target: tuple[Tensor, Tensor] | None

    @property
    def size(self) -> int:
        return len(self.index)

    @property
    def times(self) -> int:
        return next(iter(self.frames.values())).shape[1]


def _frames(value: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(B, [n,] 3, H, W) uint8 or float → (B, n, 3, h, w) float in [0, 1]."""
    if value.ndim == 4:
        value = value.unsqueeze(1)
    value = value.float() / 255.0 if value.dtype == torch.uint8 else value.float()
    if tuple(value.shape[-2:]) == image_size:
        return value
    resized = F.interpolate(value.flatten(0, 1), image_size, mode="area")
    return resized.view(*value.shape[:2], 3, *image_size)


def _valid(batch: dict, key: str, shape: tuple[int, int], device: torch.device) -> Tensor:
    pad = batch.get(f"{key}_is_pad")
    if pad is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    return ~pad.view(shape[0], -1)[:, : shape[1]].to(device)


def _check_range(name: str, value: Tensor) -> None:
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
        DatasetError: no configured camera is in the batch, the action has another size, or (`check_range`)
            values were plainly never normalised.
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
    frame_valid = {n: _valid(batch, config.cameras[n], (count, times), device) for n in frames}

    state = batch.get("observation.state") if config.state_size else None
    if state is not None:
        state = state.float().unsqueeze(1) if state.ndim == 2 else state.float()
    action, task = batch.get("action"), batch.get("task")
    if action is not None and action.shape[-1] != config.action_size:
        raise DatasetError(
            f"hybrid: the batch has {action.shape[-1]} action dimensions, the policy {config.action_size} "
            f"({config.action_feature_names}); choose the policy trained for this arm"
        )
    if check_range:
        for name, value in (("observation.state", state), ("action", action)):
            if value is not None:
                _check_range(name, value)
    index = batch.get("sample_index", batch.get("index"))
    outcome = None
    if "outcome.labels" in batch:
        outcome = (batch["outcome.labels"].float(), batch["outcome.known"].bool())
    objects = None
    if "privileged.objects" in batch:
        positions = batch["privileged.objects"].float().view(count, -1, 2)
        objects = (positions, batch["privileged.present"].view(count, -1) > 0.5)
    target = None
    if "privileged.target" in batch:
        named = batch["privileged.target"].float().view(count, 3)
        target = (named[:, :2], named[:, 2] > 0.5)
    return Sample(
        frames=frames,
        frame_valid=frame_valid,
        state=state,
        state_valid=None
        if state is None
        else _valid(batch, "observation.state", (count, state.shape[1]), device),
        action=None if action is None else action.float(),
        action_valid=None if action is None else _valid(batch, "action", tuple(action.shape[:2]), device),
        task=[task] * count if isinstance(task, str) else task,
        index=torch.arange(count, device=device) if index is None else index.view(-1).long().to(device),
        waypoints=batch.get("waypoints"),
        outcome=outcome,
        objects=objects,
        target=target,
    )
