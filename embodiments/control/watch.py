"""From measurements to conditions of the safety machine: what is present now, and the words for it.

Holds no state of the machine and decides nothing; a cause is present while its criterion holds. Times are
microseconds of the caller's clock.
"""

from __future__ import annotations

from collections.abc import Sequence

from embodiments.control.servo_arm import Health, Measurement, Sample
from embodiments.control.spec import ControlSpec, Thresholds
from embodiments.feetech.calibration import DEGREES, Calibration
from firmware_bridge.safety import Cause

# Error bits of a status packet (Feetech memory table, register 65).
ERROR_BITS = (
    (0x01, Cause.SUPPLY, "input voltage error"),
    (0x02, Cause.ANGLE, "angle sensor error"),
    (0x04, Cause.OVERHEAT, "overheating error"),
    (0x08, Cause.OVERCURRENT, "overcurrent error"),
    (0x20, Cause.OVERLOAD, "overload error"),
)
BITS_GONE_US = 500_000
# One damaged packet in twenty passes the checksum: one reply alone proves no error bit …
PROOF_REPLIES = 2
# … and a position that was wrong is believed again only after this many that agree with each other.
TRUST_REPLIES = 20
SUPPLY_READS = 2
SAGGING_SHARE = 0.9  # of the supply found at first: a window that suits 5 V and 7.4 V servos is too wide here


class JointWatch:
    """One joint: is it there, is what it says possible, does it follow, is it in trouble."""

    def __init__(self, name: str, degrees: bool, limits: tuple[float, float], thresholds: Thresholds) -> None:
        self.name = name
        self.degrees = degrees
        self._range = limits
        self._t = thresholds
        self.position: float | None = None  # last plausible
        self.accepted_us = 0  # when that was
        self._doubted: float | None = None
        self._doubts = 0
        self._agreements = 0
        self.implausible = 0  # total
        self.failures = 0  # replies missing in a row
        self._first_failure_us = 0
        self._bits = [0] * len(ERROR_BITS)
        self._bit_us = [-BITS_GONE_US] * len(ERROR_BITS)
        self._off_since_us: int | None = None
        self._stalled_since_us: int | None = None
        self.load = 0.0
        self.errors = 0

    def see(self, sample: Sample | None, now_us: int) -> None:
        """Take in one reply, or its absence."""
        if sample is None:
            self.failures += 1
            if self.failures == 1:
                self._first_failure_us = now_us
            return
        self.failures = 0
        self.load, self.errors = sample.load, sample.errors
        for index, (bit, _, _) in enumerate(ERROR_BITS):
            self._bits[index] = self._bits[index] + 1 if sample.errors & bit else 0
            if self._bits[index] >= PROOF_REPLIES:
                self._bit_us[index] = now_us
        self._believe(sample.position, now_us)

    def _believe(self, position: float, now_us: int) -> None:
        if self.position is None or self._possible(self.position, position, now_us):
            self.position, self.accepted_us = position, now_us
            self._doubts = self._agreements = 0
            self._doubted = None
            return
        self.implausible += 1
        self._doubts += 1
        agrees = self._doubted is not None and abs(position - self._doubted) <= self._t.plausible_margin
        self._agreements = self._agreements + 1 if agrees else 0
        self._doubted = position
        if self._agreements >= TRUST_REPLIES:
            self.position, self.accepted_us = position, now_us
            self._doubts = self._agreements = 0

    def _possible(self, before: float, position: float, now_us: int) -> bool:
        if self._doubts >= self._t.implausible_cycles:
            return abs(position - before) <= self._t.plausible_margin  # time alone makes no jump plausible
        elapsed_s = (now_us - self.accepted_us) * 1e-6
        return abs(position - before) <= self._t.servo_speed * elapsed_s + self._t.plausible_margin

    def silent_for(self, seconds: float, now_us: int) -> bool:
        """Whether this motor has not answered for so long, and more than once or twice."""
        enough = self.failures >= self._t.lost_attempts
        return enough and now_us - self._first_failure_us >= seconds * 1e6

    @property
    def jumped(self) -> bool:
        """Whether the encoder says what no motor can have done."""
        return self._doubts >= self._t.implausible_cycles

    def bits(self, now_us: int) -> list[tuple[Cause, str]]:
        """Error bits proved within the last half second."""
        recent = zip(ERROR_BITS, self._bit_us, strict=True)
        return [(cause, text) for (_, cause, text), at in recent if now_us - at < BITS_GONE_US]

    def follow(self, goal: float | None, now_us: int) -> list[tuple[Cause, str]]:
        """Whether the joint follows `goal` (None: it need not), and stays in its calibrated range."""
        if not self.degrees or goal is None or self.position is None:
            self._off_since_us = self._stalled_since_us = None
            return []
        found = []
        error = abs(goal - self.position)
        self._off_since_us = _since(self._off_since_us, error > self._t.tracking_deg, now_us)
        if _lasted(self._off_since_us, now_us, self._t.tracking_s):
            found.append((Cause.TRACKING, f"is {error:.1f} deg away from its goal"))
        pushing = error > self._t.stall_deg and self.load > self._t.stall_load_percent
        self._stalled_since_us = _since(self._stalled_since_us, pushing, now_us)
        if _lasted(self._stalled_since_us, now_us, self._t.stall_s):
            found.append((Cause.STALL, f"pushes with {self.load:.0f} % of its torque, {error:.1f} deg short"))
        low, high = (self._range[0] - self._t.range_margin_deg, self._range[1] + self._t.range_margin_deg)
        if not low <= self.position <= high:
            found.append((Cause.LIMIT, f"is at {self.position:.1f} deg, calibrated {self._range}"))
        return found


class Watch:
    """All joints of an arm, its supply and its temperatures."""

    def __init__(self, spec: ControlSpec, calibration: Calibration) -> None:
        self._thresholds = spec.thresholds
        self.joints = tuple(
            JointWatch(joint.name, joint.unit == DEGREES, joint.limits, spec.thresholds)
            for joint in calibration.joints
        )
        self._volts: dict[int, float] = {}
        self._celsius: dict[int, int] = {}
        self._out = 0
        self.supply_window_v = (0.0, 99.0)
        self.supply_found_v = 0.0  # when the arm was attached
        self.reasons: dict[Cause, str] = {}
        self.lost_replies = 0

    @property
    def positions(self) -> tuple[float, ...] | None:
        """The last plausible position of every joint; None before each has answered once."""
        found = tuple(joint.position for joint in self.joints if joint.position is not None)
        return found if len(found) == len(self.joints) else None

    @property
    def measured_us(self) -> int:
        """When the oldest of `positions` was measured."""
        return min(joint.accepted_us for joint in self.joints)

    @property
    def supply_v(self) -> float:
        """The lowest supply measured in the last round; 0 before the first."""
        return min(self._volts.values(), default=0.0)

    @property
    def hottest_celsius(self) -> int:
        """The highest temperature measured in the last round."""
        return max(self._celsius.values(), default=0)

    @property
    def slow(self) -> bool:
        """Whether motors are so warm, or the supply so low, that the arm should move slowly."""
        lowest = max(self.supply_window_v[0] * 1.05, self.supply_found_v * SAGGING_SHARE)
        sagging = self.supply_v and self.supply_v < lowest
        return bool(sagging) or self.hottest_celsius >= self._thresholds.slow_celsius

    @property
    def blind(self) -> bool:
        """Whether no motor has answered for some cycles: nothing is known about what motion does."""
        return all(joint.failures >= self._thresholds.lost_attempts for joint in self.joints)

    def see(self, measurement: Measurement, now_us: int, only: Sequence[int] = ()) -> None:
        """Take in one reading of the joints in `only`, or of all."""
        for index, (joint, sample) in enumerate(zip(self.joints, measurement.samples, strict=True)):
            if not only or index in only:
                self.lost_replies += sample is None
                joint.see(sample, now_us)

    def see_health(self, health: Health) -> None:
        """Take in one motor's slow registers."""
        self._volts[health.joint], self._celsius[health.joint] = health.volts, health.celsius
        low, high = self.supply_window_v
        self._out = 0 if low <= health.volts <= high else self._out + 1

    def judge(self, goals: Sequence[float] | None, now_us: int) -> int:
        """Mask of the conditions present now, bit 1 << cause; `reasons` has a sentence for each.

        `goals` are those the joints should be following, None without torque.
        """
        found: dict[Cause, str] = {}
        # When nobody answers it is no motor that died: the line, its adapter, or a host too busy to hear.
        all_silent = all(joint.failures for joint in self.joints)
        if all(joint.silent_for(self._thresholds.line_silent_s, now_us) for joint in self.joints):
            found[Cause.BUS_LOST] = (
                "no motor answers; look at the supply, the adapter, and the load of this host"
            )
        for index, joint in enumerate(self.joints):
            here = joint.bits(now_us) + joint.follow(None if goals is None else goals[index], now_us)
            if not all_silent and joint.silent_for(self._thresholds.lost_s, now_us):
                here.append((Cause.MOTOR_LOST, "does not answer; look at its cable and supply"))
            if joint.jumped:
                here.append((Cause.ENCODER_JUMP, "reports a position it cannot have reached"))
            if self._celsius.get(index, 0) > self._thresholds.fault_celsius:
                here.append((Cause.OVERHEAT, f"has {self._celsius[index]} degrees Celsius; let it cool"))
            for cause, text in here:
                found.setdefault(cause, f"{joint.name} {text}")
        if self._out >= SUPPLY_READS:
            found[Cause.SUPPLY] = f"supply {self.supply_v:g} V is outside {self.supply_window_v}"
        self.reasons = found
        return sum(1 << cause for cause in found)


def _since(since_us: int | None, holds: bool, now_us: int) -> int | None:
    if not holds:
        return None
    return now_us if since_us is None else since_us


def _lasted(since_us: int | None, now_us: int, at_least_s: float) -> bool:
    return since_us is not None and now_us - since_us >= at_least_s * 1e6
