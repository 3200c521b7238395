"""How well the world stream imagines: skill over copying, rank, and whether objects can be read from latents.

Legend: N frames, H offsets, V·P tokens, F latent size, K object slots.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridpolicy.context import present
from hybridpolicy.frames import effective_rank
from hybridpolicy.losses import frame_validity, world_skill
from hybridpolicy.modeling_hybrid import HybridPolicy
from hybridpolicy.training.loader import SourceReader

Preprocessor = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class WorldFigures:
    """Held-out figures of the world stream; probe figures are None where the data has no object positions.

    skill_by_offset: change-weighted skill against copying the last latent, {frames ahead: skill}.
    rank: effective rank of the latents of one token, mean over tokens; `width` is its ceiling.
    probe_r2: of object positions from real latents by ridge regression; probe_r2_imagined: the same probe on
        imagined latents, against where the objects really were then.
    """

    skill_by_offset: dict[int, float]
    rank: float
    width: int
    probe_r2: float | None
    probe_r2_imagined: float | None

    @property
    def skill(self) -> float:
        return float(np.mean(list(self.skill_by_offset.values())))


@dataclass(frozen=True)
class _Seen:
    now: Tensor  # (N, V·P, F)
    future: Tensor  # (N, H, V·P, F)
    imagined: Tensor
    valid: Tensor  # (N, H, V·P)


def _batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


@torch.no_grad()
def _look(policy: HybridPolicy, preprocessor: Preprocessor, reader: SourceReader, rows: np.ndarray) -> _Seen:
    """Real and imagined latents around `rows`; the frames of the future never enter the context."""
    parts: list[tuple[Tensor, ...]] = []
    for chosen in _batches(rows, 128):
        raw = reader.gather(chosen, world=True)
        sample = present(preprocessor(raw), policy.config)
        context = policy.network.encode_context(sample, policy.embodiment)
        imagined = policy.queries.imagine(context, policy.acting_noise(len(chosen), context.latents.device))
        future = policy.network.encode_future(sample)
        valid = frame_validity(sample.frame_valid, context, policy.config.tokens_per_view)
        parts.append((context.latents, future.latents, imagined.latents, valid))
    return _Seen(*(torch.cat(tensors).cpu() for tensors in zip(*parts, strict=True)))


@torch.no_grad()
def latents_of(
    policy: HybridPolicy, preprocessor: Preprocessor, reader: SourceReader, rows: np.ndarray
) -> Tensor:
    """Run-time latents (N, V·P, F) of the frames at `rows`, on the CPU."""
    parts = []
    for chosen in _batches(rows, 128):
        sample = present(preprocessor(reader.gather(chosen, world=False)), policy.config)
        parts.append(policy.network.encode_context(sample, policy.embodiment).latents.cpu())
    return torch.cat(parts)


def _objects(reader: SourceReader, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Positions (N, K, 2) m and presence (N, K) at dataset rows, or None if the dataset has none."""
    columns = reader.cache.columns
    if "privileged.objects" not in columns:
        return None
    return columns["privileged.objects"][rows].reshape(len(rows), -1, 2), columns["privileged.present"][
        rows
    ] > 0.5


def fit_probe(
    features: np.ndarray, positions: np.ndarray, present: np.ndarray, ridge: float = 10.0
) -> np.ndarray:
    """Ridge regression of each object slot on the frames where it is there: (D + 1, K, 2) weights.

    Args:
        features: (N, D). positions: (N, K, 2). present: (N, K) bool.
    """
    x = np.concatenate((features, np.ones((len(features), 1), features.dtype)), axis=1).astype(np.float64)
    weights = np.zeros((x.shape[1], positions.shape[1], 2))
    for slot in range(positions.shape[1]):
        rows = present[:, slot]
        if rows.sum() < 8:
            continue
        gram = x[rows].T @ x[rows]
        gram[np.diag_indices_from(gram)[0][:-1], np.diag_indices_from(gram)[1][:-1]] += ridge
        weights[:, slot] = np.linalg.solve(gram, x[rows].T @ positions[rows, slot])
    return weights


def probe_r2(weights: np.ndarray, features: np.ndarray, positions: np.ndarray, present: np.ndarray) -> float:
    """R² over all present objects and both axes, against each slot's own mean position."""
    x = np.concatenate((features, np.ones((len(features), 1), features.dtype)), axis=1).astype(np.float64)
    predicted = np.einsum("nd,dkc->nkc", x, weights)
    residual = total = 0.0
    for slot in range(positions.shape[1]):
        rows = present[:, slot]
        if rows.sum() < 2:
            continue
        truth = positions[rows, slot]
        residual += float(((predicted[rows, slot] - truth) ** 2).sum())
        total += float(((truth - truth.mean(axis=0)) ** 2).sum())
    return 1.0 - residual / total if total else 0.0


def measure_world(
    policy: HybridPolicy,
    preprocessor: Preprocessor,
    fitting: SourceReader,
    held_out: SourceReader,
    num_fit: int = 3000,
    num_held_out: int = 1500,
    seed: int = 0,
) -> WorldFigures:
    """Returns held-out figures of the world stream.

    Args:
        fitting: frames the probe is fitted on. held_out: frames of episodes not trained on.
        num_fit, num_held_out: frames drawn of each; one drawn twice counts once.
    """
    policy.eval()
    policy.reset()
    rng = np.random.default_rng(seed)
    rows = np.unique(held_out.draw_rows(rng, num_held_out))
    seen = _look(policy, preprocessor, held_out, rows)
    skill = world_skill(seen.imagined, seen.future, seen.now, seen.valid)
    offsets = policy.config.world_offsets
    rank = float(np.mean([effective_rank(seen.now[:, token]) for token in range(seen.now.shape[1])]))
    real = imagined = None
    truth = _objects(held_out, rows)
    if truth is not None:
        fit_rows = np.unique(fitting.draw_rows(rng, num_fit))
        latents = latents_of(policy, preprocessor, fitting, fit_rows)
        weights = fit_probe(latents.flatten(1).numpy(), *_objects(fitting, fit_rows))
        real = probe_r2(weights, seen.now.flatten(1).numpy(), *truth)
        ahead, kept = held_out.rows_ahead(rows, offsets[-1])
        future = _objects(held_out, ahead[kept])
        imagined = probe_r2(weights, seen.imagined[:, -1][torch.from_numpy(kept)].flatten(1).numpy(), *future)
    return WorldFigures(
        skill_by_offset=dict(zip(offsets, skill, strict=True)),
        rank=rank,
        width=policy.network.frames.size,
        probe_r2=real,
        probe_r2_imagined=imagined,
    )
