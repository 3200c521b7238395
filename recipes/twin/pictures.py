"""Imagined against real futures as pictures, through a decoder trained on real latents alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridpolicy.context import present
from hybridpolicy.decoder import PixelDecoder, of_view, train_decoder
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.training.loader import SourceReader
from recipes.report.media import FutureStrip

Preprocessor = Callable[[dict[str, Any]], dict[str, Any]]


@torch.no_grad()
def _view_latents(
    policy: HybridPolicy, preprocessor: Preprocessor, raw: dict[str, Any], camera: str
) -> Tensor:
    """Run-time latents (B, P, F) of one view of the newest frames."""
    context = policy.network.encode_context(present(preprocessor(raw), policy.config), policy.embodiment)
    return of_view(context.latents, context.cameras, camera, policy.config.tokens_per_view)


def fit_decoder(
    policy: HybridPolicy,
    preprocessor: Preprocessor,
    reader: SourceReader,
    camera: str,
    frames: int,
    steps: int,
) -> PixelDecoder:
    """A decoder of `camera`, fitted to real latents of `frames` frames drawn from `reader`."""
    policy.eval()
    rng = np.random.default_rng(7)
    key = policy.config.cameras[camera]
    latents, pictures = [], []
    rows = np.unique(reader.draw_rows(rng, frames))
    for start in range(0, len(rows), 128):
        raw = reader.gather(rows[start : start + 128], world=False)
        latents.append(_view_latents(policy, preprocessor, raw, camera).cpu())
        pictures.append(raw[key][:, 0])
    return train_decoder(torch.cat(latents), torch.cat(pictures), steps=steps)


@torch.no_grad()
def future_strips(
    policy: HybridPolicy,
    preprocessor: Preprocessor,
    held_out: SourceReader,
    decoder: PixelDecoder,
    camera: str,
    count: int,
) -> list[FutureStrip]:
    """`count` strips from held-out episodes, each a third of the way in, where much is about to happen."""
    policy.eval()
    policy.reset()
    config, key = policy.config, policy.config.cameras[camera]
    first, last = held_out.cache.episode_from, held_out.cache.episode_to
    episodes = (held_out.source.episodes or range(held_out.cache.num_episodes))[:count]
    rows = np.array([first[e] + (last[e] - first[e]) // 3 for e in episodes], np.int64)
    raw = held_out.gather(rows, world=True)
    texts = list(raw["task"])
    frames = raw[key].permute(0, 1, 3, 4, 2).numpy()
    sample = present(preprocessor(raw), config)
    context = policy.network.encode_context(sample, policy.embodiment)
    imagined = policy.queries.imagine(context, policy.acting_noise(len(rows), context.latents.device)).latents
    real = policy.network.encode_future(sample).latents
    rows_of = {}
    for name, latents in (("imagined", imagined), ("decoded_real", real)):
        view = of_view(latents, context.cameras, camera, config.tokens_per_view).cpu()
        pictures = decoder(view.flatten(0, 1)) * 255.0
        rows_of[name] = (
            pictures.byte().view(*view.shape[:2], *pictures.shape[1:]).permute(0, 1, 3, 4, 2).numpy()
        )
    return [
        FutureStrip(
            instruction=texts[i],
            now=frames[i, 0],
            offsets=list(config.world_offsets),
            real=frames[i, 1:],
            imagined=rows_of["imagined"][i],
            fps=float(config.fps or held_out.cache.fps),
            camera=camera,
            decoded_real=rows_of["decoded_real"][i],
        )
        for i in range(len(rows))
    ]
