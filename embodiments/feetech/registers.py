"""The register table of the STS3215, and what a number in it means.

Sources: Feetech "ST3215 memory register map" (areas, read-only registers, units) and LeRobot 0.6.1,
`lerobot/motors/feetech/tables.py` (names, addresses, sizes, sign bits); a test compares all of these with
LeRobot's tables.
"""

from __future__ import annotations

from typing import NamedTuple

from embodiments.feetech.packets import from_sign_magnitude, to_sign_magnitude

MODEL_NUMBER_STS3215 = 777
RESOLUTION = 4096  # steps a turn
# Baud_Rate codes as LeRobot has them; Feetech's map agrees on the first five.
BAUDRATES = (1_000_000, 500_000, 250_000, 128_000, 115_200, 57_600, 38_400, 19_200)
EEPROM_END = 40  # registers below are permanent, from here on they are lost with the supply
MEMORY_SIZE = 96

EEPROM = "eeprom"
SRAM = "sram"
FACTORY = "factory"


class Register(NamedTuple):
    """One register: LeRobot's name, address and size in bytes, sign bit (None: unsigned), area, access."""

    name: str
    address: int
    size: int
    sign_bit: int | None
    area: str
    read_only: bool
    unit: str

    def encode(self, value: int) -> bytes:
        """Little-endian bytes of `value`. ValueError if it does not fit."""
        word = value if self.sign_bit is None else to_sign_magnitude(value, self.sign_bit)
        if not 0 <= word < 1 << 8 * self.size:
            raise ValueError(
                f"register {self.name}: {value} does not fit; allowed is 0 to {(1 << 8 * self.size) - 1}"
            )
        return word.to_bytes(self.size, "little")

    def decode(self, word: int) -> int:
        """The number of an unsigned register word."""
        return word if self.sign_bit is None else from_sign_magnitude(word, self.sign_bit)

    def take_from(self, block: int, start: int) -> int:
        """The number in a block read that began at address `start`, given as one little-endian integer."""
        return self.decode(block >> 8 * (self.address - start) & ((1 << 8 * self.size) - 1))


# (name, address, bytes, unit)
_ROWS = (
    ("Firmware_Major_Version", 0, 1, ""),
    ("Firmware_Minor_Version", 1, 1, ""),
    ("Model_Number", 3, 2, ""),
    ("ID", 5, 1, ""),
    ("Baud_Rate", 6, 1, "code"),
    ("Return_Delay_Time", 7, 1, "2 us"),
    ("Response_Status_Level", 8, 1, ""),
    ("Min_Position_Limit", 9, 2, "step"),
    ("Max_Position_Limit", 11, 2, "step"),
    ("Max_Temperature_Limit", 13, 1, "degC"),
    ("Max_Voltage_Limit", 14, 1, "0.1 V"),
    ("Min_Voltage_Limit", 15, 1, "0.1 V"),
    ("Max_Torque_Limit", 16, 2, "0.1 %"),
    ("Phase", 18, 1, "bits"),
    ("Unloading_Condition", 19, 1, "bits"),
    ("LED_Alarm_Condition", 20, 1, "bits"),
    ("P_Coefficient", 21, 1, ""),
    ("D_Coefficient", 22, 1, ""),
    ("I_Coefficient", 23, 1, ""),
    ("Minimum_Startup_Force", 24, 2, "0.1 %"),
    ("CW_Dead_Zone", 26, 1, "step"),
    ("CCW_Dead_Zone", 27, 1, "step"),
    ("Protection_Current", 28, 2, "6.5 mA"),
    ("Angular_Resolution", 30, 1, ""),
    ("Homing_Offset", 31, 2, "step"),
    ("Operating_Mode", 33, 1, ""),
    ("Protective_Torque", 34, 1, "%"),
    ("Protection_Time", 35, 1, "10 ms"),
    ("Overload_Torque", 36, 1, "%"),
    ("Velocity_closed_loop_P_proportional_coefficient", 37, 1, ""),
    ("Over_Current_Protection_Time", 38, 1, "10 ms"),
    ("Velocity_closed_loop_I_integral_coefficient", 39, 1, ""),
    ("Torque_Enable", 40, 1, ""),
    ("Acceleration", 41, 1, "100 step/s^2"),
    ("Goal_Position", 42, 2, "step"),
    ("Goal_Time", 44, 2, ""),
    ("Goal_Velocity", 46, 2, "step/s"),
    ("Torque_Limit", 48, 2, "0.1 %"),
    ("Lock", 55, 1, ""),
    ("Present_Position", 56, 2, "step"),
    ("Present_Velocity", 58, 2, "step/s"),
    ("Present_Load", 60, 2, "0.1 %"),
    ("Present_Voltage", 62, 1, "0.1 V"),
    ("Present_Temperature", 63, 1, "degC"),
    ("Status", 65, 1, "bits"),
    ("Moving", 66, 1, ""),
    ("Present_Current", 69, 2, "6.5 mA"),
    ("Goal_Position_2", 71, 2, "step"),
    ("Moving_Velocity", 80, 1, ""),
    ("Moving_Velocity_Threshold", 80, 1, ""),  # a second name of the same byte, as in LeRobot's table
    ("DTs", 81, 1, "ms"),
    ("Velocity_Unit_factor", 82, 1, ""),
    ("Hts", 83, 1, "ns"),
    ("Maximum_Velocity_Limit", 84, 1, ""),
    ("Maximum_Acceleration", 85, 1, "100 step/s^2"),
    ("Acceleration_Multiplier", 86, 1, ""),
)
# Feetech's table marks these read-only; the rest can be written.
_READ_ONLY = {0, 1, 3, *range(56, 80)}
_SIGN_BITS = {31: 11, 42: 15, 46: 15, 56: 15, 58: 15, 60: 10}


def _area(address: int) -> str:
    if address < EEPROM_END:
        return EEPROM
    return SRAM if address < 80 else FACTORY


def _table() -> dict[str, Register]:
    return {
        name: Register(
            name, address, size, _SIGN_BITS.get(address), _area(address), address in _READ_ONLY, unit
        )
        for name, address, size, unit in _ROWS
    }


STS3215 = _table()


def register(name: str) -> Register:
    """The STS3215 register called `name`; KeyError says where the names are."""
    try:
        return STS3215[name]
    except KeyError:
        raise KeyError(f"register {name!r} is unknown; use one of {list(STS3215)}") from None


MODEL_NUMBER = STS3215["Model_Number"]
MIN_POSITION_LIMIT = STS3215["Min_Position_Limit"]
MAX_POSITION_LIMIT = STS3215["Max_Position_Limit"]
HOMING_OFFSET = STS3215["Homing_Offset"]
TORQUE_ENABLE = STS3215["Torque_Enable"]
GOAL_POSITION = STS3215["Goal_Position"]
TORQUE_LIMIT = STS3215["Torque_Limit"]
LOCK = STS3215["Lock"]
PRESENT_POSITION = STS3215["Present_Position"]
PRESENT_VELOCITY = STS3215["Present_Velocity"]
PRESENT_LOAD = STS3215["Present_Load"]
PRESENT_VOLTAGE = STS3215["Present_Voltage"]
PRESENT_TEMPERATURE = STS3215["Present_Temperature"]
STATUS = STS3215["Status"]
MOVING = STS3215["Moving"]
PRESENT_CURRENT = STS3215["Present_Current"]
