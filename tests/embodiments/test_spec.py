"""Embodiment specs: what they carry and how they refuse."""

import dataclasses

import pytest

from embodiments.so101.constants import JOINT_NAMES, SO101
from embodiments.spec import CameraSpec, EmbodimentSpec, JointSpec, Sourced

OURS = "ours: a test"


def joint(**changes):
    values = {
        "name": "shoulder_pan.pos",
        "unit": "deg",
        "lower": Sourced(-10.0, OURS),
        "upper": Sourced(10.0, OURS),
        "max_velocity": Sourced(90.0, OURS),
        "max_acceleration": Sourced(400.0, OURS),
    }
    return JointSpec(**{**values, **changes})


def spec(**changes):
    values = {
        "tag": "toy",
        "robot_type": "toy_follower",
        "joints": (joint(),),
        "cameras": (CameraSpec("front", 96, 96, OURS),),
        "control_rate_hz": Sourced(10.0, OURS),
    }
    return EmbodimentSpec(**{**values, **changes})


def test_so101_names_are_lerobots_in_its_order():
    assert SO101.joint_names == (
        "shoulder_pan.pos",
        "shoulder_lift.pos",
        "elbow_flex.pos",
        "wrist_flex.pos",
        "wrist_roll.pos",
        "gripper.pos",
    )
    assert [j.unit for j in SO101.joints] == ["deg"] * 5 + ["percent"]
    assert SO101.robot_type == "so_follower"


def test_every_number_of_so101_has_a_source():
    numbers = [SO101.control_rate_hz]
    for j in SO101.joints:
        numbers += [j.lower, j.upper, j.max_velocity, j.max_acceleration]
    assert len(numbers) == 25
    assert all(len(number.source) > 10 for number in numbers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "shoulder_pan"}, "use 'shoulder_pan.pos'"),
        ({"unit": "turns"}, "unit 'turns' is unknown"),
        ({"lower": Sourced(20.0, OURS)}, "lower limit 20 is not below upper limit 10 deg"),
        ({"max_velocity": Sourced(0.0, OURS)}, "max_velocity is 0"),
        ({"max_acceleration": Sourced(-3.0, OURS)}, "max_acceleration is -3"),
    ],
)
def test_a_wrong_joint_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        joint(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tag": "so-101"}, "'so-101': the tag must be"),
        ({"joints": ()}, "no joints"),
        ({"joints": (joint(), joint())}, r"joint names repeated: \['shoulder_pan.pos'\]"),
        ({"cameras": (CameraSpec("top", 96, 96, OURS),) * 2}, r"camera names repeated: \['top'\]"),
        ({"control_rate_hz": Sourced(-1.0, OURS)}, "control rate -1 Hz"),
    ],
)
def test_a_wrong_embodiment_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        spec(**changes)


def test_numbers_need_a_source_and_a_value():
    with pytest.raises(ValueError, match=r"4\.0 has no source"):
        Sourced(4.0, " ")
    with pytest.raises(ValueError, match="nan is not finite"):
        Sourced(float("nan"), OURS)


@pytest.mark.parametrize(
    ("name", "size", "message"), [("a.b", 96, "'a.b'"), ("", 96, "non-empty"), ("top", 4, "4x4 px")]
)
def test_a_wrong_camera_is_named(name, size, message):
    with pytest.raises(ValueError, match=message):
        CameraSpec(name, size, size, OURS)


def test_unknown_joint_lists_the_known_ones():
    with pytest.raises(KeyError, match=r"no joint 'elbow.pos'; there are \['shoulder_pan.pos'"):
        SO101.joint("elbow.pos")
    assert SO101.joint("gripper.pos").upper.value == 100.0


def test_column_names_in_another_order_are_refused():
    SO101.check_columns(list(JOINT_NAMES), "action")
    with pytest.raises(ValueError, match=r"column 'action' has names \['gripper.pos'"):
        SO101.check_columns(list(JOINT_NAMES[::-1]), "action")


def test_specs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SO101.tag = "other"
