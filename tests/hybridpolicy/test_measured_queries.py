"""Held-out figures: one for each query the row answers, and each is the error of that query."""

import pytest
import torch

from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.outcome import HEADS

IMAGINE = {f"imagine_{name}skill_{offset}" for name in ("", "state_") for offset in (2, 4)}
FORWARD = {name.replace("imagine", "forward") + given for name in IMAGINE for given in ("", "_shuffled")}
INVERSE = {"inverse_error", "inverse_error_shuffled"}
EXPECTED = {
    "vla": {"act_error_never"},
    "representation": {"act_error_never"} | IMAGINE,
    "joint": {"act_error_never", "act_error_always"} | IMAGINE | FORWARD | INVERSE,
    "cascaded": {"act_error_never", "act_error_always"} | IMAGINE | INVERSE,
    "features": {"act_error_always"} | IMAGINE,
    "latent_plan": {"act_error_never"},
    "autoregressive": {"act_error_always"} | IMAGINE | FORWARD | INVERSE,
}


@pytest.mark.parametrize("coupling", sorted(COUPLINGS))
def test_every_query_is_measured_and_no_other(make_policy, make_batch, coupling):
    policy = make_policy(coupling=coupling, imagine=None).eval()
    batch = make_batch(8)
    figures = policy.measure(batch)
    assert set(figures) == EXPECTED[coupling]
    assert all(value > 0 for name, value in figures.items() if "error" in name)
    assert policy.measure(batch) == figures  # nothing was counted on


def test_actions_that_are_what_is_inferred_have_no_error(make_policy, make_batch):
    policy = make_policy(coupling="vla", action_law="regress").eval()
    batch = make_batch(8)
    chunk = policy.predict_action_chunk({k: v for k, v in batch.items() if k != "action"} | {
        key: value[:, 0] for key, value in batch.items() if key.startswith("observation.") and value.ndim > 2
    })  # fmt: skip
    assert policy.measure(batch)["act_error_never"] > 0.1
    assert policy.measure(batch | {"action": chunk})["act_error_never"] == pytest.approx(0.0, abs=1e-5)


def test_the_success_head_is_scored_where_the_label_is_known(make_policy, make_batch):
    policy = make_policy(coupling="vla", outcome_weight=1.0).eval()
    torch.nn.init.zeros_(policy.network.outcome.out.weight)
    torch.nn.init.zeros_(policy.network.outcome.out.bias)
    batch = make_batch(4) | {
        "outcome.labels": torch.tensor([[0.0, 1.0, 0.0]] * 4), "outcome.known": torch.ones(4, 3)
    }  # fmt: skip
    found = policy.measure(batch)
    assert [found[f"{head}_brier"] for head in HEADS] == pytest.approx([0.25] * 3)
    unknown = batch | {"outcome.known": torch.zeros(4, 3)}
    assert not [name for name in policy.measure(unknown) if name.endswith("_brier")]


def test_heads_that_nothing_was_shown_yet_are_not_measured(make_policy, make_batch):
    policy = make_policy(coupling="vla", outcome_weight=1.0).eval()
    policy.network.outcome.labels.zero_()
    known = {"outcome.labels": torch.ones(4, 3), "outcome.known": torch.ones(4, 3)}
    assert set(policy.measure(make_batch(4) | known)) == EXPECTED["vla"]


def test_video_without_actions_measures_imagination_alone(make_policy, make_batch):
    policy = make_policy(coupling="joint").eval()
    batch = {key: value for key, value in make_batch(8).items() if not key.startswith("action")}
    assert set(policy.measure(batch)) == IMAGINE


def test_heads_are_measured_as_a_planner_asks_them(make_policy, make_batch):
    """From the moment, with the imagined future, and with the chunk: each against a constant answer."""
    policy = make_policy(coupling="joint", outcome_weight=1.0).eval()
    labels = torch.tensor([[0.5, 1.0, 0.0]] * 2 + [[0.5, 0.0, 0.0]] * 2)
    batch = make_batch(4) | {"outcome.labels": labels, "outcome.known": torch.ones(4, 3)}
    found = policy.measure(batch)
    forms = ("", "_imagined", "_chunk", "_constant")
    assert {f"{head}_brier{form}" for head in HEADS for form in forms} <= set(found)
    assert found["success_brier_constant"] == pytest.approx(0.25)
    assert found["risk_brier_constant"] == 0.0
    assert len({found[f"success_brier{form}"] for form in forms}) == 4


@pytest.mark.parametrize(
    ("says", "bias", "brier"),
    [
        ([0.5, 0.5, 0.5, 0.5], 0.0, 0.25),  # right on the whole, and tells nothing apart
        ([0.9, 0.9, 0.9, 0.9], 0.4, 0.41),  # too hopeful, and tells nothing apart
        ([0.9, 0.9, 0.1, 0.1], 0.0, 0.01),  # right on the whole, and tells both apart
        ([0.9, 0.9, 0.5, 0.5], 0.2, 0.13),  # tells both apart, and is too hopeful
        ([0.1, 0.1, 0.9, 0.9], 0.0, 0.81),  # right on the whole, and wrong of each
    ],
)
def test_bias_is_apart_from_telling_samples_apart(make_policy, make_batch, monkeypatch, says, bias, brier):
    """Of a head that says so of two successes and two failures, and of one more whose label is unknown."""
    policy = make_policy(coupling="joint", outcome_weight=1.0).eval()
    logits = torch.logit(torch.tensor([*says, 0.01]))[:, None].repeat(1, len(HEADS))
    monkeypatch.setattr(policy.network.outcome, "logits", lambda streams, prefix: logits)
    labels = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])[:, None].repeat(1, len(HEADS))
    known = torch.tensor([1.0] * 4 + [0.0])[:, None].repeat(1, len(HEADS))
    found = policy.measure(make_batch(5) | {"outcome.labels": labels, "outcome.known": known})
    for head in HEADS:
        for form in ("", "_imagined", "_chunk"):
            assert found[f"{head}_bias{form}"] == pytest.approx(bias, abs=1e-6)
            assert found[f"{head}_brier{form}"] == pytest.approx(brier, abs=1e-6)


def test_what_does_not_change_has_no_skill_to_speak_of(make_policy, make_batch):
    """As latents that stand still: neither perfect nor infinitely bad."""
    policy, batch = make_policy(coupling="joint").eval(), make_batch(8)
    batch["observation.state"] = batch["observation.state"][:, :1].repeat(1, 3, 1)
    found = policy.measure(batch)
    assert [found[f"imagine_state_skill_{offset}"] for offset in (2, 4)] == [0.0, 0.0]


def test_a_query_that_does_not_listen_is_no_worse_with_what_belongs_to_another(make_policy, make_batch):
    policy = make_policy(coupling="joint").eval()
    found = policy.measure(make_batch(8))
    assert found["inverse_error_shuffled"] != found["inverse_error"]
    deaf = policy.queries
    with pytest.MonkeyPatch.context() as patch:
        deaf_to = type(deaf).infer_actions
        patch.setattr(
            type(deaf),
            "infer_actions",
            lambda q, context, noise, future: deaf_to(q, context, noise, q.network.start_future(context)),
        )
        found = policy.measure(make_batch(8))
    assert found["inverse_error_shuffled"] == found["inverse_error"]
