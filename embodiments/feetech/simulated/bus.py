"""Requests in, replies out: the servos on one line, without any I/O or clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from embodiments.feetech import packets
from embodiments.feetech.packets import Instruction
from embodiments.feetech.registers import BAUDRATES, GOAL_POSITION, register
from embodiments.feetech.simulated.servo import SimulatedServo

RETURN_DELAY_UNIT_S = 2e-6
_RETURN_DELAY = register("Return_Delay_Time")
_STATUS_LEVEL = register("Response_Status_Level")
ANSWER_ALL = 1  # Response_Status_Level; 0 answers PING and READ only


class SentStatus(NamedTuple):
    """One status packet on its way: who sends it, its bytes, and the servo's own return delay."""

    id: int
    data: bytes
    delay_s: float


class SimulatedBus:
    """The line: `answer` is everything that happens on it."""

    def __init__(self, servos: Sequence[SimulatedServo]) -> None:
        self.servos = tuple(servos)
        self.dead: set[int] = set()
        # Whether servos named after a silent one still answer a sync read: not known of real ones.
        self.dead_silences_rest = False
        self.goals: dict[int, int] = {}  # goal writes of the last request, raw signed
        self._waiting: list[tuple[SimulatedServo, int, bytes]] = []  # REG_WRITE until ACTION

    def answer(self, request: Instruction, baudrate: int = BAUDRATES[0]) -> list[SentStatus]:
        """The status packets `request`, sent at `baudrate`, causes, in the order they are sent."""
        self.goals = {}
        listening = [
            servo
            for servo in self.servos
            if servo.powered and servo.id not in self.dead and servo.baudrate == baudrate
        ]
        if request.code == packets.SYNC_READ:
            return self._sync_read(request, listening)
        if request.code == packets.SYNC_WRITE:
            self._sync_write(request, listening)
            return []
        everyone = request.id == packets.BROADCAST_ID
        replies = []
        for servo in listening:
            if everyone or servo.id == request.id:
                reply = self._one(request, servo)
                # To the broadcast id only a PING is answered: LeRobot finds motors that way.
                if reply is not None and (not everyone or request.code == packets.PING):
                    replies.append(reply)
        return replies

    def _one(self, request: Instruction, servo: SimulatedServo) -> SentStatus | None:
        id, error, params, quiet = (
            servo.id,
            servo.error,
            request.params,
            servo.get(_STATUS_LEVEL) != ANSWER_ALL,
        )
        delay_s = servo.get(_RETURN_DELAY) * RETURN_DELAY_UNIT_S
        found = b""
        if request.code == packets.READ and len(params) == 2:
            found, quiet = servo.read(params[0], params[1]), False
        elif request.code == packets.PING:
            quiet = False
        elif request.code == packets.WRITE and len(params) >= 2:
            self._write(servo, params[0], params[1:])
        elif request.code == packets.REG_WRITE and len(params) >= 2:
            self._waiting.append((servo, params[0], params[1:]))
        elif request.code == packets.ACTION:
            for waiting, address, data in self._waiting:
                if waiting is servo:
                    self._write(servo, address, data)
            self._waiting = [entry for entry in self._waiting if entry[0] is not servo]
        else:
            return None  # an instruction these servos do not know
        # An id written by this very request answers under the old one, as LeRobot's setup expects.
        return None if quiet else SentStatus(id, packets.status(id, error, found), delay_s)

    def _write(self, servo: SimulatedServo, address: int, data: bytes) -> None:
        servo.write(address, data)
        if address <= GOAL_POSITION.address and address + len(data) >= GOAL_POSITION.address + 2:
            self.goals[servo.id] = servo.get(GOAL_POSITION)

    def _sync_read(self, request: Instruction, listening: list[SimulatedServo]) -> list[SentStatus]:
        if len(request.params) < 3:
            return []
        address, size, *ids = request.params
        by_id = {servo.id: servo for servo in listening}
        replies = []
        for id in ids:
            if id not in by_id:
                if self.dead_silences_rest:
                    break
                continue
            servo = by_id[id]
            data = packets.status(id, servo.error, servo.read(address, size))
            replies.append(SentStatus(id, data, servo.get(_RETURN_DELAY) * RETURN_DELAY_UNIT_S))
        return replies

    def _sync_write(self, request: Instruction, listening: list[SimulatedServo]) -> None:
        if len(request.params) < 2:
            return
        address, size = request.params[:2]
        by_id = {servo.id: servo for servo in listening}
        body = request.params[2:]
        for start in range(0, len(body) - size, size + 1):
            servo = by_id.get(body[start])
            if servo is not None:
                self._write(servo, address, body[start + 1 : start + 1 + size])
