"""The rows that need more than a mask: block after block, and a plan that was once allowed to look ahead."""

from dataclasses import replace

import pytest
import torch

from hybridpolicy.adapters import add_adapter
from hybridpolicy.blocks import Blocks
from hybridpolicy.context import present
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.flow import CounterNoise
from hybridpolicy.network import Future
from hybridpolicy.objective import training_plan
from hybridpolicy.passes import TrainingPass

KINDS = ("clean W", "predicted W", "clean A", "predicted A")


def test_blocks_cut_the_chunk_at_the_offsets():
    blocks = Blocks((3, 5, 9), per_offset=2, chunk_size=8)
    assert [blocks.actions(h) for h in range(3)] == [slice(0, 3), slice(3, 5), slice(5, 8)]
    assert blocks.of_action.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert blocks.of_world.tolist() == [0, 0, 1, 1, 2, 2]
    assert [blocks.world(h) for h in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    ended = Blocks((2, 4, 6), per_offset=1, chunk_size=4)
    assert ended.actions(2) == slice(4, 4)


def test_who_sees_whom_is_said_for_every_pair():
    blocks = Blocks((2, 4, 6), per_offset=2, chunk_size=6)
    mask = blocks.mask()
    tokens = [(kind, int(h)) for kind, of in zip(KINDS, (blocks.of_world,) * 2 + (blocks.of_action,) * 2,
                                                strict=True) for h in of]  # fmt: skip
    for i, (row, h) in enumerate(tokens):
        for j, (column, k) in enumerate(tokens):
            earlier = k < h and column.startswith("clean")
            own_world = column == "clean W" and k == h and row != "predicted W"
            own_actions = column == "clean A" and k == h and row == "clean A"
            same = row == column and k == h
            expected = earlier or own_world or own_actions or same
            assert bool(mask[i, j]) == expected, f"{row}{h} ← {column}{k}"


@pytest.fixture
def blockwise(make_policy, make_batch):
    """Policy, context and noise of the autoregressive row on three samples."""
    policy = make_policy(coupling="autoregressive", rtc_share=0.0).eval()
    sample = present(make_batch(3), policy.config)
    context = policy.network.encode_context(sample, policy.embodiment)
    return policy, sample, context, CounterNoise(0, 0, torch.arange(3))


def run_pass(policy, sample, context, future, chunk, **plan_fields):
    noise = CounterNoise(0, 0, sample.index)
    plan = training_plan(policy.config, COUPLINGS["autoregressive"], noise, True, True)
    everybody = torch.ones(3, dtype=torch.bool)
    names = ("world_visible", "action_visible", "world_sees_action", "action_sees_world")
    shown = dict.fromkeys(names, everybody)
    tau = torch.zeros_like(plan.action_tau)
    still = torch.zeros_like(plan.world_jitter)
    plan = replace(plan, **(shown | {"action_tau": tau, "world_jitter": still} | plan_fields))
    run = TrainingPass(policy.network, policy.embodiment, policy.config, sample, plan, noise, context)
    return run.predict(future, chunk)


def test_training_all_blocks_at_once_is_acting_block_after_block(blockwise):
    """Given what acting produced as the truth, the teacher-forced pass predicts exactly that."""
    policy, sample, context, noise = blockwise
    with torch.no_grad():
        future, chunk = policy.queries._roll(context, noise)
        predicted = run_pass(policy, sample, context, future, chunk)
    torch.testing.assert_close(predicted.chunk, chunk, rtol=0, atol=1e-5)
    torch.testing.assert_close(predicted.future.latents, future.latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(predicted.future.state, future.state, rtol=0, atol=1e-5)
    assert float(chunk.abs().max()) > 1e-3


def test_a_block_is_not_predicted_from_itself_or_later_ones(blockwise):
    policy, sample, context, _ = blockwise
    latents = torch.randn(3, 2, 4, 16, requires_grad=True)
    chunk = torch.randn(3, 4, 4, requires_grad=True)
    future = Future(latents, torch.randn(3, 2, 4))
    predicted = run_pass(policy, sample, context, future, chunk)
    for block in range(2):
        span = slice(2 * block, 2 * block + 2)
        for output, sees_own_world in ((predicted.future.latents[:, block], False),
                                       (predicted.chunk[:, span], True)):  # fmt: skip
            grads = torch.autograd.grad(output.sum(), (latents, chunk), retain_graph=True)
            by_world = grads[0].abs().amax(dim=(0, 2, 3)) > 0
            by_action = grads[1].unflatten(1, (2, 2)).abs().amax(dim=(0, 2, 3)) > 0
            assert by_world.tolist() == [k < block or (sees_own_world and k == block) for k in range(2)]
            assert by_action.tolist() == [k < block for k in range(2)]


def test_actions_are_also_learned_without_the_future_they_will_be_shown(blockwise):
    """Of a true one they would learn to trust an imagined one whatever it says."""
    policy, sample, context, _ = blockwise
    latents = torch.randn(3, 2, 4, 16, requires_grad=True)
    chunk = torch.randn(3, 4, 4, requires_grad=True)
    shown = torch.tensor([True, False, True])
    predicted = run_pass(
        policy, sample, context, Future(latents, torch.randn(3, 2, 4)), chunk, action_sees_world=shown
    )
    by_world, by_action = torch.autograd.grad(predicted.chunk.sum(), (latents, chunk), retain_graph=True)
    assert (by_world.abs().amax(dim=(1, 2, 3)) > 0).tolist() == [True, False, True]
    assert bool((by_action.abs().amax(dim=(1, 2)) > 0).all())
    world = torch.autograd.grad(predicted.future.latents.sum(), chunk)[0]
    assert bool((world.abs().amax(dim=(1, 2)) > 0).all())


def test_what_is_given_is_kept_block_after_block(blockwise):
    policy, _, context, noise = blockwise
    given = torch.randn(3, 3, 4)
    with torch.no_grad():
        free = policy.queries.act(context, noise)
        bound = policy.queries.act(context, noise, clean=given)
        future = policy.queries.imagine(context, noise)
        other = Future(future.latents + torch.randn_like(future.latents), future.state)
        inferred = policy.queries.infer_actions(context, noise, future)
        elsewhere = policy.queries.infer_actions(context, noise, other)
    assert torch.equal(bound[:, :3], given)
    assert not torch.allclose(bound[:, 3:], free[:, 3:], atol=1e-5)  # the last action follows the others
    torch.testing.assert_close(inferred, free, rtol=0, atol=1e-5)
    assert not torch.allclose(elsewhere, free, atol=1e-4)


def test_blocks_need_true_futures(make_policy, make_batch):
    policy = make_policy(coupling="autoregressive").train()
    assert all(policy.needs_future(step) for step in range(20))
    with pytest.raises(ConfigurationError, match="learns actions between true futures"):
        policy.forward(make_batch(4, times=1))


def test_the_plan_that_acts_has_not_seen_the_future(make_policy, make_batch):
    policy = make_policy(coupling="latent_plan", rtc_share=0.0).train()
    batch = make_batch(6)
    later = dict(batch)
    for key in [key for key in batch if key.startswith("observation.images")]:
        later[key] = torch.cat((batch[key][:, :1], torch.rand_like(batch[key][:, 1:])), dim=1)
    chunks, informed = [], []
    for each in (batch, later):
        sample = present(each, policy.config)
        noise = CounterNoise(0, 0, sample.index)
        plan = training_plan(policy.config, COUPLINGS["latent_plan"], noise, True, True)
        context = policy.network.encode_context(sample, policy.embodiment)
        target = policy.network.encode_future(sample)
        run = TrainingPass(policy.network, policy.embodiment, policy.config, sample, plan, noise, context)
        predicted = run.predict(target, sample.action)
        chunks.append(predicted.chunk)
        informed.append(predicted.informed[0])
    assert torch.equal(*chunks)
    assert float((informed[0] - informed[1]).abs().max()) > 1e-5
    loss, report = policy.forward(batch)
    loss.backward()
    assert report["plan_distance"] > 0
    assert {"informed_action_loss", "action_loss"} <= report.keys()
    with pytest.raises(ConfigurationError, match="trains no world prior"):
        policy.forward(make_batch(4, action=False))


def test_tied_streams_share_their_weights_and_survive_saving(make_policy, make_batch, train_steps, tmp_path):
    two, tied = make_policy(), make_policy(streams="tied")
    count = [sum(p.numel() for p in policy.network.streams.parameters()) for policy in (two, tied)]
    assert count[0] > 1.9 * count[1]
    losses = train_steps(tied, make_batch(8), 6)
    assert losses[-1] < losses[0]
    tied.eval().save_pretrained(tmp_path)
    again = type(tied).from_pretrained(tmp_path).eval()
    batch = make_batch(2, 0)
    tied.reset()
    assert torch.equal(again.predict_action_chunk(batch), tied.predict_action_chunk(batch))
    assert again.network.streams.action is again.network.streams.world
    add_adapter(again, "koch")
    assert sum(p.numel() for n, p in again.named_parameters() if "lora_" in n and p.requires_grad) > 0
