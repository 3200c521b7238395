"""Latents to pictures, for people only: trained on real latents, behind a stop-gradient, after the policy."""

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
        for layer in self.up:
            x = F.silu(layer(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return torch.sigmoid(F.interpolate(self.out(x), self.image_size, mode="bilinear"))


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
    # The table is most of every picture: what differs from the mean picture, arm and blocks, counts more.
    mean = frames[:: max(len(frames) // 512, 1)].float().mean(dim=0) / 255.0
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(latents), (batch_size,), generator=generator)
        target = frames[rows].float() / 255.0
        with torch.autocast(latents.device.type, torch.bfloat16):
            weight = 1.0 + 20.0 * (target - mean).abs().amax(dim=1, keepdim=True)
            loss = (weight * (decoder(latents[rows].detach()) - target).abs()).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    return decoder.eval()
