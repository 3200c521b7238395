"""Held-out figures: one for each query the row answers, and each is the error of that query."""

import pytest
import torch

from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.outcome import HEADS

EXPECTED = {
    "vla": {"act_error_never"},
    "representation": {"act_error_never", "imagine_skill_2", "imagine_skill_4"},
    "joint": {
        "act_error_never", "act_error_always", "imagine_skill_2", "imagine_skill_4", "forward_skill_2",
        "forward_skill_4", "inverse_error",
    },
    "cascaded": {
        "act_error_never", "act_error_always", "imagine_skill_2", "imagine_skill_4", "inverse_error",
    },
    "features": {"act_error_always", "imagine_skill_2", "imagine_skill_4"},
    "latent_plan": {"act_error_never"},
    "autoregressive": {
        "act_error_always", "imagine_skill_2", "imagine_skill_4", "forward_skill_2", "forward_skill_4",
        "inverse_error",
    },
}  # fmt: skip


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


def test_video_without_actions_measures_imagination_alone(make_policy, make_batch):
    policy = make_policy(coupling="joint").eval()
    batch = {key: value for key, value in make_batch(8).items() if not key.startswith("action")}
    assert set(policy.measure(batch)) == {"imagine_skill_2", "imagine_skill_4"}
