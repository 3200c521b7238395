"""The control process: owns one arm's port, runs its cycle on absolute deadlines, outlives its parent.

`python -m embodiments.control.process --spec FILE --link-fd N ...`, started by `client`. It is its own
session, so a Ctrl-C typed at the parent's terminal does not reach it; SIGINT and SIGHUP are ignored.
SIGTERM parks and releases; SIGUSR1 is an emergency stop, as is a byte on one of two descriptors: the client's
own, whose end means no more than that the client ended, and that of an input (a button, a pedal), whose end
is a stop, too. When the parent is gone, the arm is held, then parked and released, and the process
ends. Exit codes: 0 released, 3 not attached, 4 torque unconfirmed.
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

from embodiments.control.clock import Deadlines, Waiter, claim_priority
from embodiments.control.commands import Commands
from embodiments.control.controller import Controller
from embodiments.control.errors import ControlError
from embodiments.control.journal import Journal
from embodiments.control.link import Counters, Kind, Link, Severity, now_us, pack, pack_state
from embodiments.control.servo_arm import ServoArm
from embodiments.control.setpoints import Verdict
from embodiments.control.spec import ControlSpec
from embodiments.feetech.errors import BusError
from firmware_bridge.safety import Cause, Clock, State, Torque

RELEASED, NOT_ATTACHED, UNCONFIRMED = 0, 3, 4
RELEASE_ATTEMPTS = 3
FORSAKEN_US = 10_000_000  # longer than after a silent host, which parks by itself where it may
PORT_GONE_US = 5_000_000  # somebody who pulled the cable and left does not come back
QUANTILES_EVERY = 50  # cycles


class ControlProcess:
    """Everything of one run: signals, link, loop, end."""

    def __init__(self, spec: ControlSpec, link: Link, journal: Journal, estop_fds: dict[int, bool]) -> None:
        """`estop_fds`: descriptor → whether its end is a stop, too."""
        self.spec = spec
        self.link = link
        self.journal = journal
        self._estop_fds = estop_fds
        self._parent = os.getppid()
        self._terminate = self._estop_signalled = False
        self._waiter = Waiter()
        self._client_is_there = True
        self._quantiles = (0, 0)

    def say(self, severity: Severity, text: str) -> None:
        """To the event log and to the client."""
        self.journal.note(severity, text)
        self.link.send(pack(Kind.EVENT, severity, text=text))

    def run(self) -> int:
        """Attach, loop, release; the exit code."""
        self._catch_signals()
        priority = claim_priority(self.spec.realtime_priority)
        try:
            arm = ServoArm(self.spec)
        except BusError as error:
            return self._not_attached(error)
        try:
            attached = arm.attach()
            self.controller = Controller(self.spec, arm, self.journal, self.say)
            self.controller.start()
        except (BusError, ControlError) as error:
            arm.close()
            return self._not_attached(error)
        registers = sorted({name.partition(".")[2] for name in attached.written})
        changed = f", set where they differed: {', '.join(registers)}" if registers else ""
        self.say(
            Severity.INFO,
            f"{self.spec.port}: attached at {self.spec.rate_hz:g} Hz, {priority}, {attached.supply_v:g} V, "
            f"calibration {arm.calibration.digest}{changed}",
        )
        if attached.energised:
            found = ", ".join(map(str, sorted(attached.energised)))
            self.say(Severity.WARNING, f"motors {found} have torque already: it stays as it is until armed")
        self.commands = Commands(self.controller, self.link)
        over = False
        try:
            self._loop()
            over = True
        finally:
            if not over:  # an invariant of ours broke: nobody is left to hold the arm
                self._abandon()
        return self._end()

    def _abandon(self) -> None:
        arm = self.controller.arm
        result = "the port is gone" if arm is None else str(arm.release())
        self.say(Severity.ERROR, f"the control process broke down; {result}")
        self.journal.close()

    def _not_attached(self, error: Exception) -> int:
        self.journal.note(Severity.ERROR, str(error))
        self.link.send(_refusal(error))
        self.journal.close()
        return NOT_ATTACHED

    def _loop(self) -> None:
        self._listen()
        gc.collect()
        gc.freeze()
        gc.disable()  # nothing in the cycle makes reference cycles; a collection would be a late cycle
        self.deadlines = Deadlines(self.spec.rate_hz, time.monotonic_ns())
        while not self._finished():
            self._waiter.until(self.deadlines.next_ns)
            periods = self.deadlines.met(time.monotonic_ns())
            self._hear()
            self._attend()
            self.controller.tick(periods)
            state = self.controller.snapshot(self._counters())
            self.journal.cycle(state)
            self.link.send(pack_state(state))

    # -- who may speak -----------------------------------------------------------------------------------
    def _catch_signals(self) -> None:
        for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(ignored, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGUSR1, self._on_estop)

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminate = True

    def _on_estop(self, number: int, frame: FrameType | None) -> None:
        self._estop_signalled = True

    def _listen(self) -> None:
        woken, wakes = socket.socketpair()  # a signal must end the wait for the next deadline
        woken.setblocking(False)
        wakes.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        self._wake = (woken, wakes)
        self._waiter.listen(woken.fileno(), self._woken)
        self._waiter.listen(self.link.fileno(), self._hear)
        for fd in self._estop_fds:
            os.set_blocking(fd, False)
            self._waiter.listen(fd, functools.partial(self._estop_input, fd))

    def _woken(self) -> None:
        self._wake[0].recv(4096)
        self._attend()

    def _hear(self) -> None:
        self.commands.hear()
        if self._client_is_there and not self.link.open:
            self._client_is_there = False
            self._waiter.forget(self.link.fileno())
            self.say(Severity.WARNING, "the client is gone")

    def _estop_input(self, fd: int) -> None:
        """A descriptor spoke or ended; it is heard once, and counts as pressed until the process ends."""
        self._waiter.forget(fd)
        try:
            ended = not os.read(fd, 1)
        except OSError:
            ended = True
        if ended and not self._estop_fds[fd]:
            return
        self.controller.own |= 1 << Cause.ESTOP_INPUT
        self.commands.stop(Cause.ESTOP_INPUT)
        self._cut_at_once()

    def _attend(self) -> None:
        """Signals, and a parent that is gone."""
        if self._estop_signalled:
            self._estop_signalled = False
            self.commands.stop(Cause.ESTOP_SIGNAL)
            self._cut_at_once()
        machine = self.controller.machine
        if self._orphaned and machine.state in (State.RUN, State.STALE):
            self.controller.hold(now_us())
        # A fault waits for a person. A person without a client has no way to answer: bring the arm down.
        forsaken = (
            self._orphaned and machine.state == State.FAULT and machine.age_us(Clock.STATE) > FORSAKEN_US
        )
        if self._terminate or self.commands.quitting or forsaken:
            self.commands.leave()

    def _cut_at_once(self) -> None:
        """Category 0 does not wait for the cycle."""
        if self.controller.machine.output.torque == Torque.OFF:
            self.controller.switch_torque()

    # -- the end -----------------------------------------------------------------------------------------
    @property
    def _orphaned(self) -> bool:
        return not self.link.open or os.getppid() != self._parent

    def _finished(self) -> bool:
        if not (self._terminate or self.commands.quitting or self._orphaned):
            return False
        torque = self.controller.torque
        if self.controller.arm is None and now_us() - self.controller.lost_us > PORT_GONE_US:
            return True
        off = self.controller.machine.output.torque == Torque.OFF
        return off and (not torque.energised or torque.failed_releases >= RELEASE_ATTEMPTS)

    def _end(self) -> int:
        torque = self.controller.torque
        if torque.energised:
            self.say(Severity.ERROR, "ending although torque could not be confirmed off: cut the servo power")
        elif torque.found_on:
            self.say(
                Severity.ERROR,
                "motors had torque before, were never armed here, and keep it with nobody watching: connect "
                "again, arm and park, or hold the arm and cut the servo power",
            )
        if self.controller.arm is not None:
            self.controller.arm.close()
        self.journal.close()
        self.link.close()
        return UNCONFIRMED if torque.energised or torque.found_on else RELEASED

    def _counters(self) -> Counters:
        controller, lateness = self.controller, self.deadlines.lateness
        if controller.cycle % QUANTILES_EVERY == 1:
            self._quantiles = (lateness.quantile_us(0.5), lateness.quantile_us(0.99))
        changes = controller.pilot.limiter.changes
        rejected = sum(controller.pilot.plan.verdicts) - controller.pilot.plan.verdicts[Verdict.ACCEPTED]
        return Counters(
            missed=self.deadlines.missed,
            late_p50_us=self._quantiles[0],
            late_p99_us=self._quantiles[1],
            late_max_us=lateness.max_us,
            lost_replies=controller.watch.lost_replies,
            implausible=sum(joint.implausible for joint in controller.watch.joints),
            rejected=rejected + self.commands.rejected_elsewhere,
            clamped=changes.position,
            slowed=changes.velocity + changes.acceleration,
            goal_writes=controller.goal_writes,
            supply_centivolt=round(controller.watch.supply_v * 100),
            hottest_celsius=controller.watch.hottest_celsius,
        )


def _refusal(error: Exception) -> bytes:
    """Why there is no arm; the class travels by name, and the client raises the same one."""
    return pack(Kind.EVENT, Severity.ERROR, NOT_ATTACHED, f"{type(error).__name__}\n{error}")


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m embodiments.control.process", description=__doc__)
    parser.add_argument("--spec", required=True, help="a file with ControlSpec.dump()")
    parser.add_argument("--link-fd", required=True, type=int, help="inherited socket of the client")
    parser.add_argument("--estop-fd", type=int, help="inherited descriptor: a byte is a stop")
    parser.add_argument("--estop-input-fd", type=int, help="the same; its end is a stop, too")
    options = parser.parse_args(arguments)
    spec = ControlSpec.parse(Path(options.spec).read_text(encoding="utf-8"))
    link = Link(socket.socket(fileno=options.link_fd))
    given = {options.estop_fd: False, options.estop_input_fd: True}
    try:
        journal = Journal(spec.journal, spec.rate_hz)
    except OSError as error:
        link.send(_refusal(ControlError(f"{spec.port}: event log {spec.journal}: {error.strerror}")))
        return NOT_ATTACHED
    return ControlProcess(spec, link, journal, {fd: end for fd, end in given.items() if fd is not None}).run()


if __name__ == "__main__":
    sys.exit(main())
