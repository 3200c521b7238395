"""Frames to features, features to latents, latents that do not collapse.

A `FrameEncoder` turns frames into a feature map; two readouts turn the map into a few tokens. The *latent*
readout
knows nothing of the task: its output is the one latent space of context, targets and monitor. The *goal*
readout is modulated by the goal and looks for what was asked; it feeds only the context.

Legend: B batch, V views, P tokens a view, K keypoints a view, F latent features, (h, w) feature map.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def unit_range(frames: Tensor) -> Tensor:
    """uint8, or floats in [0, 1] → float32 in [0, 1]."""
    return frames.float() / 255.0 if frames.dtype == torch.uint8 else frames.float()


class FrameEncoder(Protocol):
    """What the policy asks of an encoder, small and trained here or large and pretrained."""

    channels: int

    def __call__(self, frames: Tensor) -> Tensor:
        """(N, 3, H, W), uint8 or in [0, 1] → (N, channels, h, w)."""
        ...


class ConvEncoder(nn.Module):
    """Overlapping patches of 6 pixels, then three convolutions, stride 8: the embedded frame encoder, trained
    from scratch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.Sequential(
            nn.Conv2d(3, 48, 6, stride=4, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(48, channels, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, frames: Tensor) -> Tensor:
        device, dtype, scale = frames.device.type, frames.dtype, 4.0
        if dtype == torch.uint8:
            dtype, scale = torch.float32, 4.0 / 255.0
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)  # the convolution's: pictures are the largest tensors
        frames = frames.to(dtype).mul(scale).sub_(2.0)
        # What a CPU's convolutions want. Converted and moved at once they take twice as long.
        return self.layers(frames.contiguous(memory_format=torch.channels_last))


class KeypointReadout(nn.Module):
    """Feature map → P tokens that say where K learned things are and what they look like there.

    Spatial softmax (Levine et al. 2016, section 5.1) gives x and y of each keypoint; the same weights average
    `keypoint_features` appearance numbers. At small scale it learns to localise far sooner than patches do.
    With a goal, the map is first modulated channel by channel (FiLM, Perez et al. 2018).
    """

    def __init__(
        self, channels: int, keypoints: int, features: int, tokens: int, goal_width: int = 0
    ) -> None:
        super().__init__()
        self.tokens, self.keypoints, self.features = tokens, keypoints, features
        self.film = nn.Linear(goal_width, 2 * channels) if goal_width else None
        self.mix = nn.Conv2d(channels, channels, 1)
        self.heads = nn.Conv2d(channels, keypoints + features, 1)
        nn.init.normal_(self.heads.weight, std=0.4)  # peaked from the start: a flat heat map has no gradient

    @property
    def size(self) -> int:
        """Numbers in one token."""
        return (2 + self.features) * self.keypoints // self.tokens

    def forward(self, feature_map: Tensor, goal: Tensor | None = None) -> Tensor:
        """(N, C, h, w), goal (N, goal_width) → (N, P, size)."""
        return self.point(self.look(feature_map, goal))

    def look(self, feature_map: Tensor, goal: Tensor | None = None) -> Tensor:
        """(N, C, h, w), goal (N, goal_width) → (N, C, h, w): the map as the goal modulates it."""
        mixed = self.mix(F.relu(feature_map))
        if self.film is not None and goal is not None:
            scale, shift = self.film(goal)[..., None, None].chunk(2, dim=1)
            mixed = mixed * (1.0 + scale) + shift
        return F.relu(mixed)

    def point(self, looked: Tensor) -> Tensor:
        """What `look` gives → (N, P, size)."""
        maps = self.heads(looked).flatten(2).float()
        heat = maps[:, : self.keypoints].softmax(dim=-1)
        height, width = looked.shape[-2:]
        ys = torch.linspace(-1.0, 1.0, height, device=heat.device).repeat_interleave(width)
        xs = torch.linspace(-1.0, 1.0, width, device=heat.device).repeat(height)
        values = torch.cat((torch.stack((xs, ys)).expand(len(maps), 2, -1), maps[:, self.keypoints :]), dim=1)
        with torch.autocast(heat.device.type, enabled=False):  # bfloat16 knows thirds of a pixel
            points = torch.einsum("nkp,nfp->nkf", heat, values)
        return points.reshape(len(maps), self.tokens, self.size)


class FrameStack(nn.Module):
    """One encoder and one latent readout per camera: what the EMA copies and the run time uses."""

    def __init__(self, cameras: list[str], channels: int, keypoints: int, features: int, tokens: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: ConvEncoder(channels) for name in cameras})
        self.latents = nn.ModuleDict(
            {name: KeypointReadout(channels, keypoints, features, tokens) for name in cameras}
        )
        self.tokens = tokens
        self.size = (2 + features) * keypoints // tokens

    def forward(self, frames: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """{camera: (N, 3, H, W)} → feature maps {camera: (N, C, h, w)}, latents {camera: (N, P, F)}."""
        maps = {name: self.encoders[name](x) for name, x in frames.items()}
        return maps, {name: self.latents[name](x) for name, x in maps.items()}


def normalise_latents(latents: Tensor) -> Tensor:
    """LayerNorm without affine over the last axis: the scale of every target, whatever the encoder does."""
    return F.layer_norm(latents.float(), latents.shape[-1:])


def collapse_penalty(latents: Tensor) -> Tensor:
    """Scalar that rises when latents of different samples become alike (VICReg, Bardes et al. 2022, eq. 1
    and 3).

    Args:
        latents: (B, N, F) of the trained encoder; statistics are over B, for every token on its own. One
            sample has
            none: zero.
    """
    if len(latents) < 2:
        return latents.sum() * 0.0
    x = latents.float() - latents.float().mean(dim=0)
    deviation = torch.sqrt(x.var(dim=0) + 1e-4)
    x = x / deviation.detach().clamp_min(1e-3)
    covariance = torch.einsum("bnf,bng->nfg", x, x) / max(len(x) - 1, 1)
    off_diagonal = covariance - torch.diag_embed(covariance.diagonal(dim1=1, dim2=2))
    return F.relu(0.25 - deviation).mean() * 4.0 + off_diagonal.square().mean()


def effective_rank(latents: Tensor) -> float:
    """Exponential of the entropy of the singular values of (N, F) features (Roy and Vetterli 2007)."""
    x = latents.float() - latents.float().mean(dim=0)
    values = torch.linalg.svdvals(x)
    share = values / values.sum().clamp_min(1e-12)
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))
