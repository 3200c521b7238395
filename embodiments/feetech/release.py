"""Switches the torque of every motor off, and says only what was read back.

Best effort on all: a broadcast that no motor answers (so no faulty motor can stop it), three times, then each
motor is read. Standard library and pyserial only: it must work, at once, when everything else has died.
Without torque an arm falls; hold it, or park it first.

Run `python -m embodiments.feetech.release PORT`: prints one line; exit code 0 released, 1 unconfirmed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from embodiments.feetech import packets
from embodiments.feetech.errors import BusError, NoReply, PortUnavailable
from embodiments.feetech.port import FeetechPort
from embodiments.feetech.registers import TORQUE_ENABLE

RELEASED = "RELEASED"
UNCONFIRMED = "UNCONFIRMED"
SO_ARM_IDS = (1, 2, 3, 4, 5, 6)
BROADCASTS = 3
ROUNDS = 3  # of read-back and, for whoever is still on, a write of its own
OFF = TORQUE_ENABLE.encode(0)


class Release(NamedTuple):
    """What is known after a torque release.

    `off` were read back without torque, `on` with torque, `silent` did not answer. `error` is why the port
    could not be used to the end. RELEASED only if every motor was read back without torque.
    """

    off: tuple[int, ...]
    on: tuple[int, ...]
    silent: tuple[int, ...]
    elapsed_s: float
    error: str = ""

    @property
    def outcome(self) -> str:
        """RELEASED or UNCONFIRMED."""
        return UNCONFIRMED if self.on or self.silent or self.error else RELEASED

    def __str__(self) -> str:
        took = f"{self.elapsed_s * 1e3:.1f} ms"
        if self.outcome == RELEASED:
            return f"{RELEASED}: torque is off on motors {_names(self.off)}, read back, in {took}"
        known = [f"off {_names(self.off)}"] if self.off else []
        known += [f"STILL ON {_names(self.on)}"] if self.on else []
        known += [f"no answer {_names(self.silent)}"] if self.silent else []
        reason = f" ({self.error})" if self.error else ""
        return f"{UNCONFIRMED}: {'; '.join(known) or 'nothing known'}{reason}. Cut the servo power ({took})"


def _names(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))


def release_torque(port: FeetechPort, ids: Sequence[int] = SO_ARM_IDS) -> Release:
    """Torque off on all of `ids`, verified; never raises for what the bus does."""
    began = time.monotonic()
    state: dict[int, int] = {}
    error = ""
    try:
        for _ in range(BROADCASTS):
            port.write(packets.BROADCAST_ID, TORQUE_ENABLE.address, OFF)
        for round_ in range(ROUNDS):
            open_ids = [id for id in ids if state.get(id) != 0]
            if not open_ids:
                break
            if round_:
                _write_each(port, open_ids)
            answer = port.sync_read(TORQUE_ENABLE.address, TORQUE_ENABLE.size, open_ids)
            state.update({id: reply.value for id, reply in answer.replies.items()})
    except BusError as failure:
        error = str(failure)
    return Release(
        off=tuple(id for id in ids if state.get(id) == 0),
        on=tuple(id for id in ids if state.get(id, 0) != 0),
        silent=tuple(id for id in ids if id not in state),
        elapsed_s=time.monotonic() - began,
        error=error,
    )


def _write_each(port: FeetechPort, ids: Sequence[int]) -> None:
    for id in ids:
        try:
            port.write(id, TORQUE_ENABLE.address, OFF)
        except NoReply:
            continue  # the read-back that follows decides


def release_port(path: str, ids: Sequence[int] = SO_ARM_IDS) -> Release:
    """Torque off on the motors of a port that nobody else has to be asked for.

    If another process owns the port, the requests are sent all the same: with an arm to be stopped, two
    talkers are the smaller evil, and only what is read back counts.
    """
    began = time.monotonic()
    try:
        port = FeetechPort(path)
    except PortUnavailable:
        try:
            port = FeetechPort(path, exclusive=False)
        except PortUnavailable as error:
            return Release((), (), tuple(ids), time.monotonic() - began, str(error))
    with port:
        return release_torque(port, ids)


def main(arguments: Sequence[str]) -> int:
    """The command: one line on standard output."""
    if len(arguments) < 1 or arguments[0].startswith("-") or not all(id.isdigit() for id in arguments[1:]):
        sys.stderr.write(
            "usage: python -m embodiments.feetech.release PORT [ID ...]   (default: ids 1 to 6)\n"
        )
        return 2
    result = release_port(arguments[0], tuple(map(int, arguments[1:])) or SO_ARM_IDS)
    sys.stdout.write(f"{arguments[0]}: {result}\n")
    return 0 if result.outcome == RELEASED else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
