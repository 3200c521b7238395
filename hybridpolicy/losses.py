"""Losses and held-out figures, each a mean over valid scalars.

Legend as in `network`: B batch, H offsets, V views, P tokens a view, F latent size, T chunk, A action size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridpolicy.context import Sample
from hybridpolicy.frames import unit_range
from hybridpolicy.future import Future
from hybridpolicy.network import Context


def masked_mean(value: Tensor, valid: Tensor) -> Tensor:
    """Mean of `value` where `valid` (broadcast to it); zero, with gradient, if nothing is valid."""
    weight = valid.expand_as(value).to(value.dtype)
    return (value * weight).sum() / weight.sum().clamp_min(1.0)


def action_loss(
    predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor, steps: Tensor, law: str
) -> Tensor:
    """Scalar: L1 for regression, velocity-weighted squared error for flow.

    Args:
        predicted, target: (B, T, A). valid: (B, T) bool. weight: (B, T), from `flow.flow_weight`.
        steps: (T,) from `step_weights`; only the ratio of those that are valid counts.
    """
    error = predicted.float() - target
    error = error.abs() if law == "regress" else error.square()
    share = masked_mean(steps.expand(valid.shape), valid).clamp_min(1e-6)
    return masked_mean(error * (weight * steps).unsqueeze(-1), valid.unsqueeze(-1)) / share


def step_weights(chunk_size: int, decay: float) -> Tensor:
    """(T,) weights decay^t with mean 1: first actions are executed, last ones planned again before."""
    weights = decay ** torch.arange(chunk_size, dtype=torch.float32)
    return weights / weights.mean()


def world_loss(predicted: Future, target: Future, now: Future, valid: Tensor, weight: Tensor) -> Tensor:
    """Scalar: squared error of latents and state, as shares of how much they changed since now.

    1 is copying. Divided so, the loss keeps its size whatever share of the latents stands still: as a plain
    mean it shrank to a hundredth of the action loss, and nothing was learned from it.

    Args:
        now: what copying would predict, (B, 1, V·P, F) and (B, 1, S).
        valid: (B, H, V·P) bool, frames that are real and samples that carry the loss. weight: (B,).
    """
    scale = weight[:, None, None, None]
    loss = _share_of_change(predicted.latents, target.latents, now.latents, valid.unsqueeze(-1), scale)
    if predicted.state is not None and target.state is not None and now.state is not None:
        seen = valid.any(dim=-1, keepdim=True)
        scale = weight[:, None, None]
        loss = loss + 0.5 * _share_of_change(predicted.state, target.state, now.state, seen, scale)
    return loss


def vector_losses(
    predicted: Future, target: Future, now: Future, valid: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """The same of each named column, {name: scalar}. valid: (B, H) bool, real samples that carry the loss."""
    scale, seen = weight[:, None, None], valid.unsqueeze(-1)
    return {
        name: _share_of_change(value, target.vectors[name], now.vectors[name], seen, scale)
        for name, value in predicted.vectors.items()
    }


def _share_of_change(predicted: Tensor, target: Tensor, now: Tensor, valid: Tensor, scale: Tensor) -> Tensor:
    change = masked_mean((target - now).square(), valid).clamp_min(1e-3)
    return masked_mean((predicted - target).square() * scale, valid) / change


def world_skill(predicted: Tensor, target: Tensor, last: Tensor, valid: Tensor) -> list[float]:
    """Change-weighted skill per offset: 1 − Σ c·|ẑ − z|² / Σ c·|z_last − z|², c = |z − z_last|² of each
    token.

    1 is perfect, 0 no better than copying the last latent (or nothing changed), negative worse.

    Args:
        predicted, target: (B, H, N, F). last: (B, N, F). valid: (B, H, N) bool.
    """
    change = (target - last.unsqueeze(1)).square().sum(dim=-1)
    error = (predicted - target).square().sum(dim=-1)
    weight = change * valid
    copied = (weight * change).sum(dim=(0, 2))
    skill = 1.0 - (weight * error).sum(dim=(0, 2)) / copied
    return torch.where(copied > 0, skill, 0.0).tolist()


def frame_validity(frame_valid: dict[str, Tensor], context: Context, tokens: int) -> Tensor:
    """{camera: (B, 1 + H)} → (B, H, V·P) bool, in W's token order."""
    per_view = [frame_valid[name][:, 1:].unsqueeze(-1).expand(-1, -1, tokens) for name in context.cameras]
    return torch.cat(per_view, dim=-1)


def token_validity(sample: Sample, context: Context, tokens: int) -> Tensor:
    """(B, H·tokens_per_offset) bool in W's order: real frames, and states and vectors beside them."""
    valid = frame_validity(sample.frame_valid, context, tokens)
    if sample.state_valid is not None:
        valid = torch.cat((valid, sample.state_valid[:, 1:, None]), dim=2)
    for name in context.vectors:
        valid = torch.cat((valid, sample.vector_valid[name][:, 1:, None]), dim=2)
    return valid.flatten(1)


def objects_loss(predicted: Tensor, positions: Tensor, present: Tensor) -> Tensor:
    """Scalar L1 in units of 0.1 m on privileged object positions.

    Args:
        predicted: (B, 2K). positions: (B, K, 2) m. present: (B, K) bool.
    """
    error = (predicted.view_as(positions).float() - positions * 10.0).abs()
    return masked_mean(error, present.unsqueeze(-1))


def goal_spread_loss(goals: Tensor, bags: Tensor) -> Tensor:
    """Scalar: squared excess of the cosine of two goals over that of their words, summed over others, a mean.

    Args:
        goals: (B, G·D), zero where the text is hidden. bags: (B, vocabulary) of unit length.
    """
    goals = F.normalize(goals.float(), dim=1)
    excess = F.relu(goals @ goals.T - bags @ bags.T - 1e-5)
    return excess.square().sum() / len(goals)


def change_loss(said: Tensor, now: Tensor, ahead: Tensor, valid: Tensor) -> Tensor:
    """Scalar: squared error of the change that was foretold, as a share of the change there was.

    Args:
        said: (B, 3n, h, w), in tenths of the brightness range. now: (B, 3, H, W). ahead: (B, n, 3, H, W).
        valid: (B,) bool.
    """
    grid = said.shape[-2:]
    before = F.adaptive_avg_pool2d(unit_range(now), grid).unsqueeze(1)
    after = F.adaptive_avg_pool2d(unit_range(ahead).flatten(0, 1), grid).unflatten(0, ahead.shape[:2])
    change = 10.0 * (after - before).flatten(1, 2)
    shown = valid[:, None, None, None]
    scale = masked_mean(change.square(), shown).clamp_min(1e-4)
    return masked_mean((said.float() - change).square(), shown) / scale


def outcome_loss(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Scalar: cross-entropy of each head where its label is known.

    Args:
        logits, labels: (B, 3), labels in [0, 1]. valid: (B, 3) bool; the progress of a failure is censored.
    """
    error = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return masked_mean(error, valid)
