"""Imagination on demand: what is in doubt, and what is planned again with a future."""

import pytest
import torch

from hybridpolicy.doubt import disagreement
from hybridpolicy.errors import ConfigurationError, QueryError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.flow import CounterNoise


def observations(make_batch, count):
    return [make_batch(2, 0) for _ in range(count)]


@pytest.mark.parametrize("coupling", ["joint", "cascaded"])
def test_a_plan_that_is_torn_up_is_made_again_with_a_future(make_policy, make_batch, coupling):
    policy = make_policy(coupling=coupling).eval()
    first, second = observations(make_batch, 2)
    never = [policy.predict_action_chunk(batch) for batch in (first, second)]
    torn = (never[1][:, :-2] - never[0][:, 2:]).abs().mean(dim=(1, 2))
    assert policy.last_doubt is None  # nobody asks
    policy.config.imagine = "always"
    always = policy.predict_action_chunk(second)
    assert not torch.allclose(always, never[1], atol=1e-4)

    policy.config.imagine = "on_uncertainty"
    policy.config.imagine_threshold = float(torn.mean())  # between the two samples
    policy.reset()
    assert torch.equal(policy.predict_action_chunk(first), never[0])  # nothing to break with yet
    assert policy.last_doubt is None
    assert policy.last_imagined.tolist() == [False, False]
    mixed = policy.predict_action_chunk(second)
    torch.testing.assert_close(policy.last_doubt, torn)
    for sample in range(2):
        doubtful = bool(torn[sample] > torn.mean())
        expected = always if doubtful else never[1]
        torch.testing.assert_close(mixed[sample], expected[sample], rtol=0, atol=1e-6)
    assert policy.last_imagined.tolist() == (torn > torn.mean()).tolist()
    policy.reset()
    assert policy.last_doubt is None
    assert policy.last_imagined is None


def test_a_flow_doubts_where_its_samples_lie_apart_already_at_the_first_look(make_policy, make_batch):
    policy = make_policy(coupling="joint", action_law="flow", action_steps=4).eval()
    policy.config.imagine, policy.config.imagine_threshold = "on_uncertainty", 1e9
    batch = make_batch(2, 0)
    policy.network.streams.token_forwards = 0
    policy.predict_action_chunk(batch)
    spent = policy.network.streams.token_forwards
    doubt = policy.last_doubt
    noise = CounterNoise(policy.config.seed, (1 << 40) + 1, torch.arange(2))
    context = policy.context(batch)
    with torch.no_grad():
        one, other = (policy.queries.guess(context, noise, draw) for draw in ("", "again"))
    torch.testing.assert_close(doubt, (one - other).abs().mean(dim=(1, 2)))
    assert float(doubt.min()) > 0.0
    policy.reset()
    policy.config.imagine = "never"
    policy.network.streams.token_forwards = 0
    policy.predict_action_chunk(batch)
    assert spent - policy.network.streams.token_forwards == 2 * 2 * 4  # two rows of the chunk, nothing else


def test_plans_that_do_not_overlap_cannot_be_in_doubt(make_config):
    with pytest.raises(ConfigurationError, match="nothing is left of it; lower n_action_steps"):
        make_config(coupling="joint", imagine="on_uncertainty", imagine_threshold=0.1, n_action_steps=4)


def test_on_demand_needs_a_threshold_and_a_policy(make_config, make_policy, make_batch):
    with pytest.raises(ConfigurationError, match="needs a positive one, which `hybridpolicy calibrate"):
        make_config(coupling="joint", imagine="on_uncertainty")
    with pytest.raises(ConfigurationError, match="coupling = features offers imagine = always"):
        make_config(coupling="features", imagine="on_uncertainty", imagine_threshold=1.0)
    policy = make_policy(coupling="joint", imagine="on_uncertainty", imagine_threshold=0.1).eval()
    context = policy.context(make_batch(1, 0))
    with pytest.raises(QueryError, match="decided by the policy"):
        policy.queries.act(context, CounterNoise(0, 0, torch.arange(1)))
    actor = Actor(make_policy(coupling="joint"), None, None)
    with pytest.raises(ConfigurationError, match="needs a positive one"):
        actor.set_imagine("on_uncertainty")


def test_disagreement_is_of_the_same_moments_and_not_of_what_was_committed():
    last = torch.randn(2, 4, 4)
    for elapsed in (0, 1, 3):
        ahead = torch.cat((last[:, elapsed:], torch.randn(2, elapsed, 4)), dim=1)
        assert disagreement(ahead, last, elapsed).tolist() == [0.0, 0.0]
        assert bool((disagreement(ahead + 1.0, last, elapsed) > 0.9).all())
    broken = last.clone()
    broken[:, 0] += 8.0
    assert bool((disagreement(broken, last, 0) > 1.0).all())
    assert disagreement(broken, last, 0, given=1).tolist() == [0.0, 0.0]
    assert disagreement(broken, last, 4).tolist() == [0.0, 0.0]  # nothing is left of the last plan
