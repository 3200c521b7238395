"""`ControlledArm`: a policy's, a robot's or a person's hold on an arm that another process owns.

One thread of this process listens to the control process and beats its heart; everything else may be called
from any thread. Whatever happens to this process, the control process brings the arm down by itself; if it is
the control process that dies, this one releases the torque and says what was read back.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from embodiments.control.errors import ATTACH_ERRORS, ArmStopped, ControlError, ProcessGone, Refused
from embodiments.control.launch import Child
from embodiments.control.link import (
    ArmState,
    Halt,
    Kind,
    Message,
    Severity,
    chunk_of,
    code_text,
    now_us,
    pack,
    pack_chunk,
)
from embodiments.control.process import NOT_ATTACHED, RELEASED, UNCONFIRMED
from embodiments.control.setpoints import NOW
from embodiments.control.spec import ControlSpec
from embodiments.feetech.release import RELEASED as TORQUE_OFF
from embodiments.feetech.release import Release, release_port
from firmware_bridge.safety import Code, State

HEARTBEAT_S = 0.05
ANSWER_S = 2.0
START_S = 8.0
LOOK_S = 0.05
LEAVE_S = 75.0  # parking from anywhere, the torque ramp, the release
NUM_EVENTS = 500
STOPPED = (State.FAULT, State.ESTOP)

EventHandler = Callable[[Severity, str], None]


class ControlledArm:
    """One arm. Not energised until `arm`; brought down by `close`.

    `on_event` is called in the listening thread with every line the control process says; the last ones are
    in `events`. `estop_input`: descriptor of a button or pedal; any byte on it, and its end, is an emergency
    stop for as long as the control process lives. Errors: see `embodiments.control.errors`.
    """

    def __init__(
        self, spec: ControlSpec, on_event: EventHandler | None = None, estop_input: int | None = None
    ) -> None:
        self.spec = spec
        self._estop_input = estop_input
        self.events: list[tuple[Severity, str]] = []
        self.release_result: Release | None = None  # of the release path, if it had to be taken
        self._on_event = on_event
        self._owner = os.getpid()
        self._changed = threading.Condition()
        self._newest: ArmState | None = None
        self._answers: dict[int, tuple[Code, str, int]] = {}
        self._failure: ConnectionError | None = None
        self._request = 0
        self._sequence = 0
        self._leaving = False
        self._child: Child | None = None
        self._thread: threading.Thread | None = None

    # -- life ------------------------------------------------------------------------------------------------
    def start(self, timeout_s: float = START_S) -> ArmState:
        """Start the control process and wait until it has the arm; its first state.

        Raises the AttachError or BusError it found, or ProcessGone: then nothing was moved or energised.
        """
        if self._child is not None:
            raise ControlError(f"{self.spec.port}: already started; close it first")
        self._newest = self._failure = self.release_result = None
        self._leaving = False
        self._child = Child(self.spec, self._estop_input)
        self._thread = threading.Thread(target=self._listen, args=(self._child,), daemon=True)
        self._thread.start()
        try:
            with self._changed:
                self._wait(lambda: self._newest is not None and self._newest.state != State.BOOT, timeout_s)
                self._child.forget_spec()
                return self.state
        except ConnectionError:
            self._end()
            raise

    def close(self, timeout_s: float = LEAVE_S, meanwhile: Callable[[], None] | None = None) -> None:
        """Park where possible, release, end the control process. A second call does nothing.

        meanwhile: called some twenty times a second until then; it may `estop`. ControlError if the torque
        could not be confirmed off; ProcessGone if the process died on the way, after the torque was released.
        """
        # A forked child that drops its copy of this object has no say over its parent's arm.
        if self._child is None or os.getpid() != self._owner:
            return
        child = self._child
        self._leaving = True
        child.link.send(pack(Kind.QUIT))
        code, ends = None, time.monotonic() + timeout_s
        while code is None and time.monotonic() < ends:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = child.process.wait(min(LOOK_S, max(0.0, ends - time.monotonic())))
            if code is None and meanwhile is not None:
                meanwhile()
        if code is None:
            raise ControlError(
                f"{self.spec.port}: the control process has not released the arm within {timeout_s:g} s; "
                "it still holds. Stop it with SIGTERM, or cut the servo power"
            )
        said = child.said()
        if self._thread is not None:
            self._thread.join(1.0)  # it hears the last words, and then the end of the link
        self._end()
        if code == UNCONFIRMED:
            raise ControlError(f"{self.spec.port}: torque is not confirmed off: {self._last_error() or said}")
        if code not in (RELEASED, NOT_ATTACHED):
            died_before = self.release_result is not None
            gone = self._gone(code, said)
            if not (died_before and gone.release is not None and gone.release.outcome == TORQUE_OFF):
                raise gone

    def __enter__(self) -> ControlledArm:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _end(self) -> None:
        child, self._child = self._child, None
        self._leaving = True
        if child is not None:
            child.link.open = False
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join(5.0)
            child.close()

    # -- looking ---------------------------------------------------------------------------------------------
    @property
    def is_running(self) -> bool:
        """Whether the control process lives and owns the port."""
        child = self._child
        return child is not None and self._failure is None and child.process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the control process."""
        return self._running().process.pid

    @property
    def state(self) -> ArmState:
        """The newest state; ProcessGone, or the reason why there is none."""
        if self._failure is not None:
            raise self._failure
        if self._newest is None:
            raise ControlError(f"{self.spec.port}: not started; call start first")
        return self._newest

    def observe(self, max_age_s: float = 0.1, timeout_s: float = 1.0) -> ArmState:
        """A state whose positions were all measured at most `max_age_s` ago, waiting for one.

        If none comes in time: ArmStopped if the arm has stopped, ControlError otherwise.
        """

        def fresh() -> bool:
            state = self.state
            return now_us() - state.measured_us <= max_age_s * 1e6

        with self._changed:
            if not self._wait(fresh, timeout_s, must=False):
                self.raise_if_stopped()
                age_s = (now_us() - self.state.measured_us) * 1e-6
                raise ControlError(
                    f"{self.spec.port}: the newest measurement is {age_s:.2f} s old ({self._describe()}); "
                    "look at the arm's cable and supply"
                )
            return self.state

    def wait_for(self, *states: State, timeout_s: float = 5.0) -> ArmState:
        """The first state that is one of `states`; ArmStopped if it stops elsewhere, ControlError if late."""

        def there() -> bool:
            found = self.state.state
            if found in STOPPED and found not in states:
                self.raise_if_stopped()
            return found in states

        with self._changed:
            if not self._wait(there, timeout_s, must=False):
                names = [state.name for state in states]
                raise ControlError(
                    f"{self.spec.port}: not in {names} within {timeout_s:g} s ({self._describe()})"
                )
            return self.state

    def raise_if_stopped(self) -> None:
        """ArmStopped in FAULT and ESTOP, with the cause and what is known about it."""
        state = self.state
        if state.state in STOPPED:
            raise ArmStopped(
                f"{self.spec.port}: {self._describe()}. {self._last_error()}. "
                "Remove the cause, then clear it",
                state.state,
                state.cause,
            )

    def _last_error(self) -> str:
        return next((text for severity, text in reversed(self.events) if severity == Severity.ERROR), "")

    def _describe(self) -> str:
        state = self.state
        return state.state.name + (f", cause {state.cause.name}" if state.cause else "")

    # -- asking ----------------------------------------------------------------------------------------------
    def arm(self) -> ArmState:
        """Torque on, pose held: the consent of whoever calls it. Refused says why not."""
        self._ask(Kind.ARM)
        return self.wait_for(State.HOLD)

    def send(self, positions: Sequence[float], period_s: float = 0.0) -> int:
        """One setpoint, to be reached `period_s` from now; its sequence number. Never waits."""
        return self.send_chunk([positions], period_s)

    def send_chunk(
        self, positions: Sequence[Sequence[float]], period_s: float, start_us: int = NOW, ttl_s: float = 0.25
    ) -> int:
        """A chunk of shape (actions, joints), in joint units; its sequence number. Never waits.

        start_us: `plan_us` of the state the chunk was computed from; NOW for a stream of single setpoints.
        ttl_s: for how long it may be on its way.
        """
        self._sequence += 1
        chunk = chunk_of(self._sequence, positions, round(period_s * 1e6), start_us, round(ttl_s * 1e6))
        self._running().link.send(pack_chunk(chunk))
        return self._sequence

    def hold(self) -> None:
        """Stop, and stand."""
        self._ask(Kind.HALT, Halt.HOLD)

    def park(self, wait: bool = True) -> None:
        """Go to the rest pose slowly, then let go."""
        self._ask(Kind.HALT, Halt.PARK)
        if wait:
            self.wait_for(State.SAFE, State.READY, timeout_s=LEAVE_S)

    def release(self, wait: bool = True) -> None:
        """Let go where the arm is, over one and a half seconds."""
        self._ask(Kind.HALT, Halt.LIMP)
        if wait:
            self.wait_for(State.SAFE, State.READY)

    def clear(self) -> None:
        """End a fault whose cause is gone: the arm is let go slowly; park it first if it is up."""
        self._ask(Kind.CLEAR)

    def estop(self) -> None:
        """Stop now, then torque off; by message and by signal, whichever is faster."""
        child = self._running()
        child.link.send(pack(Kind.ESTOP))
        child.process.send_signal(signal.SIGUSR1)

    def estop_fd(self) -> int:
        """A descriptor; a byte written to it is an emergency stop, even from a signal handler."""
        return self._running().estop_fd

    def _ask(self, kind: Kind, argument: int = 0) -> None:
        child = self._running()
        with self._changed:
            self._request += 1
            number = self._request
        child.link.send(pack(kind, argument, number))
        with self._changed:
            if not self._wait(lambda: number in self._answers, ANSWER_S, must=False):
                raise ControlError(f"{self.spec.port}: {kind.name} was not answered within {ANSWER_S:g} s")
            code, text, answered_us = self._answers.pop(number)
            if code == Code.OK:  # whoever looks at the state next sees what the request did
                self._wait(lambda: self.state.time_us > answered_us, ANSWER_S)
        if code != Code.OK:
            raise Refused(f"{self.spec.port}: {kind.name} refused: {text or code_text(code)}", code)

    def _running(self) -> Child:
        if self._failure is not None:
            raise self._failure
        if self._child is None:
            raise ControlError(f"{self.spec.port}: not started; call start first")
        return self._child

    def _wait(self, condition: Callable[[], bool], timeout_s: float, must: bool = True) -> bool:
        """Wait, with the lock held, for a condition; a failure of the process is raised."""
        deadline = time.monotonic() + timeout_s
        while True:
            if self._failure is not None:
                raise self._failure
            if condition():
                return True
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                if must:
                    raise ControlError(
                        f"{self.spec.port}: the control process does not answer after {timeout_s:g} s"
                    )
                return False
            self._changed.wait(left_s)

    # -- listening -------------------------------------------------------------------------------------------
    def _listen(self, child: Child) -> None:
        link, beat = child.link, 0.0
        poll = select.poll()
        poll.register(link.fileno(), select.POLLIN)
        while link.open:
            now = time.monotonic()
            if now >= beat:
                link.send(pack(Kind.HEARTBEAT))
                beat = now + HEARTBEAT_S
            poll.poll(max(1, int((beat - now) * 1e3)))
            for message in link.receive():
                self._take(message)
            with self._changed:
                self._changed.notify_all()
        if not self._leaving:
            self._bury(child)

    def _take(self, message: Message) -> None:
        if message.state is not None:
            self._newest = message.state
        elif message.header.kind == Kind.RESPONSE:
            header = message.header
            with self._changed:
                self._answers[header.request] = (Code(header.argument), message.text, header.time_us)
        elif message.header.kind == Kind.EVENT:
            if message.header.request == NOT_ATTACHED:
                name, _, text = message.text.partition("\n")
                self._failure = ATTACH_ERRORS.get(name, ControlError)(text)
                return
            event = (Severity(message.header.argument), message.text)
            self.events = [*self.events[-NUM_EVENTS:], event]
            if self._on_event is not None:
                self._on_event(*event)

    def _bury(self, child: Child) -> None:
        """The control process died without being asked to: release the torque, then say so."""
        code = child.process.wait()
        if self._failure is None:
            self._failure = self._gone(code, child.said())
        with self._changed:
            self._changed.notify_all()

    def _gone(self, code: int, said: str) -> ProcessGone:
        """The error of a process that died; the torque is released first, if that process ever had the arm.

        A process that died before has energised nothing: an arm that was left holding goes on holding.
        """
        if self._newest is None:
            found = "it had not taken the arm: nothing was moved or energised"
        else:
            ids = self.spec.load_calibration().ids
            self.release_result = self.release_result or release_port(self.spec.port, ids)
            found = str(self.release_result)
        text = f"{self.spec.port}: the control process ended (code {code}); {found}. {said}"
        return ProcessGone(text.strip(), self.release_result)
