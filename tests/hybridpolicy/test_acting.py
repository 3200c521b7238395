"""Acting: one step of regression, queues, real-time chunking, relative actions, and what is refused."""

import numpy as np
import pytest
import torch
from lerobot.rollout.inference.rtc import _normalize_prev_actions_length, supports_rtc_inference

from hybridpolicy.context import present
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.errors import ConfigurationError, DatasetError, NonFiniteError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.processor_hybrid import make_hybrid_pre_post_processors

FIXED = ("never", "always")  # on_uncertainty is one of the two, decided at run time
ACTING = [(row.name, mode) for row in COUPLINGS.values() for mode in FIXED if mode in row.imagine]
LAWS = ("regress", "flow")


def test_one_step_of_regression_is_masked_prediction(make_policy, make_batch):
    policy = make_policy(coupling="vla").eval()
    batch = make_batch(3, 0)
    context, body = policy.context(batch), policy.embodiment
    masked = body.action_mask.expand(3, 4, -1)
    tokens = policy.network.action_tokens(masked, torch.zeros(3, 4), body)
    _, output, _ = policy.network.streams(None, tokens, context.prefix, None)
    torch.testing.assert_close(policy.predict_action_chunk(batch), body.action_out(output), rtol=0, atol=1e-6)


@pytest.mark.parametrize("given", [0, 1])
def test_what_training_predicts_is_what_acting_gives(make_policy, make_batch, given):
    """With the future absent, training pass and acting pass are one function; also with a clean prefix."""
    plain = {
        "text_dropout": 0.0,
        "state_dropout": 0.0,
        "camera_dropout": 0.0,
        "collapse_weight": 0.0,
        "goal_spread_weight": 0.0,
        "action_step_decay": 1.0,
    }
    policy = make_policy(coupling="vla", rtc_share=float(given), rtc_max_delay=1, **plain)
    batch = make_batch(4, 1)
    policy.network.target_frames.load_state_dict(policy.network.frames.state_dict())
    loss = policy.train().forward(batch)[0].detach()
    prefix = {"inference_delay": given, "prev_chunk_left_over": batch["action"][:, :given]}
    chunk = policy.eval().predict_action_chunk(batch, **prefix)
    error = (chunk - batch["action"]).abs()
    torch.testing.assert_close(error[:, given:].mean(), loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("coupling", "imagine"), ACTING)
@pytest.mark.parametrize("law", LAWS)
def test_chunks_repeat_after_a_reset(make_policy, make_batch, coupling, imagine, law):
    policy = make_policy(coupling=coupling, imagine=imagine, action_law=law, world_law=law).eval()
    batch = make_batch(3, 0)
    first, second = policy.predict_action_chunk(batch), policy.predict_action_chunk(batch)
    policy.reset()
    assert torch.equal(policy.predict_action_chunk(batch), first)
    assert torch.equal(first, second) == (law == "regress")
    assert first.shape == (3, 4, 4)
    assert first.dtype == torch.float32


@pytest.mark.parametrize("coupling", ["joint", "cascaded"])
def test_imagination_changes_the_action(make_policy, make_batch, coupling):
    policy, batch = make_policy(coupling=coupling).eval(), make_batch(3, 0)
    without = policy.predict_action_chunk(batch)
    policy.config.imagine = "always"
    assert float((policy.predict_action_chunk(batch) - without).abs().max()) > 1e-4


def test_actions_are_queued_and_replanned(make_policy, make_batch):
    policy = make_policy(n_action_steps=3).eval()
    first, second = make_batch(2, 0), make_batch(2, 0)
    chunks = [policy.predict_action_chunk(batch) for batch in (first, second)]
    actions = [policy.select_action(batch) for batch in (first, second, second, second)]
    for given, expected in zip(
        actions, [chunks[0][:, 0], chunks[0][:, 1], chunks[0][:, 2], chunks[1][:, 0]], strict=True
    ):
        assert torch.equal(given, expected)
    policy.reset()
    assert torch.equal(policy.select_action(second), chunks[1][:, 0])


def test_time_axis_or_none_is_the_same_observation(make_policy, make_batch):
    policy, batch = make_policy().eval(), make_batch(2, 0)
    with_axis = {k: v[:, None] if k.startswith("observation.") else v for k, v in batch.items()}
    assert torch.equal(policy.predict_action_chunk(batch), policy.predict_action_chunk(with_axis))


# -- real-time chunking
def test_lerobot_accepts_the_policy_for_real_time_chunking(make_policy):
    assert supports_rtc_inference(make_policy())
    assert not supports_rtc_inference(make_policy(rtc_share=0.0))
    assert not supports_rtc_inference(make_policy(rtc_max_delay=0))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("convention", ["absolute", "relative"])
@pytest.mark.parametrize(("delay", "left", "kept"), [(1, 4, 1), (2, 2, 2), (2, 1, 1), (9, 4, 2), (2, 9, 2)])
@pytest.mark.parametrize("batched", [False, True])
def test_a_committed_prefix_stays_as_given(
    make_policy, make_batch, law, convention, delay, left, kept, batched
):
    policy = make_policy(action_law=law, action_convention=convention, rtc_max_delay=2).eval()
    size = 3 if batched else 1
    batch, left_over = make_batch(size, 0), torch.randn(size, left, 4)
    free = policy.predict_action_chunk(batch)
    policy.reset()
    given = left_over if batched else left_over[0]
    chunk = policy.predict_action_chunk(batch, inference_delay=delay, prev_chunk_left_over=given)
    tolerance = 0.0 if convention == "absolute" else 1e-5
    torch.testing.assert_close(chunk[:, :kept], left_over[:, :kept], rtol=0, atol=tolerance)
    assert float((chunk[:, kept:] - free[:, kept:]).abs().amax(dim=2).min()) > 1e-6, (
        "the rest takes it into account"
    )
    assert chunk.shape == (size, 4, 4)


@pytest.mark.parametrize(
    "given", [{}, {"inference_delay": 0}, {"inference_delay": 3, "prev_chunk_left_over": None}]
)
def test_nothing_committed_is_an_ordinary_chunk(make_policy, make_batch, given):
    policy, batch = make_policy().eval(), make_batch(1, 0)
    left_over = {"prev_chunk_left_over": torch.randn(4, 4)} | given
    expected = policy.predict_action_chunk(batch)
    assert torch.equal(
        policy.predict_action_chunk(batch, **(left_over if "inference_delay" in given else given)), expected
    )


@pytest.mark.parametrize("left", [0, 1])
def test_the_zeros_lerobot_pads_with_are_no_actions(make_policy, make_batch, left):
    """Its engine pads what is left to a fixed length; normalised zeros are the mean posture."""
    policy, batch = make_policy(action_law="flow").eval(), make_batch(1, 0)
    left_over = torch.randn(left, 4)
    padded = _normalize_prev_actions_length(left_over, target_steps=10)
    assert padded.shape == (10, 4)
    expected = policy.predict_action_chunk(batch, inference_delay=2, prev_chunk_left_over=left_over)
    policy.reset()
    chunk = policy.predict_action_chunk(batch, inference_delay=2, prev_chunk_left_over=padded)
    assert torch.equal(chunk, expected)


# -- relative actions
def test_relative_and_back_is_the_identity(make_policy, stats):
    body = make_policy(action_convention="relative").embodiment
    action, state = torch.randn(5, 4, 4) * 2, torch.randn(5, 4) * 2
    torch.testing.assert_close(
        body.to_pipeline(body.to_network(action, state), state), action, rtol=0, atol=1e-5
    )
    mean, std = (torch.tensor(stats["action"][name], dtype=torch.float32) for name in ("mean", "std"))
    physical_change = (action * std + mean) - (state * std + mean)[:, None]
    torch.testing.assert_close(
        body.to_network(action, state) * body.relative_std, physical_change, rtol=1e-4, atol=1e-4
    )


def test_a_relative_chunk_is_anchored_where_it_was_planned(make_policy, make_batch):
    """Queued actions do not move with the arm: LeRobot's own relative step re-anchors them at every tick."""
    policy = make_policy(action_convention="relative", n_action_steps=2).eval()
    batch = make_batch(1, 0)
    chunk = policy.predict_action_chunk(batch)
    moved = batch | {"observation.state": batch["observation.state"] + 1.0}
    assert torch.equal(policy.select_action(batch), chunk[:, 0])
    assert torch.equal(policy.select_action(moved), chunk[:, 1])


def test_a_relative_policy_trains_on_differences(make_policy, make_batch):
    policy = make_policy(
        action_convention="relative",
        coupling="vla",
        rtc_share=0.0,
        collapse_weight=0.0,
        goal_spread_weight=0.0,
    ).train()
    with torch.no_grad():
        policy.embodiment.action_out.weight.zero_()
        policy.embodiment.action_out.bias.zero_()
    batch = make_batch(8, 1)
    still = batch | {"action": batch["observation.state"].expand(-1, 4, -1)}
    assert float(policy.forward(still)[0].detach()) == pytest.approx(0.0, abs=1e-5)
    assert float(policy.forward(batch)[0].detach()) > 1.0


def test_relative_needs_a_state(make_policy, make_batch):
    policy = make_policy(action_convention="relative").eval()
    with pytest.raises(DatasetError, match=r"relative and the batch has no observation\.state"):
        policy.predict_action_chunk(make_batch(1, 0, state=False))
    with pytest.raises(DatasetError, match=r"relative and the batch has no observation\.state"):
        policy.train().forward(make_batch(2, 1, state=False))


# -- refusals
def test_acting_without_statistics_is_refused(make_policy, make_batch):
    policy = make_policy(with_stats=False)
    for act in (lambda: policy.predict_action_chunk(make_batch(1, 0)), lambda: policy.forward(make_batch())):
        with pytest.raises(ConfigurationError, match="no dataset statistics"):
            act()


@pytest.mark.parametrize("key", ["observation.state", "action"])
def test_values_that_were_never_normalised_are_refused(make_policy, make_batch, key):
    batch = make_batch()
    batch[key] = batch[key] * 0 + 85.0
    with pytest.raises(DatasetError, match=f"{key} reaches 85 after normalisation; allowed up to 20"):
        make_policy().forward(batch)


def test_a_state_that_was_never_normalised_is_refused_when_acting(make_policy, make_batch):
    batch = make_batch(1, 0)
    batch["observation.state"] += 90.0
    with pytest.raises(DatasetError, match=r"observation\.state reaches"):
        make_policy().eval().select_action(batch)


@pytest.mark.parametrize("key", ["observation.state", "observation.images.wrist"])
def test_a_chunk_that_is_not_finite_never_leaves(make_policy, make_batch, key):
    policy, batch = make_policy().eval(), make_batch(2, 0)
    policy.select_action(batch)
    policy.reset()
    batch[key][1, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="the chunk holds NaN or infinity"):
        policy.select_action(batch)


def test_acting_leaves_no_gradient_behind(make_policy, make_batch):
    chunk = make_policy().eval().predict_action_chunk(make_batch(1, 0))
    assert not chunk.requires_grad
    with torch.inference_mode():  # LeRobot's synchronous engine acts inside it
        assert make_policy(action_law="flow").eval().select_action(make_batch(1, 0)).shape == (1, 4)


def test_presenting_checks_nothing_it_cannot_know(make_policy, make_batch):
    policy = make_policy()
    sample = present(make_batch(3, 0), policy.config)
    assert (sample.times, sample.size, sample.action) == (1, 3, None)
    assert bool(sample.state_valid.all())


def test_an_actor_forgets_planned_actions_between_episodes(make_policy):
    actor = Actor(make_policy(coupling="vla"), None, None)
    actor._planned = [np.zeros((1, 3))]
    assert actor.queued == 1
    actor.reset()
    assert actor.queued == 0


def test_an_actor_trained_on_another_device_acts_on_this_one(make_policy, stats, tmp_path):
    policy = make_policy(coupling="vla")
    policy.save_pretrained(tmp_path)
    for pipeline in make_hybrid_pre_post_processors(policy.config, dataset_stats=stats):
        pipeline.save_pretrained(tmp_path)
    steps = tmp_path / "policy_preprocessor.json"
    assert steps.read_text().count('"device": "cpu"') == 1
    steps.write_text(steps.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    if torch.cuda.is_available():
        pytest.skip("this machine has the other device")
    actor = Actor.load(tmp_path)
    pixels = {name: np.zeros((1, 32, 32, 3), np.uint8) for name in policy.config.cameras}
    assert actor.chunk(pixels, np.array([[10.0, -50.0, 80.0, 40.0]]), ["push"]).shape == (1, 4, 4)


@pytest.mark.parametrize("imagine", ["never", "on_uncertainty"])
def test_a_look_that_fails_leaves_no_trace(make_policy, make_batch, imagine):
    fields = {
        "coupling": "joint",
        "optional_context": ["past"],
        "past_offsets": [-2],
        "imagine": imagine,
        "imagine_threshold": 1e-3,
    }
    policy = make_policy(**fields).eval()
    first, second = make_batch(2, 0), make_batch(2, 0)
    bad = {key: value.clone() if torch.is_tensor(value) else value for key, value in second.items()}
    bad["observation.state"][1, 0] = float("nan")
    policy.predict_action_chunk(first)
    expected = policy.predict_action_chunk(second)
    doubt = policy.last_doubt
    policy.reset()
    policy.predict_action_chunk(first)
    with pytest.raises(NonFiniteError):
        policy.predict_action_chunk(bad)
    assert torch.equal(policy.predict_action_chunk(second), expected)
    if doubt is not None:
        assert torch.equal(policy.last_doubt, doubt)
        assert bool(policy.last_imagined.all())
