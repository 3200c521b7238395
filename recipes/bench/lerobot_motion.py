"""The same faults of goals, poses and the world in unmodified LeRobot. Run in forks of the server."""

from __future__ import annotations

import builtins
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

from recipes.bench.lerobot_line import PERIOD_S, UP, Peer, attempt

STEPS_PER_DEG = 4095 / 360


def wrong_actions(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 8: no numbers, unknown keys, goals far outside, a step of 30 degrees."""
    peer = Peer(twin).raised()
    since = peer.twin.ask("status")["arms"]["follower"]["goal_writes"]
    ended = {}
    for name, value in (("nan", math.nan), ("inf", math.inf)):
        try:
            peer.robot.send_action({"shoulder_pan.pos": value})
        except (ValueError, OverflowError) as error:
            ended[name] = type(error).__name__
    ranges = dict.fromkeys(range(1, 7), (0, 4095))
    for id in ranges:
        registers = peer.twin.ask("registers", id=id)["registers"]
        ranges[id] = (registers["Min_Position_Limit"], registers["Max_Position_Limit"])
    returned = []
    for wild in (170.0, -200.0, 30.0):
        sent = peer.robot.send_action({"shoulder_pan.pos": wild})
        returned.append(sent["shoulder_pan.pos"] == wild)
        time.sleep(0.3)
    goals = [raw for _, raw in peer.twin.goals(since=since)]
    outside = sum(not ranges[i][0] <= raw <= ranges[i][1] for each in goals for i, raw in each.items())
    step = max(abs(b[1] - a[1]) for a, b in itertools.pairwise(goals)) / STEPS_PER_DEG
    text = f"{outside} of {len(goals)} goals outside, returned as sent; largest step {step:.0f} deg"
    return {
        "goals_outside_range": outside,
        "largest_step_deg": step,
        "returned_as_sent": all(returned),
        "errors_in_the_loop": ended,
        "text": f"{text}; nan and inf end the loop with {sorted(ended.values())}",
    }


def far_first_action(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 9: the first action is more than 60 degrees away."""
    peer = Peer(twin).connected()
    start = peer.robot.get_observation()
    away = max(abs(to - start[f"{name}.pos"]) for name, to in UP.items())
    goal = {f"{name}.pos": to for name, to in UP.items()}
    peak, end = 0.0, time.monotonic() + 2.0
    while time.monotonic() < end:
        peer.robot.send_action(goal)
        peak = max(peak, *map(abs, peer.twin.ask("joints")["speed_deg_s"][:5]))
        time.sleep(PERIOD_S)
    return {"away_deg": away, "peak_deg_s": peak, "text": f"{away:.0f} deg at up to {peak:.0f} deg/s"}


def other_calibration(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 10: the calibration file is another arm's; what connect() asks the keyboard."""
    folder = Path(twin["calibration_dir"]) / "moved"
    folder.mkdir(exist_ok=True)
    entries = json.loads((Path(twin["calibration_dir"]) / f"{twin['id']}.json").read_text())
    entries["shoulder_pan"]["homing_offset"] -= 7
    (folder / f"{twin['id']}.json").write_text(json.dumps(entries))
    asked: list[str] = []

    def answer(text: object = "") -> str:
        asked.append(str(text))
        return ""  # ENTER, which a person in a hurry types

    builtins.input = answer
    peer = Peer({**twin, "calibration_dir": str(folder)})
    before = [peer.twin.ask("registers", id=id)["registers"]["Homing_Offset"] for id in range(1, 7)]
    error, took = attempt(peer.robot.connect)
    after = [peer.twin.ask("registers", id=id)["registers"]["Homing_Offset"] for id in range(1, 7)]
    attempt(peer.robot.disconnect)
    for id, offset in enumerate(before, start=1):
        peer.twin.ask("write_register", id=id, name="Lock", value=0)
        peer.twin.ask("write_register", id=id, name="Homing_Offset", value=offset)
    text = f"{len(asked)} questions to the keyboard; ENTER writes the other arm's calibration to the motors"
    return {
        "prompts": len(asked),
        "motors_changed": before != after,
        "error": error,
        "took_s": took * 1e-3,
        "text": text if before != after else f"{len(asked)} questions to the keyboard",
    }


def stale_goal(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 11: servos that go to an old goal when their torque comes on."""
    from lerobot.motors.feetech import FeetechMotorsBus

    peer = Peer(twin)
    assert isinstance(peer.robot.bus, FeetechMotorsBus)
    for id in range(1, 7):
        peer.twin.ask("write_register", id=id, name="Goal_Position", value=2600)
    time.sleep(1.0)
    before, jump = peer.true(), 0.0
    peer.connected()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        jump = max(jump, *(abs(a - b) for a, b in zip(peer.true()[:5], before[:5], strict=True)))
    return {"jump_deg": jump, "text": f"moved {jump:.0f} deg at connect()"}


def attach_again(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 11: taking over an arm that holds itself up."""
    peer = Peer(twin).raised()
    peer.close_port()  # as a killed program leaves it
    before = peer.true()
    again = Peer(twin).connected()
    sag, end = 0.0, time.monotonic() + 1.0
    while time.monotonic() < end:
        sag = max(sag, *(abs(a - b) for a, b in zip(again.true(), before, strict=True)))
    return {"sag_deg": sag, "torque_toggled": True, "text": f"sagged {sag:.1f} deg"}


def park_and_release(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 12: the end of a run: disconnect()."""
    peer = Peer(twin).raised()
    before = peer.true()
    peer.robot.disconnect()
    fastest, end = 0.0, time.monotonic() + 1.5
    while time.monotonic() < end:
        fastest = max(fastest, peer.twin.ask("joints")["tip_speed_m_s"])
    fell = max(abs(a - b) for a, b in zip(peer.true(), before, strict=True))
    text = f"fell {fell:.0f} deg, tip at up to {fastest:.2f} m/s"
    return {"tip_speed_m_s": fastest, "fell_deg": fell, "text": text}


def supply_sag(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 14: the supply falls from 12 V to 7 V."""
    peer = Peer(twin).raised()
    peer.twin.ask("supply", volts=7.0, seconds=4.0)
    errors, cycles, end = 0, 0, time.monotonic() + 5.0
    while time.monotonic() < end:
        pan = 20.0 * math.copysign(1.0, math.sin(4.0 * time.monotonic()))
        errors += bool(attempt(lambda pan=pan: peer.robot.send_action({"shoulder_pan.pos": pan}))[0])
        errors += bool(attempt(peer.robot.get_observation)[0])
        cycles += 1
        time.sleep(PERIOD_S)
    status = peer.twin.ask("status")["arms"]["follower"]
    torque = peer.torque()
    text = f"nothing noticed in {cycles} cycles down to {status['supply_v']:.1f} V, torque then {torque}"
    return {"errors": errors, "cycles": cycles, "torque": torque, "text": text}


def stall(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 15: a wall in the way of a joint that goes on pushing, for three seconds."""
    peer = Peer(twin).raised()
    peer.twin.ask("stall", id=1, direction=1)
    began, noticed = time.monotonic(), 0
    while (now := time.monotonic() - began) < 3.0:
        goal = {"shoulder_pan.pos": min(60.0, 60.0 * now)}
        noticed += bool(attempt(lambda goal=goal: peer.robot.send_action(goal))[0])
        time.sleep(0.02)
    registers = peer.twin.ask("registers", id=1)["registers"]
    load, celsius = (registers["Present_Load"] & 0x3FF) / 10, registers["Present_Temperature"]
    text = f"pushes on for 3 s, load {load:.0f} %, {celsius} degrees Celsius"
    return {"back_off_ms": None, "load_after": load, "celsius": celsius, "errors": noticed, "text": text}


def encoder_jump(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 17: a policy that asks for where the arm is, while an encoder jumps by 35 degrees."""
    peer = Peer(twin).raised()
    start = peer.true()[0]
    peer.twin.ask("encoder_jump", id=1, steps=400)
    errors = 0
    for _ in range(50):
        error, _ = attempt(lambda: peer.robot.send_action({"shoulder_pan.pos": 0.0}))
        errors += bool(error)
        time.sleep(0.02)
    moved = abs(peer.true()[0] - start)
    text = f"{errors} errors; the arm follows the wrong encoder and moves {moved:.0f} deg"
    return {"detected_ms": None, "errors": errors, "moved_deg": moved, "text": text}


def frozen_camera(twin: dict[str, Any], effort: dict[str, Any]) -> dict[str, Any]:
    """Row 16: its loop with its own default of 500 ms for the age of a picture."""
    from embodiments.twin_camera import TwinCameraConfig

    camera = TwinCameraConfig(path=Path(twin["cameras"]["front"]), fps=30, width=96, height=96)
    peer = Peer(twin, cameras={"front": camera}).raised()
    peer.twin.ask("freeze", camera="front", seconds=0.5)
    errors, sent, end = 0, 0, time.monotonic() + 1.0
    while time.monotonic() < end:
        error, _ = attempt(peer.robot.get_observation)
        errors += bool(error)
        if not error:
            peer.robot.send_action({"shoulder_pan.pos": 0.0})
            sent += 1
        time.sleep(0.02)
    text = f"{sent} actions sent, {errors} cycles refused an old picture"
    return {"held_ms": None, "refused_cycles": errors, "actions_sent": sent, "text": text}
