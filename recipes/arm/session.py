"""The arm, the cameras and the policy together.

One loop, some milliseconds a turn, waits for nobody: it looks at the arm, hands a finished chunk over, asks
for the next one when enough of the last is consumed, and writes down what happened. Plan time is the control
process's: it counts motion really consumed, so a chunk is joined where the arm is, whatever inference took.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embodiments.control.client import ControlledArm
from embodiments.control.errors import ArmStopped
from embodiments.control.link import ArmState, Severity, now_us
from embodiments.control.setpoints import Supply
from firmware_bridge.safety import State
from recipes.arm.cameras import Cameras, Look
from recipes.arm.checks import STALE_MS
from recipes.arm.judge import Judge, PersonJudge
from recipes.arm.policy import Observation, PolicyFacts, PolicyProcess
from recipes.arm.record import Frame, Recorder
from recipes.arm.setup import RunSettings
from recipes.arm.telemetry import RateMeter, Telemetry, margins_of, median_and_p95
from recipes.arm.view import Key, View

TURN_S = 0.004
HISTORY = 200  # states, of the last second or so
STARVED_S = 0.5  # standing without a chunk for so long is a pause: nobody has to arm again after it
LATE_US = 1_000_000
STEER_SPEED = 50.0  # units per second, to the start pose
STEER_PERIOD_S = 0.04
ARRIVED = 4.0
STAND_CYCLES = 4
GATE_SHARE = 0.5  # of the start gate, for the first of the way
LIFTED = (-60.0, 60.0, 60.0)  # shoulder_lift, elbow_flex, wrist_flex: up and back before turning
FOLLOWING = (State.HOLD, State.RUN, State.STALE)


@dataclass
class EpisodeResult:
    """How one episode went. pauses: (why, seconds). frames: {camera: pictures} where they were kept.

    stopped: the fault or emergency stop that ended it.
    """

    number: int
    task: str
    success: bool = False
    reason: str = ""
    seconds: float = 0.0
    ticks: int = 0
    plans: int = 0
    dropped_plans: int = 0
    intervened: bool = False
    pauses: list[tuple[str, float]] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    frames: dict[str, list[NDArray[np.uint8]]] = field(default_factory=dict)
    stopped: ArmStopped | None = None


STOPPED_BY_KEY = "emergency stop by key"


def stop_on_key(arm: ControlledArm, view: View) -> Key | None:
    """The key pressed; the emergency stop is obeyed at once, whatever the arm is doing."""
    key = view.key()
    if key == Key.STOP:
        arm.estop()
    return key


class Session:
    """An armed arm, led by a policy, episode by episode."""

    def __init__(
        self,
        settings: RunSettings,
        arm: ControlledArm,
        cameras: Cameras,
        policy: PolicyProcess,
        facts: PolicyFacts,
        judge: Judge,
        view: View,
        said: deque[tuple[Severity, str]],
        recorder: Recorder | None = None,
        keep_frames: bool = False,
    ) -> None:
        self._settings = settings
        self._arm = arm
        self._cameras = cameras
        self._policy = policy
        self._facts = facts
        self._judge = judge
        self._view = view
        self._said = said  # by the control process, from its own thread
        self._recorder = recorder
        self._keep_frames = keep_frames
        self._states: deque[ArmState] = deque(maxlen=HISTORY)
        self._rate = RateMeter()
        self._requests = 0
        self._sent_us = 0  # when the newest chunk left
        self._begun_us = 0  # plan time of the newest chunk's first action
        self._paused: tuple[str, int] | None = None  # why, since when
        self._standing_us: int | None = None  # since when there is nothing to follow
        self._eventful = False  # since the last frame
        self._held = False  # no candidate of the last plan passed the gate
        self._imagined = False  # the plan being followed was made with an imagined future

    # -- episodes --------------------------------------------------------------------------------------------
    def play(self, number: int) -> EpisodeResult:
        """One episode, from the start pose to its end. PolicyGone and the arm's other errors are raised."""
        if self._settings.start_pose is not None:
            self.steer_to(self._settings.start_pose)
        self._stand()
        self._policy.reset()
        result = EpisodeResult(number, self._judge.begin(number))
        began_us = now_us()
        self._cameras.look_after(began_us)
        self._paused = self._standing_us = None
        self._held = False
        try:
            self._follow(result, now_us())
        except ArmStopped as stop:
            result.stopped, result.reason = stop, f"{stop.state.name}: {stop.cause.name}"
        except BaseException as error:  # Ctrl-C, too: the record says why it ended
            result.reason = result.reason or type(error).__name__
            raise
        finally:
            self._end(result)
        return result

    def _follow(self, result: EpisodeResult, began_us: int) -> None:
        period_us, tick_us = self._facts.period_us, began_us
        while not result.reason:
            state = self._watch(result)
            look = self._cameras.look()
            self._mind_the_cameras(look, result)
            self._take_plan(result)
            self._ask_for_plan(state, look, result)
            now = now_us()
            result.seconds = (now - began_us) * 1e-6
            if now >= tick_us:
                # Whole periods only: a slow machine records fewer frames, never a drifting rate.
                tick_us += period_us * max(1, -(-(now - tick_us) // period_us))
                self._tick(state, look, result)
            self._listen(result)
            time.sleep(TURN_S)

    def _tick(self, state: ArmState, look: Look, result: EpisodeResult) -> None:
        """At the policy's rate: judge, record, show."""
        verdict = self._judge.look()
        result.ticks = verdict.ticks
        if verdict.over:
            result.success, result.reason = verdict.success, verdict.reason
        elif result.seconds >= self._settings.duration_s:
            result.reason = "time limit"
        if self._keep_frames:
            for name, picture in look.pixels.items():
                result.frames.setdefault(name, []).append(picture)
        if self._recorder is not None:
            happened = (self._eventful, self._imagined)
            self._recorder.add(Frame(look.pixels, state.measured, state.sent, result.task, *happened))
        self._eventful = False
        self._view.show(
            Telemetry(
                state=state,
                episode=result.number + 1,
                episodes=self._settings.episodes,
                task=result.task,
                elapsed_s=result.seconds,
                rate_hz=self._rate.see(state),
                margins=margins_of(state, self._arm.spec.limits),
                latency_ms=median_and_p95(result.latencies_ms),
                picture_ms=look.age_ms(),
                plans=result.plans,
                paused=self._paused[0] if self._paused else "",
            )
        )

    def _end(self, result: EpisodeResult) -> None:
        with contextlib.suppress(ConnectionError):  # a stopped arm holds already
            self._resume(result)
            if self._arm.is_running and self._arm.state.state in FOLLOWING:
                self._stand()
        self._view.event(
            Severity.INFO,
            f"episode {result.number + 1}: {result.reason or 'ended'} after {result.seconds:.1f} s",
        )
        if self._recorder is not None and self._states:
            happened, self._eventful = self._eventful or result.stopped is not None, False
            self._recorder.end(
                result.success, result.reason or "ended", self._states[-1].sent, result.intervened, happened
            )

    # -- the arm ---------------------------------------------------------------------------------------------
    def _watch(self, result: EpisodeResult) -> ArmState:
        self._arm.raise_if_stopped()
        state = self._arm.state
        if not self._states or state.cycle != self._states[-1].cycle:
            if self._states and state.counters.rejected > self._states[-1].counters.rejected:
                self._eventful = True
            self._states.append(state)
        self._hear()
        self._mind_the_supply(state, result)
        return state

    def _hear(self) -> None:
        """What the control process has said since the last call."""
        while self._said:
            severity, text = self._said.popleft()
            self._eventful |= severity != Severity.INFO
            self._note(severity, text)

    def _note(self, severity: Severity, text: str) -> None:
        self._view.event(severity, text)
        if self._recorder is not None:
            self._recorder.note(severity, text)

    def _mind_the_supply(self, state: ArmState, result: EpisodeResult) -> None:
        """Nothing to follow for long: hold by our own word, so that the next chunk is followed at once."""
        if state.state != State.STALE:
            self._standing_us = None
        elif self._standing_us is None:
            self._standing_us = now_us()
        elif now_us() - self._standing_us > STARVED_S * 1e6:
            self._pause("the policy's chunks do not keep up", result)
            self._standing_us = None

    def _stand(self) -> None:
        """Stop, and stand. What is left of a chunk is replaced first: a hold alone does not end it."""
        self._arm.send_chunk([self._arm.state.sent], 0.0)
        time.sleep(STAND_CYCLES / self._arm.spec.rate_hz)
        self._arm.hold()

    def steer_to(self, pose: Sequence[float]) -> None:
        """Lift, then go to `pose` slowly, along straight lines in joint space; ControlError if it is late."""
        here = self._arm.observe().measured
        self._steer_along([(here[0], *LIFTED, here[4], here[5]), tuple(pose)])

    def _steer_along(self, poses: Sequence[Sequence[float]]) -> None:
        path, here = [], np.asarray(self._arm.observe().measured)
        for pose in poses:
            there = np.asarray(pose, dtype=np.float64)
            steps = max(1, math.ceil(float(np.abs(there - here).max()) / STEER_SPEED / STEER_PERIOD_S))
            path += [(here + (there - here) * step / steps).tolist() for step in range(1, steps + 1)]
            here = there
        self._arm.send_chunk(path, STEER_PERIOD_S)
        deadline = time.monotonic() + 2.0 * len(path) * STEER_PERIOD_S + 5.0
        while time.monotonic() < deadline:
            state = self._arm.observe()
            self._arm.raise_if_stopped()
            self._hear()
            self._key()
            close = np.abs(np.asarray(state.measured) - here)[:5].max() < ARRIVED
            if state.supply != Supply.FLOWING and not state.approach and close:
                return
            time.sleep(0.02)
        self._note(Severity.WARNING, "the start pose was not reached exactly; starting from here")

    # -- policy and pictures ---------------------------------------------------------------------------------
    def _mind_the_cameras(self, look: Look, result: EpisodeResult) -> None:
        age_ms = look.age_ms()
        if age_ms > STALE_MS:
            self._pause(f"camera {look.oldest} shows nothing new", result)
        elif self._paused is not None and not self._policy_is_late():
            self._resume(result)

    def _policy_is_late(self) -> bool:
        pending = self._policy.pending
        return pending is not None and now_us() - pending.taken_us > LATE_US

    def _pause(self, why: str, result: EpisodeResult) -> None:
        if self._paused is not None:
            return
        self._paused = (why, now_us())
        self._eventful = True
        self._note(Severity.WARNING, f"policy paused: {why}; the arm holds")
        if self._arm.state.state in FOLLOWING:
            self._stand()

    def _resume(self, result: EpisodeResult) -> None:
        if self._paused is None:
            return
        why, since_us = self._paused
        self._paused = None
        seconds = (now_us() - since_us) * 1e-6
        result.pauses.append((why, seconds))
        self._note(Severity.INFO, f"policy goes on after {seconds:.2f} s ({why})")

    def _take_plan(self, result: EpisodeResult) -> None:
        found = self._policy.answer()
        if found is None:
            return
        asked, plan = found
        age_us = now_us() - asked.taken_us
        result.latencies_ms.append(1e3 * plan.seconds)
        if self._paused is not None or age_us > self._facts.period_us * self._facts.chunk_size:
            result.dropped_plans += 1  # of a moment that is over
            return
        result.plans += 1
        if plan.held:
            self._stand_for_want_of_a_plan()
            return
        self._held = False
        chunk, parts = self._led_in(plan.positions)
        self._arm.send_chunk(chunk.tolist(), 1.0 / self._facts.fps / parts, start_us=asked.plan_us)
        self._begun_us, self._sent_us, self._imagined = asked.plan_us, now_us(), plan.imagined

    def _stand_for_want_of_a_plan(self) -> None:
        """Once, where the arm was sent last: the pose that is measured sags a little lower every time."""
        if self._held:
            return
        self._held = self._eventful = True
        self._note(Severity.WARNING, "no candidate passed the gate: the arm stands until one does")
        self._stand()

    def _led_in(self, chunk: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
        """A chunk (T, A) for an arm that stands: its first period leads from where the arm is held.

        Only where that is a motion like any other, within the velocity limits; anything further is left to
        the start gate. Returns the finer chunk and into how many parts each period is divided.
        """
        state, spec = self._arm.state, self._arm.spec
        away = np.abs(chunk[0] - np.asarray(state.sent, np.float32))
        reach = np.array([limit.max_velocity for limit in spec.limits]) / self._facts.fps
        if state.state == State.RUN or (away > reach).any():
            return chunk, 1
        parts = max(1, math.ceil(float((away / (GATE_SHARE * np.asarray(spec.gate))).max())))
        knots = np.vstack([np.asarray(state.sent, np.float32), chunk])
        times = np.arange(1, parts * len(chunk) + 1) / parts
        columns = [np.interp(times, np.arange(len(knots)), column) for column in knots.T]
        return np.stack(columns, axis=1).astype(np.float32), parts

    def _ask_for_plan(self, state: ArmState, look: Look, result: EpisodeResult) -> None:
        if self._policy.pending is not None or self._paused is not None:
            return
        # An approach consumes nothing, and a chunk that waits for it grows old like any other.
        used_us = now_us() - self._sent_us if state.approach else state.plan_us - self._begun_us
        if state.supply == Supply.FLOWING and used_us < self._facts.replan_us:
            return
        then = self._state_at(look.taken_us)
        self._requests += 1
        self._policy.ask(
            Observation(
                number=self._requests,
                plan_us=then.plan_us,
                taken_us=look.taken_us,
                state=then.measured,
                pixels={name: look.pixels[name] for name in self._facts.cameras},
                task=result.task,
                delay=self._delay(look, result),
            )
        )

    def _delay(self, look: Look, result: EpisodeResult) -> int:
        """Whole actions that will be consumed between the moment observed and the chunk's arrival."""
        ahead_us = 1e3 * (look.age_ms() + median_and_p95(result.latencies_ms)[0])
        return min(self._facts.max_delay, int(ahead_us // self._facts.period_us))

    def _state_at(self, taken_us: int) -> ArmState:
        """The measured state nearest to the moment that the pictures show."""
        return min(self._states, key=lambda state: abs(state.measured_us - taken_us))

    # -- the person ------------------------------------------------------------------------------------------
    def _listen(self, result: EpisodeResult) -> None:
        key = self._key()
        if key == Key.STOP:
            result.intervened = True
        elif key is not None:
            result.success, result.reason = key == Key.SUCCESS, f"by key: {key.name.lower()}"
            if isinstance(self._judge, PersonJudge):
                self._judge.say(result.success, result.reason)

    def _key(self) -> Key | None:
        key = stop_on_key(self._arm, self._view)
        if key == Key.STOP:
            self._note(Severity.ERROR, STOPPED_BY_KEY)
        return key
