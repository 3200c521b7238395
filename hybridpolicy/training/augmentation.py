"""Random colour and shift of training images, as arithmetic on whole batches.

B samples, n = 1 + H observation frames of which the first is the context, H and W pixels. What is drawn
depends only on the generator handed in, so a batch stays a pure function of the seed and the step.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridpolicy.training.config import AugmentationConfig

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_MID_GREY = 127.5  # contrast turns around this value: the mean of each image would cost another pass


@dataclass(frozen=True)
class Draw:
    """One view's random numbers: colour matrix (B, 2, 3, 3), offset (B, 2, 3), shift (B, 2, 2) in pixels.

    The axis of 2 is context frame, future frames.
    """

    matrix: NDArray[np.float32]
    offset: NDArray[np.float32]
    shift: NDArray[np.int64]

    def rows(self, rows: slice) -> "Draw":
        """The same for a slice of the batch."""
        return Draw(self.matrix[rows], self.offset[rows], self.shift[rows])


def draw(config: AugmentationConfig, rng: np.random.Generator, batch_size: int) -> Draw:
    """Random numbers for one view of `batch_size` samples."""
    unit = rng.uniform(-1, 1, (batch_size, 2, 3)).astype(np.float32)
    shift = rng.integers(-config.shift_px, config.shift_px + 1, (batch_size, 2, 2))
    if config.targets == "same":
        unit[:, 1], shift[:, 1] = unit[:, 0], shift[:, 0]
    elif config.targets == "none":
        unit[:, 1], shift[:, 1] = 0, 0
    width = np.array([config.brightness, config.contrast, config.saturation], dtype=np.float32)
    brightness, contrast, saturation = np.moveaxis(1 + width * unit, -1, 0)[..., None]
    mix = saturation[..., None] * np.eye(3, dtype=np.float32) + (1 - saturation[..., None]) * _LUMA
    matrix = (brightness * contrast)[..., None] * mix
    offset = np.repeat(brightness * _MID_GREY * (1 - contrast), 3, axis=-1)
    return Draw(matrix, offset, shift)


def apply(
    config: AugmentationConfig, frames: Tensor, numbers: Draw, others: int = 1, past: int = 0
) -> Tensor:
    """(B, n, 3, H, W) uint8, changed: the first as the context frame, the others as futures.

    others: 1, or 0 to change all as the context frame. past: how many of the last are changed so anyway.
    """
    groups = [0] + [others] * (frames.shape[1] - 1 - past) + [0] * past
    if config.shift_px:
        frames = shift_frames(frames, numbers.shift[:, groups], config.shift_px)
    if config.brightness or config.contrast or config.saturation:
        matrix, offset = (torch.from_numpy(array[:, groups]) for array in (numbers.matrix, numbers.offset))
        frames = change_colour(frames, matrix, offset)
    return frames


def shift_frames(frames: Tensor, shift: NDArray[np.int64], limit: int) -> Tensor:
    """(B, n, 3, H, W) moved down and right by `shift` (B, n, 2), at most `limit` pixels, edges repeated."""
    height, width = frames.shape[-2:]
    padded = np.pad(frames.numpy(), ((0, 0), (0, 0), (0, 0), (limit, limit), (limit, limit)), mode="edge")
    moved = torch.empty_like(frames)
    out = moved.numpy()
    # A copy per frame is three times faster than one gather over all pixels.
    for sample, step in np.ndindex(frames.shape[:2]):
        top, left = limit - shift[sample, step]
        out[sample, step] = padded[sample, step, :, top : top + height, left : left + width]
    return moved


def change_colour(frames: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """`matrix` (B, n, 3, 3) · pixel + `offset` (B, n, 3), rounded and clamped to uint8."""
    changed = torch.empty_like(frames)
    constant = (offset + 0.5)[..., None]  # conversion to uint8 truncates
    # Sample by sample, so that the floats stay in the processor's cache: six times faster than at once.
    for i, sample in enumerate(frames):
        pixels = torch.baddbmm(constant[i], matrix[i], sample.flatten(-2).float())
        changed[i] = pixels.clamp_(0, 255).view_as(sample)
    return changed
