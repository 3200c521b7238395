"""Thresholds a trained policy needs at run time, measured on its own rollouts."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hybridpolicy.errors import ConfigurationError
from hybridpolicy.evaluation.acting import Actor
from hybridpolicy.evaluation.closed_loop import evaluate_policy
from hybridpolicy.files import write_json
from hybridpolicy.training.checkpoint import reseal, sealed_in

CONFIG_FILE = "config.json"
FEWEST_PLANS = 100


@dataclass(frozen=True)
class ImagineCalibration:
    """threshold: of `disagreement`, pipeline units; plans: how many it was measured on; rate: asked for."""

    threshold: float
    plans: int
    rate: float
    success: dict[str, Any]


def calibrate_imagination(folder: str | Path, env: str, rate: float, **evaluation: Any) -> ImagineCalibration:
    """The disagreement between one plan and the next that a share `rate` of plans exceeds.

    Rolls the policy out without imagination. `evaluation`: as `evaluate_policy` takes it.

    Raises:
        ConfigurationError: rate outside (0, 1), the row cannot imagine on demand, or too few plans.
    """
    if not 0.0 < rate < 1.0:
        raise ConfigurationError(f"calibrate: imagine rate {rate}; allowed above 0 … below 1, e.g. 0.2")
    actor = Actor.load(folder)
    actor.policy.config.imagine_threshold = float("inf")  # so that the setting itself can be checked
    actor.set_imagine("on_uncertainty")
    actor.set_imagine("never")
    seen: list[float] = []
    result = evaluate_policy(actor, env, watch=lambda disagreement: seen.extend(disagreement), **evaluation)
    if len(seen) < FEWEST_PLANS:
        raise ConfigurationError(
            f"calibrate: {len(seen)} plans in these episodes; a quantile needs {FEWEST_PLANS} or more, run "
            "more episodes"
        )
    return ImagineCalibration(float(np.quantile(seen, 1.0 - rate)), len(seen), rate, result["success"])


def store_imagination(folder: Path, calibration: ImagineCalibration) -> None:
    """Makes the policy in `folder` imagine on uncertainty from now on; config.json is whole at any moment.

    A checkpoint's manifest says so, too: training can go on from it.
    """
    path = folder / CONFIG_FILE
    checkpoint = sealed_in(path)
    config = json.loads(path.read_text())
    config |= {"imagine": "on_uncertainty", "imagine_threshold": calibration.threshold}
    write_json(path, config)
    if checkpoint is not None:
        reseal(checkpoint, path)
