"""A future as the world stream has it: everything that is predicted, at H offsets."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hybridpolicy.flow import CounterNoise


@dataclass(frozen=True)
class Future:
    """Latents (B, H, V·P, F), normalised state (B, H, S) or None, and the named columns that are foretold,
    {name: (B, H, S)} each.
    """

    latents: Tensor
    state: Tensor | None
    vectors: dict[str, Tensor] = field(default_factory=dict)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Future":
        """The future with every tensor changed."""
        state = None if self.state is None else change(self.state)
        return Future(change(self.latents), state, {name: change(x) for name, x in self.vectors.items()})

    def beside(self, other: "Future", join: Callable[[Tensor, Tensor], Tensor]) -> "Future":
        """Every tensor joined with the same one of another future; what either lacks is left out."""
        state = None
        if self.state is not None and other.state is not None:
            state = join(self.state, other.state)
        both = {
            name: join(x, other.vectors[name]) for name, x in self.vectors.items() if name in other.vectors
        }
        return Future(join(self.latents, other.latents), state, both)

    def at(self, index: int) -> "Future":
        """The future at one of its offsets alone, H = 1."""
        return self.each(lambda x: x[:, index].unsqueeze(1))

    def noise(self, noise: CounterNoise) -> "Future":
        """Standard normal numbers of the same shapes."""
        state = None if self.state is None else noise.normal("wstate", *self.state.shape[1:])
        vectors = {
            name: noise.normal(f"wvec{i}", *x.shape[1:]) for i, (name, x) in enumerate(self.vectors.items())
        }
        return Future(noise.normal("world", *self.latents.shape[1:]), state, vectors)

    @classmethod
    def join(cls, parts: "list[Future]") -> "Future":
        """One future of the offsets of all `parts`, in order."""
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.beside(part, lambda a, b: torch.cat((a, b), dim=1))
        return whole
