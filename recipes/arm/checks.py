"""Everything that must fit before an arm is energised, each with one message."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from embodiments.control.link import ArmState
from embodiments.control.spec import ControlSpec
from embodiments.feetech.calibration import DEGREES
from recipes.arm.cameras import Cameras
from recipes.arm.errors import CheckFailed
from recipes.arm.policy import Observation, Plan, PolicyFacts, PolicyProcess

STALE_MS = 200.0
BEYOND_DEG = 20.0  # how far the middle of a policy's data may lie outside the calibrated range
PLANS = 5
PLAN_S = 60.0
RADIANS = math.pi


class Check(NamedTuple):
    """One thing that was looked at and fits."""

    name: str
    found: str


Say = Callable[[Check], None]


def check_policy(port: str, facts: PolicyFacts, spec: ControlSpec, cameras: Sequence[str]) -> list[Check]:
    """Rate, joints, units and cameras of a policy against the arm's; CheckFailed at the first misfit.

    Of a policy with optional context also what of it is there: it acts without the rest, too.
    """
    return [
        _rate(port, facts, spec),
        _joints(port, facts, spec),
        _units(port, facts, spec),
        _cameras(port, facts, cameras),
        *_context(facts),
    ]


def _rate(port: str, facts: PolicyFacts, spec: ControlSpec) -> Check:
    if facts.fps <= 0:
        raise CheckFailed(
            f"{port}: the policy does not say at which rate it was trained; train it on a LeRobotDataset"
        )
    if facts.fps > spec.rate_hz:
        raise CheckFailed(
            f"{port}: the policy acts at {facts.fps:g} Hz and the arm is controlled at {spec.rate_hz:g} Hz; "
            f"give a --rate of at least {facts.fps:g}"
        )
    return Check("rate", f"policy {facts.fps:g} Hz, interpolated to {spec.rate_hz:g} Hz")


def _joints(port: str, facts: PolicyFacts, spec: ControlSpec) -> Check:
    wanted = tuple(f"{limit.name}.pos" for limit in spec.limits)
    for what, names in (("state", facts.state_names), ("action", facts.action_names)):
        if names != wanted:
            raise CheckFailed(
                f"{port}: the policy's {what} is {list(names) or 'without names'}, the arm has "
                f"{list(wanted)}, in this order; choose a policy that was trained on this arm"
            )
    return Check("joints", f"{len(wanted)}, names and order as the arm's")


def _units(port: str, facts: PolicyFacts, spec: ControlSpec) -> Check:
    """The centre of the policy's data lies within the arm's range, and its spread is not that of radians."""
    joints = spec.load_calibration().joints
    body = [index for index, joint in enumerate(joints) if joint.unit == DEGREES]
    if all(abs(facts.action_mean[i]) + facts.action_std[i] < RADIANS for i in body):
        raise CheckFailed(
            f"{port}: the policy's actions lie within +-{RADIANS:.2f}, which are radians; this arm takes "
            "degrees (LeRobot's use_degrees). Convert the dataset and train again"
        )
    for index, joint in enumerate(joints):
        low, high = joint.limits
        if not low - BEYOND_DEG <= facts.action_mean[index] <= high + BEYOND_DEG:
            raise CheckFailed(
                f"{port}: the policy's mean for {joint.name} is {facts.action_mean[index]:.1f}, this arm "
                f"reaches {low:.1f} to {high:.1f} {joint.unit}; units or calibration differ"
            )
    return Check("units", "degrees and percent; the policy's data lies within this arm's range")


def _cameras(port: str, facts: PolicyFacts, cameras: Sequence[str]) -> Check:
    missing = sorted(set(facts.cameras) - set(cameras))
    if missing:
        raise CheckFailed(
            f"{port}: the policy looks through {sorted(facts.cameras)}, connected are {sorted(cameras)}; "
            f"missing {missing}. Give them with --cameras, under the policy's names"
        )
    return Check("cameras", ", ".join(facts.cameras))


def _context(facts: PolicyFacts) -> list[Check]:
    """One line where the policy declares optional context."""
    said = (
        (facts.brought, "brought by the policy itself"),
        (facts.absent, "absent, nothing here brings it (docs/context.md)"),
    )
    found = "; ".join(f"{', '.join(entries)}: {what}" for entries, what in said if entries)
    return [Check("context", found)] if found else []


def check_calibration(facts: PolicyFacts, digest: str, file: str) -> Check:
    """What the arm is calibrated by, beside what the policy's data was recorded with.

    Another one is no refusal: every arm has its own. Joints may then be degrees off, and it says so.
    """
    if facts.calibration is None:
        against = "the policy's data names none"
    elif facts.calibration == digest:
        against = "the one the policy's data was recorded with"
    else:
        against = (
            f"NOT the one the policy's data was recorded with ({facts.calibration}): joints may be degrees "
            "off; on the same arm, restore that file with lerobot-calibrate"
        )
    return Check("calibration", f"{digest}: the motors have what {file} says; {against}")


def check_limits(port: str, spec: ControlSpec, state: ArmState) -> Check:
    """Every joint has limits, and the arm is not far outside of them."""
    margins = [
        (min(position - limit.lower, limit.upper - position), limit.name)
        for position, limit in zip(state.measured, spec.limits, strict=True)
    ]
    beyond = [f"{name} by {-margin:.1f}" for margin, name in margins if margin < -BEYOND_DEG]
    if beyond:
        raise CheckFailed(
            f"{port}: the arm is outside its limits ({', '.join(beyond)}); calibration and arm do not belong "
            "together, or bring it into its range by hand"
        )
    margin, name = min(margins)
    note = "" if margin >= 0 else ": leaning on its stops, it is led inside first"
    return Check("limits", f"position, velocity, acceleration of {len(margins)} joints; nearest {name} at "
                           f"{margin:+.1f}{note}")  # fmt: skip


def check_freshness(port: str, cameras: Cameras) -> Check:
    """Every camera shows something new now."""
    asked_us = time.monotonic_ns() // 1000
    look = cameras.look_after(asked_us)
    ages = []
    for _ in range(10):
        ages.append(cameras.look().age_ms())
        time.sleep(0.02)
    worst = max(ages)
    if worst > STALE_MS:
        raise CheckFailed(
            f"{port}: camera {look.oldest} is up to {worst:.0f} ms late; allowed is {STALE_MS:g} ms. Use "
            "fewer or smaller pictures, or another USB port"
        )
    return Check("freshness", f"pictures at most {worst:.0f} ms old (allowed {STALE_MS:g})")


class Latency(NamedTuple):
    """What a chunk takes; the last plan, for showing. Milliseconds."""

    median_ms: float
    worst_ms: float
    plan: Plan


def measure_latency(policy: PolicyProcess, observation: Observation) -> Latency:
    """Plans a few chunks from one observation, through the pipe; the first one does not count."""
    taken = []
    for _ in range(PLANS + 1):
        start = time.perf_counter()
        policy.ask(observation)
        _, plan = policy.wait(PLAN_S)
        taken.append(1e3 * (time.perf_counter() - start))
    policy.reset()
    counted = sorted(taken[1:])
    return Latency(counted[len(counted) // 2], counted[-1], plan)


def check_latency(port: str, facts: PolicyFacts, latency: Latency) -> Check:
    """A chunk is there before the last one runs out; the budget is what is left when planning begins."""
    budget_ms = 1e3 * (facts.chunk_size - facts.n_action_steps) / facts.fps
    period_ms = facts.replan_us / 1e3
    if latency.median_ms > budget_ms:
        raise CheckFailed(
            f"{port}: a chunk takes {latency.median_ms:.0f} ms and the arm would starve after "
            f"{budget_ms:.0f} ms; close other programs, give --threads, or use --imagine never"
        )
    late = "" if latency.median_ms <= period_ms else f"; slower than its period of {period_ms:.0f} ms"
    if latency.plan.held:  # where it lies folded that may be; from its start pose it is another matter
        late += "; from where the arm is now, no chunk passes the gate, and it would stand"
    return Check(
        "latency", f"{latency.median_ms:.0f} ms a chunk (worst {latency.worst_ms:.0f}), "
                   f"budget {budget_ms:.0f} ms{late}"
    )  # fmt: skip
