"""Where the goals of a cycle come from: setpoints, the way to a far first one, the rest pose, or standing.

Knows the plan, the limiter and the measured joints; asks the safety machine, and never goes around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from embodiments.control.grip import GripGuard
from embodiments.control.limits import ArmLimiter, arriving_together, outside_gate
from embodiments.control.setpoints import Chunk, Setpoint, SetpointPlan, Supply, Verdict
from embodiments.control.spec import ControlSpec
from embodiments.control.watch import Watch
from firmware_bridge.safety import Clock, Code, Event, Motion, SafetyMachine, State

SLOW_SPEED = 30.0  # per second, for motors that are warm or a supply that sags
CAREFUL_US = 500_000  # after an approach: the last of the way is not taken at full speed
# A rest pose is often one in which the arm touches something: a goal this far ahead of the joint pushes, and
# this close to the rest pose it need not.
RESTING_DEG = 2.0
RESTING_LOAD = 40.0  # percent; gravity alone takes less than half of it near a rest pose
SERVO_LAG_S = 0.1  # a joint under way is this far behind its goal without touching anything
NEAR_DEG = 20.0
SETTLED_S = 0.15
# Goals within this of the setpoints let plan time run, twice as far behind it stands: the limits then stretch
# a motion, and neither cut its corners nor let the gripper open before the arm is where it should.
PATH_TOLERANCE = 2.0  # degrees or percent
# Silence of the host for this share of its timeout: setpoints it left behind are not followed any longer.
QUIET_SHARE = 0.4

Positions = tuple[float, ...]


class Pilot:
    """Goals of one arm, cycle by cycle. `refused` is told why a first setpoint was not followed."""

    def __init__(
        self,
        spec: ControlSpec,
        watch: Watch,
        machine: SafetyMachine,
        note: Callable[[str], None],
        refused: Callable[[Code, int], None],
    ) -> None:
        self._spec = spec
        self._watch = watch
        self._machine = machine
        self._note = note
        self._refused = refused
        self.park = spec.park
        self.approach = False  # the arm still closes in on a far first setpoint
        self._accepted_us = 0  # when the newest chunk came
        self._came = False  # one came since the last cycle
        self._careful_until_us = 0
        self._settled = 0
        self._pace = 1.0  # of plan time
        start = (0.0,) * len(spec.limits)
        self.limiter = ArmLimiter(spec.limits, spec.rate_hz, spec.smoothing_s, start)
        self.plan = SetpointPlan(start)
        self._accelerations = tuple(limit.max_acceleration for limit in spec.limits)
        self._grips = {
            index: GripGuard(spec.thresholds)
            for index, joint in enumerate(watch.joints)
            if not joint.degrees  # a gripper is what is measured in percent of its opening
        }

    def stand(self, positions: Positions) -> None:
        """Forget every goal: the arm stands at `positions`."""
        self.limiter.reset(positions)
        self.plan.reset(positions)
        self._pace = 1.0

    def give_way(self, more_than: float) -> None:
        """Goals of joints further than `more_than` from them move to where the joints are: nothing pushes."""
        for joint, watched in zip(self.limiter.joints, self._watch.joints, strict=True):
            position = watched.position
            if position is not None and not watched.jumped and abs(joint.goal - position) > more_than:
                joint.reset(position)

    def accept(self, chunk: Chunk, now_us: int) -> Verdict:
        """Take in a chunk."""
        verdict = self.plan.accept(chunk, now_us)
        if verdict == Verdict.ACCEPTED:
            self._accepted_us = now_us
            self._came = True
        return verdict

    # -- setpoints to the machine ----------------------------------------------------------------------------
    def feed(self, now_us: int, periods: int) -> None:
        """Let `periods` cycles of the plan pass, and tell the machine whether there is a setpoint."""
        state = self._machine.state
        quiet = self._machine.age_us(Clock.FRAME) > QUIET_SHARE * self._spec.frame_timeout_us
        came, self._came = self._came, False
        if state == State.RUN:
            self._feed_running(now_us, periods, came, quiet)
        elif (
            state in (State.HOLD, State.STALE)
            and self.plan.supply == Supply.FLOWING
            and not (quiet or self._watch.blind)
        ):
            self._feed_first(now_us)
        else:
            self.drop_plan()

    def drop_plan(self) -> None:
        """Forget what was still to be followed: a hold that kept it would run on with it a cycle later."""
        self.plan.reset(self.limiter.goal)
        self.approach = False
        self._pace = 1.0

    def _feed_running(self, now_us: int, periods: int, came: bool, quiet: bool) -> None:
        spec = self._spec
        if self._watch.blind:
            alive = False  # nothing is consumed by an arm that is not seen
        elif self.approach:
            # Plan time stands still meanwhile: what the arm has not reached is not consumed.
            alive = now_us - self._accepted_us <= self.plan.buffered_us + spec.setpoint_ttl_us
            if not outside_gate(self.plan.first(), self.limiter.goal, spec.gate):
                self.approach = False
                self._careful_until_us = now_us + CAREFUL_US
                self.plan.begin_at(self.limiter.goal)
        else:
            self.plan.advance(round(self._pace * periods * 1e6 / spec.rate_hz))
            alive = came or self.plan.supply == Supply.FLOWING  # shorter than a cycle counts, too
        if alive and not quiet:
            self._machine.step(Event.SETPOINT_NEAR, now_us)

    def _feed_first(self, now_us: int) -> None:
        positions = self._watch.positions
        assert positions is not None
        spec = self._spec
        far = outside_gate(self.plan.first(), positions, spec.gate)
        self.approach = bool(far) and self._machine.state == State.HOLD and spec.approach_far_setpoint
        event = Event.SETPOINT_NEAR if not far or self.approach else Event.SETPOINT_FAR
        code = self._machine.step(event, now_us)
        if code != Code.OK:
            self.plan.reset(self.limiter.goal)
            self.approach = False
            self._refused(code, now_us)
            return
        self.plan.begin_at(self.limiter.goal)
        if self.approach:
            names = [spec.limits[index].name for index in far]
            self._note(f"first setpoint is far on {names}: approaching at {spec.approach_speed:g}/s")

    # -- goals -----------------------------------------------------------------------------------------------
    def goal(self, now_us: int) -> Positions | None:
        """The goals of this cycle, None where the machine's state has none. Unseen, the arm stops."""
        motion = self._machine.output.motion
        if motion == Motion.NONE:
            return None
        if self._watch.blind:
            return self.limiter.stop()
        if motion == Motion.TRACK:
            return self._track(now_us)
        if motion == Motion.TO_PARK and self.park is not None:
            goal = self._go(self.park, self._spec.park_speed, now_us)
            self._look_for_arrival(self.park, now_us)
            return goal
        return self._stand_still(now_us)

    def _stand_still(self, now_us: int) -> Positions:
        """Stop and stand; a grip that presses too hard to last gives way even so."""
        goals = self.limiter.goal
        held = self._held(goals, now_us)
        for joint, goal, target in zip(self.limiter.joints, goals, held, strict=True):
            if target > goal:
                joint.step(target)
            else:
                joint.stop()
        return self.limiter.goal

    def _track(self, now_us: int) -> Positions:
        if self.approach:
            return self._go(self.plan.first(), self._spec.approach_speed, now_us)
        setpoint = self._gripped(self.plan.sample(self._accelerations), now_us)
        careful = now_us < self._careful_until_us
        cap = min(
            self._spec.approach_speed if careful else math.inf,
            SLOW_SPEED if self._watch.slow else math.inf,
        )
        # A setpoint that waits has no speed: goals that kept it would run past, and plan time stand for ever.
        velocities = tuple(velocity * self._pace for velocity in setpoint.velocities)
        goal = self.limiter.step(setpoint.positions, velocities, (cap,) * len(velocities))
        behind = self.limiter.behind(setpoint.positions)
        self._pace = min(max(2.0 - behind / PATH_TOLERANCE, 0.0), 1.0)
        return goal

    def _go(self, target: Positions, speed: float, now_us: int) -> Positions:
        caps = arriving_together(speed, self.limiter.goal, target)
        held = self._held(target, now_us)
        # A grip is adjusted as fast as it can be: one that lags behind its guard would swing about it.
        caps = tuple(math.inf if to != at else cap for to, at, cap in zip(held, target, caps, strict=True))
        return self.limiter.step(held, None, caps)

    def _held(self, target: Positions, now_us: int) -> Positions:
        return self._gripped(Setpoint(target, (0.0,) * len(target)), now_us).positions

    def _gripped(self, setpoint: Setpoint, now_us: int) -> Setpoint:
        positions, velocities = list(setpoint.positions), list(setpoint.velocities)
        for index, guard in self._grips.items():
            joint = self._watch.joints[index]
            if joint.position is None:
                continue
            held = guard.limit(positions[index], joint.position, joint.load, now_us)
            if held != positions[index]:
                velocities[index] = 0.0  # a goal that kept the plan's speed would press on past what is held
            positions[index] = held
        return Setpoint(tuple(positions), tuple(velocities))

    def _look_for_arrival(self, park: Positions, now_us: int) -> None:
        """Parked: at the rest pose, or resting on something close to it."""
        short = behind = load = 0.0
        for joint, watched, to in zip(self.limiter.joints, self._watch.joints, park, strict=True):
            if watched.degrees and watched.position is not None:
                short = max(short, abs(to - watched.position))
                behind = max(behind, abs(joint.goal - watched.position))
                load = max(load, watched.load)
        pushes = behind > RESTING_DEG + SERVO_LAG_S * self._spec.park_speed or load > RESTING_LOAD
        rests = pushes and short < NEAR_DEG
        self._settled = self._settled + 1 if self.limiter.is_still or rests else 0
        if self._settled >= SETTLED_S * self._spec.rate_hz:
            self._settled = 0
            self._machine.step(Event.PARKED, now_us)
