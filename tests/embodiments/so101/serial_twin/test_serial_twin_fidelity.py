"""What is done through the servos ends as it ends in the twin that policies are trained in."""

import numpy as np
import pytest

from embodiments.feetech.registers import register
from embodiments.so101 import constants as c
from embodiments.so101.serial_twin.arm import SimulatedArm
from embodiments.so101.serial_twin.owner import draw_owner
from embodiments.so101.serial_twin.scene import SceneSpec
from embodiments.so101.twin.env import SO101TwinEnv
from embodiments.so101.twin.expert import expert_action

SEEDS = range(40, 44)
TICK_S = 1.0 / c.TWIN_RATE_HZ
LIFTED = np.array([0.0, -60.0, 60.0, 60.0, 0.0, 3.0])  # from folded to rest without sweeping the table


def write(servo, name, value):
    entry = register(name)
    servo.write(entry.address, entry.encode(value))


def send(arm, true):
    """Goal registers for true joints: a policy that has learned this arm's zeros."""
    degrees = [
        *true[: c.GRIPPER],
        c.JAW_CLOSED_DEG + true[c.GRIPPER] / 100 * (c.JAW_OPEN_DEG - c.JAW_CLOSED_DEG),
    ]
    for joint, (servo, angle) in enumerate(zip(arm.servos, degrees, strict=True)):
        offset = arm.owner.calibration.joints[joint].calibration.homing_offset
        write(servo, "Goal_Position", round(arm.owner.steps(joint, float(angle))) - offset)


def through_the_servos(seed, family, acceleration):
    spec = SceneSpec(seed, family)
    arm = SimulatedArm(draw_owner(seed), spec, clock="sim")
    arm.lie_down()
    for servo in arm.servos:
        write(servo, "Acceleration", acceleration)
        write(servo, "Torque_Enable", 1)
    for pose in (LIFTED, spec.layout().rest_deg):
        send(arm, pose)
        arm.run(1.5)
    arm.lay_out(spec, keep_arm=True)
    scenario = spec.scenario()
    for _ in range(scenario.max_steps):
        state = arm.table.table_state()
        send(arm, expert_action(state, scenario.task, arm.table.layout.expert_speed))
        arm.run(TICK_S)
        if arm.outcome()["success"]:
            break
    return arm.outcome()


def in_the_twin(seed, family):
    env = SO101TwinEnv(families=(family,))
    env.reset(seed=seed)
    success = done = False
    ticks = 0
    while not done:
        _, _, success, truncated, _ = env.step(env.expert_action(), render=False)
        done = success or truncated
        ticks += 1
    return {"success": success, "ticks": ticks}


# LeRobot writes 254: ten goals a second are then ten starts and stops a second, and a task takes a third
# longer. With 0, unlimited, the servos are as quick as the twin that policies are trained in.
@pytest.mark.parametrize(("acceleration", "ticks_longer"), [(254, 10.0), (0, 3.0)])
@pytest.mark.parametrize("family", ["touch", "push", "bin"])
def test_the_expert_succeeds_over_servos_weight_and_all(family, acceleration, ticks_longer):
    ours = [through_the_servos(seed, family, acceleration) for seed in SEEDS]
    direct = [in_the_twin(seed, family) for seed in SEEDS]
    assert [one["success"] for one in ours] == [one["success"] for one in direct] == [True] * len(SEEDS)
    longer = [one["ticks"] - two["ticks"] for one, two in zip(ours, direct, strict=True)]
    assert np.mean(longer) < ticks_longer
