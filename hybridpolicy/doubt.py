"""How sure a policy is of a plan, by what is cheap: decides whether a future is worth imagining.

A regression has one answer, so its plan is held against what the last one promised for the same moments: one
that is torn up at every look is of a situation the policy does not understand. A flow has many answers, and
how far two of them lie apart is known at once.

Legend as in `network`.
"""

import torch
from torch import Tensor

from hybridpolicy.flow import CounterNoise
from hybridpolicy.network import Context
from hybridpolicy.queries import Queries


def disagreement(chunk: Tensor, last: Tensor, ahead: int, given: int = 0) -> Tensor:
    """(B,) mean distance of a chunk (B, T, A) from the last plan for the same moments; 0 where none is left.

    Args:
        ahead: control ticks since that plan. given: first actions that were taken over from it.
    """
    until = chunk.shape[1] - ahead
    if last.shape != chunk.shape or given >= until:
        return torch.zeros(len(chunk), device=chunk.device)
    return (chunk[:, given:until] - last[:, ahead + given :]).abs().mean(dim=(1, 2))


def sample_spread(queries: Queries, context: Context, noise: CounterNoise) -> Tensor:
    """(B,) mean distance between two one-step samples of a flow policy's chunk, pipeline units."""
    guesses = queries.guess(context, noise), queries.guess(context, noise, "again")
    one, other = (queries.embodiment.to_pipeline(guess, context.state) for guess in guesses)
    return (one - other).abs().mean(dim=(1, 2))
