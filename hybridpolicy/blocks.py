"""The autoregressive row: future and actions in blocks, z₁ a₁ z₂ a₂ …, each seeing the clean ones before.

Block h holds the future at offset k_h and the actions from k_(h−1) up to k_h. In training every block is
predicted at once: tokens are there twice, clean to be seen and masked or noised to be predicted.

Legend as in `network`; Nw, Na tokens of the whole future and chunk.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hybridpolicy.configuration_hybrid import HybridConfig


@dataclass(frozen=True)
class Blocks:
    """Which tokens are whose.

    Attributes:
        offsets: k_1 < … < k_H, frames ahead; the chunk ends at k_H or before.
        per_offset: world tokens of one block. chunk_size: actions.
    """

    offsets: tuple[int, ...]
    per_offset: int
    chunk_size: int

    @classmethod
    def of(cls, config: HybridConfig, per_offset: int) -> "Blocks":
        return cls(tuple(config.world_offsets), per_offset, config.chunk_size)

    def world(self, block: int) -> slice:
        """Token positions of the future of one block."""
        return slice(block * self.per_offset, (block + 1) * self.per_offset)

    def actions(self, block: int) -> slice:
        """Positions in the chunk of one block's actions; empty where the chunk has ended."""
        first = self.offsets[block - 1] if block else 0
        return slice(min(first, self.chunk_size), min(self.offsets[block], self.chunk_size))

    @cached_property
    def of_world(self) -> Tensor:
        """(Nw,) block of each world token."""
        return torch.arange(len(self.offsets)).repeat_interleave(self.per_offset)

    @cached_property
    def of_action(self) -> Tensor:
        """(Na,) block of each action."""
        steps = torch.arange(self.chunk_size)
        return torch.searchsorted(torch.tensor(self.offsets), steps, right=True)

    def mask(self) -> Tensor:
        """(2·Nw + 2·Na)² bool over [clean W, predicted W, clean A, predicted A]: who sees whom beyond C."""
        world, action = self.of_world, self.of_action
        kinds = torch.cat((torch.zeros_like(world), torch.ones_like(world), torch.full_like(action, 2),
                           torch.full_like(action, 3)))  # fmt: skip
        block = torch.cat((world, world, action, action))
        row, column = block[:, None], block[None, :]
        row_kind, column_kind = kinds[:, None], kinds[None, :]
        # W of a block sees earlier W and A; A also sees the W of its own block. The clean copy of a token is
        # what a later one finds in the cache, so it has seen its own block as well.
        clean_world = (column_kind == 0) & ((column < row) | ((column == row) & (row_kind != 1)))
        clean_action = (column_kind == 2) & ((column < row) | ((column == row) & (row_kind == 2)))
        itself = (row_kind == column_kind) & (row == column)
        return clean_world | clean_action | itself
