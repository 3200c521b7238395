"""What does not fit is said before an arm is energised, one message a misfit."""

import re
from dataclasses import replace

import numpy as np
import pytest
from lerobot.configs.types import FeatureType, PolicyFeature

from embodiments.feetech.calibration import Calibration, MotorCalibration
from embodiments.so101.arm_spec import control_spec
from embodiments.so101.constants import JOINT_NAMES, MOTORS
from recipes.arm.checks import Latency, check_calibration, check_latency, check_policy
from recipes.arm.errors import CheckFailed
from recipes.arm.policy import Observation, Plan, PolicyFacts, _Planner
from recipes.arm.setup import RunSettings


@pytest.fixture
def spec():
    motors = {name: MotorCalibration(i + 1, 0, 0, 900, 3200) for i, name in enumerate(MOTORS)}
    return control_spec("/dev/arm", Calibration.from_motors(motors, ("gripper",)))


@pytest.fixture
def facts():
    return PolicyFacts(
        fps=10.0,
        cameras=("front", "wrist"),
        state_names=JOINT_NAMES,
        action_names=JOINT_NAMES,
        action_mean=(0.0, -40.0, 30.0, 70.0, 0.0, 20.0),
        action_std=(15.0,) * 6,
        chunk_size=8,
        n_action_steps=2,
        max_delay=4,
        imagine="never",
        identity={},
    )


def test_a_policy_of_this_arm_passes(facts, spec):
    names = [check.name for check in check_policy("/dev/arm", facts, spec, ["front", "wrist", "side"])]
    assert names == ["rate", "joints", "units", "cameras"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fps": 0.0}, "does not say at which rate"),
        ({"fps": 150.0}, "at 150 Hz and the arm is controlled at 100 Hz"),
        ({"action_names": JOINT_NAMES[::-1]}, r"action is \['gripper.pos'"),
        ({"state_names": ()}, "state is without names"),
        ({"action_mean": (0.1, -0.7, 0.5, 1.2, 0.0, 0.2), "action_std": (0.3,) * 6}, "which are radians"),
        ({"action_mean": (0.0, -400.0, 30.0, 70.0, 0.0, 20.0)}, "mean for shoulder_lift is -400.0"),
        ({"cameras": ("front", "top")}, r"missing \['top'\]"),
    ],
)
def test_what_does_not_fit_is_named(facts, spec, changed, message):
    with pytest.raises(CheckFailed, match=message):
        check_policy("/dev/arm", facts._replace(**changed), spec, ["front", "wrist"])


@pytest.mark.parametrize(
    ("brought", "absent", "found"),
    [
        (("past",), ("goal_image", "force"), "past: brought by the policy itself; goal_image, force: absent"),
        (("past", "quality"), (), "past, quality: brought by the policy itself"),
        ((), ("camera_pose",), "camera_pose: absent, nothing here brings it"),
    ],
)
def test_what_of_the_optional_context_is_there_is_said(facts, spec, brought, absent, found):
    facts = facts._replace(brought=brought, absent=absent)
    *_, last = check_policy("/dev/arm", facts, spec, ["front", "wrist"])
    assert last.name == "context"
    assert last.found.startswith(found)
    assert ("absent" in last.found) == bool(absent)


@pytest.mark.parametrize(("quality", "brought"), [(1.0, ("past", "quality")), (None, ("past",))])
def test_a_policy_knows_what_it_brings_and_acts_without_the_rest(make_policy_folder, quality, brought):
    columns = {f"observation.{name}": PolicyFeature(FeatureType.STATE, (size,))
               for name, size in (("force", 3), ("quality", 1), ("camera_pose.front", 7))}  # fmt: skip
    declared = ["force", "past", "goal_image", "quality", "camera_pose"]
    folder = make_policy_folder(
        optional_context=declared, past_offsets=[-4, -2], columns=columns, quality=quality
    )
    planner = _Planner(folder, None, 1, None)
    found = planner.facts(folder)
    assert found.brought == brought
    assert found.absent == tuple(entry for entry in declared if entry not in brought)
    pixels = {name: np.zeros((32, 32, 3), np.uint8) for name in ("front", "wrist")}
    seen, looks = [], planner.actor.policy.network.encode_context

    def spied(sample, *given, **named):
        seen.append((set(sample.vectors), bool(sample.goal), named["past"] is not None))
        return looks(sample, *given, **named)

    planner.actor.policy.network.encode_context = spied
    for number in range(3):
        plan = planner.plan(Observation(number, 200_000 * number, 0, (0.0,) * 6, pixels, "touch"))
        assert np.isfinite(plan.positions).all()
    vectors = {f"observation_{entry}" for entry in brought if entry == "quality"}
    assert seen == [(vectors, False, False), (vectors, False, True), (vectors, False, True)]


@pytest.mark.parametrize(
    ("recorded", "words"),
    [(None, "data names none"), ("aa", "the one the policy"), ("bb", r"NOT the one .* \(bb\): joints")],
)
def test_the_calibration_is_held_against_the_recordings(facts, recorded, words):
    found = check_calibration(facts._replace(calibration=recorded), "aa", "mine.json").found
    assert re.search(f"^aa: the motors have what mine.json says; .*{words}", found)


@pytest.mark.parametrize(("median", "words"), [(20.0, None), (300.0, "slower than its period"), (601.0, "")])
def test_latency_has_a_budget(facts, median, words):
    latency = Latency(median, median + 1, Plan(0, np.zeros((8, 6), np.float32), 0.0, False))
    if words == "":
        with pytest.raises(CheckFailed, match="601 ms and the arm would starve after 600 ms"):
            check_latency("/dev/arm", facts, latency)
    else:
        assert ("slower" in check_latency("/dev/arm", facts, latency).found) == bool(words)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate_hz": 500.0}, "rate is 500; allowed is 10 to 200"),
        ({"robot": "koch"}, "allowed is one of"),
        ({"start_pose": (1.0,)}, "has 1 numbers; give 6"),
        ({"episodes": 0}, "episodes is 0"),
    ],
)
def test_settings_are_checked(given, message):
    with pytest.raises(CheckFailed, match=message):
        RunSettings(port="/dev/arm", policy="p", **given)


def test_a_calibration_is_looked_for_where_lerobot_keeps_it(tmp_path):
    settings = RunSettings(port=str(tmp_path / "port"), policy="p", robot_id="nobody")
    with pytest.raises(CheckFailed, match=r"port: no such port; plug the arm in"):
        settings.find_calibration()
    (tmp_path / "port").touch()
    with pytest.raises(CheckFailed, match=r"so_follower.*nobody\.json"):
        settings.find_calibration()
    mine = replace(settings, calibration=tmp_path / "mine.json")
    assert mine.find_calibration() == tmp_path / "mine.json"
