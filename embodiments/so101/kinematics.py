"""Exact forward and inverse kinematics of the SO-101: a pan joint and a planar three-link arm.

Angles at the interface are degrees in LeRobot's joint order; positions are metres in the base frame
(x forward, y left, z up). `pitch_deg` is the elevation of the approach direction: 0 is level, -90 down.
A `Tool` is a point fixed to the gripper: `forward_m` from the wrist_flex axis along the roll axis, `up_m`
across it, in the arm's plane while wrist_roll is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embodiments.so101 import constants as c

L1 = float(np.hypot(*c.UPPER_ARM_M))
L2 = float(np.hypot(*c.LOWER_ARM_M))
E1 = float(np.arctan2(c.UPPER_ARM_M[1], c.UPPER_ARM_M[0]))  # elevation of the upper arm at zero
E2 = float(np.arctan2(c.LOWER_ARM_M[1], c.LOWER_ARM_M[0]))
SINGULAR_RADIUS_M = 1e-3


@dataclass(frozen=True)
class Tool:
    """A point of the gripper, metres from the wrist_flex axis."""

    forward_m: float = c.WRIST_TO_TIP_M
    up_m: float = 0.0


@dataclass(frozen=True)
class TipPose:
    """Where the tool point is and how the gripper points."""

    position_m: NDArray[np.float64]  # (3,) float64
    pitch_deg: float
    roll_deg: float


class KinematicsError(ValueError):
    """Root of the errors below; a ValueError."""


class OutOfReachError(KinematicsError):
    """The wrist point is too far from, or too near to, the shoulder."""


class PanSingularityError(KinematicsError):
    """The target lies on the pan axis, where every pan angle is a solution."""


class JointLimitError(KinematicsError):
    """A solution exists but leaves the joint range."""


TIP = Tool()


def forward(joints_deg: NDArray[np.float64], tool: Tool = TIP) -> TipPose:
    """Pose of `tool` for joints (5,) or (6,); the gripper entry, if any, is ignored."""
    joints = np.asarray(joints_deg, dtype=np.float64)
    position = chain(joints, (tool,))[-1]
    _, lift, elbow, wrist, roll = np.radians(joints[:5])
    return TipPose(position, float(np.degrees(-(lift + elbow + wrist))), float(np.degrees(roll)))


def chain(joints_deg: NDArray[np.float64], tools: tuple[Tool, ...] = (TIP,)) -> NDArray[np.float64]:
    """Points along the arm for joints (…, 5 or 6): (…, 3 + number of tools, 3) metres.

    The axes of shoulder_lift, elbow_flex and wrist_flex, then every tool.
    """
    angles = np.radians(np.asarray(joints_deg, dtype=np.float64)[..., :5])
    pan, lift, elbow, wrist, roll = np.moveaxis(angles, -1, 0)
    e1, e2, e3 = E1 - lift, E2 - lift - elbow, -(lift + elbow + wrist)
    shoulder = np.zeros_like(pan) + c.SHOULDER_RADIUS_M, np.zeros_like(pan) + c.SHOULDER_HEIGHT_M
    elbow_at = shoulder[0] + L1 * np.cos(e1), shoulder[1] + L1 * np.sin(e1)
    wrist_at = elbow_at[0] + L2 * np.cos(e2), elbow_at[1] + L2 * np.sin(e2)
    straight = np.zeros_like(pan)
    points = [(*shoulder, straight), (*elbow_at, straight), (*wrist_at, straight)]  # (radius, height, side)
    for tool in tools:
        up, side = tool.up_m * np.cos(roll), tool.up_m * np.sin(roll)
        radius = wrist_at[0] + (tool.forward_m * np.cos(e3) - up * np.sin(e3))
        height = wrist_at[1] + (tool.forward_m * np.sin(e3) + up * np.cos(e3))
        points.append((radius, height, side))
    azimuth = -pan  # the pan axis points down: positive pan turns right
    return np.stack(
        [
            np.stack(
                (
                    c.PAN_AXIS_X_M + radius * np.cos(azimuth) - side * np.sin(azimuth),
                    radius * np.sin(azimuth) + side * np.cos(azimuth),
                    height,
                ),
                axis=-1,
            )
            for radius, height, side in points
        ],
        axis=-2,
    )


def inverse(
    position_m: NDArray[np.float64],
    pitch_deg: float,
    roll_deg: float = 0.0,
    tool: Tool = TIP,
    *,
    elbow_up: bool = True,
    check_limits: bool = True,
) -> NDArray[np.float64]:
    """Joints (5,) in degrees that put `tool` at `position_m` (3,) with the given pitch and roll.

    Raises PanSingularityError near the pan axis, OutOfReachError when no triangle closes,
    JointLimitError (with `check_limits`) when the solution leaves the joint range.
    """
    target = np.asarray(position_m, dtype=np.float64)
    if target.shape != (3,) or not np.all(np.isfinite(target)):
        raise KinematicsError(f"inverse: position {position_m!r} must be three finite metres")
    e3, roll = np.radians(pitch_deg), np.radians(roll_deg)
    up, side = tool.up_m * np.cos(roll), tool.up_m * np.sin(roll)
    dx, dy = target[0] - c.PAN_AXIS_X_M, target[1]
    distance = float(np.hypot(dx, dy))
    if distance <= max(SINGULAR_RADIUS_M, abs(side)):
        raise PanSingularityError(
            f"inverse: target {np.round(target, 4)} is {distance * 1000:.1f} mm from the pan axis; "
            f"keep more than {max(SINGULAR_RADIUS_M, abs(side)) * 1000:.1f} mm away"
        )
    azimuth = np.arctan2(dy, dx) - np.arcsin(side / distance)
    radius = np.sqrt(distance**2 - side**2)
    wrist_r = radius - c.SHOULDER_RADIUS_M - tool.forward_m * np.cos(e3) + up * np.sin(e3)
    wrist_z = target[2] - c.SHOULDER_HEIGHT_M - tool.forward_m * np.sin(e3) - up * np.cos(e3)
    lift, elbow = _two_link(wrist_r, wrist_z, elbow_up, target, pitch_deg)
    wrist = -e3 - lift - elbow
    joints = np.degrees([-azimuth, lift, elbow, wrist, roll])
    joints = (joints + 180.0) % 360.0 - 180.0
    if check_limits:
        check_joint_limits(joints)
    return joints


def _two_link(
    r: float, z: float, elbow_up: bool, target: NDArray[np.float64], pitch_deg: float
) -> tuple[float, float]:
    span = float(np.hypot(r, z))
    if not abs(L1 - L2) <= span <= L1 + L2:
        raise OutOfReachError(
            f"inverse: target {np.round(target, 4)} at pitch {pitch_deg:.1f} deg puts the wrist {span:.4f} m "
            f"from the shoulder; allowed is {abs(L1 - L2):.4f} to {L1 + L2:.4f} m; "
            f"move the target or change the pitch"
        )
    inner = np.arccos(np.clip((L1**2 + span**2 - L2**2) / (2 * L1 * span), -1.0, 1.0))
    sign = 1.0 if elbow_up else -1.0
    e1 = np.arctan2(z, r) + sign * inner
    e2 = np.arctan2(z - L1 * np.sin(e1), r - L1 * np.cos(e1))
    lift = E1 - e1
    return lift, E2 - e2 - lift


def check_joint_limits(joints_deg: NDArray[np.float64]) -> None:
    """Raise JointLimitError, naming every joint of (5,) that is outside its range."""
    wrong = [
        f"{name} {value:.1f} (allowed {lower:g} to {upper:g})"
        for name, value, (lower, upper) in zip(c.MOTORS[:5], joints_deg, c.JOINT_RANGE_DEG, strict=True)
        if not lower <= value <= upper
    ]
    if wrong:
        raise JointLimitError(
            f"joint limits, degrees: {', '.join(wrong)}; move the target or change the pitch"
        )
