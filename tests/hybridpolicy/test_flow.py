"""Random numbers by counter, and the limits of the one interpolation that serves both laws."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridpolicy.flow import CounterNoise, corrupt, euler, flow_weight

INDEX = torch.tensor([7, 123456789, 0, 3, 2**40])
# CounterNoise(3, 5, [0, 11]): uniform("mode"), normal("action"), batch_uniform("future").
UNIFORM, NORMAL, SHARED = (
    [0.827782154083252, 0.6452959179878235],
    [-0.7028663158416748, 2.019761085510254],
    0.7320600152015686,
)


@settings(max_examples=30, deadline=None)
@given(
    st.permutations(range(len(INDEX))),
    st.integers(1, len(INDEX) - 1),
    st.integers(0, 2**31),
    st.integers(0, 2**40),
)
def test_a_sample_draws_the_same_numbers_in_any_batch(order, cut, seed, step):
    whole = CounterNoise(seed, step, INDEX)
    shuffled = INDEX[list(order)]
    parts = [CounterNoise(seed, step, part) for part in (shuffled[:cut], shuffled[cut:])]
    for draw in (lambda n: n.normal("action", 4, 3), lambda n: n.uniform("mode", 2)):
        assert torch.equal(draw(whole)[list(order)], torch.cat([draw(part) for part in parts]))
    assert (
        whole.batch_uniform("future") == parts[0].batch_uniform("future") == parts[1].batch_uniform("future")
    )


def test_the_numbers_are_those_of_the_first_release():
    """A checkpoint resumed under another version continues the same run only if these never change."""
    noise = CounterNoise(3, 5, torch.tensor([0, 11]))
    torch.testing.assert_close(noise.uniform("mode", 1)[:, 0], torch.tensor(UNIFORM), rtol=0, atol=0)
    torch.testing.assert_close(noise.normal("action", 1)[:, 0], torch.tensor(NORMAL), rtol=0, atol=1e-6)
    assert noise.batch_uniform("future") == pytest.approx(SHARED, abs=0)


def test_moments():
    noise = CounterNoise(0, 1, torch.arange(20_000))
    uniform, normal = noise.uniform("mode", 4), noise.normal("action", 4)
    assert 0.0 <= float(uniform.min()) < 0.001
    assert 0.999 < float(uniform.max()) < 1.0
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(uniform.var()) == pytest.approx(1 / 12, abs=0.002)
    assert float(normal.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(normal.std()) == pytest.approx(1.0, abs=0.01)
    assert float((normal**4).mean()) == pytest.approx(3.0, abs=0.1)
    assert bool(torch.isfinite(normal).all())


def test_streams_steps_seeds_samples_and_elements_are_independent():
    index = torch.arange(20_000)
    base = CounterNoise(0, 1, index)
    draws = [
        base.normal("action", 2)[:, 0],
        base.normal("action", 2)[:, 1],
        base.normal("world", 1)[:, 0],
        CounterNoise(0, 2, index).normal("action", 1)[:, 0],
        CounterNoise(1, 1, index).normal("action", 1)[:, 0],
        CounterNoise(1, 0, index).normal("action", 1)[:, 0],  # seed and step are not interchangeable
        base.normal("action", 1)[:, 0].roll(1),
    ]
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert float(correlation.abs().max()) < 0.03


def test_the_whole_step_draw_changes_from_step_to_step():
    draws = torch.tensor(
        [CounterNoise(0, step, torch.zeros(1)).batch_uniform("future") for step in range(2000)]
    )
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.03)
    assert float((draws < 0.25).float().mean()) == pytest.approx(0.25, abs=0.03)


@pytest.fixture
def data():
    return torch.randn(5, 4, 3), torch.randn(3), torch.randn(5, 4, 3)


def test_time_one_is_the_data_and_time_zero_knows_nothing_of_it(data):
    clean, mask_token, epsilon = data
    one, zero = torch.ones(5, 4), torch.zeros(5, 4)
    for noise in (None, epsilon):
        assert torch.equal(corrupt(clean, one, mask_token, noise), clean)
    assert torch.equal(corrupt(clean, zero, mask_token, None), mask_token.expand_as(clean))
    assert torch.equal(corrupt(clean, zero, mask_token, epsilon), mask_token + epsilon)


def test_each_token_has_its_own_time(data):
    clean, mask_token, epsilon = data
    tau = torch.rand(5, 4)
    expected = tau[..., None] * clean + (1 - tau[..., None]) * (mask_token + epsilon)
    torch.testing.assert_close(corrupt(clean, tau, mask_token, epsilon), expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.sampled_from([0.0, 1.0]))
def test_euler_with_a_perfect_prediction_walks_the_straight_line(num_steps, sigma):
    clean, mask_token = torch.linspace(-2, 2, 24).view(2, 4, 3), torch.tensor([0.3, -1.0, 5.0])
    noise = sigma * CounterNoise(0, 0, torch.arange(2)).normal("action", 4, 3)
    x = corrupt(clean, torch.zeros(2, 4), mask_token, noise)
    times = torch.linspace(0, 1, num_steps + 1).tolist()
    for tau, next_tau in pairwise(times):
        x = euler(x, clean, tau, next_tau)
        torch.testing.assert_close(
            x, corrupt(clean, torch.full((2, 4), next_tau), mask_token, noise), rtol=0, atol=1e-5
        )
    assert torch.equal(x, clean)


def test_the_last_step_lands_on_the_prediction_exactly():
    x, predicted = torch.randn(3, 4) * 1e3, torch.randn(3, 4)
    assert torch.equal(euler(x, predicted, 0.75, 1.0), predicted)


def test_flow_weight_turns_the_error_of_the_clean_value_into_that_of_the_velocity(data):
    clean, mask_token, epsilon = data
    tau = torch.rand(5, 4) * 0.75
    x = corrupt(clean, tau, mask_token, epsilon)
    predicted = clean + torch.randn_like(clean)
    rest = (1 - tau)[..., None]
    velocity_error = ((predicted - x) / rest - (clean - x) / rest).square()
    torch.testing.assert_close(
        (predicted - clean).square() * flow_weight(tau, "flow")[..., None],
        velocity_error,
        rtol=1e-3,
        atol=1e-4,
    )
    assert float(flow_weight(torch.ones(1), "flow")) == pytest.approx(25.0)
    assert torch.equal(flow_weight(tau, "regress"), torch.ones_like(tau))
