"""How long ago the last chunk was asked for, by what is left over of it."""

import pytest
import torch
from lerobot.rollout.inference.rtc import _normalize_prev_actions_length

from hybridpolicy.context import num_taken


@pytest.mark.parametrize("horizon", [2, 3, 10])
def test_how_long_ago_the_last_chunk_was_is_known_whatever_lerobot_keeps_of_it(
    make_policy, make_batch, horizon
):
    """Its engine cuts what is left to `execution_horizon`: how much comes does not say how much was taken."""
    policy = make_policy(chunk_size=8, imagine="on_uncertainty", imagine_threshold=1e9).eval()
    first, second = make_batch(1, 0), make_batch(1, 0)

    def doubt(cut, **elapsed):
        policy.reset()
        left_over = policy.predict_action_chunk(first)[0, 1:]
        kept = _normalize_prev_actions_length(left_over, target_steps=horizon) if cut else left_over
        policy.predict_action_chunk(second, prev_chunk_left_over=kept, **elapsed)
        return policy.last_doubt

    expected = doubt(False, elapsed=1)
    assert float(expected) > 0.0
    assert torch.equal(doubt(True), expected)


def test_what_is_no_part_of_the_last_chunk_tells_by_its_length():
    last = torch.randn(2, 6, 4)
    for taken in range(6):
        for kept in range(taken + 1, 7):
            assert num_taken(last[:, taken:kept], last, 6) == taken
    assert num_taken(last[0, 2:4], last, 6) == 4  # another one's: of a batch, all are asked about
    assert num_taken(last[0, 2:4], last[:1], 6) == 2
    assert num_taken(torch.ones(2, 4), last, 6) == num_taken(torch.ones(2, 4), None, 6) == 4
    assert num_taken(torch.zeros(3, 4), last, 6) == 6
    assert num_taken(torch.ones(9, 4), last, 6) == num_taken(torch.ones(6, 4), last, 6) == 0
    assert num_taken(last[:, 1:], torch.cat((last, last)), 6) == 1  # of another number of arms
