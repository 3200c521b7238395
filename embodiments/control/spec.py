"""Everything the control process needs to know about one arm, as data that travels as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

from embodiments.control.limits import JointLimits
from embodiments.feetech.calibration import Calibration, MotorCalibration
from embodiments.feetech.registers import register
from firmware_bridge.safety import SafetyTable, safety_table

MIN_RATE_HZ = 10.0
MAX_RATE_HZ = 200.0


@dataclass(frozen=True)
class Thresholds:
    """When a measurement is a fault. Angles in degrees; they apply to joints in degrees only."""

    tracking_deg: float = 10.0
    tracking_s: float = 0.3
    stall_deg: float = 5.0
    stall_load_percent: float = 60.0
    stall_s: float = 0.3
    grip_load_percent: float = 25.0  # a closing gripper beyond this stops closing …
    grip_s: float = 0.2
    grip_margin: float = 4.0  # … this far (percent) past where it touched, and opens from there
    hold_load_percent: float = 20.0  # until no more than this is left: LeRobot's overload trips at 25
    range_margin_deg: float = 10.0  # measured beyond the calibrated range
    servo_speed: float = 400.0  # no motor moves faster: plausibility of measurements, per second
    plausible_margin: float = 5.0
    implausible_cycles: int = 3
    lost_attempts: int = 3
    lost_s: float = 0.035  # one motor silent among others: at 100 Hz a fault within 60 ms of its death
    line_silent_s: float = 0.25  # nobody answers: a busy host, or the line
    warn_celsius: int = 55
    slow_celsius: int = 60
    fault_celsius: int = 65


@dataclass(frozen=True)
class ControlSpec:
    """One arm on one port.

    calibration: motor name → LeRobot's calibration entry, in joint order. percent: joints in percent.
    gate: how far the first setpoint of a run may be from the arm, per joint in its unit. park: the rest pose,
    or None for the pose in which the arm lay limp when it was attached. registers: register name → wanted
    value on every motor; joint_registers: motor name → the same for one.
    """

    port: str
    calibration: dict[str, dict[str, int]]
    limits: tuple[JointLimits, ...]
    gate: tuple[float, ...]
    rate_hz: float = 100.0
    baudrate: int = 1_000_000
    percent: tuple[str, ...] = ("gripper",)
    park: tuple[float, ...] | None = None
    park_speed: float = 20.0  # per second
    approach_far_setpoint: bool = True
    approach_speed: float = 25.0  # per second
    smoothing_s: float = 0.04
    torque_share: float = 1.0  # of each motor's own limit, the most that is ever used
    setpoint_ttl_us: int = 100_000
    frame_timeout_us: int = 250_000
    park_after_heartbeat: bool = True
    estop_category: int = 1
    supply_window_v: tuple[float, float] | None = None  # None: by the class of supply found
    registers: dict[str, int] = field(default_factory=dict)
    joint_registers: dict[str, dict[str, int]] = field(default_factory=dict)
    clear_bits: dict[str, int] = field(default_factory=dict)  # register name → bits that must be 0
    thresholds: Thresholds = field(default_factory=Thresholds)
    realtime_priority: int = 20  # SCHED_FIFO, where permitted; 0 for none
    journal: str | None = None  # path of the event log; beside it a record of the last cycles

    def __post_init__(self) -> None:
        names = tuple(self.calibration)
        if not MIN_RATE_HZ <= self.rate_hz <= MAX_RATE_HZ:
            raise ValueError(
                f"{self.port}: control rate {self.rate_hz:g} Hz; allowed is {MIN_RATE_HZ:g} to "
                f"{MAX_RATE_HZ:g}"
            )
        if tuple(limit.name for limit in self.limits) != names or len(self.gate) != len(names):
            raise ValueError(
                f"{self.port}: limits are for {[limit.name for limit in self.limits]}, gates for "
                f"{len(self.gate)} joints; give one of each for {list(names)}, in this order"
            )
        if not 0.0 < self.torque_share <= 1.0:
            raise ValueError(
                f"{self.port}: torque_share is {self.torque_share:g}; allowed is up to 1, above 0"
            )
        for what, pose in (("gate", self.gate), ("park", self.park or ())):
            if not all(math.isfinite(value) for value in pose):
                raise ValueError(f"{self.port}: {what} is {pose}; every number must be finite")
        if self.park is not None and len(self.park) != len(names):
            raise ValueError(f"{self.port}: park has {len(self.park)} joints, the arm {len(names)}")
        for name in (
            *self.registers,
            *self.clear_bits,
            *(n for motor in self.joint_registers.values() for n in motor),
        ):
            register(name)  # KeyError names the ones there are
        self.table()

    def table(self) -> SafetyTable:
        """The safety machine of this arm."""
        return safety_table(
            self.setpoint_ttl_us, self.frame_timeout_us, self.park_after_heartbeat, self.estop_category
        )

    def load_calibration(self) -> Calibration:
        """The calibration with its units."""
        motors = {name: MotorCalibration(**entry) for name, entry in self.calibration.items()}
        return Calibration.from_motors(motors, self.percent)

    def wanted_registers(self, motor: str) -> dict[str, int]:
        """Register name → value one motor should have."""
        return self.registers | self.joint_registers.get(motor, {})

    def dump(self) -> str:
        """JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def parse(cls, text: str) -> ControlSpec:
        """From `dump`; TypeError or ValueError for anything else."""
        fields: dict[str, Any] = json.loads(text)
        fields["limits"] = tuple(JointLimits(**limits) for limits in fields["limits"])
        fields["thresholds"] = Thresholds(**fields["thresholds"])
        for name in ("gate", "percent", "park", "supply_window_v"):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        return cls(**fields)
