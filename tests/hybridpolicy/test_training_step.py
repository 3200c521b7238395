"""One training step: it learns, reaches every weight, ignores padding, and copes with what is absent."""

import math

import pytest
import torch

from hybridpolicy.context import present
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.errors import ConfigurationError
from hybridpolicy.flow import CounterNoise
from hybridpolicy.losses import action_loss, step_weights, world_skill
from hybridpolicy.network import Shown
from hybridpolicy.objective import LATENT_RANK, draw_shown
from hybridpolicy.training.collapse import LEAST_RANK

ROWS = [(row.name, law) for row in COUPLINGS.values() for law in ("regress", "flow")]
WITH_WORLD = [(row, law) for row, law in ROWS if COUPLINGS[row].generative]
WORLD_WEIGHTS = (
    "latent_future_in",
    "latent_out",
    "latent_mask",
    "offset_position",
    "state_future",
    "state_mask",
)
# Never reached: the language model is fed text only.
DEAD = ("network.goal.model.model.vision_model", "network.goal.model.model.connector")


@pytest.mark.parametrize(("coupling", "law"), ROWS)
def test_ten_steps_on_one_batch_lower_the_loss(make_policy, make_batch, train_steps, coupling, law):
    policy = make_policy(live=False, coupling=coupling, action_law=law, world_law=law)
    losses = train_steps(policy, make_batch(16), 10)
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


@pytest.mark.parametrize("coupling", ["joint", "features"])
def test_without_a_true_future_actions_are_trained_on_the_start_they_will_find(
    make_policy, make_batch, monkeypatch, coupling
):
    """Of a flow that is the mask token and noise on it; the mask token alone is never seen at run time."""
    policy = make_policy(coupling=coupling, world_law="flow", world_share=0.0).train()
    shown = []
    embed = policy.network.world_tokens
    monkeypatch.setattr(policy.network, "world_tokens", lambda x, *rest: shown.append(x) or embed(x, *rest))
    policy.forward(make_batch(16))
    bare = policy.network.start_future(policy.context(make_batch(16, 0))).latents
    assert float((shown[0].latents - bare).std()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("coupling", "law"), ROWS)
def test_gradients_reach_every_live_weight(make_policy, make_batch, coupling, law):
    fields = {"objects_weight": 1.0, "objects_count": 2, "rtc_share": 0.5}
    fields |= {
        "waypoint_weight": 1.0,
        "waypoint_offsets": [3, 6],
        "change_weight": 1.0,
        "change_offsets": [3],
    }
    policy = make_policy(coupling=coupling, action_law=law, world_law=law, **fields).train()
    objects = {"privileged.objects": torch.rand(32, 4), "privileged.present": torch.ones(32, 2)}
    privileged = objects | {"privileged.target": torch.rand(32, 3) + 0.5}
    ahead = {f"ahead.observation.images.{name}": torch.rand(32, 1, 3, 32, 32) for name in ("front", "wrist")}
    loss, _ = policy.forward(make_batch(32) | privileged | ahead | {"waypoints": torch.randn(32, 2, 4)})
    loss.backward()
    dead = [
        name
        for name, parameter in policy.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not bool(parameter.grad.any()))
    ]
    expected_dead = [name for name in dead if name.startswith(DEAD)]
    if not COUPLINGS[coupling].world:
        # The context gives only keys and values, so its last layer ends there.
        last = [f"streams.world.1.{part}" for part in ("out", "norm_mlp", "up", "down")]
        unused = (*WORLD_WEIGHTS, *last, "streams.world_norm")
        expected_dead += [name for name in dead if any(part in name for part in unused)]
    elif not COUPLINGS[coupling].generative:  # the future is only looked at, never predicted
        unused = ("latent_out", "latent_mask", "state_mask", "state_future_out")
        expected_dead += [name for name in dead if any(part in name for part in unused)]
    row = COUPLINGS[coupling]
    if not (
        row.inverse or row.world_shown == "plan" or (law == "flow" and row.generative and not row.fixed_time)
    ):
        expected_dead += [name for name in dead if name.endswith("_change")]  # no future is ever given
    assert set(dead) - set(expected_dead) == set()
    frozen = {name for name, parameter in policy.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in policy.named_parameters() if ".target_frames." in name}


@pytest.mark.parametrize(("coupling", "law"), ROWS)
def test_padded_values_change_nothing(make_policy, make_batch, coupling, law):
    """Neither loss nor gradients: a padded end of an episode is not a still video with a still arm."""
    policy = make_policy(coupling=coupling, action_law=law, world_law=law, rtc_share=0.5).train()
    batch = make_batch(32)
    pads = {key: torch.zeros(32, 3, dtype=torch.bool) for key in batch if key.startswith("observation.")}
    for pad in pads.values():
        pad[::2, 2] = True
        pad[::4, 1] = True
    action_pad = torch.zeros(32, 4, dtype=torch.bool)
    action_pad[::2, 2:] = True
    other = dict(batch)
    for key, pad in pads.items():
        other[key] = torch.where(pad.view(32, 3, *(1,) * (batch[key].ndim - 2)), torch.rand(()), batch[key])
    other["action"] = torch.where(action_pad[..., None], torch.rand(()), batch["action"])
    flags = {f"{key}_is_pad": pad for key, pad in pads.items()} | {"action_is_pad": action_pad}
    results = []
    for values in (batch, other, batch):
        policy.zero_grad()
        given = flags if len(results) < 2 else {}
        loss, _ = policy.forward(values | given)
        loss.backward()
        gradient = policy.network.streams.world[0].qkv.weight.grad.clone()
        results.append((loss.detach(), gradient))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0]), "without the flags the padding counts"


def test_one_fully_padded_sample_is_an_unlabelled_one(make_policy, make_batch):
    policy, batch = make_policy().train(), make_batch(4)
    pad = torch.zeros(4, 4, dtype=torch.bool)
    pad[1] = True
    changed = batch | {"action": torch.where(pad[..., None], torch.tensor(9.0), batch["action"])}
    losses = [policy.forward(b | {"action_is_pad": pad})[0] for b in (batch, changed)]
    assert torch.equal(*losses)


@pytest.mark.parametrize(("coupling", "law"), WITH_WORLD)
@pytest.mark.parametrize("marked_by", ["missing", "is_pad"])
def test_action_free_video_trains_the_world_only(make_policy, make_batch, coupling, law, marked_by):
    policy = make_policy(coupling=coupling, action_law=law, world_law=law).train()
    batch = make_batch(8, action=marked_by == "is_pad", state=False, task=False)
    batch["action_is_pad"] = torch.ones(8, 4, dtype=torch.bool)
    loss, report = policy.forward(batch)
    loss.backward()
    assert "world_loss" in report
    assert "action_loss" not in report
    assert all(p.grad is None for name, p in policy.named_parameters() if ".streams.action" in name)


@pytest.mark.parametrize("coupling", [row.name for row in COUPLINGS.values() if row.generative])
def test_what_is_not_to_be_imitated_teaches_what_follows(make_policy, make_batch, coupling):
    """W may see what was done, and A is told it by what followed; other rows learn the future alone."""
    policy = make_policy(coupling=coupling).train()
    batch = make_batch(32) | {"imitate": False}
    other = batch | {"action": torch.randn_like(batch["action"])}
    losses = []
    for one in (batch, other):
        policy.zero_grad()
        loss, report = policy.forward(one)
        loss.backward()
        losses.append(float(loss.detach()))
        assert "world_loss" in report
        assert ("action_loss" in report) is COUPLINGS[coupling].inverse
        reached = policy.embodiment.action_out.weight.grad
        assert (reached is not None and bool(reached.any())) is COUPLINGS[coupling].inverse
    assert (losses[0] != losses[1]) is COUPLINGS[coupling].inverse


@pytest.mark.parametrize("coupling", ["vla", "latent_plan"])
def test_rows_without_a_world_prior_judge_what_is_not_imitated(make_policy, make_batch, coupling):
    policy = make_policy(coupling=coupling, outcome_weight=1.0).train()
    labels = {"outcome.labels": torch.rand(8, 3), "outcome.known": torch.ones(8, 3)}
    loss, report = policy.forward(make_batch(8) | labels | {"imitate": False})
    loss.backward()
    assert set(report) == {"outcome_loss", "goal_spread_loss", "loss"}
    assert bool(policy.network.outcome.out.weight.grad.any())
    with pytest.raises(ConfigurationError, match="neither actions nor future frames"):
        policy.forward(make_batch(8) | {"imitate": False})


@pytest.mark.parametrize("absent", ["camera", "state", "text", "blank text", "everything but one camera"])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_what_is_absent_is_absent(make_policy, make_batch, coupling, absent):
    policy = make_policy(coupling=coupling).train()
    everything = absent.startswith("everything")
    state, task = absent != "state" and not everything, absent != "text" and not everything
    for times in (3, 0):
        batch = make_batch(4, times=times, state=state, task=task)
        if absent == "camera" or everything:
            del batch["observation.images.wrist"]
        if absent == "blank text":
            batch["task"] = ["", "push the red block", " ", ""]
        if times:
            loss, _ = policy.forward(batch)
            loss.backward()
            assert math.isfinite(float(loss.detach()))
        else:
            chunk = policy.eval().predict_action_chunk(batch)
            assert chunk.shape == (4, 4, 4)
            assert bool(torch.isfinite(chunk).all())


def test_a_policy_without_a_state_at_all(make_policy, make_batch, train_steps):
    policy = make_policy(state=False)
    train_steps(policy, make_batch(4, state=False), 2)
    assert policy.eval().predict_action_chunk(make_batch(2, 0, state=False)).shape == (2, 4, 4)


def test_no_text_at_run_time_is_what_dropout_showed_in_training(make_policy, make_batch):
    policy, batch = make_policy().eval(), make_batch(2, 0)
    hidden = torch.zeros(2, dtype=torch.bool)
    dropped = policy.network.encode_context(present(batch, policy.config), policy.embodiment, Shown(hidden))
    absent = policy.context({key: value for key, value in batch.items() if key != "task"})
    assert (len(dropped.prefix), len(absent.prefix)) == (2 + 9, 9)
    compared = list(zip(dropped.prefix.keys, absent.prefix.keys, strict=True))
    assert len(compared) == 2
    for with_hidden, without in compared:
        torch.testing.assert_close(with_hidden[:, :, 2:], without, rtol=0, atol=1e-5)


def test_a_last_batch_of_one_sample_has_a_finite_loss(make_policy, make_batch):
    loss, report = make_policy().train().forward(make_batch(1))
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert all(math.isfinite(value) for value in report.values())


def test_a_held_out_loss_is_whole_whatever_the_step(make_policy, make_batch):
    policy, batch = make_policy(world_share=0.0), make_batch(8)
    with torch.no_grad():
        assert "world_loss" not in policy.train().forward(batch)[1]
        assert "world_loss" in policy.eval().forward(batch)[1]


def test_the_report_is_plain_numbers(make_policy, make_batch):
    _, report = make_policy().train().forward(make_batch(8))
    assert {"loss", "action_loss", "world_loss", "world_skill_2", "world_skill_4"} <= set(report)
    assert all(type(value) is float for value in report.values())


def test_the_same_step_draws_the_same_loss_in_any_order(make_policy, make_batch):
    policy = make_policy(live=True, action_law="flow", world_law="flow", collapse_weight=0.0).train()
    batch, order = make_batch(8), torch.randperm(8)
    shuffled = {k: [v[i] for i in order] if isinstance(v, list) else v[order] for k, v in batch.items()}
    first = policy.forward(batch)[0]
    torch.testing.assert_close(policy.forward(shuffled)[0], first, rtol=1e-5, atol=1e-6)
    policy.update()
    assert float((policy.forward(batch)[0] - first).detach().abs()) > 1e-4


def test_the_target_encoder_follows_and_receives_no_gradient(make_policy, make_batch):
    policy = make_policy(ema_decay=0.9)
    network = policy.network
    policy.forward(make_batch(8))[0].backward()
    assert all(p.grad is None for p in network.target_frames.parameters())
    pairs = list(zip(network.target_frames.parameters(), network.frames.parameters(), strict=True))
    before = [(target.clone(), online.detach().clone()) for target, online in pairs]
    policy.update()
    for (target, online), (old, was) in zip(pairs, before, strict=True):
        torch.testing.assert_close(target, 0.9 * old + 0.1 * was)
        assert torch.equal(online, was)
    assert int(policy.train_step) == 1


def test_the_run_time_encoder_is_the_target_encoder(make_policy, make_batch):
    policy, batch = make_policy().eval(), make_batch(2, 0)
    before = policy.context(batch).latents
    with torch.no_grad():
        for parameter in policy.network.frames.parameters():
            parameter.zero_()
    assert torch.equal(policy.context(batch).latents, before)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_bfloat16_autocast_trains(make_policy, make_batch, coupling):
    policy, batch = make_policy(coupling=coupling, action_law="flow", world_law="flow").train(), make_batch(8)
    exact = float(policy.forward(batch)[0].detach())
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = policy.forward(batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(exact, rel=0.05)


def test_first_actions_weigh_more_than_those_planned_again_before_they_come():
    weights = step_weights(8, 0.85)
    assert float(weights.mean()) == pytest.approx(1.0)
    torch.testing.assert_close(weights[1:] / weights[:-1], torch.full((7,), 0.85))
    assert torch.equal(step_weights(8, 1.0), torch.ones(8))
    target, valid = torch.zeros(2, 4, 3), torch.ones(2, 4, dtype=torch.bool)
    steps = step_weights(4, 0.5)

    def loss(step, valid=valid):
        wrong = torch.zeros_like(target)
        wrong[:, step] = 1.0
        return float(action_loss(wrong, target, valid, torch.ones(2, 4), steps, "regress"))

    assert loss(0) == pytest.approx(8 * loss(3))
    assert sum(loss(step) for step in range(4)) == pytest.approx(1.0)
    tail = torch.tensor([False, False, True, True]).expand(2, 4)  # padding takes no weight with it
    assert loss(2, tail) + loss(3, tail) == pytest.approx(1.0)


def test_world_skill_is_one_when_perfect_and_zero_when_copying():
    last, target = torch.randn(4, 3, 5), torch.randn(4, 2, 3, 5)
    valid = torch.ones(4, 2, 3, dtype=torch.bool)
    copied = last.unsqueeze(1).expand_as(target)
    assert world_skill(target, target, last, valid) == pytest.approx([1.0, 1.0])
    assert world_skill(copied, target, last, valid) == pytest.approx([0.0, 0.0], abs=1e-6)
    assert world_skill(2 * copied - target, target, last, valid)[0] < -1
    assert world_skill(target, target, last, ~valid) == [0.0, 0.0]  # nothing measured is no skill
    valid[:, 1, 0] = False
    broken = target.clone()
    broken[:, 1, 0] = 1e6
    assert world_skill(broken, target, last, valid) == pytest.approx([1.0, 1.0])


def test_one_camera_at_most_is_hidden_and_no_sample_loses_all(make_config, make_batch):
    config = make_config(camera_dropout=0.5, state_dropout=0.25, text_dropout=0.1)
    sample = present(make_batch(2000), config)
    shown = draw_shown(config, CounterNoise(0, 0, sample.index), sample)
    hidden = torch.stack([~seen for seen in shown.cameras.values()])
    assert int(hidden.sum(dim=0).max()) == 1
    assert [float(each) for each in hidden.float().mean(dim=1)] == pytest.approx([0.25, 0.25], abs=0.05)
    assert float((~shown.state).float().mean()) == pytest.approx(0.25, abs=0.05)
    assert float((~shown.text).float().mean()) == pytest.approx(0.1, abs=0.03)
    del sample.frames["wrist"]
    assert draw_shown(config, CounterNoise(0, 0, sample.index), sample).cameras is None


@pytest.mark.parametrize(("size", "told"), [(2, False), (7, False), (8, True), (40, True)])
def test_of_a_few_samples_no_rank_is_told(make_policy, make_batch, size, told):
    """Two samples differ along one direction, however good their latents are: that is no collapse."""
    report = make_policy(coupling="representation").train().forward(make_batch(size))[1]
    assert (LATENT_RANK in report) is told
    assert not told or report[LATENT_RANK] > LEAST_RANK


def test_a_frozen_encoder_is_not_blamed(make_policy, make_batch):
    policy = make_policy(coupling="representation").train()
    policy.network.frames.requires_grad_(False)
    assert LATENT_RANK not in policy.forward(make_batch(8))[1]
