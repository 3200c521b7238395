"""Choosing: K candidates imagined and scored, budgets and gates, what is refused."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hybridpolicy.errors import ConfigurationError, NonFiniteError, QueryError
from hybridpolicy.outcome import Outcome
from hybridpolicy.planner import Planner, PlanState, consensus
from hybridpolicy.planner_settings import PlannerSettings

HEADS = {"outcome_weight": 1.0, "action_law": "flow", "action_steps": 2}


@pytest.fixture
def planning(make_policy, make_batch):
    """(coupling, **fields) → policy, context of two observations, noise source."""

    def make(coupling="joint", **fields):
        flow = {"world_law": "flow"} if coupling == "cascaded" else {}
        policy = make_policy(coupling=coupling, **(HEADS | flow | fields)).eval()
        context = policy.context(make_batch(2, 0))
        return policy, context, lambda count: policy.acting_noise(count, torch.device("cpu"))

    return make


@pytest.mark.parametrize("coupling", ["joint", "autoregressive", "cascaded"])
def test_the_best_of_the_candidates_is_chosen(planning, coupling):
    policy, context, noise = planning(coupling)
    heads_alone = PlannerSettings(candidates=5, consensus=0.0, progress=1.0, success=1.0)
    plan = Planner(policy.queries, heads_alone).plan(context, noise)
    assert plan.candidates.shape == (2, 5, 4, 4)
    assert plan.scores.shape == (2, 5)
    rows = torch.arange(2)
    assert torch.equal(plan.scores[rows, plan.chosen], plan.scores.max(dim=1).values)
    assert torch.equal(plan.chunk, plan.candidates[rows, plan.chosen])
    assert bool((plan.spread > 1e-3).all())
    again = policy.queries.evaluate(context, plan.future)
    best = again.progress + again.success
    torch.testing.assert_close(best, plan.scores.max(dim=1).values, rtol=0, atol=1e-5)


def test_one_candidate_is_what_the_policy_would_do(planning):
    policy, context, noise = planning()
    plan = Planner(policy.queries, PlannerSettings(candidates=1)).plan(context, noise)
    policy.reset()
    drawn = policy.acting_noise(2, torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(plan.chunk, policy.queries.act(context, drawn, imagine="never"))
    assert plan.spread.tolist() == [0.0, 0.0]


def test_weights_decide(planning, monkeypatch):
    policy, context, noise = planning()
    risk = torch.tensor([0.9, 0.1, 0.5] * 2)
    success = torch.tensor([0.9, 0.2, 0.6] * 2)
    fixed = Outcome(torch.zeros(6), success, risk)
    with pytest.raises(ConfigurationError, match="risk head was never trained on both answers"):
        Planner(policy.queries, PlannerSettings(3, risk=2.0))
    labels = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    policy.network.outcome.count(labels, torch.ones(2, 3, dtype=torch.bool), chunk=False)
    assert policy.network.outcome.knows("risk")
    monkeypatch.setattr(type(policy.queries), "evaluate", lambda *_: fixed)
    chosen = [
        Planner(policy.queries, PlannerSettings(3, consensus=0.0, risk=weight)).plan(context, noise).chosen
        for weight in (0.0, 2.0)
    ]
    assert [c.tolist() for c in chosen] == [[0, 0], [1, 1]]


def test_consensus_is_nearness_to_the_other_candidates():
    points = torch.tensor([[0.0, 4.0, 5.0, 6.0]])
    chunks = points[:, :, None, None].expand(-1, -1, 2, 3)
    apart = torch.tensor([[15.0, 7.0, 7.0, 9.0]])  # of each to the others, in sum
    torch.testing.assert_close(consensus(chunks), -apart / apart.mean())
    torch.testing.assert_close(consensus(1e-3 * chunks), -apart / apart.mean())
    broken = torch.cat((chunks, torch.full((1, 1, 2, 3), torch.nan)), dim=1)
    torch.testing.assert_close(consensus(broken)[:, :4], -apart / apart.mean())
    for alike in (chunks[:, :1], chunks[:, :1].expand(-1, 5, -1, -1)):
        assert consensus(alike).eq(0).all()


def test_consensus_alone_needs_no_heads(planning):
    policy, context, noise = planning(outcome_weight=0.0)
    with pytest.raises(QueryError, match=r"no outcome heads; train .*, or plan with success = 0"):
        Planner(policy.queries, PlannerSettings(5)).plan(context, noise)
    policy.reset()
    plan = Planner(policy.queries, PlannerSettings(5, success=0.0, consensus=1.0)).plan(context, noise)
    flat = plan.candidates[:, :, :2].flatten(2)  # what is executed before the next plan
    assert plan.chosen.tolist() == torch.cdist(flat, flat).sum(dim=2).argmin(dim=1).tolist()
    assert set(plan.chosen.tolist()) != {0}
    begun = torch.full((2, 1, 4), 0.3)
    plan = Planner(policy.queries, PlannerSettings(5, success=0.0)).plan(context, noise, committed=begun)
    flat = plan.candidates[:, :, 1:3].flatten(2)
    assert plan.chosen.tolist() == torch.cdist(flat, flat).sum(dim=2).argmin(dim=1).tolist()


@pytest.mark.parametrize("weight", ["consensus", "success"])
def test_a_larger_weight_is_heard_more(planning, weight):
    policy, context, noise = planning()
    other = {"consensus": "success", "success": "consensus"}[weight]
    chosen = []
    for weights in ({weight: 1.0, other: 0.0}, {weight: 1e4, other: 1.0}, {weight: 0.0, other: 1.0}):
        policy.reset()
        plan = Planner(policy.queries, PlannerSettings(5, **weights)).plan(context, noise)
        chosen.append(plan.chosen.tolist())
    assert chosen[0] == chosen[1] != chosen[2]


def test_the_chunk_is_shown_to_heads_that_saw_both_answers_with_one(planning, monkeypatch):
    """Demonstrations alone all succeed: with a chunk beside them, the heads know no failure."""
    policy, context, noise = planning()
    asked = []
    evaluate = type(policy.queries).evaluate

    def listening(queries, context, future=None, actions=None):
        asked.append(actions is not None)
        return evaluate(queries, context, future, actions)

    monkeypatch.setattr(type(policy.queries), "evaluate", listening)
    known = torch.ones(2, 3, dtype=torch.bool)
    for labels, chunk in ((torch.ones(2, 3), True), (torch.zeros(2, 3), False), (torch.zeros(2, 3), True)):
        policy.network.outcome.count(labels, known, chunk)
        Planner(policy.queries, PlannerSettings(3)).plan(context, noise)
    assert asked == [False, False, True]


def test_a_policy_that_never_went_on_is_not_made_to(planning):
    """Without rtc_share the network was never shown actions that were taken over."""
    for share in (0.1, 0.0):
        policy, context, noise = planning(rtc_share=share)
        warm = torch.full((2, 3, 4), 0.3)
        for asked in (True, False):
            if asked and not share:
                with pytest.raises(ConfigurationError, match=r"rtc_share = 0 and .* never trained to go on"):
                    Planner(policy.queries, PlannerSettings(3, warm_start=True))
                continue
            planner = Planner(policy.queries, PlannerSettings(3, warm_start=asked))
            plan = planner.plan(context, noise, warm=warm)
            taken = (plan.candidates[:, 0, :2] - 0.3).abs().max() < 1e-6
            assert bool(taken) is asked


def test_an_only_candidate_looks_at_what_there_is_now(planning):
    """And keeps what will be executed before it arrives."""
    policy, context, noise = planning(rtc_share=0.1)
    planner, warm = Planner(policy.queries, PlannerSettings(1, warm_start=True)), torch.full((2, 3, 4), 0.3)
    alone = planner.plan(context, noise, warm=warm)
    assert float((alone.chunk[:, :2] - 0.3).abs().min()) > 1e-6
    begun = planner.plan(context, noise, warm=warm, committed=warm[:, :1])
    assert float((begun.chunk[:, :1] - 0.3).abs().max()) < 1e-6
    assert float((begun.chunk[:, 1:] - 0.3).abs().min()) > 1e-6
    several = Planner(policy.queries, PlannerSettings(3, warm_start=True)).plan(
        context, noise, warm=warm, committed=warm[:, :1]
    )
    assert float((several.candidates[:, :, 0] - 0.3).abs().max()) < 1e-6
    assert float((several.candidates[:, 0, 1] - 0.3).abs().max()) < 1e-6


def test_cascaded_goes_on_with_its_last_plan_too(planning):
    policy, context, noise = planning("cascaded", rtc_share=0.1)
    warm = torch.full((2, 3, 4), 0.3)
    plan = Planner(policy.queries, PlannerSettings(3, warm_start=True)).plan(context, noise, warm=warm)
    assert float((plan.candidates[:, 0, :2] - 0.3).abs().max()) < 1e-6
    assert float((plan.candidates[:, 1:, :2] - 0.3).abs().min()) > 1e-6


def test_what_is_no_number_is_never_chosen(planning, monkeypatch):
    policy, context, noise = planning()
    act = type(policy.queries).act

    def broken(queries, context, noise, **options):
        chunk = act(queries, context, noise, **options)
        chunk[::3] = torch.nan  # the first of every three candidates
        return chunk

    monkeypatch.setattr(type(policy.queries), "act", broken)
    plan = Planner(policy.queries, PlannerSettings(3)).plan(context, noise)
    assert bool(plan.chunk.isfinite().all())
    assert 0 not in plan.chosen.tolist()
    with pytest.raises(NonFiniteError, match="every candidate or its score holds NaN"):
        Planner(policy.queries, PlannerSettings(1)).plan(context, noise)


def test_a_goal_picture_needs_no_heads(planning):
    policy, context, noise = planning(outcome_weight=0.0)
    planner = Planner(policy.queries, PlannerSettings(candidates=6))
    free = planner.plan(context, noise, goal=context.latents)
    last = free.future.latents[:, -1]
    best = -(last - context.latents).square().mean(dim=(1, 2))
    torch.testing.assert_close(best, free.scores.max(dim=1).values, rtol=0, atol=1e-5)
    with pytest.raises(QueryError, match="no outcome heads"):
        planner.plan(context, noise)


def test_the_last_plan_is_a_candidate(planning):
    policy, context, noise = planning()
    warm = torch.randn(2, 2, 4)
    plan = Planner(policy.queries, PlannerSettings(candidates=3, warm_start=True)).plan(
        context, noise, warm=warm
    )
    assert torch.equal(plan.candidates[:, 0, :2], warm)
    assert not torch.equal(plan.candidates[:, 1, :2], warm)


def alone(context):
    return context.take(torch.tensor([0]))


def test_a_budget_bounds_the_candidates(planning, monkeypatch):
    policy, both, noise = planning()
    context = alone(both)
    planner = Planner(policy.queries, PlannerSettings(candidates=16, budget_ms=10.0))
    clock = {"now": 0.0, "last": 1}

    def perf_counter():
        clock["now"] += 1e-3 * (4.0 + 0.75 * (planner.affordable() - 1))  # what passes between two looks
        return clock["now"]

    monkeypatch.setattr("hybridpolicy.planner.time.perf_counter", perf_counter)
    counts = [planner.plan(context, noise).candidates.shape[1] for _ in range(8)]
    assert counts[:3] == [1, 1, 2]
    assert counts[-1] == 9  # 4 ms, and 0.75 ms for each further one
    unbounded = Planner(policy.queries, PlannerSettings(candidates=16))
    assert unbounded.affordable() == 16
    hopeless = Planner(policy.queries, PlannerSettings(candidates=16, budget_ms=1e-6))
    assert [hopeless.plan(context, noise).candidates.shape[1] for _ in range(4)] == [1, 1, 2, 1]
    together = Planner(policy.queries, PlannerSettings(candidates=16, budget_ms=10.1))
    planner, clock["now"] = together, 0.0  # the pace is that of one observation alone
    counts = [together.plan(both, noise).candidates.shape[1] for _ in range(4)]
    assert counts == [9, 9, 9, 9]
    assert (together.num_plans, together.num_candidates) == (8, 72)


def test_one_slow_plan_does_not_end_planning(planning, monkeypatch):
    policy, both, noise = planning()
    context = alone(both)
    planner = Planner(policy.queries, PlannerSettings(candidates=4, budget_ms=20.0))
    clock, counts = {"now": 0.0}, []

    def perf_counter():
        slow = len(counts) == 2  # the first plan with two candidates: a shape the machine has not seen
        clock["now"] += 0.5e-3 * (400.0 if slow else 8.0 + 1.5 * (planner.affordable() - 1))
        return clock["now"]

    monkeypatch.setattr("hybridpolicy.planner.time.perf_counter", perf_counter)
    for _ in range(60):
        counts.append(planner.plan(context, noise).candidates.shape[1])
    assert counts[:4] == [1, 1, 2, 1]
    assert counts[-1] == 4


@pytest.mark.parametrize(
    ("fields", "settings", "message"),
    [
        (
            {"coupling": "vla"},
            {},
            "coupling = vla cannot imagine what its own proposals lead to; rows that can",
        ),
        ({"coupling": "representation"}, {}, "rows that can: joint, cascaded, autoregressive"),
        ({"coupling": "joint", "action_law": "regress"}, {}, "action_law = regress, which has one answer"),
        ({"coupling": "cascaded", "world_law": "regress"}, {}, "world_law = regress, which has one answer"),
        ({}, {"candidates": 0}, "candidates = 0; must be 1 or more"),
        ({}, {"risk": -1.0}, "risk = -1.0; must be 0 or more"),
        ({}, {"consensus": float("nan")}, "consensus = nan; must be 0 or more"),
        ({}, {"consensus": 0.0, "success": 0.0}, "are all 0: nothing is left to choose by"),
        ({}, {"budget_ms": 0.0}, "budget_ms = 0.0; must be above 0"),
    ],
)
def test_what_cannot_be_planned_is_refused(make_policy, fields, settings, message):
    law = {"action_law": "flow"} if "action_law" not in fields else {"action_steps": 1}
    policy = make_policy(**({"coupling": "joint"} | law | fields)).eval()
    with pytest.raises(ConfigurationError, match=message):
        Planner(policy.queries, PlannerSettings(**({"candidates": 4} | settings)))


def test_one_regressed_candidate_may_be_judged(make_policy, make_batch):
    policy = make_policy(coupling="joint", outcome_weight=1.0).eval()
    context = policy.context(make_batch(2, 0))
    planner = Planner(policy.queries, PlannerSettings(candidates=1))
    plan = planner.plan(context, lambda count: policy.acting_noise(count, torch.device("cpu")))
    with torch.no_grad():
        judged = policy.queries.evaluate(context, plan.future).success
    torch.testing.assert_close(plan.scores[:, 0], judged, rtol=0, atol=1e-5)


# -- gate
@dataclass
class Refusing:
    """A gate that refuses the candidates numbered `refused`, whatever they are; keeps what it was shown."""

    refused: set

    def check(self, chunk, state):
        self.chunk, self.state = chunk, state
        wrong = SimpleNamespace(step=1, part="elbow_flex", kind="velocity", reason="too fast")
        return SimpleNamespace(violations=[wrong if i in self.refused else None for i in range(len(chunk))])


@pytest.mark.parametrize("convention", ["absolute", "relative"])
def test_a_refused_candidate_is_never_chosen(planning, convention):
    policy, context, noise = planning(action_convention=convention)
    free = Planner(policy.queries, PlannerSettings(4)).plan(context, noise)
    assert free.states == (PlanState.CHOSEN, PlanState.CHOSEN)
    best = {int(free.chosen[0]), 4 + int(free.chosen[1])}
    policy.reset()
    gate = Refusing(best)
    plan = Planner(policy.queries, PlannerSettings(4), gate).plan(context, noise)
    torch.testing.assert_close(plan.scores, free.scores)
    for row in range(2):
        second = plan.scores[row].argsort(descending=True)[1]
        assert plan.chosen[row] == second
        assert torch.equal(plan.chunk[row], plan.candidates[row, second])
        assert plan.violations[row][free.chosen[row]].reason == "too fast"
        assert sum(v is not None for v in plan.violations[row]) == 1
    # What it judged is physical: where the arm is, and where the chunk would send it.
    mean, std = policy.embodiment.state_mean, policy.embodiment.state_std
    state = (context.state * std + mean).repeat_interleave(4, dim=0)
    np.testing.assert_allclose(gate.state, state.numpy(), rtol=1e-5)
    physical = policy.embodiment.to_pipeline(plan.candidates.flatten(0, 1), context.repeat(4).state)
    expected = physical * policy.embodiment.action_std + policy.embodiment.action_mean
    np.testing.assert_allclose(gate.chunk, expected.numpy(), rtol=1e-4, atol=1e-3)


def test_where_none_passes_the_plan_says_so_and_holds_nothing_to_send(planning):
    policy, context, noise = planning()
    gate = Refusing({0, 1, 2})
    plan = Planner(policy.queries, PlannerSettings(3), gate).plan(context, noise)
    assert plan.states == (PlanState.NONE_PASSED, PlanState.CHOSEN)
    assert plan.chosen.tolist() == [-1, int(plan.scores[1].argmax())]
    assert bool(plan.chunk[0].isnan().all())
    assert bool(plan.chunk[1].isfinite().all())
    assert [v is None for v in plan.violations[0]] == [False] * 3


def test_of_refused_candidates_the_one_that_is_shown_holds_numbers(planning, monkeypatch):
    policy, context, noise = planning()
    act = policy.queries.act

    def broken(self, *args, **kwargs):
        chunks = act(*args, **kwargs)
        chunks[0] = torch.nan
        return chunks

    monkeypatch.setattr(type(policy.queries), "act", broken)
    plan = Planner(policy.queries, PlannerSettings(3), Refusing({0, 1, 2})).plan(context, noise)
    assert plan.chosen[0] == -1
    assert bool(plan.future.latents.isfinite().all())


def test_a_gate_needs_to_know_where_the_arm_is(make_policy, make_batch):
    blind = make_policy(state=False, coupling="joint", **HEADS).eval()
    with pytest.raises(ConfigurationError, match=r"no observation\.state; train it with one"):
        Planner(blind.queries, PlannerSettings(2), Refusing(set()))
    seeing = make_policy(coupling="joint", **HEADS).eval()
    planner = Planner(seeing.queries, PlannerSettings(2), Refusing(set()))
    context = seeing.context(make_batch(1, 0, state=False))
    with pytest.raises(ConfigurationError, match="the observation has no state"):
        planner.plan(context, lambda count: seeing.acting_noise(count, torch.device("cpu")))
