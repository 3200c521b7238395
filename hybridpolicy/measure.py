"""Every query of a policy against what really happened, on a batch that was never trained on.

Legend as in `network`; errors are mean absolute differences in the network's normalised units, skills as
`losses.world_skill`: 1 is perfect, 0 no better than copying the last latent.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hybridpolicy.context import Sample, present
from hybridpolicy.couplings import COUPLINGS
from hybridpolicy.flow import CounterNoise
from hybridpolicy.future import Future
from hybridpolicy.losses import frame_validity, masked_mean, world_skill
from hybridpolicy.network import Context
from hybridpolicy.outcome import HEADS

if TYPE_CHECKING:
    from hybridpolicy.modeling_hybrid import HybridPolicy


@torch.no_grad()
def measure_queries(policy: "HybridPolicy", batch: dict[str, Any]) -> dict[str, float]:
    """What each query the policy answers gets wrong on `batch`, after the preprocessor, futures included.

    Keys, where the row and the batch allow: `act_error_<imagine>`, `imagine_skill_<offset>`,
    `forward_skill_<offset>` (given the true actions), `inverse_error` (given the true future),
    `success_brier` (squared error of the success head; always answering one half gets 0.25).
    """
    sample = present(batch, policy.config)
    context = policy.network.encode_context(sample, policy.embodiment)
    figures = _acting(policy, sample, context)
    if sample.times > 1 and COUPLINGS[policy.config.coupling].generative:
        figures |= _imagining(policy, sample, context)
    if policy.config.outcome_weight > 0 and sample.outcome is not None:
        labels, known = sample.outcome
        for head, found in vars(policy.queries.evaluate(context)).items():
            which = HEADS.index(head)
            if bool(known[:, which].any()):
                error = (found - labels[:, which]).square()
                figures[f"{head}_brier"] = float(masked_mean(error, known[:, which]))
    return figures


def _acting(policy: "HybridPolicy", sample: Sample, context: Context) -> dict[str, float]:
    if sample.action is None or not sample.imitate:
        return {}
    wanted = policy.embodiment.to_network(sample.action, context.state)
    modes = (mode for mode in COUPLINGS[policy.config.coupling].imagine if mode != "on_uncertainty")
    return {
        f"act_error_{mode}": _error(policy.queries.act(context, _noise(policy, sample), mode), wanted, sample)
        for mode in modes
    }


def _imagining(policy: "HybridPolicy", sample: Sample, context: Context) -> dict[str, float]:
    row, config, queries = COUPLINGS[policy.config.coupling], policy.config, policy.queries
    target, noise = policy.network.encode_future(sample), _noise(policy, sample)
    valid = frame_validity(sample.frame_valid, context, config.tokens_per_view)

    def skills(name: str, imagined: Future) -> dict[str, float]:
        found = world_skill(imagined.latents, target.latents, context.latents, valid)
        return {f"{name}_skill_{k}": skill for k, skill in zip(config.world_offsets, found, strict=True)}

    figures = skills("imagine", queries.imagine(context, noise))
    if sample.action is None:
        return figures
    wanted = policy.embodiment.to_network(sample.action, context.state)
    if "imagine_actions" in row.queries:
        figures |= skills("forward", queries.imagine(context, noise, wanted))
    if "infer_actions" in row.queries:
        figures["inverse_error"] = _error(queries.infer_actions(context, noise, target), wanted, sample)
    return figures


def _noise(policy: "HybridPolicy", sample: Sample) -> CounterNoise:
    """The same for every query and every time it is asked, and not drawn from the policy's own counter."""
    return CounterNoise(policy.config.seed, 0, sample.index)


def _error(chunk: Tensor, wanted: Tensor, sample: Sample) -> float:
    assert sample.action_valid is not None
    return float(masked_mean((chunk - wanted).abs(), sample.action_valid.unsqueeze(-1)))
