"""Chunks of actions in, one setpoint a control cycle out.

Plan time counts the motion that was really consumed, in microseconds: it runs while there is something to
follow and stands while there is not. A chunk says at which plan time its first action applies, which is the
plan time of the observation it was computed from. What was consumed in the meantime is skipped, whatever the
inference took: a queue that ran dry skips nothing, a queue that kept moving skips exactly what it moved.
(LeRobot 0.6.1 skips by estimated latency: 7 of 8 actions where one was consumed.)

Between actions setpoints are linear; a joined chunk begins where the last setpoint was, so no join jumps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

NOW = -1  # start_us of a chunk that applies from whenever it arrives
MAX_ACTIONS = 512
MAX_PERIOD_US = 1_000_000
LARGEST = 1e6  # in any joint's unit; beyond it differences of two targets lose all precision

Positions = tuple[float, ...]


class Supply(IntEnum):
    """Whether there is something to follow."""

    EMPTY = 0  # no chunk since the last reset
    FLOWING = 1
    DRAINED = 2  # the last action is reached: the setpoint stands and its time to live runs


class Verdict(IntEnum):
    """What became of a chunk."""

    ACCEPTED = 0
    EXPIRED = 1  # on its way for longer than its time to live
    CONSUMED = 2  # every action lies in the past of the plan
    OLD = 3  # a newer chunk was there before
    NOT_FINITE = 4  # NaN, infinite, or larger than any joint's unit makes sense of
    SHAPE = 5  # wrong number of joints, no action, too many, or a period outside its window


class Chunk(NamedTuple):
    """Consecutive targets, `period_us` apart.

    start_us: plan time of the first action, or NOW; with NOW the first action applies `period_us` after its
    arrival, so that a stream of single setpoints is interpolated and not a staircase.
    sent_us, ttl_us: CLOCK_MONOTONIC at the sender, and for how long from then on it may be accepted.
    positions: (actions, joints) in the joints' units.
    """

    sequence: int
    sent_us: int
    ttl_us: int
    start_us: int
    period_us: int
    positions: tuple[Positions, ...]


class Setpoint(NamedTuple):
    """Where the joints should be now, and the velocity they may count on (see `SetpointPlan.sample`)."""

    positions: Positions
    velocities: Positions


class SetpointPlan:
    """The actions still to be followed, on plan time."""

    def __init__(self, start: Sequence[float]) -> None:
        self.plan_us = 0
        self.sequence = -1  # of the newest chunk accepted
        self.verdicts = [0] * len(Verdict)  # how many chunks got which
        self.reset(start)

    def reset(self, positions: Sequence[float]) -> None:
        """Forget all actions; the setpoint stands at `positions`."""
        self._knots: list[tuple[int, Positions]] = [(self.plan_us, tuple(positions))]
        self.supply = Supply.EMPTY

    @property
    def end_us(self) -> int:
        """Plan time of the last action."""
        return self._knots[-1][0]

    @property
    def buffered_us(self) -> int:
        """How much motion is left."""
        return max(0, self.end_us - self.plan_us)

    def accept(self, chunk: Chunk, now_us: int) -> Verdict:
        """Join `chunk` at the present plan time, or say why not; the plan then stays as it was."""
        verdict = self._judge(chunk, now_us)
        if verdict == Verdict.ACCEPTED:
            verdict = self._join(chunk)
        self.verdicts[verdict] += 1
        return verdict

    def begin_at(self, positions: Sequence[float]) -> None:
        """Lead from `positions`, instead of from the last setpoint, to the next action."""
        ahead = [knot for knot in self._knots if knot[0] > self.plan_us]
        last = (self.plan_us, self._knots[-1][1])  # of a chunk without a period: it applies at once
        self._knots = [(self.plan_us, tuple(positions)), *(ahead or [last])]

    def first(self) -> Positions:
        """The next action of the plan: what the start gate looks at."""
        for time_us, positions in self._knots[1:]:
            if time_us > self.plan_us:
                return positions
        return self._knots[-1][1]

    def advance(self, elapsed_us: int) -> None:
        """Consume `elapsed_us` of motion, or what is left."""
        self.plan_us = max(self.plan_us, min(self.plan_us + elapsed_us, self.end_us))
        while len(self._knots) > 1 and self._knots[1][0] <= self.plan_us:
            del self._knots[0]
        if self.supply == Supply.FLOWING and self.plan_us >= self.end_us:
            self.supply = Supply.DRAINED

    def sample(self, accelerations: Sequence[float]) -> Setpoint:
        """The setpoint at the present plan time.

        A velocity is one the plan keeps for as long as a joint with that acceleration needs to stop from it:
        following it can never carry a joint past the plan's end.
        """
        here = self._at(self.plan_us)
        velocities = tuple(self._sustained(joint, limit) for joint, limit in enumerate(accelerations))
        return Setpoint(here, velocities)

    # -- joining ---------------------------------------------------------------------------------------------
    def _judge(self, chunk: Chunk, now_us: int) -> Verdict:
        joints = len(self._knots[0][1])
        actions = chunk.positions
        if not 1 <= len(actions) <= MAX_ACTIONS or any(len(action) != joints for action in actions):
            return Verdict.SHAPE
        if not 0 <= chunk.period_us <= MAX_PERIOD_US or (chunk.start_us < 0 and chunk.start_us != NOW):
            return Verdict.SHAPE
        if not all(abs(value) <= LARGEST for action in actions for value in action):  # NaN is not, either
            return Verdict.NOT_FINITE
        if chunk.sequence <= self.sequence:
            return Verdict.OLD
        if not 0 <= now_us - chunk.sent_us <= chunk.ttl_us:
            return Verdict.EXPIRED
        return Verdict.ACCEPTED

    def _join(self, chunk: Chunk) -> Verdict:
        start = self.plan_us + chunk.period_us if chunk.start_us == NOW else chunk.start_us
        times = ((start + index * chunk.period_us, action) for index, action in enumerate(chunk.positions))
        ahead = [(time_us, action) for time_us, action in times if time_us >= self.plan_us]
        if not ahead:
            return Verdict.CONSUMED
        if ahead[0][0] > self.plan_us:
            ahead.insert(0, (self.plan_us, self._at(self.plan_us)))
        self._knots = ahead
        self.sequence = chunk.sequence
        self.supply = Supply.FLOWING
        return Verdict.ACCEPTED

    # -- interpolation ---------------------------------------------------------------------------------------
    def _at(self, time_us: int) -> Positions:
        before_us, before = self._knots[0]
        for after_us, after in self._knots[1:]:
            if time_us < after_us:
                share = (time_us - before_us) / (after_us - before_us)
                return tuple(a + (b - a) * share for a, b in zip(before, after, strict=True))
            before_us, before = after_us, after
        return before

    def _sustained(self, joint: int, acceleration: float) -> float:
        """The smallest slope from now on, over the time that stopping from the present slope takes."""
        slope, until_us = None, 0.0
        for (from_us, before), (to_us, after) in zip(self._knots, self._knots[1:], strict=False):
            if to_us <= self.plan_us or to_us == from_us:
                continue
            if slope is not None and from_us >= until_us:
                return slope
            here = (after[joint] - before[joint]) * 1e6 / (to_us - from_us)
            if slope is None:
                slope, until_us = here, self.plan_us + 1e6 * abs(here) / acceleration
            elif here * slope <= 0.0:
                return 0.0
            else:
                slope = math.copysign(min(abs(slope), abs(here)), slope)
        return slope if slope is not None and until_us <= self.end_us else 0.0
