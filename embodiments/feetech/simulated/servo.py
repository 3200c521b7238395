"""One simulated STS3215: its memory, as the bus sees it, and its electronics, as the joint feels them.

Positions in "actual" steps are the encoder's, unwrapped; the registers hold positions less Homing_Offset.
What no data sheet says and nobody has measured for us is a named switch or marked "assumed".
"""

from __future__ import annotations

import math
from typing import NamedTuple

from embodiments.feetech.registers import (
    BAUDRATES,
    EEPROM_END,
    MEMORY_SIZE,
    RESOLUTION,
    STS3215,
    Register,
)
from embodiments.feetech.simulated import factory
from embodiments.feetech.simulated.motion import Profile
from embodiments.feetech.simulated.protection import Protection

HOLD = "hold"  # torque on: the goal becomes the present position
OLD_GOAL = "old_goal"  # torque on: the servo travels to the goal it remembers
TORQUE_ON = (HOLD, OLD_GOAL)
ANGLE_FEEDBACK_MULTITURN = 0x10  # bit of Phase
POSITION_MODE = 0
CENTRE_HERE = 128  # written to Torque_Enable: the present position becomes 2048
MOVING_STEPS_S = 20.0
_READ_ONLY = frozenset(
    address
    for entry in STS3215.values()
    if entry.read_only
    for address in range(entry.address, entry.address + entry.size)
)
_REG = STS3215
_PRESENT = range(_REG["Present_Position"].address, _REG["Goal_Position_2"].address)  # refreshed when read
# Addresses of the single bytes that every step looks at.
_TORQUE_ENABLE = _REG["Torque_Enable"].address
_ACCELERATION = _REG["Acceleration"].address
_MODE = _REG["Operating_Mode"].address
_PHASE = _REG["Phase"].address
_P, _D = _REG["P_Coefficient"].address, _REG["D_Coefficient"].address


class Drive(NamedTuple):
    """What the motor does to its joint until the next step.

    `target`: actual steps. `limit`: share of the stall torque at nominal supply. `stiffness`, `damping`:
    relative to the gains LeRobot sets.
    """

    on: bool
    target: float
    limit: float
    stiffness: float
    damping: float


class SimulatedServo:
    """One servo. The bus calls `read` and `write`; the joint's physics calls `step`."""

    def __init__(self, eeprom: bytearray, torque_on: str = HOLD) -> None:
        if torque_on not in TORQUE_ON:
            raise ValueError(f"simulated servo: torque_on is {torque_on!r}; allowed is one of {TORQUE_ON}")
        self.eeprom = bytearray(eeprom)
        self.torque_on = torque_on
        self.position = 2048.0  # actual steps
        self.velocity = 0.0  # steps per second
        self.effort = 0.0  # share of the stall torque, signed
        self.volts = factory.NOMINAL_V
        self.forced_errors = 0  # error bits injected from outside
        self.protection = Protection()
        self._profile = Profile()
        self.powered = True
        self.power_up()

    # -- supply ----------------------------------------------------------------------------------------------
    def power_up(self) -> None:
        """Permanent registers into memory, the rest to its initial values; torque is off."""
        self.memory = bytearray(MEMORY_SIZE)
        self.memory[:EEPROM_END] = self.eeprom
        self.set(_REG["Torque_Limit"], self.get(_REG["Max_Torque_Limit"]))
        self.protection.reset()
        self.powered = True
        self._hold_here()

    def power_down(self) -> None:
        """No supply: silent, limp, volatile registers lost."""
        self.powered = False

    # -- memory ----------------------------------------------------------------------------------------------
    def get(self, entry: Register) -> int:
        """The number in a register."""
        return entry.decode(int.from_bytes(self.memory[entry.address : entry.address + entry.size], "little"))

    def set(self, entry: Register, value: int) -> None:
        """Puts a number into memory, past every access rule."""
        self.memory[entry.address : entry.address + entry.size] = entry.encode(value)

    @property
    def id(self) -> int:
        """The id it answers to."""
        return self.memory[_REG["ID"].address]

    @property
    def baudrate(self) -> int | None:
        """The line speed it listens at; None if its register holds no known code."""
        code = self.memory[_REG["Baud_Rate"].address]
        return BAUDRATES[code] if code < len(BAUDRATES) else None

    @property
    def torque(self) -> bool:
        """Whether the motor drives."""
        return self.powered and self.memory[_TORQUE_ENABLE] == 1

    @property
    def error(self) -> int:
        """Error bits of a reply sent now."""
        return (self.protection.bits | self.forced_errors) & 0x7F

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes from `address`; what is beyond the memory reads as 0 (assumed)."""
        if address < _PRESENT.stop and address + size > _PRESENT.start:
            self._refresh()
        found = bytes(self.memory[address : address + size])
        return found + bytes(size - len(found))

    def write(self, address: int, data: bytes) -> None:
        """Puts `data` at `address`; read-only bytes stay (assumed). EEPROM keeps it only while unlocked."""
        was_on = self.torque
        unlocked = self.memory[_REG["Lock"].address] == 0
        for offset, byte in enumerate(data):
            where = address + offset
            if where >= MEMORY_SIZE or where in _READ_ONLY:
                continue
            self.memory[where] = byte
            if where < EEPROM_END and unlocked:
                self.eeprom[where] = byte
        touched = range(address, address + len(data))
        if _TORQUE_ENABLE in touched:
            self._torque_written(was_on, goal_too=_REG["Goal_Position"].address in touched)

    def _torque_written(self, was_on: bool, goal_too: bool) -> None:
        if self.memory[_TORQUE_ENABLE] == CENTRE_HERE:
            offset = round(self.position) - RESOLUTION // 2
            half = RESOLUTION // 2
            wrapped = (offset + half) % RESOLUTION - half
            self.set(_REG["Homing_Offset"], max(1 - half, wrapped))
            self.memory[_TORQUE_ENABLE] = int(was_on)
        elif not self.torque:
            self.protection.torque_off()
        elif not was_on:
            if self.torque_on == HOLD and not goal_too:
                self._hold_here()
            self._profile.restart(self.position)

    def _hold_here(self) -> None:
        goal = _REG["Goal_Position"]
        self.set(goal, max(-32767, min(32767, self.present_position)))
        self._profile.restart(self.position)

    @property
    def present_position(self) -> int:
        """What Present_Position holds: the encoder less the offset, within one turn unless set otherwise."""
        steps = round(self.position) - self.get(_REG["Homing_Offset"])
        return steps if self.memory[_PHASE] & ANGLE_FEEDBACK_MULTITURN else steps % RESOLUTION

    def _refresh(self) -> None:
        def saturated(value: float, limit: int) -> int:
            return max(-limit, min(limit, round(value)))

        self.set(_REG["Present_Position"], saturated(self.present_position, 32767))
        self.set(_REG["Present_Velocity"], saturated(self.velocity, 32767))
        self.set(_REG["Present_Load"], saturated(self.effort * 1000, 1000))
        self.set(_REG["Present_Voltage"], min(255, max(0, round(self.volts * 10))))
        self.set(_REG["Present_Temperature"], min(255, max(0, round(self.protection.temperature_c))))
        self.set(_REG["Status"], self.error)
        self.set(_REG["Moving"], int(abs(self.velocity) > MOVING_STEPS_S or self._profile.speed != 0))
        self.set(_REG["Present_Current"], round(self.current_a / factory.CURRENT_UNIT_A))

    # -- motor -----------------------------------------------------------------------------------------------
    @property
    def current_a(self) -> float:
        """Supply current."""
        return factory.IDLE_CURRENT_A + abs(self.effort) * factory.STALL_CURRENT_A if self.powered else 0.0

    def step(self, dt: float, position: float, velocity: float, effort: float, volts: float) -> Drive:
        """Takes in the joint's state, protects the motor, advances the setpoint; what the motor does next."""
        self.position, self.velocity, self.volts = position, velocity, volts
        self.effort = effort if self.torque else 0.0
        self._follow_supply()
        self.protection.step(dt, self)
        if not self.torque:
            return Drive(False, position, 0.0, 0.0, 0.0)
        low, high = self.get(_REG["Min_Position_Limit"]), self.get(_REG["Max_Position_Limit"])
        goal = min(high, max(low, self.get(_REG["Goal_Position"])))
        offset = self.get(_REG["Homing_Offset"])
        turn = math.floor((position - offset) / RESOLUTION) * RESOLUTION
        supply = volts / factory.NOMINAL_V
        asked = abs(self.get(_REG["Goal_Velocity"])) or math.inf
        top_speed = min(asked, factory.NO_LOAD_STEPS_S * supply)
        acceleration = self.memory[_ACCELERATION] * factory.ACCELERATION_UNIT
        if self.memory[_MODE] == POSITION_MODE:  # in the other modes, not simulated, it stands still
            self._profile.advance(goal + offset + turn, top_speed, acceleration, dt)
        share = min(self.get(_REG["Torque_Limit"]), self.get(_REG["Max_Torque_Limit"])) / 1000
        limit = min(1.0, share) * supply * self.protection.allowed_share
        stiffness = self.memory[_P] / factory.NOMINAL_P
        return Drive(True, self._profile.setpoint, limit, stiffness, self.memory[_D] / factory.NOMINAL_D)

    def _follow_supply(self) -> None:
        if self.powered and self.volts < factory.BROWN_OUT_V:
            self.power_down()
        elif not self.powered and self.volts >= factory.BROWN_OUT_V + 0.5:
            self.power_up()
