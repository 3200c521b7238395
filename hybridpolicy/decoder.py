"""Latents to pictures, trained on real latents behind a stop-gradient.

For people to look at, it is trained after the policy (`train_decoder`). With `explicit = true` it is part of
the policy (`Pictures`): A is then shown the imagined future as its pictures would be seen.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PixelDecoder(nn.Module):
    """One view's latents (N, P, F) → frames (N, 3, H, W) in [0, 1]."""

    def __init__(self, tokens: int, size: int, image_size: tuple[int, int], channels: int = 48) -> None:
        super().__init__()
        self.image_size = image_size
        self.grid = (max(image_size[0] // 16, 1), max(image_size[1] // 16, 1))
        self.seed = nn.Sequential(
            nn.Linear(tokens * size, 256), nn.SiLU(), nn.Linear(256, channels * self.grid[0] * self.grid[1])
        )
        widths = (channels, channels, 32, 24)  # to half the size; the last doubling is interpolated
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.seed(latents.flatten(1)).view(len(latents), -1, *self.grid)
        x = x.contiguous(memory_format=torch.channels_last)  # 1.2 times as fast on a CPU
        for layer in self.up:
            x = F.silu(layer(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return torch.sigmoid(F.interpolate(self.out(x), self.image_size, mode="bilinear"))


class Pictures(nn.Module):
    """The policy's own decoders, one per camera."""

    def __init__(self, cameras: list[str], tokens: int, size: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.tokens = tokens
        self.decoders = nn.ModuleDict({name: PixelDecoder(tokens, size, image_size) for name in cameras})

    def forward(self, latents: Tensor, cameras: tuple[str, ...]) -> dict[str, Tensor]:
        """(N, V·P, F) run-time latents of `cameras` → {camera: (N, 3, H, W)} in [0, 1]."""
        views = latents.detach().split(self.tokens, dim=1)
        return {name: self.decoders[name](x) for name, x in zip(cameras, views, strict=True)}

    def loss(self, latents: Tensor, frames: dict[str, Tensor], valid: dict[str, Tensor]) -> Tensor:
        """Scalar weighted L1.

        Args:
            latents: (N, V·P, F) of `frames`. frames: {camera: (N, 3, H, W)} in [0, 1]. valid: {camera: (N,)}.
        """
        found = self(latents, tuple(frames))
        losses = [picture_loss(found[name], frames[name], valid[name]) for name in frames]
        return torch.stack(losses).mean()


def picture_loss(found: Tensor, frames: Tensor, valid: Tensor, mean: Tensor | None = None) -> Tensor:
    """Scalar: absolute error of (N, 3, H, W), where valid (N,).

    The table is most of every picture: what differs from the `mean` one, arm and blocks, counts more.
    """
    mean = frames.mean(dim=0) if mean is None else mean
    weight = 1.0 + 20.0 * (frames - mean).abs().amax(dim=1, keepdim=True)
    error = (weight * (found - frames).abs()).mean(dim=(1, 2, 3))
    return (error * valid).sum() / valid.sum().clamp_min(1)


def of_view(latents: Tensor, cameras: tuple[str, ...], camera: str, tokens: int) -> Tensor:
    """(..., V·P, F) → (..., P, F) of one view."""
    start = cameras.index(camera) * tokens
    return latents[..., start : start + tokens, :]


def train_decoder(
    latents: Tensor, frames: Tensor, steps: int, batch_size: int = 64, lr: float = 2e-3, seed: int = 0
) -> PixelDecoder:
    """Returns a decoder fitted to real pairs.

    Args:
        latents: (N, P, F) run-time latents of one view. frames: (N, 3, H, W) uint8 of the same view.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = PixelDecoder(latents.shape[1], latents.shape[2], (frames.shape[-2], frames.shape[-1]))
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=lr, fused=True)
    mean = frames[:: max(len(frames) // 512, 1)].float().mean(dim=0) / 255.0
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(latents), (batch_size,), generator=generator)
        target = frames[rows].float() / 255.0
        with torch.autocast(latents.device.type, torch.bfloat16):
            loss = picture_loss(decoder(latents[rows].detach()), target, torch.ones(batch_size), mean)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    return decoder.eval()
