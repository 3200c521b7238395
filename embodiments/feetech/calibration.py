"""An arm's calibration: LeRobot's file, its units, and whether the motors agree with it.

The one place where raw steps become degrees and percent. As LeRobot 0.6.1 (`motors_bus.py`): body joints in
degrees from the middle of the recorded range, (raw - (min + max) / 2) * 360 / 4095, unclamped and blind to
drive_mode; the gripper in percent of its recorded range, clamped, reversed by drive_mode.
LeRobot truncates goals towards zero; here they are rounded to the nearest step, at most one step apart.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from embodiments.feetech.registers import RESOLUTION

MAX_RAW = RESOLUTION - 1
MAX_HOMING_OFFSET = 2047  # sign bit 11
DEGREES = "deg"
PERCENT = "percent"
_FIELDS = ("id", "drive_mode", "homing_offset", "range_min", "range_max")


class CalibrationError(ValueError):
    """A calibration file that cannot be used, or that belongs to another arm."""


class MotorCalibration(NamedTuple):
    """One motor's entry of LeRobot's file."""

    id: int
    drive_mode: int
    homing_offset: int
    range_min: int
    range_max: int


class Joint(NamedTuple):
    """One motor with its unit: converts both ways."""

    name: str
    unit: str
    calibration: MotorCalibration

    def from_raw(self, raw: int) -> float:
        """Degrees or percent of a raw position."""
        low, high = self.calibration.range_min, self.calibration.range_max
        if self.unit == DEGREES:
            return (raw - (low + high) / 2) * 360 / MAX_RAW
        percent = (min(high, max(low, raw)) - low) / (high - low) * 100
        return 100 - percent if self.calibration.drive_mode else percent

    def to_raw(self, value: float) -> int:
        """Nearest raw position; ValueError unless `value` is finite. Degrees are not clamped to the range."""
        if not math.isfinite(value):
            raise ValueError(f"{self.name}: target {value} is not finite")
        low, high = self.calibration.range_min, self.calibration.range_max
        if self.unit == DEGREES:
            return round(value * MAX_RAW / 360 + (low + high) / 2)
        percent = min(100.0, max(0.0, value))
        return round((100 - percent if self.calibration.drive_mode else percent) / 100 * (high - low) + low)

    @property
    def limits(self) -> tuple[float, float]:
        """(lower, upper) of the recorded range in the joint's unit."""
        if self.unit == PERCENT:
            return 0.0, 100.0
        half = (self.calibration.range_max - self.calibration.range_min) / 2 * 360 / MAX_RAW
        return -half, half


class Calibration(NamedTuple):
    """A whole arm's calibration, joints in LeRobot's order."""

    joints: tuple[Joint, ...]

    @classmethod
    def from_motors(cls, motors: Mapping[str, MotorCalibration], percent: Sequence[str]) -> Calibration:
        """From motor entries; those named in `percent` are in percent, the others in degrees."""
        units = (PERCENT if name in percent else DEGREES for name in motors)
        joints = (Joint(name, unit, motor) for (name, motor), unit in zip(motors.items(), units, strict=True))
        return cls(tuple(joints))

    @classmethod
    def load(cls, path: Path, names: Sequence[str], percent: Sequence[str] = ("gripper",)) -> Calibration:
        """Reads LeRobot's JSON for an arm with motors `names`.

        CalibrationError names the file, the motor and what is wrong with it; OSError if it cannot be read.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise CalibrationError(f"{path}: not JSON ({error}); calibrate with lerobot-calibrate") from error
        if not isinstance(content, dict) or set(content) != set(names):
            found = sorted(content) if isinstance(content, dict) else type(content).__name__
            raise CalibrationError(
                f"{path}: motors are {found}, this arm has {list(names)}; give this arm's own file"
            )
        motors = {name: _checked(f"{path}: {name}", content[name]) for name in names}
        ids = [motor.id for motor in motors.values()]
        if len(set(ids)) != len(ids):
            raise CalibrationError(f"{path}: motor ids {ids} repeat; calibrate with lerobot-calibrate")
        return cls.from_motors(motors, percent)

    def dump(self) -> str:
        """LeRobot's JSON."""
        motors = {joint.name: joint.calibration._asdict() for joint in self.joints}
        return json.dumps(motors, indent=4)

    @property
    def ids(self) -> tuple[int, ...]:
        """Motor ids in joint order."""
        return tuple(joint.calibration.id for joint in self.joints)

    @property
    def digest(self) -> str:
        """What identifies this calibration wherever it is stored: 16 hexadecimal digits."""
        canonical = json.dumps({joint.name: list(joint.calibration) for joint in self.joints}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def differences(self, motors: Mapping[int, tuple[int, int, int]]) -> list[str]:
        """How the motors' registers, id → (homing offset, min, max), differ from this file; empty: equal."""
        found = []
        for joint in self.joints:
            entry = joint.calibration
            given = motors.get(entry.id)
            wanted = (entry.homing_offset, entry.range_min, entry.range_max)
            if given is None:
                found.append(f"{joint.name} (id {entry.id}): not read")
            elif given != wanted:
                found.append(
                    f"{joint.name} (id {entry.id}): motor has offset, min, max {given}, the file {wanted}"
                )
        return found


def _checked(where: str, entry: object) -> MotorCalibration:
    """One motor's entry, or CalibrationError."""
    again = "calibrate with lerobot-calibrate"
    if not isinstance(entry, dict) or set(entry) != set(_FIELDS):
        raise CalibrationError(f"{where}: needs exactly the fields {list(_FIELDS)}, got {entry!r}; {again}")
    wrong = {key: value for key, value in entry.items() if type(value) is not int}
    if wrong:
        raise CalibrationError(f"{where}: {wrong} must be whole numbers; {again}")
    motor = MotorCalibration(**entry)
    if not 0 <= motor.range_min < motor.range_max <= MAX_RAW:
        raise CalibrationError(
            f"{where}: range {motor.range_min} to {motor.range_max}; allowed is 0 <= min < max <= {MAX_RAW}. "
            f"Home the joint nearer to the middle of its range and {again}"
        )
    if abs(motor.homing_offset) > MAX_HOMING_OFFSET:
        raise CalibrationError(
            f"{where}: homing offset {motor.homing_offset}; allowed is +-{MAX_HOMING_OFFSET}; {again}"
        )
    if motor.drive_mode not in (0, 1) or not 0 <= motor.id <= 0xFD:
        raise CalibrationError(
            f"{where}: id {motor.id}, drive mode {motor.drive_mode}; allowed are 0 to 253 and 0 or 1; {again}"
        )
    return motor
