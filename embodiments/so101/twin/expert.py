"""The scripted expert: an action as a function of the table's state and the task, nothing else.

No phase is remembered; each is read off the state: whatever knocks the arm aside, the next action heads back.
Tip targets are metres; motion is a straight step of the tip, then analytic inverse kinematics.
"""

from __future__ import annotations

import numpy as np

from embodiments.so101 import constants as c
from embodiments.so101.kinematics import KinematicsError, Tool, forward, inverse
from embodiments.so101.twin.language import COLOURS, ZONES, Task
from embodiments.so101.twin.monitor import in_bin
from embodiments.so101.twin.simulation import TableState
from embodiments.so101.twin.variation import BIN_HALF_M, BLOCK_HALF_M, REST_DEG

CLOSED_TOOL = Tool(c.WRIST_TO_TIP_M + 0.004, c.FIXED_JAW_FACE_M)  # between the closed fingertips
GRASP_TOOL = Tool(c.WRIST_TO_TIP_M, c.FIXED_JAW_FACE_M + BLOCK_HALF_M)  # between pads that hold a block
PUSH_PERCENT = 14.0  # fingers 21 mm apart: two contacts keep the pushed face straight
PUSH_TOOL = Tool(c.WRIST_TO_TIP_M + 0.002, c.FIXED_JAW_FACE_M + 0.0105)
FINGER_HALF_M = 0.008
BLOCK_TOP_M = 2 * BLOCK_HALF_M
SAFE_Z_M = 0.062
CARRY_Z_M = 0.085
LOW_Z_M = 0.014
OPEN_PERCENT = 42.0  # pads 65 mm apart: a block is caught when the aim is 15 mm off
EMPTY_PERCENT = 9.0  # closed this far, the gripper holds nothing
HELD_PERCENT = 25.0  # pads touch a 30 mm block at 19 percent, a corner of it somewhat wider
FIRM_PERCENT = 18.0  # closed on a straight block
GRASP_Z_M = 0.010
MAX_JOINT_STEP_DEG = 9.0  # per tick, 90 degrees a second: the embodiment's own limit
MAX_TIP_STEP_M = 0.045
MAX_GRIPPER_STEP = 18.0
APPROACH_GAIN = 0.8  # share of the remaining way gone in one tick: slows down before contact
PUSH_STEP_M = 0.022
REACH_M = (0.105, 0.305)  # tip to pan axis


def expert_action(state: TableState, task: Task, speed: float = 1.0) -> np.ndarray:
    """True joint targets (6,) for the next tick; `speed` 0..1 scales the steps."""
    current = task
    if task.second is not None and in_bin(state.blocks[COLOURS.index(task.colour)], state.bin):
        current = task.second
        lifted = forward(state.joints, GRASP_TOOL).position_m[2] > SAFE_Z_M
        if not lifted and np.abs(_xy(state, GRASP_TOOL) - state.bin).max() < BIN_HALF_M + 0.02:
            return _move(state, np.append(_xy(state, GRASP_TOOL), CARRY_Z_M), GRASP_TOOL, OPEN_PERCENT, speed)
    slot = COLOURS.index(current.colour)
    if not state.present[slot]:
        return hold_action(state, speed)
    block = state.blocks[slot]
    if current.verb == "touch":
        return _touch(state, block, speed)
    if current.verb == "push":
        return _push(state, block, state.zones[ZONES.index(current.zone or "")], speed)
    return _bin(state, block, speed)


def hold_action(state: TableState, speed: float = 1.0) -> np.ndarray:
    """Stay where the episode began: back towards the rest pose, no more than a degree a tick."""
    step = np.clip(REST_DEG - state.joints, -1.0, 1.0) * 0.3 * speed
    return state.joints + step


def move_tip(state: TableState, position_m: np.ndarray, gripper: float, speed: float = 1.0) -> np.ndarray:
    """Joint targets (6,) one tick towards `position_m` (3,) for the closed fingertips."""
    return _move(state, position_m, CLOSED_TOOL, gripper, speed)


def _xy(state: TableState, tool: Tool) -> np.ndarray:
    return forward(state.joints, tool).position_m[:2]


def _touch(state: TableState, block: np.ndarray, speed: float) -> np.ndarray:
    tip = forward(state.joints, CLOSED_TOOL).position_m
    away = float(np.linalg.norm(tip[:2] - block[:2]))
    top = block[2] + BLOCK_HALF_M
    height = _funnel(away, top - 0.004, top + 0.042, inner=0.008, slope=3.0)
    return _move(state, np.array([*block[:2], height]), CLOSED_TOOL, 0.0, speed)


def _push(state: TableState, block: np.ndarray, zone: np.ndarray, speed: float) -> np.ndarray:
    tip = forward(state.joints, PUSH_TOOL).position_m
    # Aim past the middle: a policy that stops a little short is still well inside the zone.
    aim = zone + np.array([0.0, 0.008 * np.sign(zone[1])])
    to_go = aim - block[:2]
    distance = float(np.linalg.norm(to_go))
    if distance < 0.014:
        return _move(state, np.array([*tip[:2], max(tip[2], LOW_Z_M)]), PUSH_TOOL, PUSH_PERCENT, speed)
    along = to_go / distance
    normal = np.array([-along[1], along[0]])
    offset = tip[:2] - block[:2]
    behind, aside = -float(offset @ along), float(offset @ normal)
    reach = BLOCK_HALF_M + FINGER_HALF_M  # tip to block centre in contact
    if tip[2] < 0.028 and abs(aside) < 0.020 and reach - 0.016 < behind < reach + 0.05:
        # In contact both fingers stick to the face and the block goes where they go; before, line up with it.
        gap = max(behind - reach, 0.0)
        sideways = -normal * np.clip(aside, -0.01, 0.01) if gap > 0.004 else np.zeros(2)
        target = tip[:2] + along * (min(PUSH_STEP_M, distance) + gap) * (1.0 - 0.5 * (gap > 0.004)) + sideways
        return _move(state, np.array([*target, LOW_Z_M]), PUSH_TOOL, PUSH_PERCENT, speed, gain=1.0)
    start = block[:2] - along * (reach + 0.018)
    away = float(np.linalg.norm(tip[:2] - start))
    if tip[2] < 0.045 and away > 0.03:
        clear = tip[:2] + 0.02 * offset / max(float(np.linalg.norm(offset)), 1e-6) * (
            np.abs(offset).max() < 0.035
        )
        return _move(state, np.array([*clear, SAFE_Z_M]), PUSH_TOOL, PUSH_PERCENT, speed)
    height = _funnel(away, LOW_Z_M, SAFE_Z_M, inner=0.008, slope=4.0)
    return _move(state, np.array([*start, height]), PUSH_TOOL, PUSH_PERCENT, speed)


def _funnel(away: float, low: float, high: float, *, inner: float, slope: float) -> float:
    """Height for a tip that is `away` metres off sideways: `low` within `inner`, a cone up to `high` beyond.

    A height that grows with the error is what a policy can imitate: one that hovers until it is exactly above
    its goal teaches the policy, which never is, to hover for ever.
    """
    return low + min(slope * max(away - inner, 0.0), high - low)


def grasp_tool(opening: float) -> Tool:
    """The point to put on the block: mid-way between pads that hold it, off the fixed pad while open."""
    clearance = 0.015 * float(np.clip((opening - 20.0) / 20.0, 0.0, 1.0))
    return Tool(GRASP_TOOL.forward_m, GRASP_TOOL.up_m + clearance)


def _bin(state: TableState, block: np.ndarray, speed: float) -> np.ndarray:
    opening = float(state.joints[c.GRIPPER])
    tool = grasp_tool(opening)
    tip = forward(state.joints, tool).position_m
    over_bin = bool(np.abs(block[:2] - state.bin).max() < BIN_HALF_M - 0.014)
    if in_bin(block, state.bin) or (over_bin and opening > HELD_PERCENT + 2.0):
        return _move(state, np.append(state.bin, CARRY_Z_M), GRASP_TOOL, OPEN_PERCENT, speed)
    away = float(np.linalg.norm(tip[:2] - block[:2]))
    level = tip[2] < block[2] + (0.002 if opening > HELD_PERCENT else 0.012)
    held = EMPTY_PERCENT < opening < HELD_PERCENT and float(np.linalg.norm(tip - block)) < 0.028
    if held and tip[2] < block[2] + 0.02:
        return _carry(state, tip, over_bin, speed)
    if away < 0.014 and level:
        # Close; `tool` brings the fixed pad up to the block at the rate the jaw comes in.
        return _move(state, np.array([*block[:2], max(block[2] - 0.005, GRASP_Z_M)]), tool, 0.0, speed)
    if opening > OPEN_PERCENT - 6.0:
        height = _funnel(away, GRASP_Z_M, BLOCK_TOP_M + 0.05, inner=0.008, slope=3.5)
    else:
        height = BLOCK_TOP_M + 0.05
    return _move(state, np.array([*block[:2], height]), tool, OPEN_PERCENT, speed)


def _carry(state: TableState, tip: np.ndarray, over_bin: bool, speed: float) -> np.ndarray:
    if over_bin and float(np.linalg.norm(tip[:2] - state.bin)) < 0.02:
        return _move(state, np.append(state.bin, CARRY_Z_M - 0.01), GRASP_TOOL, OPEN_PERCENT, speed)
    if tip[2] < 0.055:
        firm = state.joints[c.GRIPPER] < FIRM_PERCENT
        rise = 0.04 if tip[2] > 0.022 else 0.012 if firm else 0.003
        ahead = 0.25 * (state.bin - tip[:2]) * (tip[2] > 0.035)
        return _move(state, np.array([*(tip[:2] + ahead), tip[2] + rise]), GRASP_TOOL, 0.0, speed)
    return _move(state, np.append(state.bin, CARRY_Z_M), GRASP_TOOL, 0.0, speed)


def _move(
    state: TableState, target: np.ndarray, tool: Tool, gripper: float, speed: float, gain: float | None = None
) -> np.ndarray:
    """Joint targets one tick towards `target` (3,) for `tool`, gripper towards `gripper` percent."""
    tip = forward(state.joints, tool).position_m
    delta = target - tip
    length = float(np.linalg.norm(delta))
    limit = MAX_TIP_STEP_M * speed
    goal = tip + delta * min(gain or APPROACH_GAIN, limit / max(length, 1e-9))
    roll = state.joints[4] - np.clip(state.joints[4], -4.0, 4.0)
    try:
        step = solve(within_reach(goal), tool, roll) - state.joints[:5]
    except KinematicsError:  # knocked out of the range of the grip: go back over the rest pose
        step = REST_DEG[:5] - state.joints[:5]
    step *= min(1.0, MAX_JOINT_STEP_DEG * speed / max(float(np.abs(step).max()), 1e-9))
    opening = state.joints[c.GRIPPER]
    change = np.clip(gripper - opening, -MAX_GRIPPER_STEP, MAX_GRIPPER_STEP)
    if gripper == 0.0:
        change = -MAX_GRIPPER_STEP if opening > 1.0 else -opening  # keep squeezing what is held
    return np.append(state.joints[:5] + step, max(opening + change, 0.0))


def within_reach(position_m: np.ndarray) -> np.ndarray:
    """`position_m` (3,) moved into the ring around the pan axis that the gripper reaches pointing down."""
    offset = position_m[:2] - (c.PAN_AXIS_X_M, 0.0)
    radius = max(float(np.linalg.norm(offset)), 1e-6)
    offset *= np.clip(radius, REACH_M[0], REACH_M[1]) / radius
    return np.array([c.PAN_AXIS_X_M + offset[0], offset[1], max(float(position_m[2]), 0.008)])


def solve(position_m: np.ndarray, tool: Tool, roll_deg: float = 0.0) -> np.ndarray:
    """Joints (5,) with the steepest grip in reach: near vertical at the table, 70 degrees up high."""
    height = float(np.clip((position_m[2] - 0.03) / 0.05, 0.0, 1.0))
    preferred = -86.0 + 16.0 * height
    for relax in range(0, 61, 3):
        try:
            return inverse(position_m, preferred + relax, roll_deg, tool)
        except KinematicsError:
            continue
    raise KinematicsError(
        f"expert: tip target {np.round(position_m, 4)} is out of reach at every pitch from {preferred:.0f} "
        f"to {preferred + 60:.0f} degrees; the layout put something outside the arm's range"
    )
