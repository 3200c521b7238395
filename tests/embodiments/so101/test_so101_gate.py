"""The SO-101's gate: each rule broken on purpose is found and said; what the arm really does passes."""

import numpy as np
import pytest

from embodiments.control.limits import JointLimits
from embodiments.so101 import constants as c
from embodiments.so101.arm_spec import REST_POSE, nominal_limits
from embodiments.so101.gate import Allowance, SO101Gate
from embodiments.so101.kinematics import chain, forward
from embodiments.so101.twin.episode import Episode
from embodiments.so101.twin.scenario import draw_scenarios
from embodiments.so101.twin.variation import REST_DEG

STRICT = Allowance(0.0, 1.0, 1.0)


def standing(pose=REST_DEG, steps=8):
    return np.tile(np.asarray(pose, float), (1, steps, 1)), np.asarray(pose, float)[None]


def moving(joint, changes):
    """A chunk from the rest pose in which one joint makes these steps, one a tick."""
    chunk, state = standing(steps=len(changes))
    chunk[0, :, joint] += np.cumsum(changes)
    return chunk, state


def only(gate, chunk, state):
    (violation,) = gate.check(chunk, state).violations
    return violation


def test_every_broken_rule_is_found_where_it_first_is():
    gate = SO101Gate(10.0, allowance=STRICT)
    assert only(gate, *standing()) is None

    found = only(gate, *moving(0, [3.0, 6.0, 9.0, 9.5, 9.0, 0.0]))
    assert (found.kind, found.step, found.part) == ("velocity", 3, "shoulder_pan")
    assert found.reason.endswith("asks 95 deg/s, allowed is 90 (1 times the limit 90)")

    found = only(gate, *moving(4, [2.0, 5.0, 8.0, 3.0]))
    assert (found.kind, found.step, found.part) == ("acceleration", 3, "wrist_roll")
    assert "asks -500 deg/s², allowed is 400 (1 times the limit 400)" in found.reason

    found = only(gate, *moving(c.GRIPPER, [0.0, -2.0, -2.0, -2.0]))
    assert (found.kind, found.step, found.part) == ("position", 2, "gripper")
    assert "asks -1.0 percent, allowed is 0 to 100" in found.reason

    chunk, state = moving(2, [0.0, 0.0, 0.0])
    chunk[0, 1, 3] = np.nan
    found = only(gate, chunk, state)
    assert (found.kind, found.step, found.part) == ("not_finite", 1, "wrist_flex")
    assert only(gate, standing()[0], np.full((1, 6), np.inf)).kind == "not_finite"


def test_the_table_and_the_arm_itself_are_in_the_way():
    gate = SO101Gate()
    reaching = np.array([0.0, 20.0, 20.0, 60.0, 0.0, 3.0])
    lowest = forward(reaching).position_m[2]
    assert lowest < c.LOWEST_POINT_M
    found = only(gate, *standing(reaching))
    assert (found.kind, found.part) == ("table", "fingertip")
    assert f"would be {1e3 * lowest:.0f} mm over the table, allowed is -20 or more" in found.reason

    folded = np.array([0.0, -100.0, 96.8, 60.0, 0.0, 3.0])
    found = only(gate, *standing(folded))
    assert found.kind == "self_collision"
    assert "lower arm to base" in found.reason
    bitten = np.array([0.0, 0.0, 96.8, 95.0, 0.0, 3.0])
    assert only(gate, *standing(bitten)).part == "gripper to base"
    assert only(gate, *standing(REST_POSE)) is None  # a real arm lies there, folded on its stops


def test_each_chunk_of_a_batch_has_its_own_verdict():
    gate = SO101Gate(allowance=STRICT)
    parts = [moving(0, [0.0, 0.0, 9.1]), moving(1, [0.0, 0.0, 0.0]), moving(5, [18.5, 0.0, 0.0])]
    verdict = gate.check(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    assert verdict.ok.tolist() == [False, True, False]
    assert [v and (v.part, v.step) for v in verdict.violations] == [
        ("shoulder_pan", 2),
        None,
        ("gripper", 0),
    ]


def test_what_the_simulated_arm_is_told_by_its_expert_passes():
    gate, episode, chunks, states = SO101Gate(), Episode(16), [], []
    for scenario in draw_scenarios(9, 4_000):
        episode.start(scenario)
        actions, joints = [], []
        while not episode.done:
            joints.append(episode.agent_pos())
            actions.append(episode.expert_action())
            episode.advance(actions[-1])
        starts = range(len(actions) - 7)
        chunks += [np.stack(actions[i : i + 8]) for i in starts]
        states += [joints[i] for i in starts]
    verdict = gate.check(np.stack(chunks), np.stack(states))
    assert len(chunks) > 80
    assert [v.reason for v in verdict.violations if v is not None] == []
    strict = SO101Gate(allowance=STRICT).check(np.stack(chunks), np.stack(states))
    assert not strict.ok.all()  # its targets ask for more than the limits; the control process keeps them


def test_the_numbers_are_those_of_the_spec_or_of_a_calibrated_arm():
    for limit, joint in zip(nominal_limits(), c.SO101.joints, strict=True):
        assert (limit.lower, limit.upper) == (joint.lower.value, joint.upper.value)
        assert limit.max_velocity == joint.max_velocity.value
        assert limit.max_acceleration == joint.max_acceleration.value
    narrow = [JointLimits(x.name, -60.0, 60.0, 30.0, 400.0, 1000.0) for x in nominal_limits()[:5]]
    gate = SO101Gate(10.0, [*narrow, nominal_limits()[5]], STRICT)
    assert "allowed is -60 to 60" in only(gate, *standing()).reason  # the rest pose bends the wrist further
    chunk, state = standing([0.0, -48.0, 30.0, 50.0, 0.0, 3.0])
    chunk[0, 1:, 0] = 3.5
    assert "allowed is 30 (1 times the limit 30)" in only(gate, chunk, state).reason
    chunk[0, 1:, 0] = 2.0
    assert only(gate, chunk, state) is None
    assert only(SO101Gate(20.0, [*narrow, nominal_limits()[5]], STRICT), chunk, state).kind == "velocity"


def test_what_it_cannot_judge_is_refused():
    with pytest.raises(ValueError, match=r"limits of \['shoulder_pan'\] at 10 Hz; give one for each"):
        SO101Gate(10.0, nominal_limits()[:1])
    with pytest.raises(ValueError, match=r"chunk \(2, 8, 5\) from state \(2, 6\); give"):
        SO101Gate().check(np.zeros((2, 8, 5)), np.zeros((2, 6)))
    with pytest.raises(ValueError, match="velocity and acceleration 1 or more"):
        Allowance(velocity=0.5)


def test_the_chain_ends_where_forward_says():
    joints = np.random.default_rng(0).uniform(-90, 90, (20, 6))
    points = chain(joints)
    for row, pose in zip(points, joints, strict=True):
        np.testing.assert_array_equal(row[-1], forward(pose).position_m)
        lengths = np.linalg.norm(np.diff(row, axis=0), axis=1)
        wanted = [np.hypot(*c.UPPER_ARM_M), np.hypot(*c.LOWER_ARM_M), c.WRIST_TO_TIP_M]
        np.testing.assert_allclose(lengths, wanted, atol=1e-9)
