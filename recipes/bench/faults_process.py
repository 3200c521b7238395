"""Processes that die, freeze and are starved, on our side: rows 6, 7 and 29 of the fault table."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from embodiments.control.client import ControlledArm
from embodiments.control.errors import ProcessGone
from embodiments.control.link import ArmState
from recipes.bench.control import missed_while_standing, timing
from recipes.bench.fault import Effort, Found
from recipes.bench.interrupts import PROGRAM, run_interrupts
from recipes.bench.stand import Stand, share
from recipes.bench.terminal import Terminal, has_ended
from recipes.bench.witness import LagWitness

TTL_MS = 100.0
LONG_S = 600.0


@contextlib.contextmanager
def raised_program(stand: Stand) -> Iterator[Terminal]:
    """A program of its own that moves the arm to and fro up there, until the block ends."""
    spec_file = stand.folder / "spec.json"
    spec_file.write_text(stand.spec().dump())
    with Terminal(PROGRAM, [str(spec_file), str(LONG_S)]) as terminal:

        def up() -> bool:
            terminal.read(0.05)
            return terminal.last_phase() == "UP"

        stand.wait(up, f"the program did not come up ({terminal.text[-500:]})")
        yield terminal


def _last_motion_ms(stand: Stand, since: int, at_us: int) -> float:
    goals = stand.twin.goals(since=since)
    changes = [b[0] for a, b in itertools.pairwise(goals) if a[1] != b[1]]
    return max(0.0, (max(changes, default=0) - at_us * 1000) * 1e-6)


def policy_signalled(stand: Stand, effort: Effort, number: int) -> Found:
    """Row 6: the policy's process is killed or frozen while the arm moves."""
    with raised_program(stand) as terminal:
        control = terminal.control_pid()
        since, at = stand.goal_writes(), stand.now_us()
        terminal.send(number)
        held = (stand.when("RUN -> ", at) - at) * 1e-3
        time.sleep(1.0)
        still = _last_motion_ms(stand, since, at)
        torque = stand.torque()
        if number == signal.SIGSTOP:
            terminal.send(signal.SIGCONT)
        assert control is not None
        stand.wait(lambda: has_ended(control), "the control process did not end")
        after = stand.torque()
    numbers = {"held_ms": held, "last_motion_ms": still, "torque_held": torque, "torque_at_the_end": after}
    met = held <= 100.0 + TTL_MS and torque == [1] * 6 and after == [0] * 6
    text = f"held after {held:.0f} ms, goals still after {still:.0f} ms, parked, torque {after}"
    return Found(numbers, met, text)


def control_killed(stand: Stand, effort: Effort) -> Found:
    """Row 6: the process that owns the port is killed; its client releases, as does a new process."""
    arm = stand.start()
    arm.arm()
    at = time.monotonic()
    os.kill(arm.pid, signal.SIGKILL)
    stand.wait(lambda: _release_of(arm) is not None, "nobody released")
    took = time.monotonic() - at
    outcome = str(_release_of(arm))
    began = time.monotonic()
    command = [sys.executable, "-m", "embodiments.feetech.release", stand.twin.port]
    alone = subprocess.run(command, capture_output=True, text=True)
    alone_s = time.monotonic() - began
    torque = stand.torque()
    numbers = {"released_s": took, "outcome": outcome, "release_command_s": alone_s, "torque": torque}
    met = took <= 1.0 and alone_s <= 1.0 and alone.returncode == 0 and torque == [0] * 6
    text = f"read back off after {took:.2f} s; the release command alone takes {alone_s:.2f} s"
    return Found(numbers, met, text)


def _release_of(arm: ControlledArm) -> object | None:
    try:
        arm.state  # noqa: B018 - raises what became of the process
    except ProcessGone:
        return arm.release_result
    return None


def interrupted(stand: Stand, effort: Effort) -> Found:
    """Row 7: Ctrl-C typed through a terminal, and SIGKILL, at random instants."""
    found = run_interrupts(stand, effort.instants, seed=7)
    text = (
        f"{found['in_order']} of {found['instants']} in order, "
        f"at most {found['worst_uncommanded_deg']:.2f} deg uncommanded, "
        f"tip let go at no more than {found['worst_tip_speed_let_go_m_s']:.3f} m/s"
    )
    return Found({key: value for key, value in found.items() if key != "rows"}, found["pass"], text)


def soak(stand: Stand, effort: Effort) -> Found:
    """Row 29: a long run, deadlines counted at the motors.

    Judged without the deadlines that were missed while the machine itself stood still, which are counted too.
    """
    arm = stand.raised()
    trips: list[float] = []

    def look(state: ArmState) -> None:
        if state.measured_us > state.sent_us:
            trips.append((state.measured_us - state.sent_us) * 1e-3)

    skipped = _skipped_s(stand)
    with LagWitness() as witness:
        since = stand.goal_writes()
        stand.sweep(arm, effort.soak_s, look)
        lags = witness.take()
    stamps = [stamp for stamp, _ in stand.twin.goals(since=since)]
    figures = timing(stamps, arm.spec.rate_hz)
    stood = missed_while_standing(stamps, arm.spec.rate_hz, lags)
    trip = share(sorted(trips), 0.99)
    realtime = any("SCHED_FIFO" in text for _, text in stand.events())
    missed, ticks = figures["missed"], figures["ticks"]
    numbers = {
        **figures,
        "missed_while_machine_stood": stood,
        "round_trip_p99_ms": trip,
        "realtime": realtime,
        "twin_skipped_s": _skipped_s(stand) - skipped,
    }
    met = missed - stood <= (0 if realtime else 0.005 * ticks)
    met = met and trip <= 10.0 and ticks >= 0.99 * effort.soak_s * arm.spec.rate_hz
    text = f"{missed} of {ticks} missed, {stood} of them while the machine stood still, round trip p99 "
    return Found(numbers, met, f"{text}{trip:.1f} ms, " + ("SCHED_FIFO" if realtime else "plain"))


def _skipped_s(stand: Stand) -> float:
    """Time the simulated arm could not keep up with: then it is the measuring instrument that was late."""
    return float(stand.twin.ask("status")["arms"]["follower"]["skipped_s"])
