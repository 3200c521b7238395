"""Programs that use unmodified LeRobot and die, freeze or run for long. Run in forks of the server."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from recipes.bench.lerobot_line import PERIOD_S, Peer, attempt


@contextlib.contextmanager
def moving_program(twin: dict[str, Any]) -> Iterator[tuple[int, Peer]]:
    """(process id of a program that moves the arm up there, somebody who looks), until the block ends."""
    reading, writing = os.pipe()
    program = os.fork()
    if program == 0:
        os.close(reading)
        _be_the_program(twin, writing)
    os.close(writing)
    os.read(reading, 1)
    try:
        yield program, Peer(twin)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(program, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(program, 0)
        os.close(reading)


def _be_the_program(twin: dict[str, Any], writing: int) -> None:
    """LeRobot's own shape of a loop: connect, try, finally disconnect."""
    peer = Peer(twin).raised()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.write(writing, b"!")
    began = time.monotonic()
    try:
        while True:
            cycle = time.monotonic()
            peer.robot.get_observation()
            peer.robot.send_action({"shoulder_pan.pos": 10.0 * math.sin(1.5 * (cycle - began))})
            time.sleep(max(0.0, PERIOD_S - (time.monotonic() - cycle)))
    except KeyboardInterrupt:
        pass
    finally:
        attempt(peer.robot.disconnect)
        os._exit(0)


def policy_signalled(twin: dict[str, Any], effort: dict[str, Any], number: int) -> dict[str, Any]:
    """Row 6: the process is killed or frozen while the arm moves; policy and port are in the same one."""
    with moving_program(twin) as (program, peer):
        time.sleep(0.5)
        os.kill(program, number)
        time.sleep(3.0)
        torque = peer.torque()
    return {"torque_after_3_s": torque, "text": f"nobody watches: torque {torque} for ever"}


def control_killed(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 6: the process that owns the port is killed."""
    return policy_signalled(twin, effort, signal.SIGKILL)


def interrupted(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 7: Ctrl-C and SIGKILL while the arm is up."""
    with moving_program(twin) as (program, peer):
        time.sleep(0.3)
        before = peer.true()
        os.kill(program, signal.SIGINT)
        fastest, end = 0.0, time.monotonic() + 2.0
        while time.monotonic() < end:
            fastest = max(fastest, peer.twin.ask("joints")["tip_speed_m_s"])
        fell = max(abs(a - b) for a, b in zip(peer.true()[1:5], before[1:5], strict=True))
    peer.twin.ask("fold")
    killed = policy_signalled(twin, effort, signal.SIGKILL)["torque_after_3_s"]
    text = f"Ctrl-C: fell {fell:.0f} deg at up to {fastest:.2f} m/s; SIGKILL: torque {killed} for ever"
    return {"fell_deg": fell, "tip_speed_m_s": fastest, "torque_after_kill": killed, "text": text}


def soak(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 29: its loop at 100 Hz, deadlines counted at the motors. No policy and no camera: the best case."""
    from lerobot.utils.robot_utils import precise_sleep

    peer = Peer(twin).raised()
    since = peer.twin.ask("status")["arms"]["follower"]["goal_writes"]
    began, trips, errors = time.monotonic(), [], 0
    while (now := time.monotonic() - began) < effort["soak_s"]:
        cycle = time.perf_counter()
        error, took = attempt(peer.robot.get_observation)
        trips.append(took)
        errors += bool(error)
        peer.robot.send_action({"shoulder_pan.pos": 10.0 * math.sin(2.0 * now)})
        precise_sleep(max(0.0, PERIOD_S - (time.perf_counter() - cycle)))
    stamps = [at for at, _ in peer.twin.goals(since=since)]
    gaps = sorted((b - a) * 1e-6 for a, b in itertools.pairwise(stamps))
    missed = sum(max(0, round(gap * 1e-3 / PERIOD_S) - 1) for gap in gaps)
    trip = sorted(trips)[int(len(trips) * 0.99)]
    rate = (len(stamps) - 1) / (stamps[-1] - stamps[0]) * 1e9
    return {
        "ticks": len(gaps),
        "missed": missed,
        "gap_max_ms": gaps[-1],
        "round_trip_p99_ms": trip,
        "rate_hz": rate,
        "errors": errors,
        "text": f"{missed} of {len(gaps)} missed at {rate:.1f} Hz, round trip p99 {trip:.1f} ms",
    }
