"""Queries: which ones a row answers, what they depend on, and what they refuse."""

from dataclasses import replace

import pytest
import torch

from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.errors import QueryError
from hybridpolicy.flow import CounterNoise
from hybridpolicy.future import Future


def test_queries_follow_from_the_row(make_policy, make_batch):
    answered, refused, noise = 0, 0, CounterNoise(0, 0, torch.arange(2))
    for row in COUPLINGS.values():
        policy = make_policy(coupling=row.name).eval()
        context, chunk = policy.context(make_batch(2, 0)), torch.randn(2, 4, 4)
        future = policy.network.start_future(context)
        asked = {
            "imagine": lambda p=policy, c=context: p.queries.imagine(c, noise),
            "imagine_actions": lambda p=policy, c=context, a=chunk: p.queries.imagine(c, noise, a),
            "infer_actions": lambda p=policy, c=context, f=future: p.queries.infer_actions(c, noise, f),
        }
        for name, ask in asked.items():
            if name in row.queries:
                result = ask()
                assert (result if name == "infer_actions" else result.latents).shape[0] == 2
                answered += 1
            else:
                with pytest.raises(
                    QueryError, match=f"{row.name!r} cannot answer {name!r}; rows that can: .*joint"
                ):
                    ask()
                refused += 1
    assert (answered, refused) == (10, 11)


def test_imagined_futures_depend_on_the_actions_given(make_policy, make_batch):
    policy = make_policy(coupling="joint").eval()
    context, noise = policy.context(make_batch(2, 0)), CounterNoise(0, 0, torch.arange(2))
    with torch.no_grad():
        futures = [policy.queries.imagine(context, noise, torch.randn(2, 4, 4)) for _ in range(2)]
    assert futures[0].latents.shape == (2, 2, 4, 16)
    assert futures[0].state.shape == (2, 2, 4)
    assert float((futures[0].latents - futures[1].latents).abs().max()) > 1e-4


def test_a_part_of_a_future_is_no_future(make_policy, make_batch):
    """Tokens of its last moment alone would be taken for those of the first."""
    noise = CounterNoise(0, 0, torch.arange(2))
    for coupling in ("joint", "cascaded", "autoregressive"):
        policy = make_policy(coupling=coupling, outcome_weight=1.0).eval()
        context = policy.context(make_batch(2, 0))
        future = policy.queries.imagine(context, noise)
        for wrong in (future.at(-1), Future.join([future, future.at(-1)])):
            with pytest.raises(QueryError, match=r"this policy's have 2, \[2, 4\] frames ahead"):
                policy.queries.infer_actions(context, noise, wrong)
            with pytest.raises(QueryError, match="give all of them"):
                policy.queries.evaluate(context, wrong)
        with pytest.raises(QueryError, match="a future without the state"):
            policy.queries.infer_actions(context, noise, replace(future, state=None))
