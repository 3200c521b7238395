"""What a training micro-batch is asked to do: proportions of the modes, prefixes, shares of micro-batches."""

import pytest
import torch

from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.flow import CounterNoise
from hybridpolicy.plan import training_plan

NUM_SAMPLES = 20_000
# Shares of a micro-batch with actions and future frames.
EXPECTED = {
    "representation": {
        "no_action": 1 / 6,
        "no_world": 0.0,
        "w_sees_a": 0.0,
        "a_sees_w": 0.0,
        "world_loss": 1.0,
    },
    "joint": {
        "no_action": 0.10,  # video
        "no_world": 0.15,  # policy with W absent
        "w_sees_a": 0.15 + 0.5 * 0.50,  # forward, and half of policy
        "a_sees_w": 0.50 + 0.10,  # policy and inverse
        "world_loss": 0.75,
        "clean_world": 0.10,  # inverse
        "clean_action": 0.15,  # forward
    },
    "features": {
        "no_action": 0.10,
        "no_world": 0.0,
        "w_sees_a": 0.0,
        "a_sees_w": 0.90,
        "world_loss": 1.0,
    },
    "autoregressive": {
        "no_action": 1 / 6,
        "no_world": 0.0,
        "w_sees_a": 5 / 6,
        "a_sees_w": 5 / 12,
        "world_loss": 1.0,
    },
    "cascaded": {
        "no_action": 0.0,
        "no_world": 0.0,
        "w_sees_a": 0.0,
        "a_sees_w": 0.5,
        "world_loss": 0.5,
        "clean_world": 0.5,
    },
}


@pytest.fixture
def plan_of(make_config):
    def plan(coupling, labelled=True, future=True, step=3, imitate=True, **fields):
        config = make_config(coupling=coupling, **fields)
        noise = CounterNoise(0, step, torch.arange(NUM_SAMPLES))
        return training_plan(config, COUPLINGS[coupling], noise, labelled, future, imitate)

    return plan


def shares(plan):
    flags = {
        "no_action": ~plan.action_visible,
        "no_world": ~plan.world_visible,
        "w_sees_a": plan.world_sees_action & plan.action_visible,
        "a_sees_w": plan.action_sees_world & plan.world_visible,
        "world_loss": plan.world_loss,
        "clean_world": plan.world_tau == 1,
        "clean_action": (plan.action_tau == 1).all(dim=1),
    }
    return {name: float(flag.float().mean()) for name, flag in flags.items()}


@pytest.mark.parametrize("coupling", EXPECTED)
@pytest.mark.parametrize("law", ["regress", "flow"])
def test_modes_come_in_the_proportions_of_the_mix(plan_of, coupling, law):
    found = shares(plan_of(coupling, rtc_share=0.0, action_law=law, world_law=law))
    assert found == pytest.approx(dict.fromkeys(found, 0.0) | EXPECTED[coupling], abs=0.012)


def test_every_row_with_a_future_is_covered():
    assert set(EXPECTED) == {row.name for row in COUPLINGS.values() if row.generative}


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_loss_is_taken_only_where_the_answer_is_not_shown(plan_of, coupling):
    for law in ("regress", "flow"):
        plan = plan_of(coupling, action_law=law, world_law=law, rtc_share=0.5)
        assert not bool((plan.action_loss & (plan.action_tau == 1)).any())
        assert not bool((plan.world_loss & (plan.world_tau == 1)).any())
        assert not bool((plan.action_loss & ~plan.action_visible[:, None]).any())
        assert not bool((plan.world_loss & ~plan.world_visible).any())


def test_an_action_is_never_learned_from_a_future_that_saw_it_clean(plan_of):
    plan = plan_of("joint", rtc_share=0.0)
    learned = plan.action_loss.any(dim=1)
    assert bool(learned.any())
    assert not bool((learned & (plan.action_tau == 1).all(dim=1)).any())
    assert not bool((plan.world_loss & (plan.world_tau == 1)).any())


def test_regression_shows_nothing_and_flow_shows_all_times(plan_of):
    plan = plan_of("joint", rtc_share=0.0)
    assert set(plan.action_tau.unique().tolist()) == {0.0, 1.0}
    plan = plan_of("joint", rtc_share=0.0, action_law="flow", world_law="flow")
    noised = plan.action_tau[plan.action_loss]
    assert float(noised.mean()) == pytest.approx(0.5, abs=0.01)
    assert bool((plan.action_tau == plan.action_tau[:, :1]).all())
    shown = plan.world_tau[plan.world_loss]
    assert float(shown.mean()) == pytest.approx(1 / 3, abs=0.01)  # squared: biased to noise


@pytest.mark.parametrize("law", ["regress", "flow"])
def test_prefixes_of_real_time_chunking(plan_of, law):
    plan = plan_of("vla", future=False, rtc_share=0.3, rtc_max_delay=3, action_law=law)
    given = plan.action_tau == 1
    delay = given.sum(dim=1)
    assert bool((given == (torch.arange(4) < delay[:, None])).all()), "a prefix has no holes"
    counts = torch.bincount(delay, minlength=5) / NUM_SAMPLES
    assert counts.tolist() == pytest.approx([0.7, 0.1, 0.1, 0.1, 0.0], abs=0.012)
    assert torch.equal(plan.action_loss, ~given)


@pytest.mark.parametrize("coupling", [row.name for row in COUPLINGS.values() if row.generative])
def test_video_without_actions_trains_the_world_alone(plan_of, coupling):
    plan = plan_of(coupling, labelled=False)
    assert plan.world
    assert not plan.action
    assert bool(plan.world_loss.all())
    assert not bool(plan.world_sees_action.any() | plan.action_sees_world.any() | (plan.world_tau == 1).any())


def test_without_targets_half_of_the_micro_batches_still_show_the_future(plan_of):
    plans = [plan_of("joint", future=False, step=step, rtc_share=0.0) for step in range(60)]
    shown = [plan.world for plan in plans]
    assert 0.3 < sum(shown) / 60 < 0.7
    for plan in plans:
        assert not bool(plan.world_loss.any())
        assert bool(plan.action_loss.all())
        assert bool(plan.action_sees_world.all()) == plan.world
    assert not any(plan_of("cascaded", future=False, step=step).world for step in range(20))


def test_future_micro_batches_come_in_their_share(make_policy):
    policy = make_policy(world_share=0.25)
    needed = [policy.needs_future(step) for step in range(2000)]
    assert sum(needed) / 2000 == pytest.approx(0.25, abs=0.03)
    assert not any(make_policy(coupling="vla").needs_future(step) for step in range(20))


@pytest.mark.parametrize("coupling", [row.name for row in COUPLINGS.values() if row.generative])
def test_actions_not_to_be_imitated_say_what_followed_and_are_told_by_it(plan_of, coupling):
    row = COUPLINGS[coupling]
    plan = plan_of(coupling, imitate=False)
    assert plan.action is row.inverse
    inferred = plan.action_loss.any(dim=1)
    if row.world_shown == "blocks":  # all of it: each action sees the true future of its block
        assert bool(inferred.all() & plan.world_loss.all())
        return
    assert torch.equal(inferred, plan.world_tau == 1.0)  # from a true future, never from what there is alone
    assert torch.equal(plan.world_loss, ~inferred)
    assert bool(plan.action_sees_world[inferred].all())
    shares = {"joint": (0.15 / 0.35, 0.10 / 0.35), "cascaded": (0.0, 0.5)}.get(coupling, (0.0, 0.0))
    given = (plan.action_tau == 1.0).all(dim=1)
    assert torch.equal(plan.world_sees_action, given)
    assert (float(given.float().mean()), float(inferred.float().mean())) == pytest.approx(shares, abs=0.03)
