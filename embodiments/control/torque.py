"""Torque as the safety machine's output says: on without motion, ramped down, off and verified."""

from __future__ import annotations

from collections.abc import Callable

from embodiments.control.link import Severity
from embodiments.control.servo_arm import ServoArm
from embodiments.feetech.release import RELEASED, Release
from firmware_bridge.safety import Clock, Limit, SafetyMachine, State, Torque

RELEASE_PERIOD_US = 500_000
RAMP_PERIOD_US = 20_000
HALF = 0.5


class TorqueSwitch:
    """Who switched what on, and what remains to be switched off."""

    def __init__(self, say: Callable[[Severity, str], None]) -> None:
        self._say = say
        self.holding = False  # goals are written
        self.energised = False  # torque was switched on here and has not been read back as off
        self.found_on = False  # some motor had torque before, and was neither taken nor released here
        self.failed_releases = 0
        self.last_release: Release | None = None
        self._scale = 1.0
        self._ramp_us = 0
        self._release_us = -RELEASE_PERIOD_US
        self._stopped = False  # an emergency stop has released

    def follow(self, arm: ServoArm, machine: SafetyMachine, now_us: int) -> tuple[float, ...] | None:
        """Bring the motors to what the machine's state wants; the goals now held if torque was just taken.

        TorqueRefused if a motor did not switch on; PortLost.
        """
        torque, state = machine.output.torque, machine.state
        self._stopped = self._stopped and state == State.ESTOP
        if torque == Torque.OFF:
            if self.energised or (state == State.ESTOP and not self._stopped):
                self._release(arm, now_us)
        elif torque == Torque.RAMP:
            self._ramp(arm, machine, now_us)
        elif torque == Torque.ON and not self.holding and state != State.ESTOP:
            return self._take(arm)
        elif self.holding:
            share = HALF if torque == Torque.REDUCED else 1.0
            # A stop while the arm is let go may not lift it again.
            self._limit(arm, min(share, self._scale) if state == State.ESTOP else share)
        return None

    def lose_port(self) -> None:
        """What the motors do is unknown now: no goal is written before the arm is taken again."""
        self.holding = False

    def _take(self, arm: ServoArm) -> tuple[float, ...]:
        self.energised = True  # from here on some motor may have torque, whatever comes
        self.found_on = False
        goals = arm.energise()
        self._scale = 1.0
        self.holding = True
        return goals

    def _ramp(self, arm: ServoArm, machine: SafetyMachine, now_us: int) -> None:
        if self.energised and now_us - self._ramp_us >= RAMP_PERIOD_US:
            self._ramp_us = now_us
            share = machine.age_us(Clock.STATE) / machine.table.limits_us[Limit.LIMP_RAMP]
            self._limit(arm, min(self._scale, max(0.0, 1.0 - share)))

    def _limit(self, arm: ServoArm, share: float) -> None:
        if share != self._scale:
            arm.scale_torque(share)
            self._scale = share

    def _release(self, arm: ServoArm, now_us: int) -> None:
        if now_us - self._release_us < RELEASE_PERIOD_US:
            return
        self._release_us = now_us
        self.holding = False
        self.last_release = arm.release()
        if self.last_release.outcome == RELEASED:
            self.energised = self.found_on = False
            self.failed_releases = 0
            self._stopped = True
            self._scale = 1.0
            self._release_us = -RELEASE_PERIOD_US
            self._say(Severity.INFO, str(self.last_release))
        else:
            self.failed_releases += 1
            self._say(Severity.ERROR, str(self.last_release))
