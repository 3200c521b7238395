"""The twin's MuJoCo model, built from the SO-101 constants with primitive shapes.

Joint axes, signs and zeros are those of the public `so101_new_calib` model, so an angle here is the angle the
follower reports. One model is compiled per process; scenes differ by poses and colours written into copies.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable

import numpy as np

from embodiments.so101 import constants as c
from embodiments.so101.twin.gl import mujoco
from embodiments.so101.twin.language import COLOURS, ZONES
from embodiments.so101.twin.variation import (
    BIN_HALF_M,
    BIN_WALL_M,
    BLOCK_HALF_M,
    NUM_DISTRACTORS,
    ZONE_HALF_M,
)

TIMESTEP_S = 0.005
BLOCK_RGB = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.62, 0.16),
    "blue": (0.12, 0.25, 0.88),
    "yellow": (0.93, 0.80, 0.10),
}
ARM_RGBA = "0.93 0.93 0.90 1"
MOTOR_RGBA = "0.12 0.12 0.13 1"
FINGER_RGBA = "0.95 0.55 0.15 1"
JAW_PARALLEL_DEG = 11.0  # jaw angle at which both pads face each other, 30 mm apart
FRONT_CAMERA = ((0.60, 0.0, 0.44), (0.205, 0.0, 0.0), 39.0)  # position, look-at, vertical field of view
WRIST_CAMERA = ((0.030, 0.045, 0.060), (0.165, 0.002, 0.004), 66.0)  # in the gripper frame at zero
FINGER_HALF_WIDTH_M = 0.008


def _axes(position: Iterable[float], target: Iterable[float]) -> str:
    """MuJoCo camera axes (x right, y up) that look from `position` at `target`."""
    view = np.subtract(tuple(target), tuple(position))
    right = np.cross(view, (0.0, 0.0, 1.0))
    up = np.cross(right, view)
    return " ".join(f"{value:.6f}" for value in (*right / np.linalg.norm(right), *up / np.linalg.norm(up)))


def _camera(name: str, pose: tuple[Iterable[float], Iterable[float], float]) -> str:
    position, target, fovy = pose
    where = " ".join(f"{value:g}" for value in position)
    return f'<camera name="{name}" pos="{where}" xyaxes="{_axes(position, target)}" fovy="{fovy:g}"/>'


def _visual(kind: str, size: str, pos: str, rgba: str, extra: str = "") -> str:
    return f'<geom type="{kind}" size="{size}" pos="{pos}" rgba="{rgba}" class="visual" {extra}/>'


def _link(vector: tuple[float, float], width: float) -> str:
    """A capsule along a link given as (forward, up)."""
    return (
        f'<geom type="capsule" fromto="0 0 0 {vector[0]:g} 0 {vector[1]:g}" size="{width:g}" '
        f'rgba="{ARM_RGBA}" class="visual"/>'
    )


def _joint(index: int, axis: str) -> str:
    name = c.MOTORS[index]
    lower, upper = (c.JAW_CLOSED_DEG, c.JAW_OPEN_DEG) if index == c.GRIPPER else c.JOINT_RANGE_DEG[index]
    kind = "jaw" if index == c.GRIPPER else "servo"
    limits = f"{np.radians(lower):.6f} {np.radians(upper):.6f}"
    return f'<joint name="{name}" axis="{axis}" class="{kind}" range="{limits}"/>'


def _arm() -> str:
    fixed_z = c.FIXED_JAW_FACE_M - 0.004
    pivot_x, pivot_z = c.JAW_PIVOT_M
    pad_z = c.FIXED_JAW_FACE_M + 2 * BLOCK_HALF_M - pivot_z + 0.004
    jaw_length = c.WRIST_TO_TIP_M + 0.006 - pivot_x
    finger = FINGER_HALF_WIDTH_M
    tilt = np.radians(JAW_PARALLEL_DEG) / 2
    return f"""
<body name="base">
  {_visual("box", "0.045 0.035 0.03", "0.005 0 0.03", ARM_RGBA)}
  <body name="shoulder" pos="{c.PAN_AXIS_X_M} 0 0" gravcomp="1">
    {_joint(0, "0 0 -1")}<inertial pos="0 0 0.08" mass="0.1" diaginertia="1e-4 1e-4 1e-4"/>
    {_visual("cylinder", "0.028 0.035", "0 0 0.085", MOTOR_RGBA)}
    <body name="upper_arm" pos="{c.SHOULDER_RADIUS_M} 0 {c.SHOULDER_HEIGHT_M}" gravcomp="1">
      {_joint(1, "0 1 0")}<inertial pos="0.01 0 0.06" mass="0.103" diaginertia="1.5e-4 1.5e-4 5e-5"/>
      {_link(c.UPPER_ARM_M, 0.016)}
      <body name="lower_arm" pos="{c.UPPER_ARM_M[0]} 0 {c.UPPER_ARM_M[1]}" gravcomp="1">
        {_joint(2, "0 1 0")}<inertial pos="0.06 0 0" mass="0.104" diaginertia="3e-5 1.6e-4 1.5e-4"/>
        {_visual("sphere", "0.02", "0 0 0", MOTOR_RGBA)}{_link(c.LOWER_ARM_M, 0.014)}
        <body name="wrist" pos="{c.LOWER_ARM_M[0]} 0 {c.LOWER_ARM_M[1]}" gravcomp="1">
          {_joint(3, "0 1 0")}<inertial pos="0.03 0 0" mass="0.079" diaginertia="4e-5 3e-5 3e-5"/>
          {_visual("box", "0.03 0.016 0.014", "0.02 0 0", MOTOR_RGBA)}
          <body name="gripper" gravcomp="1">
            {_joint(4, "-1 0 0")}<inertial pos="0.085 0 0" mass="0.087" diaginertia="3e-5 4e-5 4e-5"/>
            {_visual("box", "0.02 0.02 0.014", "0.07 0 0", ARM_RGBA)}
            <geom name="fixed_finger" class="pad" type="box" size="0.04 {finger} 0.004"
              pos="{c.WRIST_TO_TIP_M + 0.006 - 0.04:g} 0 {fixed_z:g}"/>
            <site name="tip" pos="{c.WRIST_TO_TIP_M} 0 0" size="0.002" rgba="0 0 0 0"/>
            {_camera("wrist", WRIST_CAMERA)}
            <body name="jaw" pos="{pivot_x} 0 {pivot_z}" gravcomp="1">
              {_joint(5, "0 -1 0")}<inertial pos="0.04 0 0" mass="0.012" diaginertia="5e-6 5e-6 5e-6"/>
              <body name="jaw_pad" quat="{np.cos(tilt):.8f} 0 {np.sin(tilt):.8f} 0" gravcomp="1">
                <geom name="moving_finger" class="pad" type="box" size="{jaw_length / 2:g} {finger} 0.004"
                  pos="{jaw_length / 2:g} 0 {pad_z:g}"/>
              </body>
            </body>
          </body>
        </body>
      </body>
    </body>
  </body>
</body>"""


def _table() -> str:
    zones = "".join(
        f'<body name="zone_{zone}" pos="0.2 0 0.0006"><geom name="zone_{zone}" type="box" class="visual" '
        f'size="{ZONE_HALF_M[0]} {ZONE_HALF_M[1]} 0.0005" rgba="0.88 0.88 0.92 1"/></body>'
        for zone in ZONES
    )
    half, wall, height = BIN_HALF_M, 0.004, BIN_WALL_M / 2
    long = half + 2 * wall
    sides = (
        (half + wall, 0, wall, long),
        (-half - wall, 0, wall, long),
        (0, half + wall, long, wall),
        (0, -half - wall, long, wall),
    )
    walls = "".join(
        f'<geom class="bin" type="box" size="{sx:g} {sy:g} {height:g}" pos="{x:g} {y:g} {height:g}"/>'
        for x, y, sx, sy in sides
    )
    floor = _visual("box", f"{half} {half} 0.0005", "0 0 0.0008", "0.22 0.14 0.10 1")
    return f"""
<geom name="table" type="plane" size="1.2 1.2 0.1" rgba="0.5 0.47 0.44 1"
  friction="0.7 0.005 0.0001" contype="1" conaffinity="6"/>
{zones}<body name="bin" pos="0.31 0 0">{walls}{floor}</body>"""


def _objects() -> str:
    parts = []
    for colour in COLOURS:
        rgb = " ".join(map(str, BLOCK_RGB[colour]))
        half = BLOCK_HALF_M
        parts.append(
            f'<body name="block_{colour}" pos="0 0 -0.5"><freejoint/>'
            f'<geom name="block_{colour}" class="block" type="box" size="{half} {half} {half}" '
            f'rgba="{rgb} 1" mass="0.02"/></body>'
        )
    for index in range(NUM_DISTRACTORS):
        parts.append(
            f'<body name="distractor_{index}" pos="0 0 -0.5"><freejoint/>'
            f'<geom name="distractor_{index}" class="block" type="cylinder" size="0.014 0.012" '
            f'rgba="0.45 0.32 0.5 1" mass="0.02"/></body>'
        )
    return "".join(parts)


def _actuators() -> str:
    parts = []
    for index, name in enumerate(c.MOTORS):
        gripper = index == c.GRIPPER
        lower, upper = (c.JAW_CLOSED_DEG, c.JAW_OPEN_DEG) if gripper else c.JOINT_RANGE_DEG[index]
        force = c.GRIPPER_FORCE_NM if gripper else c.SERVO_STALL_NM
        stiffness = c.GRIPPER_KP if gripper else c.SERVO_KP
        parts.append(
            f'<position name="{name}" joint="{name}" kp="{stiffness:g}" dampratio="0.9" '
            f'ctrlrange="{np.radians(lower):.6f} {np.radians(upper):.6f}" forcerange="-{force:g} {force:g}"/>'
        )
    return "".join(parts)


def scene_xml() -> str:
    """MJCF of the table, the arm, every block slot, the zones and the bin; metres and radians."""
    return f"""
<mujoco model="so101_twin">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP_S}" integrator="implicitfast" cone="elliptic" impratio="5" iterations="30"/>
  <size memory="4M"/>
  <visual><headlight ambient="0.35 0.35 0.35" diffuse="0.15 0.15 0.15" specular="0 0 0"/>
    <quality shadowsize="0" offsamples="0" numslices="12" numstacks="8"/><map znear="0.01" zfar="5"/>
    <global offwidth="640" offheight="640"/></visual>
  <default>
    <default class="servo">
      <joint damping="0.6" armature="{c.SERVO_ARMATURE}" frictionloss="{c.SERVO_FRICTION_NM}"/></default>
    <default class="jaw"><joint damping="0.08" armature="{c.GRIPPER_ARMATURE}" frictionloss="0.01"/></default>
    <default class="visual"><geom contype="0" conaffinity="0" mass="0"/></default>
    <default class="pad">
      <geom rgba="{FINGER_RGBA}" condim="4" friction="1.6 0.02 0.0001"
        contype="2" conaffinity="5" mass="0"/></default>
    <default class="bin"><geom rgba="0.36 0.22 0.14 1" contype="1" conaffinity="6" mass="0"/></default>
    <default class="block"><geom condim="4" friction="0.7 0.01 0.0001" contype="4" conaffinity="7"/></default>
  </default>
  <worldbody>
    <light name="lamp" type="directional" pos="0.3 0 1.5" dir="0 0 -1" diffuse="0.6 0.6 0.6"
      specular="0 0 0" castshadow="false"/>
    {_camera("front", FRONT_CAMERA)}
    {_table()}{_arm()}{_objects()}
  </worldbody>
  <contact><exclude body1="gripper" body2="jaw_pad"/></contact>
  <actuator>{_actuators()}</actuator>
</mujoco>"""


@functools.cache
def _compiled() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(scene_xml())


def new_model() -> mujoco.MjModel:
    """A private copy of the model, compiled once per process."""
    return copy.copy(_compiled())
