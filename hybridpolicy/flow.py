"""Time and noise: interpolation between a mask token, noise and data, and random numbers by counter.

    x_τ = τ·x + (1 − τ)·(μ + σ·ε)      the network predicts the clean x̂,  v = (x̂ − x_τ) / (1 − τ)

σ = 1 is a flow, σ = 0 with τ in {0, 1} is masked regression in one step. One code path serves both.
"""

from copy import copy

import numpy as np
import torch
from torch import Tensor

SIGMA = {"regress": 0.0, "flow": 1.0}

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def _splitmix64(x: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele, Lea and Flood 2014): uint64 → well mixed uint64, elementwise."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


class CounterNoise:
    """Random numbers as a pure function of (seed, step, sample index, stream name, element).

    A sample draws the same numbers whatever batch, process or order it is met in, so a resumed run repeats
    the interrupted one and two couplings trained with one seed see the same noise.

    Args:
        index: (B,) int64 sample identities.
    """

    def __init__(self, seed: int, step: int, index: Tensor) -> None:
        with np.errstate(over="ignore"):
            base = _splitmix64(np.array([seed], np.uint64)) ^ _splitmix64(np.array([step], np.uint64) * _MIX1)
            self._rows = _splitmix64(
                base ^ _splitmix64(index.detach().cpu().numpy().astype(np.uint64) * _MIX2)
            )
        self._batch_key = base
        self.device = index.device

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Tensor) -> "CounterNoise":
        """The noise of the samples of numbers `rows` (N,)."""
        chosen = copy(self)
        chosen._rows = self._rows[rows.cpu().numpy()]
        return chosen

    def _bits(self, stream: str, shape: tuple[int, ...], rows: np.ndarray) -> np.ndarray:
        name = np.frombuffer(stream.encode().ljust(8, b"\0")[:8], np.uint64)
        elements = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.uint64)
        with np.errstate(over="ignore"):
            return _splitmix64(_splitmix64(rows ^ _splitmix64(name))[:, None] + elements * _GOLDEN)

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """(B, *shape) float32 in [0, 1). The first eight letters of `stream` tell streams apart."""
        bits = self._bits(stream, shape, self._rows) >> np.uint64(40)
        values = (bits.astype(np.float32) * np.float32(2.0**-24)).reshape(len(self), *shape)
        return torch.from_numpy(values).to(self.device)

    def normal(self, stream: str, *shape: int) -> Tensor:
        """(B, *shape) float32 standard normal (Box–Muller)."""
        u = self.uniform(stream, 2, *shape)
        radius = torch.sqrt(-2.0 * torch.log1p(-u[:, 0]))
        return radius * torch.cos(2.0 * torch.pi * u[:, 1])

    def batch_uniform(self, stream: str) -> float:
        """One number in [0, 1) for the whole step, the same in every process."""
        bits = self._bits(stream, (1,), self._batch_key) >> np.uint64(40)
        return float(bits[0, 0]) * 2.0**-24


def corrupt(clean: Tensor, tau: Tensor, mask_token: Tensor, noise: Tensor | None) -> Tensor:
    """Returns x_τ, the clean value moved towards the mask token μ (σ = 0) or towards μ + ε (σ = 1).

    Args:
        clean: (..., F) data.
        tau: (...) in [0, 1]; 1 leaves the data untouched.
        mask_token: (F,) μ.
        noise: (..., F) ε, or None for σ = 0.
    """
    start = mask_token.expand_as(clean) if noise is None else mask_token + noise
    return torch.lerp(start.to(clean.dtype), clean, tau.unsqueeze(-1).to(clean.dtype))


def euler(x: Tensor, predicted: Tensor, tau: float, next_tau: float) -> Tensor:
    """Returns x at `next_tau`, one Euler step along v = (x̂ − x_τ) / (1 − τ); exact x̂ when next_tau is 1."""
    return torch.lerp(x, predicted.to(x.dtype), (next_tau - tau) / (1.0 - tau))


def flow_weight(tau: Tensor, law: str) -> Tensor:
    """(...) weight of the squared x̂ error: 1/(1 − τ)² makes it the velocity error; bounded near τ = 1."""
    if law == "regress":
        return torch.ones_like(tau)
    return (1.0 - tau).clamp_min(0.2) ** -2
