"""Tokens of the optional context: named vectors, and other moments than now (a goal, the past).

Legend as in `network`; M moments, S numbers of a vector.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybridpolicy.configuration_hybrid import HybridConfig
from hybridpolicy.context import Sample, Shown
from hybridpolicy.embodiment import Embodiment
from hybridpolicy.optional_keys import GOAL_IMAGE, PAST

Piece = tuple[Tensor, Tensor | None]
"""Context tokens (B, N, D), and which are seen: (B,) or (B, N) bool, None for all."""


@dataclass(frozen=True)
class Moments:
    """What was, or shall be, observed at other moments than now.

    Attributes:
        latents: {camera: (B, M, P, F)} run-time latents, no gradient. valid: {camera: (B, M)} bool.
        state: (B, M, S) normalised, or None. state_valid: (B, M) bool, or None.
    """

    latents: dict[str, Tensor]
    valid: dict[str, Tensor]
    state: Tensor | None = None
    state_valid: Tensor | None = None


@dataclass(frozen=True)
class Projections:
    """How the network makes tokens of what it sees now; other moments are read the same way.

    Attributes:
        look: (camera, latents (B, M, P, F)) → (B, M, P, D). feel: states (B, M, S) → (B, M, D).
    """

    look: Callable[[str, Tensor], Tensor]
    feel: Callable[[Tensor], Tensor]


class OptionalContext(nn.Module):
    """One embedding per vector and per moment; without a declared entry it holds no weights."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self._vectors = config.vectors
        moments = {GOAL_IMAGE: 1, PAST: len(config.past_offsets)}

        def position(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) * 0.02)

        self.position = nn.ParameterDict({v.name: position(config.width) for v in self._vectors})
        self.mask = nn.ParameterDict({v.name: torch.zeros(v.size) for v in self._vectors if v.foretold})
        self.moment = nn.ParameterDict(
            {e: position(n, config.width) for e, n in moments.items() if e in config.optional_context}
        )

    def tokens(
        self,
        sample: Sample,
        moments: dict[str, Moments],
        shown: Shown,
        projections: Projections,
        embodiment: Embodiment,
    ) -> Iterator[Piece]:
        """Context tokens of what is there, each piece with who may see it.

        Args:
            moments: {entry: what was or shall be observed}, of those declared and given.
        """
        cameras, hidden = shown.cameras or {}, shown.optional or {}
        for vector in self._vectors:
            if vector.name in sample.vectors and (vector.camera is None or vector.camera in sample.frames):
                token = embodiment.vectors_in[vector.name](sample.vectors[vector.name][:, 0])
                seen = _both(hidden.get(vector.entry), cameras.get(vector.camera))
                yield (token + self.position[vector.name]).unsqueeze(1), seen
        for entry, given in moments.items():
            age, shows = self.moment[entry], hidden.get(entry)
            for name in (name for name in given.latents if name in sample.frames):
                tokens = projections.look(name, given.latents[name]) + age[:, None]
                seen = _both(given.valid[name], _column(_both(shows, cameras.get(name))))
                yield tokens.flatten(1, 2), seen.repeat_interleave(tokens.shape[2], dim=1)
            if given.state is not None:
                seen = _both(given.state_valid, _column(_both(shows, shown.state)))
                yield projections.feel(given.state) + age, seen


def absent_entries(sample: Sample, config: HybridConfig) -> list[str]:
    """Declared entries of which the sample holds nothing."""
    there = {vector.entry for vector in config.vectors if vector.name in sample.vectors}
    there |= {GOAL_IMAGE} if sample.goal else set()
    there |= {PAST} if sample.past is not None else set()
    return [entry for entry in config.optional_context if entry not in there]


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first & second


def _column(flags: Tensor | None) -> Tensor | None:
    return None if flags is None else flags[:, None]


class Memory:
    """What a policy saw when it planned, kept as long as `offsets` reach back. It begins empty.

    Only a look exactly as old as an offset is recalled: for any other age there is no embedding.
    """

    def __init__(self, offsets: list[int]) -> None:
        self._offsets, self._now = list(offsets), 0
        self._looks: dict[int, tuple[dict[str, Tensor], Tensor | None]] = {}

    def advance(self, ticks: int) -> None:
        """Lets `ticks` control ticks pass."""
        self._now += ticks
        oldest = self._now + min(self._offsets, default=0)
        self._looks = {tick: look for tick, look in self._looks.items() if tick >= oldest}

    def store(self, latents: dict[str, Tensor], state: Tensor | None) -> None:
        """Keeps what is seen now: {camera: (B, P, F)} and (B, S)."""
        if self._offsets:
            self._looks[self._now] = (latents, state)

    def recall(self, count: int) -> Moments | None:
        """What `count` observations saw at the offsets; None where nothing fits."""
        looks = [self._looks.get(self._now + offset) for offset in self._offsets]
        found = [look for look in looks if look is not None]
        if not found or any(len(x) != count for seen, _ in found for x in seen.values()):
            return None

        def stack(values: list[Tensor | None], like: Tensor) -> tuple[Tensor, Tensor]:
            held = torch.tensor([value is not None for value in values], device=like.device)
            filled = [torch.zeros_like(like) if value is None else value for value in values]
            return torch.stack(filled, dim=1), held.expand(count, -1)

        examples = {name: x for seen, _ in found for name, x in seen.items()}
        stacks = {
            name: stack([None if look is None else look[0].get(name) for look in looks], like)
            for name, like in examples.items()
        }
        states = [None if look is None else look[1] for look in looks]
        like = next((state for state in states if state is not None), None)
        latents, valid = ({name: pair[i] for name, pair in stacks.items()} for i in (0, 1))
        return Moments(latents, valid, *((None, None) if like is None else stack(states, like)))
