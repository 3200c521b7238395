"""How episodes end: labels of recordings, and heads that learn what can be seen and is known."""

import numpy as np
import pytest
import torch

from hybridpolicy.errors import DatasetError, QueryError
from hybridpolicy.training.outcomes import outcome_labels


# -- labels
def brute_force(ended, events, lengths, chunk):
    rows, start = [], 0
    good = [bool(ended[a : a + n].any()) for a, n in zip(np.cumsum([0, *lengths[:-1]]), lengths, strict=True)]
    median = np.median([n for n, ok in zip(lengths, good, strict=True) if ok])
    for length, ok in zip(lengths, good, strict=True):
        for t in range(length):
            progress = max(0.0, 1.0 - (length - 1 - t) / median)
            risk = bool(events[start + t : start + min(t + chunk, length)].any())
            rows.append((progress, float(ok), float(risk), ok))
        start += length
    return np.array(rows)


def test_labels_are_what_their_definition_says():
    rng = np.random.default_rng(0)
    lengths = [7, 3, 12, 5, 1]
    start, stop = np.cumsum([0, *lengths[:-1]]), np.cumsum(lengths)
    ended = np.zeros(sum(lengths), bool)
    ended[stop[[0, 2, 4]] - 1] = True
    events = rng.random(sum(lengths)) < 0.15
    columns = {"next.success": ended[:, None], "outcome.event": events[:, None]}
    labels, known = outcome_labels("recorded", columns, start, stop, 4, "here")
    expected = brute_force(ended, events, lengths, 4)
    np.testing.assert_allclose(labels, expected[:, :3], atol=1e-6)
    np.testing.assert_array_equal(known[:, 0], expected[:, 3].astype(bool))
    assert known[:, 1:].all()
    assert events.any()

    shown, shown_known = outcome_labels("demonstrations", {}, start, stop, 4, "here")
    assert (shown[:, 1] == 1).all()
    assert shown_known.any(axis=0).tolist() == [True, True, False]


def test_labels_that_cannot_be_made_are_refused():
    ends = np.array([0]), np.array([3])
    with pytest.raises(DatasetError, match=r"here: .* missing \['outcome.event'\]; record with"):
        outcome_labels("recorded", {"next.success": np.zeros(3, bool)}, *ends, 2, "here")


def test_where_nothing_succeeded_progress_is_unknown():
    columns = {"next.success": np.zeros(3, bool), "outcome.event": np.array([False, False, True])}
    labels, known = outcome_labels("recorded", columns, np.array([0]), np.array([3]), 2, "here")
    assert known.tolist() == [[False, True, True]] * 3
    assert labels[:, 1:].tolist() == [[0, 0], [0, 1], [0, 1]]


# -- heads
def labelled(batch, labels):
    known = torch.ones(len(labels), 3, dtype=torch.bool)
    return batch | {"outcome.labels": labels, "outcome.known": known}


def test_heads_learn_what_can_be_seen_and_only_what_is_known(make_policy, make_batch, train_steps):
    policy = make_policy(outcome_weight=5.0, state_dropout=0.0, camera_dropout=0.0)
    batch = make_batch(16)
    bright = torch.arange(16) % 2
    for key in [key for key in batch if key.startswith("observation.images")]:
        batch[key] = batch[key] * 0.1 + 0.8 * bright[:, None, None, None, None]
    labels = torch.stack((torch.full((16,), 0.25), bright.float(), 1.0 - bright), dim=1)
    hidden = labelled(batch, labels)
    hidden["outcome.known"][:, 2] = False
    train_steps(policy, hidden, 60)
    now = {k: v[:, 0] if k.startswith("observation") else v for k, v in batch.items() if k != "action"}
    context = policy.eval().context(now)
    with torch.no_grad():
        outcome = policy.queries.evaluate(context)
    assert float((outcome.success - bright).abs().max()) < 0.2
    assert float((outcome.progress - 0.25).abs().max()) < 0.2
    assert float((outcome.risk - (1.0 - bright)).abs().mean()) > 0.3  # was never told


def test_nobody_sees_the_outcome_token(make_policy, make_batch):
    """A chunk is the same whether or not the moment was judged before, and with or without heads."""
    torch.manual_seed(3)
    plain = make_policy(live=False).eval()
    judged = make_policy(live=False, outcome_weight=1.0).eval()
    judged.load_state_dict(plain.state_dict(), strict=False)
    batch = make_batch(2, 0)
    context = judged.context(batch)
    judged.queries.evaluate(context)
    assert torch.equal(judged.predict_action_chunk(batch), plain.predict_action_chunk(batch))
    with pytest.raises(QueryError, match="no outcome heads"):
        plain.queries.evaluate(plain.context(batch))
    judged.network.outcome.labels.zero_()
    with pytest.raises(QueryError, match="no trained outcome heads"):
        judged.queries.evaluate(context)


def test_the_padding_after_an_episode_is_not_judged(make_policy, make_batch):
    """Of every sample the futures are padded: what stands there must not reach the heads."""
    policy = make_policy(outcome_weight=1.0, state_dropout=0.0, camera_dropout=0.0, text_dropout=0.0).train()
    batch = labelled(make_batch(6), torch.rand(6, 3))
    observed = [key for key in batch if key.startswith("observation.")]
    for key in observed:
        pad = torch.zeros(6, 3, dtype=torch.bool)
        pad[:, 1:] = True
        batch[f"{key}_is_pad"] = pad
    other = dict(batch)
    for key in observed:
        other[key] = batch[key].clone()
        other[key][:, 1:] = torch.rand_like(batch[key][:, 1:])
    for step in range(12):  # moment alone, true future and imagined one all occur
        policy.train_step.fill_(step)
        first, second = (policy.forward(b)[1]["outcome_loss"] for b in (batch, other))
        assert first == pytest.approx(second, abs=1e-6)
