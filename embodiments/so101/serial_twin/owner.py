"""One owner's arm: how its servos were mounted, and how well its owner calibrated it. Drawn from a seed.

An owner runs lerobot-calibrate by hand: holds the arm roughly in the middle, then sweeps each joint to its
ends, not quite reaching them. So the arm's zero is off by some degrees a joint, the gripper's sweep is a
little short, and both are in the motors' registers and in the calibration file alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from embodiments.feetech.calibration import Calibration, MotorCalibration
from embodiments.feetech.registers import RESOLUTION
from embodiments.feetech.simulated.factory import eeprom_image
from embodiments.so101 import constants as c

STEPS_PER_DEG = RESOLUTION / 360
MOUNT_STEPS = 300  # a horn sits within a few teeth of the middle
ROLL = c.MOTORS.index("wrist_roll")
GRIPPER_SHORT_SHARE = 0.03
# The ends on which the folded arm leans by its own weight: no owner's sweep falls short of these.
LEANS_ON = ((c.MOTORS.index("shoulder_lift"), 0), (c.MOTORS.index("elbow_flex"), 1))
LEANING_DEG = 0.3
# What LeRobot's configure() leaves in the gripper's permanent registers.
GRIPPER_REGISTERS = {"Max_Torque_Limit": 500, "Protection_Current": 250, "Overload_Torque": 25}


class OwnersArm(NamedTuple):
    """Mounting and calibration of six joints, in LeRobot's order.

    mount: actual encoder steps at each joint's model zero. The jaw's zero is the model's, not the closed jaw.
    """

    mount: tuple[float, ...]
    calibration: Calibration

    def steps(self, joint: int, degrees: float) -> float:
        """Actual encoder steps at a model angle."""
        return self.mount[joint] + degrees * STEPS_PER_DEG

    def degrees(self, joint: int, steps: float) -> float:
        """Model angle at actual encoder steps."""
        return (steps - self.mount[joint]) / STEPS_PER_DEG

    def zero_errors_deg(self) -> tuple[float, ...]:
        """What each body joint reports at its model zero, (5,) degrees: 0 for a perfect calibration."""
        errors = []
        for index, joint in enumerate(self.calibration.joints[: c.GRIPPER]):
            raw = self.steps(index, 0.0) - joint.calibration.homing_offset
            errors.append(
                (raw - (joint.calibration.range_min + joint.calibration.range_max) / 2) * 360 / 4095
            )
        return tuple(errors)

    def eeprom(self, joint: int) -> bytearray:
        """The servo's permanent registers, as LeRobot's calibration and configuration left them."""
        motor = self.calibration.joints[joint].calibration
        extra = GRIPPER_REGISTERS if joint == c.GRIPPER else {}
        return eeprom_image(
            ID=motor.id,
            Homing_Offset=motor.homing_offset,
            Min_Position_Limit=motor.range_min,
            Max_Position_Limit=motor.range_max,
            Return_Delay_Time=0,
            P_Coefficient=16,
            **extra,
        )


def draw_owner(seed: int, error_deg: float = 3.0) -> OwnersArm:
    """The arm of `seed`; each body joint's zero is off by up to `error_deg` degrees, 0 to 10."""
    if not 0.0 <= error_deg <= 10.0:
        raise ValueError(f"simulated owner: error_deg is {error_deg}; allowed is 0 to 10")
    rng = np.random.default_rng([seed, 505])
    mount = tuple(float(value) for value in 2048 + rng.integers(-MOUNT_STEPS, MOUNT_STEPS + 1, c.NUM_JOINTS))
    held = rng.uniform(-1, 1, c.NUM_JOINTS) * error_deg  # how far from the middle the arm was held
    short = rng.uniform(0, 1, (c.NUM_JOINTS, 2)) * 2 * error_deg  # by how much each sweep fell short
    for joint, end in LEANS_ON:
        short[joint, end] = -LEANING_DEG
    motors = {}
    for index, name in enumerate(c.MOTORS):
        low, high = _true_range(index)
        middle = (low + high) / 2 if index == c.GRIPPER else 0.0
        offset = round(mount[index] + (middle + held[index]) * STEPS_PER_DEG) - (RESOLUTION // 2 - 1)
        if index == ROLL:  # lerobot-calibrate gives the roll joint a full turn
            limits = (0, RESOLUTION - 1)
        else:
            share = (
                GRIPPER_SHORT_SHARE * (high - low) / (2 * error_deg)
                if index == c.GRIPPER and error_deg
                else 1
            )
            ends = (low + short[index, 0] * share, high - short[index, 1] * share)
            limits = tuple(round(mount[index] + end * STEPS_PER_DEG) - offset for end in ends)
        motors[name] = MotorCalibration(index + 1, 0, int(offset), int(limits[0]), int(limits[1]))
    return OwnersArm(mount, Calibration.from_motors(motors, ("gripper",)))


def _true_range(joint: int) -> tuple[float, float]:
    return (c.JAW_CLOSED_DEG, c.JAW_OPEN_DEG) if joint == c.GRIPPER else c.JOINT_RANGE_DEG[joint]
