"""LeRobot's calibration file: units, limits, identity, and every way it can be wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embodiments.feetech.calibration import Calibration, CalibrationError, Joint, MotorCalibration

NAMES = ("shoulder_pan", "gripper")
GOOD = {
    "shoulder_pan": {"id": 1, "drive_mode": 0, "homing_offset": -78, "range_min": 851, "range_max": 3268},
    "gripper": {"id": 6, "drive_mode": 0, "homing_offset": 239, "range_min": 1450, "range_max": 2656},
}


def write(folder, content):
    path = folder / "arm.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_units_are_lerobots(tmp_path):
    pan, gripper = Calibration.load(write(tmp_path, GOOD), NAMES).joints
    assert pan.from_raw(2059) == pytest.approx(-0.5 * 360 / 4095)
    assert pan.from_raw(4000) == pytest.approx((4000 - 2059.5) * 360 / 4095), "degrees are not clamped"
    assert gripper.from_raw(1450) == 0.0
    assert gripper.from_raw(1300) == 0.0, "percent is"
    assert gripper.from_raw(2053) == 50.0
    assert pan.limits == (pytest.approx(-1208.5 * 360 / 4095), pytest.approx(1208.5 * 360 / 4095))
    assert gripper.limits == (0.0, 100.0)


@given(st.integers(0, 4095))
def test_raw_to_degrees_and_back(raw):
    joint = Joint("pan", "deg", MotorCalibration(1, 0, 0, 851, 3268))
    assert joint.to_raw(joint.from_raw(raw)) == raw


@given(st.integers(1450, 2656), st.integers(0, 1))
def test_raw_to_percent_and_back(raw, drive_mode):
    joint = Joint("gripper", "percent", MotorCalibration(6, drive_mode, 0, 1450, 2656))
    assert joint.to_raw(joint.from_raw(raw)) == raw


def test_a_reversed_gripper_opens_the_other_way():
    joint = Joint("gripper", "percent", MotorCalibration(6, 1, 0, 1000, 2000))
    assert joint.from_raw(1000) == 100.0
    assert joint.to_raw(100.0) == 1000


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_target_must_be_finite(value):
    with pytest.raises(ValueError, match=r"pan: target .* is not finite"):
        Joint("pan", "deg", MotorCalibration(1, 0, 0, 851, 3268)).to_raw(value)


def changed(motor, **values):
    return GOOD | {motor: GOOD[motor] | values}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ({"shoulder_pan": GOOD["shoulder_pan"]}, r"motors are \['shoulder_pan'\], this arm has"),
        ([], "motors are list"),
        (changed("gripper", range_min=2656), "gripper: range 2656 to 2656; allowed is 0 <= min < max"),
        (changed("gripper", range_max=4096), "gripper: range 1450 to 4096"),
        (changed("shoulder_pan", homing_offset=-2048), "shoulder_pan: homing offset -2048"),
        (changed("shoulder_pan", homing_offset=1.5), "must be whole numbers"),
        (changed("shoulder_pan", drive_mode=2), "drive mode 2"),
        (changed("shoulder_pan", id=6), r"ids \[6, 6\] repeat"),
        (GOOD | {"gripper": {"id": 6}}, "needs exactly the fields"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, content, message):
    with pytest.raises(CalibrationError, match=message):
        Calibration.load(write(tmp_path, content), NAMES)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Calibration.load(tmp_path / "none.json", NAMES)


def test_motors_that_hold_another_calibration_are_named(tmp_path):
    calibration = Calibration.load(write(tmp_path, GOOD), NAMES)
    right = {1: (-78, 851, 3268), 6: (239, 1450, 2656)}
    assert calibration.differences(right) == []
    found = calibration.differences({1: (0, 0, 4095)})
    assert len(found) == 2
    assert "shoulder_pan (id 1): motor has offset, min, max (0, 0, 4095)" in found[0]
    assert "gripper (id 6): not read" in found[1]


def test_the_digest_is_the_calibrations_and_not_the_files(tmp_path):
    first = Calibration.load(write(tmp_path, json.dumps(GOOD, indent=7)), NAMES)
    again = Calibration.load(write(tmp_path, first.dump()), NAMES)
    other = Calibration.load(write(tmp_path, changed("gripper", range_min=1451)), NAMES)
    assert first == again
    assert first.digest == again.digest != other.digest
    assert len(first.digest) == 16
