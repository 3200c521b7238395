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
    """threshold: of `Actor.doubt`, pipeline units; plans: how many it was measured on; rate: asked for."""

    threshold: float
    plans: int
    rate: float
    success: dict[str, Any]


def calibrate_imagination(folder: str | Path, env: str, rate: float, **evaluation: Any) -> ImagineCalibration:
    """The doubt that a share `rate` of plans exceeds.

    Rolls the policy out without imagination. `evaluation`: as `evaluate_policy` takes it.

    Raises:
        ConfigurationError: rate outside (0, 1), the row cannot imagine on demand, or too few plans.
    """
    if not 0.0 < rate < 1.0:
        raise ConfigurationError(f"calibrate: imagine rate {rate}; allowed above 0 … below 1, e.g. 0.2")
    actor = Actor.load(folder)
    actor.policy.config.imagine_threshold = float("inf")  # doubt is told of, and never acted on
    actor.set_imagine("on_uncertainty")
    seen: list[float] = []
    result = evaluate_policy(actor, env, watch=seen.extend, **evaluation)
    if len(seen) < FEWEST_PLANS:
        episodes = result["success"]["episodes"]
        raise ConfigurationError(
            f"calibrate: {len(seen)} plans in {episodes} episodes; a quantile needs {FEWEST_PLANS} or more, "
            f"which takes about {-(-episodes * FEWEST_PLANS // len(seen))} episodes"
        )
    threshold = float(np.quantile(seen, 1.0 - rate))
    if threshold <= 0:
        raise ConfigurationError(
            f"calibrate: {sum(x <= 0 for x in seen)} of {len(seen)} plans are in no doubt at all, so no "
            f"threshold lets a share of {rate:g} imagine; ask for less, or use imagine = always"
        )
    return ImagineCalibration(threshold, len(seen), rate, result["success"])


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
