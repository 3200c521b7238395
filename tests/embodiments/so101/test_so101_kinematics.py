"""Kinematics: exact both ways, equal to the simulator's, and refusing what cannot be reached."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embodiments.so101 import constants as c
from embodiments.so101 import kinematics as k

joints_in_range = st.tuples(*(st.floats(lower, upper) for lower, upper in c.JOINT_RANGE_DEG)).map(np.array)
tools = st.builds(k.Tool, st.floats(0.1, 0.2), st.floats(-0.02, 0.02))


def radius_of(joints, tool):
    """Distance of the tool from the pan axis along the arm's plane; negative behind the axis."""
    position = k.forward(np.array([0.0, *joints[1:]]), tool).position_m
    return position[0] - c.PAN_AXIS_X_M


@settings(max_examples=300, deadline=None)
@given(joints_in_range, tools)
def test_inverse_undoes_forward(joints, tool):
    pose = k.forward(joints, tool)
    if radius_of(joints, tool) < 0.03:
        return  # over or behind the pan axis: the inverse faces the target instead
    lift, elbow = np.radians(joints[1:3])
    elbow_up = (k.E1 - lift) - (k.E2 - lift - elbow) >= 0
    found = k.inverse(
        pose.position_m, pose.pitch_deg, pose.roll_deg, tool, elbow_up=elbow_up, check_limits=False
    )
    again = k.forward(found, tool)
    np.testing.assert_allclose(again.position_m, pose.position_m, atol=1e-9)
    difference = (found - joints + 180.0) % 360.0 - 180.0
    np.testing.assert_allclose(difference, 0.0, atol=1e-4)


def test_the_pan_axis_turns_right_and_pitch_joints_turn_down():
    zero = k.forward(np.zeros(5)).position_m
    np.testing.assert_allclose(zero, [0.39136, 0.0, 0.23437], atol=1e-4)  # public model at zero
    assert k.forward(np.array([10.0, 0, 0, 0, 0])).position_m[1] < -0.01
    for joint in (1, 2, 3):
        turned = np.zeros(5)
        turned[joint] = 10.0
        assert k.forward(turned).position_m[2] < zero[2] - 0.01
        assert k.forward(turned).pitch_deg == pytest.approx(-10.0)


def test_the_simulated_arm_has_the_same_kinematics():
    from embodiments.so101.twin.gl import mujoco
    from embodiments.so101.twin.scene import new_model

    model = new_model()
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    for _ in range(50):
        joints = np.array([rng.uniform(*limits) for limits in c.JOINT_RANGE_DEG])
        data.qpos[:5] = np.radians(joints)
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(data.site("tip").xpos, k.forward(joints).position_m, atol=1e-7)


def test_what_cannot_be_reached_is_refused_by_cause():
    with pytest.raises(k.OutOfReachError, match=r"pitch -90.0 deg puts the wrist 0\.\d+ m from the shoulder"):
        k.inverse(np.array([0.6, 0.0, 0.0]), -90.0)
    with pytest.raises(k.PanSingularityError, match=r"0\.0 mm from the pan axis"):
        k.inverse(np.array([c.PAN_AXIS_X_M, 0.0, 0.2]), -90.0)
    with pytest.raises(k.JointLimitError, match=r"wrist_flex \d+.\d \(allowed -95 to 95\)"):
        k.inverse(np.array([0.24, 0.0, 0.12]), -90.0)
    with pytest.raises(k.KinematicsError, match="three finite metres"):
        k.inverse(np.array([np.nan, 0.0, 0.1]), -90.0)


def test_limits_name_every_joint_that_is_out():
    with pytest.raises(k.JointLimitError, match=r"shoulder_pan 120.0 .*, elbow_flex -99.0"):
        k.check_joint_limits(np.array([120.0, 0.0, -99.0, 0.0, 0.0]))
