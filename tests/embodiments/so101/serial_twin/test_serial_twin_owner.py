"""Owners: mounted and calibrated by hand, each a little differently, file and motors alike."""

import json

import numpy as np
import pytest

from embodiments.feetech.calibration import Calibration
from embodiments.feetech.simulated.servo import SimulatedServo
from embodiments.so101 import constants as c
from embodiments.so101.serial_twin.arm import SimulatedArm
from embodiments.so101.serial_twin.owner import draw_owner
from embodiments.so101.serial_twin.scene import SceneSpec

SEEDS = range(60)


def test_a_seed_is_an_arm():
    assert draw_owner(5) == draw_owner(5)
    assert draw_owner(5).calibration.digest != draw_owner(6).calibration.digest


def test_zeros_are_off_by_up_to_three_degrees_and_by_that_much_sometimes():
    errors = np.array([draw_owner(seed).zero_errors_deg() for seed in SEEDS])
    assert errors.shape == (60, 5)
    assert np.abs(errors).max() < 3.2
    assert (np.abs(errors).max(axis=0) > 1.5).all()
    assert (errors.min(axis=0) < -1.0).sum() >= 4
    assert (errors.max(axis=0) > 1.0).sum() >= 4


def test_the_folded_arm_lies_within_its_recorded_range():
    """Else its servos could not hold it where it lies: they do not go to a goal beyond their limits."""
    for seed in range(5):
        arm = SimulatedArm(draw_owner(seed), SceneSpec(seed), clock="sim")
        arm.lie_down()
        for servo, joint in zip(arm.servos, arm.owner.calibration.joints, strict=True):
            assert joint.calibration.range_min <= servo.present_position <= joint.calibration.range_max


def test_a_perfect_owner_has_no_error():
    for seed in SEEDS:
        assert np.abs(draw_owner(seed, error_deg=0.0).zero_errors_deg()).max() < 0.2


@pytest.mark.parametrize("error_deg", [0.0, 3.0, 10.0])
def test_every_calibration_is_one_lerobot_accepts(tmp_path, error_deg):
    for seed in SEEDS:
        calibration = draw_owner(seed, error_deg).calibration
        path = tmp_path / "arm.json"
        path.write_text(calibration.dump())
        assert Calibration.load(path, c.MOTORS) == calibration
        assert set(json.loads(path.read_text())["gripper"]) == {
            "id",
            "drive_mode",
            "homing_offset",
            "range_min",
            "range_max",
        }


def test_the_motors_hold_what_the_file_says():
    owner = draw_owner(11)
    motors = {}
    for joint in range(c.NUM_JOINTS):
        registers = SimulatedServo(owner.eeprom(joint))
        values = [registers.read(address, 2) for address in (31, 9, 11)]
        offset, low, high = (int.from_bytes(value, "little") for value in values)
        motors[joint + 1] = (offset if offset < 2048 else -(offset & 2047), low, high)
    assert owner.calibration.differences(motors) == []


def test_angles_and_steps():
    owner = draw_owner(2)
    assert owner.degrees(1, owner.steps(1, 33.0)) == pytest.approx(33.0)
    assert owner.steps(0, 360.0) - owner.steps(0, 0.0) == pytest.approx(4096)


def test_an_error_that_is_too_large():
    with pytest.raises(ValueError, match="error_deg is 11; allowed is 0 to 10"):
        draw_owner(0, 11)
