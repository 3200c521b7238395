"""The SO-101 as the control process takes it: limits from the constants, ranges from its calibration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from embodiments.control.limits import JointLimits
from embodiments.control.spec import ControlSpec
from embodiments.feetech.calibration import DEGREES, Calibration, Joint
from embodiments.so101.constants import MOTORS, SO101

# --- Sources: OURS unless said otherwise ------------------------------------------------------------------
RANGE_MARGIN_DEG = 3.0  # the recorded range ends at the mechanical stop: stay off it
STOP_FACTOR = 2.5  # 1000 deg/s^2: from 90 deg/s to rest in 90 ms, with smoothing in under 150 ms
FIRST_RUN_SPEED = 1 / 3  # of the velocity limits
FIRST_RUN_TORQUE = 0.5  # of each motor's limit: holds the raised twin, and pushes half as hard
GATE_DEG = 5.0
GATE_PERCENT = 30.0  # a gripper neither falls nor reaches far
# Folded on its own mechanical stops: without torque the twin's arm stays there (tested). A real arm's owner
# may give another one.
REST_POSE = (0.0, -100.0, 93.0, 62.0, 0.0, 3.0)
# LeRobot 0.6.1, so_follower.configure and configure_motors: the same motors must suit both.
REGISTERS = {
    "Return_Delay_Time": 0,
    "Maximum_Acceleration": 254,
    "Acceleration": 254,
    "Operating_Mode": 0,
    "P_Coefficient": 16,
    "I_Coefficient": 0,
    "D_Coefficient": 32,
}
GRIPPER_REGISTERS = {"Max_Torque_Limit": 500, "Protection_Current": 250, "Overload_Torque": 25}
CLEAR_BITS = {"Phase": 0x10}  # multi-turn angle feedback


def joint_limits(joint: Joint, speed: float) -> JointLimits:
    """One joint's limits: the calibrated range less a margin, the constants' velocity times `speed`."""
    spec = SO101.joint(f"{joint.name}.pos")
    lower, upper = joint.limits
    margin = RANGE_MARGIN_DEG if joint.unit == DEGREES else 0.0
    return JointLimits(
        name=joint.name,
        lower=lower + margin,
        upper=upper - margin,
        max_velocity=spec.max_velocity.value * speed,
        max_acceleration=spec.max_acceleration.value,
        stop_acceleration=spec.max_acceleration.value * STOP_FACTOR,
    )


def nominal_limits() -> tuple[JointLimits, ...]:
    """Limits of an arm without a calibration of its own, as the twin: the constants' ranges, no margin."""
    return tuple(
        JointLimits(
            name=motor,
            lower=joint.lower.value,
            upper=joint.upper.value,
            max_velocity=joint.max_velocity.value,
            max_acceleration=joint.max_acceleration.value,
            stop_acceleration=joint.max_acceleration.value * STOP_FACTOR,
        )
        for motor, joint in zip(MOTORS, SO101.joints, strict=True)
    )


def control_spec(
    port: str, calibration: Path | Calibration, *, first_run: bool = False, **settings: Any
) -> ControlSpec:
    """The spec of one SO-101 (or SO-100: the same motors).

    calibration: LeRobot's file, or what was read from it. first_run: a third of the speed, half the torque.
    settings: any other field of ControlSpec. CalibrationError; ValueError for a setting that is not allowed.
    """
    if isinstance(calibration, Path):
        calibration = Calibration.load(calibration, MOTORS)
    spec = ControlSpec(
        port=port,
        calibration={joint.name: joint.calibration._asdict() for joint in calibration.joints},
        limits=tuple(
            joint_limits(joint, FIRST_RUN_SPEED if first_run else 1.0) for joint in calibration.joints
        ),
        gate=tuple(GATE_DEG if joint.unit == DEGREES else GATE_PERCENT for joint in calibration.joints),
        park=REST_POSE,
        torque_share=FIRST_RUN_TORQUE if first_run else 1.0,
        registers=dict(REGISTERS),
        joint_registers={"gripper": dict(GRIPPER_REGISTERS)},
        clear_bits=dict(CLEAR_BITS),
    )
    return replace(spec, **settings)
