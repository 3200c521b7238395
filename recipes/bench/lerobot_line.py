"""The same faults of the line and the motors, injected into unmodified LeRobot. Run in forks of the server.

A program that uses LeRobot may catch its errors and go on; these do wherever going on is possible, so that
what is measured is the driver and not a missing `try`.
"""

from __future__ import annotations

import itertools
import math
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embodiments.so101.serial_twin.client import TwinClient

PERIOD_S = 0.01
WRONG_DEG = 3.0
CONNECTS = 3
UP = {"shoulder_pan": 0.0, "shoulder_lift": -30.0, "elbow_flex": 40.0, "wrist_flex": 30.0}
BUS_ERRORS = (ConnectionError, RuntimeError, OSError, termios.error)


class Peer:
    """An unmodified SO101Follower on the twin, and the twin's control channel."""

    def __init__(self, twin: dict[str, Any], **config: Any) -> None:
        from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

        self.twin = TwinClient(Path(twin["control"]))
        self.robot = SO101Follower(
            SO101FollowerConfig(
                port=twin["port"],
                id=twin["id"],
                calibration_dir=Path(twin["calibration_dir"]),
                **config,
            )
        )

    def connected(self) -> Peer:
        """Itself, connected. It asks each motor once: on a busy machine that takes several attempts."""
        for _ in range(CONNECTS):
            try:
                self.robot.connect()
            except BUS_ERRORS:
                self.close_port()
                continue
            return self
        self.robot.connect()
        return self

    def raised(self) -> Peer:
        """Itself, connected, the arm up."""
        self.connected()
        start = self.robot.get_observation()
        for step in range(1, 61):
            goal = {
                f"{name}.pos": start[f"{name}.pos"] + (to - start[f"{name}.pos"]) * step / 60
                for name, to in UP.items()
            }
            self.robot.send_action(goal)
            time.sleep(0.02)
        time.sleep(0.4)
        return self

    def torque(self) -> list[int]:
        """Torque of each motor as the motors have it."""
        return list(self.twin.ask("joints")["torque"])

    def true(self) -> list[float]:
        """True joint angles."""
        return list(self.twin.ask("joints")["true"])

    def close_port(self) -> None:
        """Give the port up, whatever became of it."""
        if self.robot.bus.port_handler.is_open:
            self.robot.bus.port_handler.closePort()


def attempt(what: Callable[[], Any]) -> tuple[str, float]:
    """(name and text of the error or "", milliseconds it took)."""
    began, error = time.monotonic(), ""
    try:
        what()
    except BUS_ERRORS as caught:
        kind = type(caught)
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        error = f"{name}: {caught}"[:160]
    return error, (time.monotonic() - began) * 1e3


def lost_replies(twin: dict[str, Any], effort: dict[str, Any], kind: str) -> dict[str, Any]:
    """Row 1: its loop at 100 Hz while one reply in a hundred is lost or damaged."""
    peer = Peer(twin).raised()
    offset = peer.robot.get_observation()["shoulder_pan.pos"] - peer.true()[0]
    since = peer.twin.ask("status")["arms"]["follower"]["goal_writes"]
    peer.twin.ask(kind, probability=0.01)
    began, errors, wrong, cycles = time.monotonic(), 0, 0, 0
    while (now := time.monotonic() - began) < effort["seconds"]:
        cycle = time.monotonic()
        try:
            seen = peer.robot.get_observation()["shoulder_pan.pos"]
            wrong += abs(seen - offset - peer.true()[0]) > WRONG_DEG
            peer.robot.send_action({"shoulder_pan.pos": 10.0 * math.sin(2.0 * now)})
        except ConnectionError:
            errors += 1
        cycles += 1
        time.sleep(max(0.0, PERIOD_S - (time.monotonic() - cycle)))
    stamps = [at for at, _ in peer.twin.goals(since=since)]
    gaps = sorted((b - a) * 1e-6 for a, b in itertools.pairwise(stamps))
    p99 = gaps[int(len(gaps) * 0.99)]
    return {
        "cycles": cycles,
        "cycle_p99_ms": p99,
        "cycle_max_ms": gaps[-1],
        "aborts": errors,
        "wrong_values": wrong,
        "text": f"p99 {p99:.1f} ms, max {gaps[-1]:.0f} ms, {errors} errors, {wrong} wrong values",
    }


def late_reply(twin: dict[str, Any], effort: dict[str, Any], late_s: float) -> dict[str, Any]:
    """Row 2: ten times a motor's encoder moves at once; how often the next read has the old position."""
    peer = Peer(twin).connected()
    peer.robot.get_observation()
    peer.twin.ask("delay", seconds=late_s, count=1)
    error, took = attempt(peer.robot.get_observation)
    time.sleep(late_s + 0.1)
    attempt(peer.robot.get_observation)
    stale, jumps = 0, 10
    for index in range(jumps):
        before = peer.robot.get_observation()["wrist_roll.pos"]
        peer.twin.ask("encoder_jump", id=5, steps=100 if index % 2 == 0 else -100)
        stale += abs(peer.robot.get_observation()["wrist_roll.pos"] - before) < 2.0
        peer.robot.get_observation()  # the next one has it: one cycle behind, for ever
    text = f"{stale} of {jumps} later reads stale"
    return {"reads": jumps, "stale_reads": stale, "error": error, "blocked_ms": took, "text": text}


def dead_motor(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 3: each motor in turn falls silent; what a read costs, and whom disconnect() reaches."""
    blocked, torque = [], []
    for id in range(1, 7):
        peer = Peer(twin).connected()
        peer.twin.ask("dead", id=id)
        blocked.append(attempt(peer.robot.get_observation)[1])
        attempt(peer.robot.disconnect)
        torque.append(peer.torque())
        peer.close_port()
        for reset in ("clear", "power_cycle", "fold"):
            peer.twin.ask(reset)
    left = [sum(on) - 1 for on in torque]
    text = f"blocked {max(blocked):.0f} ms; disconnect() leaves torque on {left} of the five others"
    return {"blocked_ms": blocked, "torque_after_disconnect": torque, "text": text}


def error_bit(twin: dict[str, Any], effort: dict[str, Any], bits: int) -> dict[str, Any]:
    """Row 4: each motor in turn reports an error during a second of its loop."""
    seen, torque, said = 0, [], ""
    for id in range(1, 7):
        peer = Peer(twin).connected()
        peer.twin.ask("error_bits", id=id, bits=bits)
        for _ in range(20):
            error, _ = attempt(lambda: peer.robot.send_action(peer.robot.get_observation()))  # noqa: B023
            seen += bool(error)
        said = attempt(peer.robot.disconnect)[0]
        torque.append(peer.torque())
        peer.close_port()
        for reset in ("clear", "power_cycle", "fold"):
            peer.twin.ask(reset)
    on = [sum(each) for each in torque]
    text = f"not seen in {120 - seen} of 120 cycles; disconnect() leaves torque on {on} of six motors"
    return {"cycles_seen": seen, "disconnect_error": said, "torque_after_disconnect": torque, "text": text}


def torque_off(twin: dict[str, Any], effort: dict[str, Any], kind: str) -> dict[str, Any]:
    """Row 4: disconnect() while motor 2 reports an overload, or is dead."""
    peer = Peer(twin).connected()
    peer.twin.ask(kind, id=2, **({"bits": 0x20} if kind == "error_bits" else {}))
    error, took = attempt(peer.robot.disconnect)
    torque = peer.torque()
    text = f"torque {torque} after {took:.0f} ms, {error}"
    return {"torque": torque, "took_ms": took, "error": error, "text": text}


def unplugged(twin: dict[str, Any], effort: dict[str, Any], during: str) -> dict[str, Any]:
    """Row 5: the cable is pulled and comes back."""
    peer = Peer(twin).connected()
    action = {"shoulder_pan.pos": 0.0}
    call = peer.robot.get_observation if during == "read" else lambda: peer.robot.send_action(action)
    peer.twin.ask("unplug", seconds=0.7)
    error, took = attempt(call)
    time.sleep(1.0)
    later = [attempt(call)[0] for _ in range(20)]
    again, _ = attempt(peer.robot.connect)
    failed = sum(map(bool, later))
    text = f"{error.partition(':')[0] or 'no error'}; plugged in again, {failed} of 20 calls fail"
    return {
        "error_ms": took,
        "error": error,
        "failed_after_return": failed,
        "reconnect": again or "connected",
        "text": f"{text}; connect(): {again.partition(':')[0] or 'works'}",
    }


def second_owner(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 13: a second program opens the same port."""
    first = Peer(twin).connected()
    second = Peer(twin)
    error, _ = attempt(second.robot.bus.connect)
    text = "refused" if error else "both have it"
    first.close_port()
    return {"refused": bool(error), "error": error, "text": text}
