"""One loop that serves every simulated arm of this process in real time."""

from __future__ import annotations

import gc
import os
import select
import time
from collections.abc import Callable, Sequence

from embodiments.feetech.simulated.channel import ControlChannel
from embodiments.feetech.simulated.station import Station

TICK_S = 0.004  # physics advances at least this often, so that a request never finds much to catch up
FIFO_PRIORITY = 30  # above the control process, below what the system itself runs
NICE = -10


def raise_priority() -> str:
    """Asks for real-time scheduling, then for a better niceness; says what it got.

    A simulated arm stands for hardware that nothing can delay, so it runs above the process that drives it.
    """
    if hasattr(os, "sched_setscheduler"):
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(FIFO_PRIORITY))
            return f"SCHED_FIFO {FIFO_PRIORITY}"
        except OSError:  # not permitted here: the next best
            pass
    try:
        return f"nice {os.nice(NICE)}"
    except OSError:
        return "normal"


class SimulationLoop:
    """Waits for requests, due replies, ticks and control commands; runs until told to stop."""

    def __init__(
        self,
        stations: Sequence[Station],
        channel: ControlChannel,
        *,
        stop_fds: Sequence[int],
        on_tick: Callable[[float], None],
    ) -> None:
        """The loop ends when one of `stop_fds` becomes readable. `on_tick(now)` is called every TICK_S."""
        self.stations = tuple(stations)
        self.channel = channel
        self.scheduling = "normal"
        self._stop_fds = tuple(stop_fds)
        self._on_tick = on_tick

    def run(self, *, realtime: bool = True, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serves until a stop descriptor is readable; `on_ready` is called when that has begun."""
        if realtime:
            self.scheduling = raise_priority()
        gc.collect()
        gc.freeze()  # what start-up made lives as long as the process: never walk it again
        for station in self.stations:
            station.tick(time.monotonic())
        on_ready()
        next_tick = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= next_tick:
                for station in self.stations:
                    station.tick(now)
                self._on_tick(now)
                next_tick = max(next_tick + TICK_S, time.monotonic())
            if self._wait(next_tick):
                return

    def _wait(self, until: float) -> bool:
        """Serves whatever becomes ready before `until`; whether to stop."""
        ends = {station.wire.fileno(): station for station in self.stations if station.wire.plugged}
        due = [station.wire.next_due for station in self.stations]
        wake = min([until, *(at for at in due if at is not None)])
        reading = [*self._stop_fds, *ends, *self.channel.readable()]
        timeout = max(0.0, wake - time.monotonic())
        ready, writable, _ = select.select(reading, self.channel.writable(), [], timeout)
        # Requests first: their time stamps are what timing is judged by.
        for fd in ready:
            if fd in ends:
                ends[fd].receive()
        now = time.monotonic()
        for station in self.stations:
            station.wire.deliver(now)
        for fd in {*ready, *writable}:
            if fd not in ends and fd not in self._stop_fds:
                self.channel.serve(fd)
        return any(fd in self._stop_fds for fd in ready)
