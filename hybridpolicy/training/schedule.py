"""Learning rate and weight decay of every parameter group, set before each step."""

import math
from collections.abc import Iterable
from typing import Any

from torch import nn

from hybridpolicy.training.config import StageConfig

TRUNK_GROUPS = ("trunk", "language")  # the language model feeds the trunk, and learns with it


def lr_factor(progress: float, warmup_fraction: float) -> float:
    """Factor in [0, 1] at `progress` in [0, 1] of a stage: linear rise, then a cosine to 0."""
    if progress < warmup_fraction:
        return progress / warmup_fraction
    if warmup_fraction >= 1:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup_fraction) / (1 - warmup_fraction)))


def parameter_groups(policy_groups: Iterable[Any]) -> list[dict[str, Any]]:
    """A policy's `get_optim_params()` as groups with `lr_scale` and `own_weight_decay` (or None)."""
    given = list(policy_groups)
    if given and not isinstance(given[0], dict):
        given = [{"params": given}]
    groups = []
    for group in given:
        parameters = [parameter for parameter in group["params"] if isinstance(parameter, nn.Parameter)]
        groups.append(
            {
                "params": parameters,
                "name": group.get("name", ""),
                "lr_scale": float(group.get("lr_scale", 1.0)),
                "own_weight_decay": group.get("weight_decay"),
            }
        )
    return groups


def schedule(groups: list[dict[str, Any]], stage: StageConfig, progress: float) -> float:
    """Sets `lr` and `weight_decay` of the optimizer's groups in place; the stage's own learning rate now."""
    lr = stage.lr * lr_factor(min(progress, 1.0), stage.warmup_fraction)
    for group in groups:
        trunk = stage.trunk_lr_scale if group["name"] in TRUNK_GROUPS else 1.0
        group["lr"] = lr * group["lr_scale"] * trunk
        own = group["own_weight_decay"]
        group["weight_decay"] = stage.weight_decay if own is None else own
    return lr
