"""One attention, two sets of weights: the world stream (trunk) and the action stream (LoRA per embodiment).

Legend: B batch, N tokens of a group, D width, L layers, h heads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Prefix:
    """Keys and values of tokens already computed, per layer; what later tokens attend to.

    Attributes:
        keys, values: L tensors (B, h, N, D/h).
        visible: (B, N) bool; False hides an absent token from everybody.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    visible: Tensor

    def __len__(self) -> int:
        return self.visible.shape[1]

    def each(self, change: Callable[[Tensor], Tensor]) -> "Prefix":
        """`change` of every tensor."""
        return Prefix(tuple(map(change, self.keys)), tuple(map(change, self.values)), change(self.visible))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention, (B, h, Nq, D/h) over (B, h, Nk, D/h) → (B, h, Nq, D/h).

    In bfloat16 on a CPU the fused kernel's backward pass is ten to fifty times slower than the plain products
    (torch 2.11), so there the products are written out.
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1) @ value


class StreamBlock(nn.Module):
    """Weights of one layer of one stream: pre-norm attention projections and a two-layer MLP."""

    def __init__(self, width: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, mlp_ratio * width)
        self.down = nn.Linear(mlp_ratio * width, width)

    def project(self, x: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) → query, key, value, each (B, h, N, D/h)."""
        batch, count, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, count, 3, heads, width // heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        return query, key, value

    def merge(self, x: Tensor, attended: Tensor) -> Tensor:
        """Adds attention (B, h, N, D/h) and the MLP to the residual stream (B, N, D)."""
        x = x + self.out(attended.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norm_mlp(x)), approximate="tanh"))


class TwoStreams(nn.Module):
    """Transformer whose tokens share attention while each stream keeps its own weights.

    Context is run once with `encode`; its keys and values serve every later call (the invariant "C sees only
    C" makes that exact, in training as at inference).
    """

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: int, tied: bool = False) -> None:
        """`tied`: one set of blocks serves both streams (the field's single-stream models)."""
        super().__init__()
        self.heads = heads
        self.world = nn.ModuleList(StreamBlock(width, mlp_ratio) for _ in range(depth))
        self.action = self.world
        if not tied:
            self.action = nn.ModuleList(StreamBlock(width, mlp_ratio) for _ in range(depth))
        self.world_norm = nn.LayerNorm(width)
        self.action_norm = nn.LayerNorm(width)
        self.token_forwards = 0
        for block in [*self.world, *(() if tied else self.action)]:
            for layer in (block.out, block.down):
                nn.init.normal_(layer.weight, std=0.02 / (2 * depth) ** 0.5)

    @property
    def lora_targets(self) -> str:
        """Pattern of the modules an adapter changes: the action stream, or what serves it too when tied."""
        stream = "world" if self.action is self.world else "action"
        return rf"streams\.{stream}\.\d+\.(qkv|out|up|down)"

    def forward(
        self,
        world: Tensor | None,
        action: Tensor | None,
        prefix: Prefix | None,
        mask: Tensor | None,
        keys_only: bool = False,
    ) -> tuple[Tensor | None, Tensor | None, list[tuple[Tensor, Tensor]]]:
        """Returns the new tokens' outputs and, per layer, their keys and values.

        Args:
            world, action: (B, Nw, D) and (B, Na, D) tokens to compute; either may be None.
            prefix: tokens computed before, seen under `mask`.
            mask: (B or 1, Nw + Na, len(prefix) + Nw + Na) bool, True where seen; None if all is seen.
            keys_only: stop at the last layer's keys and values; the outputs are then None.
        """
        xs = [x for x in (world, action) if x is not None]
        blocks = [b for b, x in ((self.world, world), (self.action, action)) if x is not None]
        sizes = [x.shape[1] for x in xs]
        if (
            not torch.compiler.is_compiling()
        ):  # a counter in a compiled graph is compiled again at every count
            self.token_forwards += xs[0].shape[0] * sum(sizes)
        mask = None if mask is None else mask.unsqueeze(1)
        new: list[tuple[Tensor, Tensor]] = []
        for layer in range(len(self.world)):
            projected = [block[layer].project(x, self.heads) for block, x in zip(blocks, xs, strict=True)]
            query, key, value = (torch.cat(parts, dim=2) for parts in zip(*projected, strict=True))
            new.append((key, value))
            if keys_only and layer == len(self.world) - 1:
                return None, None, new
            if prefix is not None:
                key = torch.cat((prefix.keys[layer], key), dim=2)
                value = torch.cat((prefix.values[layer], value), dim=2)
            attended = attend(query, key, value, mask)
            parts = attended.split(sizes, dim=2)
            xs = [block[layer].merge(x, part) for block, x, part in zip(blocks, xs, parts, strict=True)]
        outputs = iter(xs)
        world_out = self.world_norm(next(outputs)) if world is not None else None
        action_out = self.action_norm(next(outputs)) if action is not None else None
        return world_out, action_out, new

    def encode(
        self, tokens: Tensor, visible: Tensor, prefix: Prefix | None = None, actions: bool = False
    ) -> Prefix:
        """Runs tokens of one stream that see `prefix` and one another; returns the longer prefix.

        Args:
            tokens: (B, N, D). actions: they are of the action stream, else of the world stream.
            visible: (B, N) bool; a token that is not visible is seen by nobody.
        """
        seen = visible if prefix is None else torch.cat((prefix.visible, visible), dim=1)
        mask = None if bool(seen.all()) else seen.unsqueeze(1).expand(-1, tokens.shape[1], -1)
        world, action = (None, tokens) if actions else (tokens, None)
        _, _, new = self(world, action, prefix, mask, keys_only=True)
        return extend(prefix, new, visible)

    def encode_in_turn(self, tokens: Tensor, visible: Tensor, later: Tensor) -> tuple[Prefix, Prefix]:
        """What `encode` of `tokens` gives and, with that as its prefix, of `later`: both in one pass.

        Args:
            tokens, later: (B, N, D) and (B, M, D) of the world stream; all of `later` is visible.
            visible: (B, N) bool.
        """
        count, further = tokens.shape[1], later.shape[1]
        there = torch.cat((visible, visible.new_ones(len(visible), further)), dim=1)
        order = torch.ones(count + further, count + further, dtype=torch.bool, device=there.device)
        order[:count, count:] = False
        mask = order.unsqueeze(0) if bool(visible.all()) else order & there.unsqueeze(1)
        _, _, new = self(torch.cat((tokens, later), dim=1), None, None, mask, keys_only=True)
        whole = extend(None, new, there)
        first = extend(None, [(k[:, :, :count], v[:, :, :count]) for k, v in new], visible)
        return first, whole


def extend(prefix: Prefix | None, new: list[tuple[Tensor, Tensor]], visible: Tensor) -> Prefix:
    """`prefix` and the keys and values of further tokens, per layer; `visible` (B, N) of those."""
    if prefix is None:
        return Prefix(tuple(k for k, _ in new), tuple(v for _, v in new), visible)
    keys = tuple(torch.cat((old, k), dim=2) for old, (k, _) in zip(prefix.keys, new, strict=True))
    values = tuple(torch.cat((old, v), dim=2) for old, (_, v) in zip(prefix.values, new, strict=True))
    return Prefix(keys, values, torch.cat((prefix.visible, visible), dim=1))
