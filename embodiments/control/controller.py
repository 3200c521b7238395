"""One control cycle: feed, move, measure, judge, torque.

Every cycle goes through the same phases in the same order, in every state; what a phase does follows from the
safety machine's output for the state. Nothing here waits except for replies of the bus, whose deadline is
below half a period.
"""

from __future__ import annotations

from collections.abc import Callable

from embodiments.control.errors import ControlError
from embodiments.control.journal import Journal
from embodiments.control.link import ArmState, Counters, Severity, code_text, now_us
from embodiments.control.pilot import Pilot
from embodiments.control.servo_arm import GoalStepTooLarge, Measurement, ServoArm
from embodiments.control.spec import ControlSpec
from embodiments.control.torque import TorqueSwitch
from embodiments.control.watch import Watch
from embodiments.feetech.errors import BusError, PortLost
from firmware_bridge.safety import Cause, Code, Event, SafetyMachine, State

HEALTH_PERIOD_US = 100_000
REOPEN_PERIOD_US = 250_000
COMPLAINT_PERIOD_US = 1_000_000
RETRY_SHARE = 0.3  # of a period
HEALTH_SHARE = 0.5
BACK_OFF_DEG = 3.0
SAG_DEG = 1.0
COOLED_CELSIUS = 3  # below the warning, before it is said again
# Causes that end by giving way: the goal moves to where the joint is.
YIELDING = sum(1 << c for c in (Cause.TRACKING, Cause.STALL, Cause.OVERLOAD, Cause.OVERCURRENT))
WORDS = {
    Cause.HEARTBEAT: "the client fell silent",
    Cause.BUS_LOST: "the port is gone",
    Cause.PARK_STUCK: "parking did not arrive",
    Cause.VELOCITY: "a goal step was too large to be sent",
    Cause.INTERNAL: "torque could not be switched on",
    Cause.ESTOP_HOST: "asked for by the client",
    Cause.ESTOP_SIGNAL: "asked for by a signal",
    Cause.ESTOP_INPUT: "asked for by the emergency stop's descriptor, until the process ends",
}
MACHINE_OWN = (1 << Cause.HEARTBEAT) | (1 << Cause.PARK_STUCK)

Say = Callable[[Severity, str], None]


class Controller:
    """The arm's brain stem: everything a cycle needs, and nothing that outlives the process."""

    def __init__(self, spec: ControlSpec, arm: ServoArm, journal: Journal, say: Say) -> None:
        self.spec = spec
        self.arm: ServoArm | None = arm
        self.journal = journal
        self.machine = SafetyMachine(spec.table(), now_us())
        self.watch = Watch(spec, arm.calibration)
        self.own = 0  # conditions this process knows of by itself, bit 1 << cause
        self.cycle = 0
        self.goal_writes = 0
        self.lost_us = 0  # when the port was lost
        self._say = say
        self._noted = (State.BOOT, Cause.NONE)
        self._pressing = 0  # yielding conditions that have been given way to
        self._warm = False  # and it was said
        self.torque = TorqueSwitch(say)
        self._sent_us = 0
        self._health_us = self._reopen_us = self._complained_us = 0
        self._health_joint = 0
        self._sent = self._followed = (0.0,) * len(spec.limits)
        self.pilot = Pilot(
            spec, self.watch, self.machine, lambda text: say(Severity.INFO, text), self._refused
        )

    def start(self) -> None:
        """After a successful attach: where the arm is, where it may park, and that it is ready."""
        assert self.arm is not None
        assert self.arm.attached is not None
        self.watch.supply_window_v = self.arm.attached.supply_window_v
        self.watch.supply_found_v = self.arm.attached.supply_v
        self.torque.found_on = bool(self.arm.attached.energised)
        while self.watch.positions is None:
            measurement = self.arm.measure()
            self.watch.see(measurement, measurement.time_us)
            if self.cycle > 20:
                raise ControlError(f"{self.spec.port}: positions cannot be read; look at the cables")
            self.cycle += 1
        self.cycle = 0
        if self.pilot.park is None and not self.arm.attached.energised:
            self.pilot.park = self.watch.positions  # it lies there without torque: it can be let go there
        if self.pilot.park is None:  # nowhere to go by itself when the host falls silent
            self.machine.table = self.machine.table._replace(park_after_heartbeat=0)
        self._stand(self.watch.positions)
        self.machine.step(Event.SELF_TEST_PASSED, now_us())

    # -- the cycle -------------------------------------------------------------------------------------------
    def tick(self, periods: int) -> None:
        """One cycle; `periods` have passed since the last one.

        Goals go out first, at the deadline, whatever the replies of this cycle will take.
        """
        self.cycle += 1
        now = now_us()
        self.pilot.feed(now, periods)
        self._move(now)
        self._measure(now)
        self._judge(now_us())
        self.switch_torque()
        self._note_changes()

    def _measure(self, now: int) -> None:
        if self.arm is None:
            self._reopen(now)
            return
        try:
            measurement = self.arm.measure()
            self.watch.see(measurement, measurement.time_us)
            self._ask_again(self.arm, measurement, now)
            spare = now_us() - now < HEALTH_SHARE * 1e6 / self.spec.rate_hz
            if spare and now - self._health_us >= HEALTH_PERIOD_US:
                self._health_us = now
                self._health_joint = (self._health_joint + 1) % len(self.arm.ids)
                health = self.arm.health(self._health_joint)
                if health is not None:
                    self.watch.see_health(health)
                    self._mind_the_heat()
        except PortLost as error:
            self._lose_port(error)

    def _mind_the_heat(self) -> None:
        """Says once that a motor is warm; slowing and stopping are the watch's and the pilot's."""
        limits, hottest = self.spec.thresholds, self.watch.hottest_celsius
        if hottest >= limits.warn_celsius and not self._warm:
            self._say(
                Severity.WARNING,
                f"a motor has {hottest} degrees Celsius: slow from {limits.slow_celsius} on, FAULT above "
                f"{limits.fault_celsius}; give it a rest",
            )
        self._warm = hottest >= limits.warn_celsius - (COOLED_CELSIUS if self._warm else 0)

    def _ask_again(self, arm: ServoArm, measurement: Measurement, now: int) -> None:
        """At slow rates there is time to ask missing motors again: a dead one is known within the cycle."""
        missing = _missing(measurement)
        while missing and now_us() - now < RETRY_SHARE * 1e6 / self.spec.rate_hz:
            measurement = arm.measure(missing)
            self.watch.see(measurement, measurement.time_us, missing)
            missing = [index for index in _missing(measurement) if index in missing]

    def _judge(self, now: int) -> None:
        # The newest goal has only just left: what joints can have followed is the one before.
        goals = self._followed if self.torque.holding and self.arm is not None else None
        present = self.watch.judge(goals, now) | self.own
        known = self.machine.conditions & ~MACHINE_OWN
        for cause in Cause:
            bit = 1 << cause
            if present & bit and not known & bit:
                self.machine.step(Event.RAISE, now, cause)
            elif known & bit and not present & bit:
                self.machine.step(Event.LOWER, now, cause)
        self.machine.tick(now)
        if self.machine.state == State.SAFE and self.arm is not None and not self.torque.energised:
            self.machine.step(Event.COMMIT, now)

    def hold(self, now: int) -> Code:
        """Stop following and stand; what was still to be followed is dropped."""
        code = self.machine.step(Event.HALT_HOLD, now)
        if code == Code.OK:
            self.pilot.drop_plan()
        return code

    def complain(self, text: str, now: int) -> None:
        """A warning, at most once a second: setpoints come a hundred times as often."""
        if now - self._complained_us >= COMPLAINT_PERIOD_US:
            self._complained_us = now
            self._say(Severity.WARNING, text)

    def _refused(self, code: Code, now: int) -> None:
        self.complain(f"setpoints are not followed: {code_text(code)}", now)

    def switch_torque(self) -> None:
        """Bring the torque to what the state wants; an emergency stop may ask for it between cycles."""
        if self.arm is None:
            return
        now = now_us()  # never older than what the machine has seen: it takes that for an hour gone by
        try:
            goals = self.torque.follow(self.arm, self.machine, now)
        except PortLost as error:
            self._lose_port(error)
        except ControlError as error:
            self.own |= 1 << Cause.INTERNAL
            self.machine.step(Event.RAISE, now_us(), Cause.INTERNAL)
            self._say(Severity.ERROR, str(error))
        else:
            if goals is not None:
                self._stand(goals)
            if not self.torque.energised:
                self.own &= ~(1 << Cause.INTERNAL)

    # -- motion ----------------------------------------------------------------------------------------------
    def _move(self, now: int) -> None:
        if self.arm is None or not self.torque.holding:
            if self.watch.positions is not None:
                self._stand(self.watch.positions)
            return
        goal = self.pilot.goal(now)
        if goal is None:
            return
        self._followed = self._sent
        try:
            self._sent = self.arm.send(goal)
            self._sent_us = now_us()
            self.goal_writes += 1
        except GoalStepTooLarge as error:
            self.own |= 1 << Cause.VELOCITY
            self._say(Severity.ERROR, str(error))
        except PortLost as error:
            self._lose_port(error)

    def _stand(self, positions: tuple[float, ...]) -> None:
        self._sent = self._followed = positions
        self.pilot.stand(positions)

    def _give_way(self, more_than: float) -> None:
        self.pilot.give_way(more_than)
        if self.arm is not None:
            self.arm.rebase()

    # -- the port --------------------------------------------------------------------------------------------
    def _lose_port(self, error: BusError) -> None:
        if self.arm is not None:
            self.arm.close()
        self.arm = None
        self.torque.lose_port()
        self.own |= 1 << Cause.BUS_LOST
        self._reopen_us = self.lost_us = now_us()
        self.machine.step(Event.RAISE, now_us(), Cause.BUS_LOST)
        self._say(Severity.ERROR, f"{error}; goals stop, the motors keep what they have")

    def _reopen(self, now: int) -> None:
        if now - self._reopen_us < REOPEN_PERIOD_US:
            return
        self._reopen_us = now
        try:
            arm = ServoArm(self.spec)
        except BusError:
            return
        try:
            arm.attach()
        except (BusError, ControlError) as error:
            arm.close()
            self._say(Severity.WARNING, f"port is back, arm is not usable: {error}")
            return
        self.arm = arm
        self.own &= ~(1 << Cause.BUS_LOST)
        self._say(Severity.INFO, f"{self.spec.port} is back; clear the fault and arm again to move")

    # -- what others see -------------------------------------------------------------------------------------
    def _note_changes(self) -> None:
        state, cause = self.machine.state, self.machine.cause
        # What is present now decides, not what latched first: an arm that parks after its host fell silent
        # may meet an obstacle.
        pressing = self.machine.conditions & YIELDING if state == State.FAULT else 0
        met, self._pressing = pressing & ~self._pressing, pressing
        if met:
            self._give_way(BACK_OFF_DEG)
        before, beside = self._noted[0], met & ~(1 << cause)
        if (state, cause) == self._noted and not beside:
            return
        self._noted = (state, cause)
        if state == State.LIMP and before != State.LIMP:
            self._give_way(SAG_DEG)  # what pushes when torque goes would jump
        bad = state in (State.FAULT, State.ESTOP)
        whys = [cause] if cause else []
        whys += [other for other in Cause if other and beside >> other & 1]
        why = "; ".join(f"{c.name}: {self.watch.reasons.get(c) or WORDS.get(c, '')}" for c in whys)
        way = state.name if before == state else f"{before.name} -> {state.name}"
        self._say(Severity.ERROR if bad else Severity.INFO, way + (f" ({why})" if why else ""))

    def snapshot(self, counters: Counters) -> ArmState:
        """This cycle for the client."""
        positions = self.watch.positions or self._sent
        machine = self.machine
        return ArmState(
            state=machine.state,
            cause=machine.cause,
            torque=int(self.torque.energised),
            supply=self.pilot.plan.supply,
            conditions=machine.conditions,
            cycle=self.cycle,
            time_us=now_us(),
            measured_us=self.watch.measured_us,
            sent_us=self._sent_us,
            plan_us=self.pilot.plan.plan_us,
            buffered_us=self.pilot.plan.buffered_us,
            sequence=self.pilot.plan.sequence,
            measured=positions,
            sent=self._sent,
            load=tuple(joint.load for joint in self.watch.joints),
            errors=tuple(joint.errors for joint in self.watch.joints),
            counters=counters,
            approach=int(self.pilot.approach),
        )


def _missing(measurement: Measurement) -> list[int]:
    return [index for index, sample in enumerate(measurement.samples) if sample is None]
