"""What can go wrong on a bus; one class per cause, never chosen by text.

ConnectionError
  BusError             the port or the motors did not do their part; the text begins with the port's path
    PortUnavailable    cannot be opened: absent, not allowed, or owned by another process
    PortLost           was open and is gone: unplugged, or its other end closed
    NoReply            no whole reply of motors `ids` before the deadline
      CorruptReply     … although bytes arrived: damaged, or of another length
"""

from __future__ import annotations

from collections.abc import Sequence


class BusError(ConnectionError):
    """The base of every error of a bus."""


class PortUnavailable(BusError):
    """The port cannot be opened."""


class PortLost(BusError):
    """The port went away while it was open. Only a new port object helps."""


class NoReply(BusError):
    """No whole reply of motors `ids` before the deadline."""

    def __init__(self, message: str, ids: Sequence[int]) -> None:
        super().__init__(message)
        self.ids = tuple(ids)


class CorruptReply(NoReply):
    """Bytes came, but no whole reply of motors `ids`."""
