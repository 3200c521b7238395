"""Which chunks an SO-101 may be given: joint limits, the table, the arm's own body. Nothing is changed.

The numbers are those of the control process (`JointLimits`) and of the constants. The control process keeps
the limits whatever it is asked; a chunk that asks for much more than they allow would not be followed, so
what was imagined for it would not happen. B chunks, T actions, J joints, P parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embodiments.control.limits import JointLimits
from embodiments.so101 import constants as c
from embodiments.so101.arm_spec import nominal_limits
from embodiments.so101.kinematics import TIP, Tool, chain

Floats = NDArray[np.float64]
FINGER_END = Tool(c.WRIST_TO_TIP_M, c.FIXED_JAW_FACE_M)
COLUMN = np.array([[c.PAN_AXIS_X_M, 0.0, 0.0], [c.PAN_AXIS_X_M, 0.0, c.SHOULDER_HEIGHT_M]])
POINTS = ("elbow", "wrist", "fingertip", "finger")  # that must stay above the table
SAMPLES = 12  # points of a link that distances are taken from


@dataclass(frozen=True)
class Allowance:
    """How far a chunk may ask beyond the limits. Position in the joint's unit, the others as factors.

    The defaults are just above what the twin's expert asks (21,240 actions at 10 Hz: 1.9 times the velocity,
    5.8 times the acceleration), because its targets are steps from where the arm was measured.
    `Allowance(0, 1, 1)` lets pass only what an arm within its limits can follow exactly.
    """

    position: float = 3.0
    velocity: float = 2.0
    acceleration: float = 6.0

    def __post_init__(self) -> None:
        if not (self.position >= 0 and self.velocity >= 1 and self.acceleration >= 1):
            raise ValueError(
                f"so101 gate: {self}; position must be 0 or more, velocity and acceleration 1 or more"
            )


@dataclass(frozen=True)
class Violation:
    """The first thing wrong with a chunk: action `step`, joint or `part` of the arm, and a sentence."""

    step: int
    part: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """One entry a chunk: None where it may be sent."""

    violations: tuple[Violation | None, ...]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(B,) which chunks may be sent."""
        return np.array([violation is None for violation in self.violations])


@dataclass(frozen=True)
class _Rule:
    """One rule on B chunks: where it is broken, (B, T, P), and how to say so."""

    kind: str
    parts: tuple[str, ...]
    broken: NDArray[np.bool_]
    given: Floats
    sentence: Callable[[int, float], str]


class SO101Gate:
    """The gate of one arm at one rate."""

    def __init__(
        self,
        rate_hz: float = c.SO101.control_rate_hz.value,
        limits: Sequence[JointLimits] | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        """`rate_hz` of the policy. `limits` of a calibrated arm, `ControlSpec.limits`; None: nominal.

        ValueError for limits of other joints.
        """
        limits = tuple(limits or nominal_limits())
        names = tuple(limit.name for limit in limits)
        if names != c.MOTORS or rate_hz <= 0:
            raise ValueError(
                f"so101 gate: limits of {list(names)} at {rate_hz:g} Hz; give one for each of "
                f"{list(c.MOTORS)}, in this order, and a rate above 0"
            )
        self._rate, self._limits, self._allowance = rate_hz, limits, allowance or Allowance()

    def check(self, chunk: Floats, state: Floats) -> Verdict:
        """The verdict on absolute targets (B, T, 6) planned from joints (B, 6), in degrees and percent.

        How fast the arm already moves is not in the state: acceleration is judged from the first action on.
        """
        chunk, state = np.asarray(chunk, np.float64), np.asarray(state, np.float64)
        if chunk.ndim != 3 or chunk.shape[2] != c.NUM_JOINTS or state.shape != (len(chunk), c.NUM_JOINTS):
            raise ValueError(
                f"so101 gate: chunk {chunk.shape} from state {state.shape}; give (B, T, {c.NUM_JOINTS}) and "
                f"(B, {c.NUM_JOINTS})"
            )
        found: list[Violation | None] = [None] * len(chunk)
        for rule in self._rules(chunk, state):
            for index in np.flatnonzero(rule.broken.any(axis=(1, 2))):
                step, part = np.argwhere(rule.broken[index])[0]
                earlier = found[index]
                if earlier is None or step < earlier.step:
                    text = rule.sentence(int(part), float(rule.given[index, step, part]))
                    name = rule.parts[part]
                    reason = f"so101 gate: {name} at step {step}: {text}"
                    found[index] = Violation(int(step), name, rule.kind, reason)
        return Verdict(tuple(found))

    def _rules(self, chunk: Floats, state: Floats) -> Iterator[_Rule]:
        finite = np.isfinite(chunk) & np.isfinite(state)[:, None]
        yield _Rule(
            "not_finite", c.MOTORS, ~finite, chunk, lambda _, x: f"asks {x}, or the state is not finite"
        )
        chunk, state = np.where(finite, chunk, 0.0), np.where(np.isfinite(state), state, 0.0)
        yield from self._joint_rules(chunk, state)
        yield from _body_rules(chunk)

    def _joint_rules(self, chunk: Floats, state: Floats) -> Iterator[_Rule]:
        limits, allowance, units = self._limits, self._allowance, [joint.unit for joint in c.SO101.joints]

        low = np.array([limit.lower for limit in limits]) - allowance.position
        high = np.array([limit.upper for limit in limits]) + allowance.position
        yield _Rule(
            "position", c.MOTORS, (chunk < low) | (chunk > high), chunk,
            lambda j, x: f"asks {x:.1f} {units[j]}, allowed is {low[j]:g} to {high[j]:g}",
        )  # fmt: skip
        velocity = np.diff(chunk, axis=1, prepend=state[:, None]) * self._rate
        yield self._change_rule("velocity", velocity, allowance.velocity, "/s")
        change = np.diff(velocity, axis=1, prepend=velocity[:, :1]) * self._rate
        yield self._change_rule("acceleration", change, allowance.acceleration, "/s²")

    def _change_rule(self, kind: str, given: Floats, factor: float, per: str) -> _Rule:
        """`given` (B, T, 6) within `factor` times the limit of that kind."""
        limits = np.array([getattr(limit, f"max_{kind}") for limit in self._limits])
        units = [joint.unit + per for joint in c.SO101.joints]
        return _Rule(
            kind, c.MOTORS, np.abs(given) > limits * factor, given,
            lambda j, x: f"asks {x:.0f} {units[j]}, allowed is {limits[j] * factor:g} "
                         f"({factor:g} times the limit {limits[j]:g})",
        )  # fmt: skip


def _body_rules(chunk: Floats) -> Iterator[_Rule]:
    """The table and the arm itself, by forward kinematics; links as lines, without the jaw's opening."""
    points = chain(chunk, (TIP, FINGER_END))
    shoulder, elbow, wrist, tip = (points[..., index, :] for index in range(4))
    height, least_mm = points[..., 1:, 2], 1e3 * c.LOWEST_POINT_M
    yield _Rule(
        "table", POINTS, height < c.LOWEST_POINT_M, height,
        lambda _, x: f"would be {1e3 * x:.0f} mm over the table, allowed is {least_mm:.0f} or more",
    )  # fmt: skip
    bottom, top = (np.broadcast_to(end, shoulder.shape) for end in COLUMN)
    pairs = (
        ("lower arm to base", _distance(elbow, wrist, bottom, top), c.FOREARM_TO_COLUMN_M),
        ("gripper to base", _distance(wrist, tip, bottom, top), c.GRIPPER_TO_COLUMN_M),
        ("gripper to upper arm", _distance(wrist, tip, shoulder, elbow), c.GRIPPER_TO_UPPER_ARM_M),
    )
    between = np.stack([distance for _, distance, _ in pairs], axis=-1)
    least = np.array([allowed for _, _, allowed in pairs])
    yield _Rule(
        "self_collision", tuple(name for name, _, _ in pairs), between < least, between,
        lambda p, x: f"middle lines would be {1e3 * x:.0f} mm apart, allowed is {1e3 * least[p]:.0f} or more",
    )  # fmt: skip


def _distance(start: Floats, end: Floats, other_start: Floats, other_end: Floats) -> Floats:
    """Least distance (…) of two segments with ends (…, 3), from `SAMPLES` points of the first."""
    share = np.linspace(0.0, 1.0, SAMPLES)[:, None]
    samples = start[..., None, :] + share * (end - start)[..., None, :]
    along = (other_end - other_start)[..., None, :]
    offset = samples - other_start[..., None, :]
    nearest = np.clip((offset * along).sum(-1) / (along * along).sum(-1), 0.0, 1.0)
    apart: Floats = np.linalg.norm(offset - nearest[..., None] * along, axis=-1).min(axis=-1)
    return apart
