"""What trains the eyes beside the policy's own loss: waypoints, changes, goals and latents kept apart."""

import pytest
import torch
import torch.nn.functional as F

from hybridpolicy.context import present
from hybridpolicy.frames import KeypointReadout, collapse_penalty, effective_rank
from hybridpolicy.losses import change_loss, goal_spread_loss


def test_waypoints_train_the_goal_readout_and_only_where_the_text_is_shown(make_policy, make_batch):
    fields = {"waypoint_weight": 1.0, "waypoint_offsets": [3, 6]}
    batch = make_batch(16) | {"waypoints": torch.randn(16, 2, 4) * 20.0}
    with_text = make_policy(text_dropout=0.0, **fields).train()
    without = make_policy(text_dropout=1.0, **fields).train()
    assert with_text.forward(batch)[1]["waypoint_loss"] > 0.1
    assert without.forward(batch)[1]["waypoint_loss"] == 0.0
    sample = present(batch, with_text.config)
    context = with_text.network.encode_context(sample, with_text.embodiment)
    found = with_text.embodiment.read_waypoints(context.asked, context.state)
    assert found.shape == (16, 2, 4)
    found.sum().backward()
    touched = {n for n, p in with_text.network.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.startswith("goal_readout.front.film") for name in touched)
    assert any(name.startswith("frames.encoders.wrist") for name in touched)
    assert not any(name.startswith(("streams", "frames.latents")) for name in touched)


def test_changes_train_the_map_of_the_goal_readout_and_only_where_the_text_is_shown(make_policy, make_batch):
    fields = {"change_weight": 1.0, "change_offsets": [3, 6]}
    batch = make_batch(8)
    for name in ("front", "wrist"):
        batch[f"ahead.observation.images.{name}"] = torch.rand(8, 2, 3, 32, 32)
    with_text = make_policy(text_dropout=0.0, **fields).train()
    assert with_text.forward(batch)[1]["change_loss"] > 0.5
    assert make_policy(text_dropout=1.0, **fields).train().forward(batch)[1]["change_loss"] == 0.0
    context = with_text.network.encode_context(present(batch, with_text.config), with_text.embodiment)
    said = with_text.network.change_out["front"](context.looked["front"])
    assert said.shape == (8, 6, 4, 4)
    said.sum().backward()
    touched = {n for n, p in with_text.network.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.startswith("goal_readout.front.film") for name in touched)
    assert any(name.startswith("frames.encoders.front") for name in touched)
    assert not any(name.startswith(("streams", "frames.latents")) for name in touched)


def test_a_change_foretold_costs_nothing_and_none_foretold_costs_one():
    now, ahead = torch.rand(4, 3, 16, 16), torch.rand(4, 2, 3, 16, 16)
    change = F.avg_pool2d((ahead - now.unsqueeze(1)).flatten(0, 1), 4).view(4, 6, 4, 4)
    everywhere = torch.ones(4, dtype=torch.bool)
    assert float(change_loss(10.0 * change, now, ahead, everywhere)) == pytest.approx(0.0, abs=1e-6)
    assert float(change_loss(torch.zeros(4, 6, 4, 4), now, ahead, everywhere)) == pytest.approx(1.0)
    assert float(change_loss(torch.rand(4, 6, 4, 4), now, ahead, ~everywhere)) == 0.0


def test_a_change_is_the_same_of_bytes():
    now = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    ahead = torch.randint(0, 256, (4, 2, 3, 16, 16), dtype=torch.uint8)
    said, everywhere = torch.rand(4, 6, 4, 4), torch.ones(4, dtype=torch.bool)
    as_floats = change_loss(said, now / 255.0, ahead / 255.0, everywhere)
    torch.testing.assert_close(change_loss(said, now, ahead, everywhere), as_floats)


def test_goals_may_not_become_more_alike_than_their_words(make_policy):
    goal = make_policy().network.goal
    texts = ["push the red block", "push the blue block", "push the red block", ""]
    bags = goal.word_bags(texts)
    assert float(bags[0] @ bags[1]) == pytest.approx(0.75)
    assert torch.equal(bags[0], bags[2])
    apart = torch.tensor([[1.0, 0.0], [0.7, 0.72], [1.0, 0.0], [0.0, 0.0]])
    assert float(goal_spread_loss(apart, bags)) == 0.0
    merged = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = goal_spread_loss(merged, bags)
    assert float(loss) == pytest.approx(4 * 0.25**2 / 4, rel=1e-2)
    loss.backward()
    assert merged.grad[1].abs().max() > 0.0
    assert not merged.grad[3].any()  # a hidden text is like no other


def test_keypoints_keep_their_precision_under_autocast():
    readout, features = KeypointReadout(16, 8, 2, 2), torch.randn(3, 16, 12, 12)
    exact = readout(features)
    with torch.autocast("cpu", torch.bfloat16):
        rough = readout(features)
    assert rough.dtype == torch.float32
    grid = (
        rough.view(-1, 4)[:, :2] * 256
    )  # in bfloat16 every coordinate above 1/4 would be a multiple of 1/512
    assert not torch.equal(grid, grid.round())
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.05)


def test_collapse_is_penalised_and_measured():
    spread, same = torch.randn(64, 3, 8), torch.randn(1, 3, 8).expand(64, 3, 8)
    assert float(collapse_penalty(same)) > 0.9
    assert float(collapse_penalty(spread)) < 0.1
    doubled = torch.cat((spread[..., :4], spread[..., :4]), dim=-1)
    assert float(collapse_penalty(doubled)) > float(collapse_penalty(spread)) + 0.05
    assert effective_rank(torch.randn(500, 8)) > 7
    assert effective_rank(torch.randn(500, 1) * torch.ones(8)) == pytest.approx(1.0, abs=0.01)
