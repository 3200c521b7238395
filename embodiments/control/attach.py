"""Finding out whether the arm on a port is the arm of a spec, without moving or energising anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from embodiments.control.errors import (
    CalibrationMismatch,
    MotorMissing,
    RegistersRefused,
    SupplyOutside,
    WrongMotor,
)
from embodiments.control.spec import ControlSpec
from embodiments.feetech.calibration import Calibration
from embodiments.feetech.errors import NoReply
from embodiments.feetech.port import FeetechPort
from embodiments.feetech.registers import (
    EEPROM,
    HOMING_OFFSET,
    LOCK,
    MAX_POSITION_LIMIT,
    MIN_POSITION_LIMIT,
    MODEL_NUMBER,
    MODEL_NUMBER_STS3215,
    PRESENT_VOLTAGE,
    TORQUE_ENABLE,
    Register,
    register,
)

MAX_TORQUE_LIMIT = register("Max_Torque_Limit")
ATTEMPTS = 4
# A 7.4 V and a 12 V arm need different windows; nothing between the two is a healthy supply of either. The
# lower one reaches down to the 5 V supply that the SO-ARM100 bill of materials gives for 7.4 V servos.
SUPPLY_CLASSES_V = ((4.5, 8.4), (10.5, 13.0))
CLASS_BORDER_V = 9.4


class Attached(NamedTuple):
    """What was found: who has torque, torque limits (0.1 %) by motor id, supply and its window in volts."""

    energised: frozenset[int]
    torque_limits: dict[int, int]
    supply_v: float
    supply_window_v: tuple[float, float]
    written: tuple[str, ...]  # registers that had to be changed, "motor.Register"


class Inspector:
    """The questions of an attach, in order; each raises its own AttachError."""

    def __init__(self, spec: ControlSpec, calibration: Calibration, port: FeetechPort) -> None:
        self._spec = spec
        self._calibration = calibration
        self._port = port
        self._names = {joint.calibration.id: joint.name for joint in calibration.joints}

    def attach(self) -> Attached:
        """Everything about the arm that must be known before it may be armed."""
        self._check_motors()
        supply = self._check_supply()
        self._check_calibration()
        energised = frozenset(id for id, on in self._all(TORQUE_ENABLE).items() if on == 1)
        written = self._configure()
        # The permanent limit: the volatile one may be what a process that died half way left behind.
        return Attached(energised, self._all(MAX_TORQUE_LIMIT), *supply, written)

    def _all(self, entry: Register) -> dict[int, int]:
        """The register of every motor; MotorMissing names those that never answered."""
        found: dict[int, int] = {}
        for _ in range(ATTEMPTS):
            missing = [id for id in self._calibration.ids if id not in found]
            if not missing:
                break
            answer = self._port.sync_read(entry.address, entry.size, missing)
            found.update({id: entry.decode(reply.value) for id, reply in answer.replies.items()})
        self._raise_missing(found)
        return found

    def _raise_missing(self, found: Mapping[int, int]) -> None:
        missing = [f"{name} (id {id})" for id, name in self._names.items() if id not in found]
        if len(missing) == len(self._names):
            raise MotorMissing(f"{self._spec.port}: no motor answers; is the servo supply switched on?")
        if missing:
            raise MotorMissing(
                f"{self._spec.port}: no answer from {', '.join(missing)}; the others answer, so look at the "
                "cable of the first one missing"
            )

    def _check_motors(self) -> None:
        models = self._all(MODEL_NUMBER)
        wrong = {self._names[id]: model for id, model in models.items() if model != MODEL_NUMBER_STS3215}
        if wrong:
            raise WrongMotor(
                f"{self._spec.port}: model numbers {wrong}; this arm has STS3215 servos "
                f"(model {MODEL_NUMBER_STS3215})"
            )

    def _check_supply(self) -> tuple[float, tuple[float, float]]:
        volts = min(self._all(PRESENT_VOLTAGE).values()) / 10
        window = self._spec.supply_window_v or SUPPLY_CLASSES_V[volts > CLASS_BORDER_V]
        if not window[0] <= volts <= window[1]:
            raise SupplyOutside(
                f"{self._spec.port}: the servos measure {volts:g} V; allowed is {window[0]:g} to "
                f"{window[1]:g} V. 7.4 V servos need a 5 to 7.4 V supply, 12 V servos one of 12 V; look at "
                "its label and plug"
            )
        return volts, window

    def _check_calibration(self) -> None:
        offsets, lows, highs = map(self._all, (HOMING_OFFSET, MIN_POSITION_LIMIT, MAX_POSITION_LIMIT))
        found = {id: (offsets[id], lows[id], highs[id]) for id in self._names}
        different = self._calibration.differences(found)
        if different:
            raise CalibrationMismatch(
                f"{self._spec.port}: the motors are not calibrated as the file says "
                f"({'; '.join(different)}); give this arm's own id, or calibrate it with lerobot-calibrate"
            )

    # -- registers -------------------------------------------------------------------------------------------
    def _configure(self) -> tuple[str, ...]:
        """Write what differs from the spec, torque untouched; "motor.Register" of everything written."""
        wanted = {
            (id, name): value
            for id, motor in self._names.items()
            for name, value in self._spec.wanted_registers(motor).items()
        }
        written = []
        for name in sorted({name for _, name in wanted} | set(self._spec.clear_bits)):
            entry, found = register(name), self._all(register(name))
            for id, motor in self._names.items():
                value = wanted.get((id, name))
                if name in self._spec.clear_bits:
                    value = found[id] & ~self._spec.clear_bits[name]
                if value is not None and found[id] != value:
                    self._write(id, motor, entry, value)
                    written.append(f"{motor}.{name}")
        return tuple(written)

    def _write(self, id: int, motor: str, entry: Register, value: int) -> None:
        try:
            if entry.area == EEPROM:
                self._port.write_register(id, LOCK, 0, ATTEMPTS)
            self._port.write_register(id, entry, value, ATTEMPTS)
            now = entry.decode(self._port.read(id, entry.address, entry.size, ATTEMPTS).value)
        except NoReply as error:
            raise MotorMissing(str(error)) from error
        if now != value:
            raise RegistersRefused(
                f"{self._spec.port}: {motor} (id {id}) keeps {entry.name} at {now}, {value} was written; "
                "support the arm, release its torque (python -m embodiments.feetech.release PORT), try again"
            )
