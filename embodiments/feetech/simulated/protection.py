"""A servo's own protections: supply, heat, current, overload; and what they do to its torque.

Thresholds and times are the servo's registers, as in Feetech's memory table: the load must stay above
Overload_Torque for Protection_Time, then the torque falls to Protective_Torque. That a tripped overload or
overcurrent stays until the torque is switched off is assumed; supply and heat report what is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embodiments.feetech.registers import STS3215
from embodiments.feetech.simulated import factory

if TYPE_CHECKING:
    from embodiments.feetech.simulated.servo import SimulatedServo

_AT = {name: entry.address for name, entry in STS3215.items()}
_CURRENT_LIMIT = slice(_AT["Protection_Current"], _AT["Protection_Current"] + 2)
TIME_UNIT_S = 0.01
VOLTAGE, OVERHEAT, OVERCURRENT, OVERLOAD = 0x01, 0x04, 0x08, 0x20
COOLED_K = 5.0  # an overheated servo drives again this far below its limit; assumed


class Protection:
    """Error bits that arise by themselves, the winding's temperature, and the torque they leave."""

    def __init__(self) -> None:
        self.temperature_c = factory.AMBIENT_C
        self.reset()

    def reset(self) -> None:
        """As after power up; the winding stays as warm as it is."""
        self.bits = 0
        self.allowed_share = 1.0
        self._overload_s = 0.0
        self._overcurrent_s = 0.0

    def torque_off(self) -> None:
        """Forgets what had tripped. The reply to that very write still carries it."""
        self.bits &= ~(OVERCURRENT | OVERLOAD)
        self._overload_s = self._overcurrent_s = 0.0

    def step(self, dt: float, servo: SimulatedServo) -> None:
        """Advances heat and timers by `dt` seconds."""
        memory, current = servo.memory, servo.current_a
        heat_w = current * current * factory.WINDING_OHM
        settled = factory.AMBIENT_C + heat_w * factory.THERMAL_K_PER_W
        self.temperature_c += (settled - self.temperature_c) * dt / factory.THERMAL_TIME_S
        low_v, high_v = memory[_AT["Min_Voltage_Limit"]] / 10, memory[_AT["Max_Voltage_Limit"]] / 10
        self.bits = self.bits & ~VOLTAGE if low_v <= servo.volts <= high_v else self.bits | VOLTAGE
        hottest_c = memory[_AT["Max_Temperature_Limit"]]
        if self.temperature_c > hottest_c:
            self.bits |= OVERHEAT
        elif self.temperature_c < hottest_c - COOLED_K:
            self.bits &= ~OVERHEAT
        loaded = abs(servo.effort) * 100 > memory[_AT["Overload_Torque"]]
        self._overload_s = self._overload_s + dt if loaded else 0.0
        if self._overload_s > memory[_AT["Protection_Time"]] * TIME_UNIT_S:
            self.bits |= OVERLOAD
        limit_a = int.from_bytes(memory[_CURRENT_LIMIT], "little") * factory.CURRENT_UNIT_A
        self._overcurrent_s = self._overcurrent_s + dt if limit_a and current > limit_a else 0.0
        if self._overcurrent_s > memory[_AT["Over_Current_Protection_Time"]] * TIME_UNIT_S:
            self.bits |= OVERCURRENT
        self.allowed_share = self._allowed_share(memory)

    def _allowed_share(self, memory: bytearray) -> float:
        enabled = self.bits & memory[_AT["Unloading_Condition"]]  # it names the protections that act
        if enabled & (VOLTAGE | OVERHEAT | OVERCURRENT):
            return 0.0
        return memory[_AT["Protective_Torque"]] / 100 if enabled & OVERLOAD else 1.0
