"""What the client asks for, brought before the safety machine; the answer says what became of it."""

from __future__ import annotations

from embodiments.control.controller import Controller
from embodiments.control.link import Halt, Header, Kind, Link, LinkError, code_text, now_us, pack
from embodiments.control.setpoints import Chunk, Verdict
from firmware_bridge.safety import Cause, Code, Event, State

HALTS = {Halt.PARK: Event.HALT_PARK, Halt.LIMP: Event.HALT_LIMP}
EVENTS = {Kind.ARM: Event.ARM, Kind.CLEAR: Event.CLEAR, Kind.DISARM: Event.DISARM}
FOLLOWING = (State.HOLD, State.RUN, State.STALE)
REFUSALS = {
    Verdict.EXPIRED: "it took longer on its way than its time to live",
    Verdict.CONSUMED: "all its actions lie in the past; send longer chunks, or infer faster",
    Verdict.OLD: "a newer one was there before",
    Verdict.NOT_FINITE: "it holds a number that is not finite, or beyond 1e6",
    Verdict.SHAPE: "its shape or period is not that of this arm",
}


class Commands:
    """Listens to one client."""

    def __init__(self, controller: Controller, link: Link) -> None:
        self._controller = controller
        self._link = link
        self.quitting = False
        self._park_tried = False
        self.rejected_elsewhere = 0  # what the plan did not get to judge

    def hear(self) -> None:
        """Everything the client has said since the last call."""
        try:
            for message in self._link.receive():
                now = now_us()
                self._controller.machine.step(Event.FRAME, now)
                if message.chunk is not None:
                    self._follow(message.chunk, now)
                elif message.header.kind != Kind.HEARTBEAT:
                    self._obey(message.header, now)
        except LinkError as error:
            self.rejected_elsewhere += 1
            self._controller.complain(str(error), now_us())

    def stop(self, cause: Cause) -> None:
        """An emergency stop from outside the link: a signal, a button."""
        self._controller.machine.step(Event.ESTOP, now_us(), cause)

    def _follow(self, chunk: Chunk, now: int) -> None:
        controller = self._controller
        if controller.machine.state not in FOLLOWING:
            self.rejected_elsewhere += 1
            controller.complain(f"a setpoint came in {controller.machine.state.name}; arm first", now)
            return
        verdict = controller.pilot.accept(chunk, now)
        if verdict != Verdict.ACCEPTED:
            controller.complain(f"chunk {chunk.sequence} refused: {REFUSALS[verdict]}", now)

    def _obey(self, header: Header, now: int) -> None:
        machine = self._controller.machine
        if header.kind == Kind.QUIT:
            self.quitting = True
            code = Code.OK
        elif header.kind == Kind.ESTOP:
            code = machine.step(Event.ESTOP, now, Cause.ESTOP_HOST)
        elif header.kind == Kind.HALT:
            code = self._halt(header.argument, now)
        elif header.kind in EVENTS:
            code = machine.step(EVENTS[header.kind], now)
        else:
            code = Code.WRONG_STATE
        self._link.send(pack(Kind.RESPONSE, code, header.request, self._words(code)))

    def _halt(self, argument: int, now: int) -> Code:
        if argument == Halt.PARK and self._controller.pilot.park is None:
            self._controller.complain("no rest pose is known: give one, or let go with LIMP", now)
            return Code.WRONG_STATE
        if argument == Halt.HOLD:
            return self._controller.hold(now)
        if argument not in HALTS:
            return Code.WRONG_STATE
        return self._controller.machine.step(HALTS[Halt(argument)], now)

    def _words(self, code: Code) -> str:
        if code == Code.OK:
            return ""
        machine = self._controller.machine
        reasons = "; ".join(self._controller.watch.reasons.values())
        cause = f", cause {machine.cause.name}" if machine.cause else ""
        return f"{code_text(code)} (state {machine.state.name}{cause}{'; ' if reasons else ''}{reasons})"

    def leave(self) -> None:
        """Bring the arm down on the way out: park where possible, otherwise let go slowly."""
        machine, now = self._controller.machine, now_us()
        if machine.state not in (*FOLLOWING, State.FAULT):
            return
        may_park = self._controller.pilot.park is not None and not self._park_tried
        if may_park and machine.step(Event.HALT_PARK, now) == Code.OK:
            self._park_tried = True  # what stops it on the way is not pushed a second time
        else:
            machine.step(Event.HALT_LIMP, now)
            self._controller.complain("cannot park: letting go slowly", now)
