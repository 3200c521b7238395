"""Who sees whom, by gradient: what a token cannot see, its output cannot depend on."""

from dataclasses import replace

import pytest
import torch

from hybridpolicy import objective
from hybridpolicy.configuration_hybrid import STREAMS
from hybridpolicy.context import present
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.flow import CounterNoise
from hybridpolicy.network import Shown

GROUPS = ("C", "W", "L", "A", "E")
# (from, to): information may flow from the first to the second. The contract of architecture.md, written out.
TRAINED = {
    "vla": "CC CA AA",
    "representation": "CC CW WW CA AA",
    "joint": "CC CW WW CA AA AW WA",
    "cascaded": "CC CW WW CA AA WA",
    "features": "CC CW WW CA AA WA",
    # W reaches A only through the plan L, and only in the pass whose plan may look ahead.
    "latent_plan": "CC CW WW CL WL LL CA WA LA AA",
    "autoregressive": "CC CW WW CA AA AW WA",
}
ACTED = {
    ("vla", "never"): "CC CA AA",
    ("representation", "never"): "CC CA AA",
    ("joint", "never"): "CC CA AA",
    ("joint", "always"): "CC CW WW CA AA WA",  # the one W row runs before any action exists
    ("cascaded", "never"): "CC CA AA",
    ("cascaded", "always"): "CC CW WW CA AA WA",
    ("features", "always"): "CC CW WW CA AA WA",
    ("latent_plan", "never"): "CC CL LL CA LA AA",
}
EVALUATED = {  # what E is shown: nothing but the moment, a future, a chunk, both
    (): "CC CE EE",
    ("future",): "CC CW WW CE WE EE",
    ("actions",): "CC CA AA CE AE EE",
    ("future", "actions"): "CC CW WW CA WA AA CE WE AE EE",
}
BLOCKWISE = {("autoregressive", "always")}  # acts in several rounds: see test_blocks
LAWS = ("regress", "flow")
VARIANTS = ({}, {"streams": "tied"}, {"explicit": True})
FIXED = ("never", "always")  # on_uncertainty is one of the two, decided at run time


class Probe:
    """Makes every group of tokens that enters the streams a leaf, and keeps what comes out."""

    def __init__(self, streams, monkeypatch, plan_tokens=0):
        """`plan_tokens`: how many of the first pass's tokens, the last ones, are L."""
        self.inputs, self.outputs, self.keys, self.plan_tokens = {}, {}, {}, plan_tokens
        self._forward = streams.forward
        monkeypatch.setattr(streams, "forward", self)

    def __call__(self, world, action, prefix, mask, **options):
        name = "C" if prefix is None else "W"
        if prefix is not None and world is not None:
            name = {3: "L", 1: "E"}.get(world.shape[1], "W")
        if world is not None:
            groups = self._groups(name, world)
            self.inputs |= {group: world[:, where].detach().requires_grad_() for group, where in groups}
            world = torch.cat([self.inputs[group] for group, _ in groups], dim=1)
        if action is not None:
            action = self.inputs["A"] = action.detach().requires_grad_()
        world_out, action_out, new = self._forward(world, action, prefix, mask, **options)
        for group, where in groups if world is not None else ():
            self.keys[group] = [tensor[:, :, where] for pair in new for tensor in pair]
            output = self.keys[group][-1].transpose(1, 2) if world_out is None else world_out[:, where]
            self.outputs[group] = output
        if action is not None:
            self.outputs["A"] = new[-1][0].transpose(1, 2) if action_out is None else action_out
        return world_out, action_out, new

    def _groups(self, name, world):
        """Names and places of the groups among the world stream's tokens."""
        if name != "C" or not self.plan_tokens:
            return [(name, slice(0, world.shape[1]))]
        first = world.shape[1] - self.plan_tokens
        return [("C", slice(0, first)), ("L", slice(first, world.shape[1]))]

    def sees(self, source, target):
        """(B,) bool: samples whose `target` outputs change with `source` inputs. None: a group never ran."""
        if source not in self.inputs or target not in self.outputs:
            return None
        output = self.outputs[target]
        (gradient,) = torch.autograd.grad(
            output, self.inputs[source], torch.randn_like(output), retain_graph=True, allow_unused=True
        )
        if gradient is None:
            return torch.zeros(len(output), dtype=torch.bool)
        return gradient.abs().amax(dim=(1, 2)) > 0


def pairs(text):
    return {(pair[0], pair[1]) for pair in text.split()}


@pytest.fixture
def trained_probe(make_policy, make_batch, monkeypatch):
    """(coupling, law) → the probe and the plan of one training forward over 64 samples."""

    def run(coupling, law, **variant):
        policy = make_policy(
            coupling=coupling, action_law=law, world_law=law, rtc_share=0.0, text_dropout=0.0, **variant
        )
        probe, plans = Probe(policy.network.streams, monkeypatch), []

        def record(*args, **options):
            plans.append(drawn(*args, **options))
            return plans[-1]

        drawn = objective.training_plan
        with monkeypatch.context() as patch:
            patch.setattr(objective, "training_plan", record)
            policy.train().forward(make_batch(64))
        (plan,) = plans
        return probe, plan

    return run


def test_the_tables_here_name_every_row():
    assert set(TRAINED) == set(COUPLINGS)
    assert set(ACTED) | BLOCKWISE == {
        (row.name, setting) for row in COUPLINGS.values() for setting in row.imagine if setting in FIXED
    }


@pytest.mark.parametrize("variant", VARIANTS, ids=["two", "tied", "explicit"])
@pytest.mark.parametrize("law", LAWS)
def test_training_lets_through_exactly_what_the_table_says(trained_probe, law, variant):
    rows = {"cascaded"} if "explicit" in variant else set(COUPLINGS)
    checked = 0
    for coupling in rows:
        probe, _ = trained_probe(coupling, law, **variant)
        for source in GROUPS:
            for target in GROUPS:
                seen = probe.sees(source, target)
                allowed = (source, target) in pairs(TRAINED[coupling])
                assert (seen is not None and bool(seen.any())) == allowed, f"{coupling}: {source} → {target}"
                checked += 1
    assert checked == 25 * len(rows)


@pytest.mark.parametrize(
    "coupling",
    [row.name for row in COUPLINGS.values() if row.world and row.world_shown in ("none", "row", "clean")],
)
def test_each_sample_sees_what_its_own_plan_says(trained_probe, coupling):
    probe, plan = trained_probe(coupling, "regress")
    expected = {
        ("C", "W"): torch.ones(64, dtype=torch.bool),
        ("C", "A"): torch.ones(64, dtype=torch.bool),
        ("A", "W"): plan.world_sees_action & plan.action_visible,
        ("W", "A"): plan.action_sees_world & plan.world_visible,
    }
    for (source, target), flags in expected.items():
        assert torch.equal(probe.sees(source, target), flags), f"{source} → {target}"
    if coupling == "joint":
        assert 0 < int(expected["A", "W"].sum()) < 64
        assert 0 < int(expected["W", "A"].sum()) < 64


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_context_keys_depend_on_nothing_but_the_context(trained_probe, coupling):
    probe, _ = trained_probe(coupling, "regress")
    held = 0
    for tensor in probe.keys["C"]:
        for group in set(probe.inputs) - {"C"}:
            assert torch.autograd.grad(
                tensor.sum(), probe.inputs[group], retain_graph=True, allow_unused=True
            ) == (None,)
            held += 1
    assert held == 4 * (len(probe.inputs) - 1)  # keys and values of two layers
    assert len(probe.inputs) - 1 == {"vla": 1, "latent_plan": 3}.get(coupling, 2)


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("coupling", "imagine"), ACTED)
def test_acting_lets_through_exactly_what_the_row_says(
    make_policy, make_batch, monkeypatch, coupling, imagine, law, streams
):
    fields = {"action_law": law, "world_law": law, "streams": streams}
    policy = make_policy(coupling=coupling, explicit=coupling == "cascaded", **fields).eval()
    probe = Probe(policy.network.streams, monkeypatch, 3 if coupling == "latent_plan" else 0)
    context = policy.network.encode_context(present(make_batch(3, 0), policy.config), policy.embodiment)
    policy.queries.act(context, CounterNoise(0, 0, torch.arange(3)), imagine=imagine)
    checked = 0
    for source in GROUPS:
        for target in GROUPS:
            seen = probe.sees(source, target)
            assert (seen is not None and bool(seen.all())) == (
                (source, target) in pairs(ACTED[coupling, imagine])
            )
            checked += 1
    assert checked == 25


@pytest.mark.parametrize(
    ("query", "expected"),
    [("imagine", "CC CW WW"), ("given", "CC CW WW CA AA AW"), ("infer", "CC CW WW CA AA WA")],
)
def test_queries_see_what_their_training_mode_saw(make_policy, make_batch, monkeypatch, query, expected):
    policy = make_policy(coupling="joint").eval()
    probe = Probe(policy.network.streams, monkeypatch)
    context = policy.network.encode_context(present(make_batch(3, 0), policy.config), policy.embodiment)
    noise, chunk = CounterNoise(0, 0, torch.arange(3)), torch.randn(3, 4, 4)
    if query == "infer":
        policy.queries.infer_actions(context, noise, policy.network.start_future(context))
    else:
        policy.queries.imagine(context, noise, chunk if query == "given" else None)
    found = {
        (s, t) for s in GROUPS for t in GROUPS if (seen := probe.sees(s, t)) is not None and bool(seen.all())
    }
    assert found == pairs(expected)


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("given", EVALUATED, ids=" and ".join)
def test_the_outcome_token_sees_what_it_is_given_and_nobody_sees_it(
    make_policy, make_batch, monkeypatch, given, streams
):
    policy = make_policy(coupling="joint", outcome_weight=1.0, streams=streams).eval()
    probe = Probe(policy.network.streams, monkeypatch)
    context = policy.network.encode_context(present(make_batch(3, 0), policy.config), policy.embodiment)
    what = {"future": policy.network.start_future(context), "actions": torch.randn(3, 4, 4)}
    policy.queries.evaluate(context, **{name: what[name] for name in given})
    found = {
        (s, t) for s in GROUPS for t in GROUPS if (seen := probe.sees(s, t)) is not None and bool(seen.all())
    }
    assert found == pairs(EVALUATED[given])


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_in_training_too_nobody_sees_the_outcome_token(make_policy, make_batch, monkeypatch, coupling):
    policy = make_policy(coupling=coupling, outcome_weight=1.0, text_dropout=0.0).train()
    batch = make_batch(8) | {"outcome.labels": torch.rand(8, 3), "outcome.known": torch.ones(8, 3)}
    shown = set()
    for _ in range(12):  # the heads are shown now this, now that
        with monkeypatch.context() as patch:
            probe = Probe(policy.network.streams, patch)
            policy.forward(batch)
        assert bool(probe.sees("C", "E").all() & probe.sees("E", "E").all())
        for target in ("C", "W", "L", "A"):
            seen = probe.sees("E", target)
            assert seen is None or not bool(seen.any()), f"E → {target}"
        shown |= {
            name for name in ("W", "A") if (seen := probe.sees(name, "E")) is not None and bool(seen.any())
        }
        policy.update()
    assert shown == ({"W", "A"} if COUPLINGS[coupling].world else {"A"})


def test_a_cached_context_gives_what_a_joint_run_gives(make_policy):
    """All tokens in one call under a mask that closes C equal the prefix's way, keys and outputs alike."""
    streams = make_policy().network.streams
    context, world, action = (torch.randn(2, count, 32) for count in (7, 5, 4))
    visible = torch.ones(2, 7, dtype=torch.bool)
    visible[1, :2] = False
    prefix = streams.encode(context, visible)
    new = torch.ones(2, 9, 9, dtype=torch.bool)
    new[0, :5, 5:] = False  # in the first sample W does not see A
    seen = visible.unsqueeze(1)
    world_out, action_out, _ = streams(world, action, prefix, torch.cat((seen.expand(-1, 9, -1), new), dim=2))

    whole = torch.zeros(2, 16, 16, dtype=torch.bool)
    whole[:, :, :7] = seen
    whole[:, 7:, 7:] = new
    both, action_joint, keys = streams(torch.cat((context, world), dim=1), action, None, whole)
    torch.testing.assert_close(both[:, 7:], world_out, rtol=0, atol=1e-5)
    torch.testing.assert_close(action_joint, action_out, rtol=0, atol=1e-5)
    for (key, value), old_key, old_value in zip(keys, prefix.keys, prefix.values, strict=True):
        torch.testing.assert_close(key[:, :, :7], old_key, rtol=0, atol=1e-5)
        torch.testing.assert_close(value[:, :, :7], old_value, rtol=0, atol=1e-5)
    assert not torch.allclose(world_out[0], world_out[1], atol=1e-3)


def test_two_groups_in_one_pass_are_what_they_are_in_turn(make_policy):
    streams = make_policy().network.streams
    context, plan = torch.randn(2, 7, 32), torch.randn(2, 3, 32)
    visible = torch.ones(2, 7, dtype=torch.bool)
    visible[1, :2] = False
    for there in (visible, torch.ones_like(visible)):
        first = streams.encode(context, there)
        expected = first, streams.encode(plan, there.new_ones(2, 3), first)
        found = streams.encode_in_turn(context, there, plan)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.visible, other.visible)
            for mine, theirs in zip((*one.keys, *one.values), (*other.keys, *other.values), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_a_plan_made_with_its_context_is_the_one_made_after_it(make_policy, make_batch):
    policy = make_policy(coupling="latent_plan").eval()
    context = policy.network.encode_context(present(make_batch(3, 0), policy.config), policy.embodiment)
    chunks = [
        policy.queries.act(moment.take(torch.tensor([2, 0])), CounterNoise(0, 0, torch.arange(2)))
        for moment in (context, replace(context, planned=None), replace(context, planned=context.prefix))
    ]
    torch.testing.assert_close(chunks[0], chunks[1], rtol=0, atol=1e-5)
    assert not torch.allclose(chunks[0], chunks[2], atol=1e-3)


def test_acting_without_a_future_costs_what_vla_costs(make_policy, make_batch):
    batch, counts = make_batch(3, 0), {}
    for row in COUPLINGS.values():
        policy = make_policy(coupling=row.name, action_law="flow", action_steps=4).eval()
        for setting in (mode for mode in FIXED if mode in row.imagine):
            policy.config.imagine = setting
            policy.network.streams.token_forwards = 0
            policy.predict_action_chunk(batch)
            counts[row.name, setting] = policy.network.streams.token_forwards
    context = 2 * 2 * 2 + 2 + 1  # views × readouts × tokens, goal tokens, state
    assert counts["vla", "never"] == 3 * (context + 4 * 4)
    without = {
        count for (name, setting), count in counts.items() if setting == "never" and name != "latent_plan"
    }
    assert without == {counts["vla", "never"]}
    assert counts["latent_plan", "never"] == counts["vla", "never"] + 3 * 3  # three plan tokens
    future = 2 * (2 * 2 + 1)
    assert counts["joint", "always"] == counts["vla", "never"] + 3 * future
    assert counts["features", "always"] == counts["joint", "always"]
    # One row, one row embedding ẑ; block after block also embeds the two actions before the last block.
    assert counts["cascaded", "always"] == counts["vla", "never"] + 3 * 2 * future
    assert counts["autoregressive", "always"] == counts["cascaded", "always"] + 3 * 2
    assert len(counts) == 9


HIDDEN = torch.tensor([True, False])  # the first sample shows it, the second does not


@pytest.mark.parametrize(
    ("shown", "change"),
    [
        (Shown(text=HIDDEN), {"task": ["put the blue block into the bin"] * 2}),
        (Shown(state=HIDDEN), {"observation.state": torch.ones(2, 4)}),
        (
            Shown(cameras={"front": torch.tensor([True, True]), "wrist": HIDDEN}),
            {"observation.images.wrist": torch.ones(2, 3, 32, 32)},
        ),
    ],
    ids=["text", "state", "camera"],
)
def test_what_is_hidden_is_seen_by_nobody(make_policy, make_batch, shown, change):
    policy = make_policy().eval()
    batch = make_batch(2, 0) | {"task": ["push the red block"] * 2}
    with torch.no_grad():
        shown, other = (
            policy.network.encode_context(present(b, policy.config), policy.embodiment, shown)
            for b in (batch, batch | change)
        )
        noise = CounterNoise(0, 0, torch.arange(2))
        change = (policy.queries.act(shown, noise) - policy.queries.act(other, noise)).abs().amax(dim=(1, 2))
    assert float(change[0]) > 1e-5
    assert float(change[1]) == 0.0


def test_context_knows_nothing_of_later_frames(make_policy, make_batch):
    policy, batch = make_policy().train(), make_batch(3)
    later = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    for key in [k for k in later if k.startswith("observation.")]:
        later[key][:, 1:] = torch.rand_like(later[key][:, 1:])
    later["action"] = torch.randn_like(later["action"])
    before, after = (
        policy.network.encode_context(present(b, policy.config), policy.embodiment) for b in (batch, later)
    )
    old, new = ((*c.prefix.keys, *c.prefix.values) for c in (before, after))
    assert len(old) == len(new) == 4
    assert all(torch.equal(*pair) for pair in zip(old, new, strict=True))
    assert torch.equal(before.latents, after.latents)
