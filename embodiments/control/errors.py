"""What an arm can refuse; one class per cause.

ConnectionError
  BusError               see embodiments.feetech.errors; PortUnavailable if the port cannot be had alone
  ControlError           the arm could not be had, or stopped; the text begins with the arm's port
    AttachError          the arm was found not to be what was expected; nothing was moved or energised
      MotorMissing       a motor does not answer
      WrongMotor         a motor of another model
      CalibrationMismatch  the calibration file belongs to another arm
      SupplyOutside      supply voltage outside its window
      RegistersRefused   a motor did not take a register
      TorqueRefused      a motor did not switch its torque on, or did not take the present pose as goal
    ArmStopped           the arm is in FAULT or ESTOP; `state` and `cause` say which and why
    Refused              the safety machine refused a request; `code` says why
    ProcessGone          the control process ended; `release` is what the release path found
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embodiments.feetech.errors import PortLost, PortUnavailable
from firmware_bridge.safety import Cause, Code, State

if TYPE_CHECKING:
    from embodiments.feetech.release import Release


class ControlError(ConnectionError):
    """The base of every error of a controlled arm."""


class AttachError(ControlError):
    """The arm is not what was expected; nothing was moved or energised."""


class MotorMissing(AttachError):
    """A motor does not answer."""


class WrongMotor(AttachError):
    """A motor of another model."""


class CalibrationMismatch(AttachError):
    """The calibration file belongs to another arm."""


class SupplyOutside(AttachError):
    """The supply voltage is outside its window."""


class RegistersRefused(AttachError):
    """A motor did not take a register."""


class TorqueRefused(AttachError):
    """A motor did not switch its torque on, or did not take the present pose as goal."""


class ArmStopped(ControlError):
    """The arm is in FAULT or ESTOP."""

    def __init__(self, message: str, state: State, cause: Cause) -> None:
        super().__init__(message)
        self.state = state
        self.cause = cause


class Refused(ControlError):
    """The safety machine refused a request."""

    def __init__(self, message: str, code: Code) -> None:
        super().__init__(message)
        self.code = code


class ProcessGone(ControlError):
    """The control process ended."""

    def __init__(self, message: str, release: Release | None = None) -> None:
        super().__init__(message)
        self.release = release


# What the control process may report by name when it could not attach.
ATTACH_ERRORS: dict[str, type[ConnectionError]] = {
    kind.__name__: kind
    for kind in (
        PortUnavailable,
        PortLost,
        AttachError,
        MotorMissing,
        WrongMotor,
        CalibrationMismatch,
        SupplyOutside,
        RegistersRefused,
        TorqueRefused,
        ControlError,
    )
}
