"""Every query of a policy against what really happened, on a batch that was never trained on.

Legend as in `network`; errors are mean absolute differences in the network's normalised units. Skills of
latents are `losses.world_skill`, of numbers 1 − squared error over squared change: 1 is perfect, 0 as good as
copying.
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

    Keys, where the row and the batch allow:
        `act_error_<imagine>`;
        `imagine_skill_<offset>`, `forward_skill_<offset>` (given the true actions), and with `_state` or the
        name of a column before `_skill` the same of those; `inverse_error` (given the true future);
        the last two with `_shuffled` given what belongs to another sample: no worse means that the query
        does not listen;
        `<head>_brier` (squared error of an outcome head from the moment alone), `_imagined` (with the
        imagined future), `_chunk` (with the chunk and what it is imagined to lead to), `_constant` (of
        always answering the batch's mean); `<head>_bias`, `_imagined`, `_chunk` (mean answer less mean label:
        off on the whole, however well or badly it tells samples apart).
    """
    sample = present(batch, policy.config)
    context = policy.network.encode_context(sample, policy.embodiment)
    figures = _acting(policy, sample, context)
    if sample.times > 1 and COUPLINGS[policy.config.coupling].generative:
        figures |= _imagining(policy, sample, context)
    heads = policy.config.outcome_weight > 0 and policy.network.outcome.trained
    if heads and sample.outcome is not None:
        figures |= _judging(policy, sample, context)
    return figures


def _acting(policy: "HybridPolicy", sample: Sample, context: Context) -> dict[str, float]:
    if not sample.acted or not sample.imitate:
        return {}
    wanted = policy.embodiment.to_network(sample.action, context.state)
    modes = (mode for mode in COUPLINGS[policy.config.coupling].imagine if mode != "on_uncertainty")
    return {
        f"act_error_{mode}": _error(policy.queries.act(context, _noise(policy, sample), mode), wanted, sample)
        for mode in modes
    }


def _imagining(policy: "HybridPolicy", sample: Sample, context: Context) -> dict[str, float]:
    row, queries = COUPLINGS[policy.config.coupling], policy.queries
    target, noise = policy.network.encode_future(sample), _noise(policy, sample)
    figures = _skills("imagine", queries.imagine(context, noise), target, sample, context, policy)
    if not sample.acted:
        return figures
    wanted = policy.embodiment.to_network(sample.action, context.state)
    if "imagine_actions" in row.queries:
        for name, actions in (("", wanted), ("_shuffled", wanted.roll(1, dims=0))):
            imagined = queries.imagine(context, noise, actions)
            found = _skills("forward", imagined, target, sample, context, policy)
            figures |= {f"{key}{name}": value for key, value in found.items()}
    if "infer_actions" in row.queries:
        for name, future in (("", target), ("_shuffled", target.each(lambda x: x.roll(1, dims=0)))):
            inferred = queries.infer_actions(context, noise, future)
            figures[f"inverse_error{name}"] = _error(inferred, wanted, sample)
    return figures


def _skills(
    query: str, imagined: Future, target: Future, sample: Sample, context: Context, policy: "HybridPolicy"
) -> dict[str, float]:
    """Per offset, of latents, state and named columns."""
    config = policy.config
    seen = frame_validity(sample.frame_valid, context, config.tokens_per_view)
    skills = {f"{query}_skill": world_skill(imagined.latents, target.latents, context.latents, seen)}
    numbers = {name: (imagined.vectors[name], target.vectors[name], x, sample.vector_valid[name])
               for name, x in context.vectors.items()}  # fmt: skip
    if imagined.state is not None and target.state is not None:
        numbers["state"] = imagined.state, target.state, context.state, sample.state_valid
    for name, (found, truth, now, valid) in numbers.items():
        real = valid[:, 1:] & valid[:, :1]
        error, change = (x.square().sum(dim=-1) * real for x in (found - truth, truth - now[:, None]))
        error, change = error.sum(dim=0), change.sum(dim=0)
        skill = torch.where(change > 0, 1.0 - error / change.clamp_min(1e-9), 0.0)  # as `world_skill` has it
        skills[f"{query}_{name}_skill"] = skill.tolist()
    return {
        f"{name}_{k}": each
        for name, values in skills.items()
        for k, each in zip(config.world_offsets, values, strict=True)
    }


def _judging(policy: "HybridPolicy", sample: Sample, context: Context) -> dict[str, float]:
    assert sample.outcome is not None
    row, queries, noise = COUPLINGS[policy.config.coupling], policy.queries, _noise(policy, sample)
    labels, known = sample.outcome
    forms = {"": queries.evaluate(context)}
    if row.generative:
        future = queries.imagine(context, noise)
        forms["_imagined"] = queries.evaluate(context, future)
        if sample.acted:
            chunk = policy.embodiment.to_network(sample.action, context.state)
            if "imagine_actions" in row.queries:
                future = queries.imagine(context, noise, chunk)
            forms["_chunk"] = queries.evaluate(context, future, chunk)
    figures = {}
    for which, head in enumerate(HEADS):
        real, truth = known[:, which], labels[:, which]
        if not bool(real.any()):
            continue
        figures[f"{head}_brier_constant"] = float(masked_mean((truth - truth[real].mean()).square(), real))
        for form, outcome in forms.items():
            excess = getattr(outcome, head) - truth
            figures[f"{head}_brier{form}"] = float(masked_mean(excess.square(), real))
            figures[f"{head}_bias{form}"] = float(masked_mean(excess, real))
    return figures


def _noise(policy: "HybridPolicy", sample: Sample) -> CounterNoise:
    """The same for every query and every time it is asked, and not drawn from the policy's own counter."""
    return CounterNoise(policy.config.seed, 0, sample.index)


def _error(chunk: Tensor, wanted: Tensor, sample: Sample) -> float:
    assert sample.action_valid is not None
    return float(masked_mean((chunk - wanted).abs(), sample.action_valid.unsqueeze(-1)))
