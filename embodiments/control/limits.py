"""Goals that a joint may be given: inside position, velocity, acceleration and jerk limits, by construction.

Two stages a joint. A discrete trapezoid keeps, from cycle to cycle, a velocity from which it can still stop
before the position limit; the choice of each cycle is made among velocities that preserve this, so the limit
holds by induction and not by a clamp at the end. A moving average of its last positions then bounds the jerk:
an average of positions that respect a convex limit respects it too, in position, velocity and acceleration.
The price is a delay of half the averaging window.

Plain floats, one cycle a call, no clock: a late cycle moves the arm later, never faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

# Rounding of sums of positions: far below a servo's step of 0.09 degrees.
ROUNDING = 1e-9
SLOWEST = 1.0  # units per second: the last of a way to be shared


@dataclass(frozen=True)
class JointLimits:
    """Limits of one joint in its own unit (degrees or percent), per second, per second squared.

    `stop_acceleration` is what a stop may use; larger, because a stop need not be comfortable.
    """

    name: str
    lower: float
    upper: float
    max_velocity: float
    max_acceleration: float
    stop_acceleration: float

    def __post_init__(self) -> None:
        numbers = (
            self.lower,
            self.upper,
            self.max_velocity,
            self.max_acceleration,
            self.stop_acceleration,
        )
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(
                f"limits of {self.name}: {numbers}; every limit must be finite, none may be absent"
            )
        if self.lower >= self.upper:
            raise ValueError(
                f"limits of {self.name}: lower {self.lower:g} is not below upper {self.upper:g}; "
                "the calibrated range is too narrow for the margin, calibrate again"
            )
        if min(self.max_velocity, self.max_acceleration) <= 0:
            raise ValueError(f"limits of {self.name}: velocity and acceleration must be above 0")
        if self.stop_acceleration < self.max_acceleration:
            raise ValueError(
                f"limits of {self.name}: stop_acceleration {self.stop_acceleration:g} is below "
                f"max_acceleration {self.max_acceleration:g}; a stop may not be gentler than a motion"
            )


class Changes(NamedTuple):
    """How often a limit changed what was asked, summed over joints."""

    position: int = 0
    velocity: int = 0
    acceleration: int = 0
    not_finite: int = 0

    def __add__(self, other: object) -> Changes:
        if not isinstance(other, Changes):
            return NotImplemented
        return Changes(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def fastest_stoppable(distance: float, acceleration: float, dt: float) -> float:
    """The largest velocity for the next cycle after which a stop fits into `distance` ahead (>= 0).

    Exact for discrete cycles: after moving v*dt and then v - a*dt, v - 2*a*dt, … the sum is `distance`. Never
    more than `distance / dt`.
    """
    if distance <= 0.0:
        return 0.0
    step = acceleration * dt
    whole = math.floor((math.sqrt(1.0 + 8.0 * distance / (step * dt)) - 1.0) / 2.0)
    return min((distance / dt + step * whole * (whole + 1) / 2.0) / (whole + 1), distance / dt)


class JointLimiter:
    """One joint: its trapezoid and its average."""

    def __init__(self, limits: JointLimits, dt: float, window: int, start: float) -> None:
        self.limits = limits
        self._dt = dt
        self._window = window
        self.velocity = 0.0  # of the trapezoid
        self.reset(start)

    def reset(self, position: float) -> None:
        """Stand still at `position`, which may lie outside the limits: from there the only way is inwards."""
        self.position = position
        self.velocity = 0.0
        self._last = [position] * self._window
        self._next = 0
        self.goal = position

    @property
    def is_still(self) -> bool:
        """Whether the goal has come to rest."""
        return all(abs(position - self.position) < ROUNDING for position in self._last)

    def stop(self) -> float:
        """The goal of this cycle of a stop at `stop_acceleration`."""
        loss = self.limits.stop_acceleration * self._dt
        return self._advance(math.copysign(max(abs(self.velocity) - loss, 0.0), self.velocity))

    def step(
        self, target: float, target_velocity: float = 0.0, max_velocity: float = math.inf
    ) -> tuple[float, Changes]:
        """(goal of this cycle, what was changed) on the way to `target`.

        `target_velocity` is the velocity the target keeps for as long as stopping from it takes: the joint
        then follows a moving target without lagging by its stopping distance. `max_velocity` lowers the
        limit. A target that is not finite is none: the joint stops, and says so.
        """
        if not (math.isfinite(target) and math.isfinite(target_velocity)):
            return self.stop(), Changes(not_finite=1)
        limits = self.limits
        inside = min(max(target, limits.lower), limits.upper)
        top = min(limits.max_velocity, max_velocity)
        wanted = self._wanted(inside, min(max(target_velocity, -top), top))
        capped = min(max(wanted, -top), top)
        step = limits.max_acceleration * self._dt
        reachable = min(max(capped, self.velocity - step), self.velocity + step)
        changes = Changes(
            position=int(inside != target),
            velocity=int(abs(capped) < abs(wanted) - ROUNDING),
            acceleration=int(abs(reachable - capped) > ROUNDING),
        )
        return self._advance(self._stoppable(reachable)), changes

    def _wanted(self, target: float, target_velocity: float) -> float:
        distance = target - self.position
        approach = fastest_stoppable(abs(distance), self.limits.max_acceleration, self._dt)
        return target_velocity + math.copysign(approach, distance)

    def _stoppable(self, velocity: float) -> float:
        """The nearest velocity to `velocity` that leaves room to stop inside the limits."""
        # Outside (an arm may lie beyond its limits when it is attached) there is no room outwards.
        up = fastest_stoppable(self.limits.upper - self.position, self.limits.max_acceleration, self._dt)
        down = fastest_stoppable(self.position - self.limits.lower, self.limits.max_acceleration, self._dt)
        return min(max(velocity, -down), up)

    def _advance(self, velocity: float) -> float:
        self.velocity = velocity
        self.position += velocity * self._dt
        self._last[self._next] = self.position
        self._next = (self._next + 1) % self._window
        # min and max: a sum of equal numbers, divided, may miss them by one bit.
        self.goal = min(max(math.fsum(self._last) / self._window, min(self._last)), max(self._last))
        return self.goal


class ArmLimiter:
    """All joints of an arm, stepped together once a cycle."""

    def __init__(
        self,
        limits: Sequence[JointLimits],
        rate_hz: float,
        smoothing_s: float,
        start: Sequence[float],
    ) -> None:
        """`smoothing_s` is the averaging window; jerk stays below 2 * max_acceleration / smoothing_s."""
        if len(limits) != len(start):
            raise ValueError(f"limiter: {len(limits)} joints have limits, {len(start)} have a start position")
        self._window = max(1, round(smoothing_s * rate_hz))
        self.joints = tuple(
            JointLimiter(limit, 1.0 / rate_hz, self._window, position)
            for limit, position in zip(limits, start, strict=True)
        )
        self.changes = Changes()

    @property
    def goal(self) -> tuple[float, ...]:
        """The last goal of every joint."""
        return tuple(joint.goal for joint in self.joints)

    @property
    def is_still(self) -> bool:
        """Whether every joint's goal has come to rest."""
        return all(joint.is_still for joint in self.joints)

    def behind(self, targets: Sequence[float]) -> float:
        """How far the joint furthest from its target, as far as its limits allow that, has to go."""
        pairs = zip(self.joints, targets, strict=True)
        return max(
            abs(min(max(target, joint.limits.lower), joint.limits.upper) - joint.position)
            for joint, target in pairs
        )

    def reset(self, positions: Sequence[float]) -> None:
        """Stand still at `positions`."""
        for joint, position in zip(self.joints, positions, strict=True):
            joint.reset(position)

    def step(
        self,
        targets: Sequence[float],
        target_velocities: Sequence[float] | None = None,
        max_velocities: Sequence[float] | None = None,
    ) -> tuple[float, ...]:
        """The goals of this cycle: what may be sent. See `JointLimiter.step` for the optional arguments."""
        velocities = target_velocities or (0.0,) * len(self.joints)
        caps = max_velocities or (math.inf,) * len(self.joints)
        changes = Changes()
        for joint, target, velocity, cap in zip(self.joints, targets, velocities, caps, strict=True):
            _, change = joint.step(target, velocity, cap)
            changes += change
        self.changes += changes
        return self.goal

    def stop(self) -> tuple[float, ...]:
        """The goals of this cycle of a stop."""
        for joint in self.joints:
            joint.stop()
        return self.goal


def arriving_together(speed: float, goal: Sequence[float], target: Sequence[float]) -> tuple[float, ...]:
    """Velocities at which all joints arrive at `target` at once, the one with the longest way at `speed`.

    The arm then takes the straight line in joint space, whose shape does not depend on the joints' speeds.
    """
    ways = [abs(to - at) for to, at in zip(target, goal, strict=True)]
    longest = max(ways)
    return tuple(max(speed * way / longest, SLOWEST) if longest > 0.0 else speed for way in ways)


def outside_gate(
    setpoint: Sequence[float], present: Sequence[float], gate: Sequence[float]
) -> tuple[int, ...]:
    """Indices of the joints whose setpoint is further than `gate` from where the joint is."""
    triples = zip(setpoint, present, gate, strict=True)
    return tuple(index for index, (to, at, most) in enumerate(triples) if not abs(to - at) <= most)
