"""The environments: expert success, one table or many, here or on workers, snapshots, errors."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from embodiments.so101.twin.env import SO101TwinEnv
from embodiments.so101.twin.language import FAMILIES, Task
from embodiments.so101.twin.play import PlayController
from embodiments.so101.twin.scenario import make_scenario, present_colours, swap
from embodiments.so101.twin.simulation import TwinSimulation
from embodiments.so101.twin.variation import Variation, draw_layout
from embodiments.so101.twin.vector_env import SO101TwinVectorEnv
from embodiments.so101.twin.workers import WorkerError


@pytest.fixture(scope="module")
def tables():
    return SO101TwinVectorEnv(20)


def play_expert(env, scenarios, ticks):
    """Run the expert without pictures; gives the last info."""
    _, info = env.reset(options={"scenarios": scenarios})
    for _ in range(ticks):
        _, _, terminated, truncated, info = env.step(env.expert_actions(), render=False)
        if (terminated | truncated).all():
            break
    return info


@pytest.mark.parametrize("variation", [Variation(), Variation.randomised()], ids=["plain", "randomised"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_expert_succeeds(tables, family, variation):
    scenarios = [make_scenario(900 + seed, family, variation) for seed in range(20)]
    info = play_expert(tables, scenarios, scenarios[0].max_steps)
    assert info["is_success"].sum() >= 19
    assert info["steps"][info["is_success"]].mean() <= (40 if family == "two_stage" else 28)


@pytest.mark.parametrize("family", ["touch", "push", "bin"])
def test_following_one_instruction_does_nothing_else(tables, family):
    scenarios = []
    for seed in range(20):
        scenario = make_scenario(seed, family)
        colour = scenario.task.colour
        other = next(c for c in present_colours(seed, scenario.variation) if c != colour)
        others = [Task(verb, colour) for verb in ("touch", "bin") if verb != family]
        others += [Task("touch", other), Task("bin", other)]
        others += [Task("push", c, z) for c in (colour, other) for z in ("left", "right")]
        others = [task for task in others if task != scenario.task]
        scenarios.append(replace(scenario, monitor=tuple(others[:7])))
    info = play_expert(tables, scenarios, 40)
    assert info["monitored"].shape == (20, 8)
    assert info["monitored"][:, 0].all()
    assert info["monitored"][:, 1:].sum() == 0


def test_a_swapped_instruction_reports_both_tasks(tables):
    scenarios = [swap(make_scenario(seed, "push"), "zone") for seed in range(20)]
    info = play_expert(tables, scenarios, 40)
    assert info["monitored"].shape == (20, 2)
    assert info["monitored"][:, 0].sum() >= 19
    assert info["monitored"][:, 1].sum() == 0


def test_one_table_and_many_give_the_same_bytes():
    scenarios = [make_scenario(seed, "bin", Variation.randomised()) for seed in range(3)]
    many = SO101TwinVectorEnv(3)
    batch, _ = many.reset(options={"scenarios": scenarios})
    single = SO101TwinEnv()
    runs = []
    for scenario in scenarios:
        observation, _ = single.reset(options={"scenarios": [scenario]})
        run = [observation]
        for _ in range(6):
            run.append(single.step(single.expert_action())[0])
        runs.append(run)
    for tick in range(7):
        for table in range(3):
            for camera in ("front", "wrist"):
                expected = runs[table][tick]["pixels"][camera]
                np.testing.assert_array_equal(batch["pixels"][camera][table], expected)
            np.testing.assert_array_equal(batch["agent_pos"][table], runs[table][tick]["agent_pos"])
        batch = many.step(many.expert_actions())[0]


def test_workers_give_the_same_bytes_as_this_process():
    results = []
    for workers in (0, 2):
        env = SO101TwinVectorEnv(5, variation=Variation.randomised(), workers=workers)
        observation, _ = env.reset(seed=40)
        frames = [observation]
        for _ in range(8):
            frames.append(env.step(env.expert_actions())[0])
        results.append((frames, env.call("task_description"), env.get_state(4).step))
        env.close()
    (here, texts, steps), (there, worker_texts, worker_steps) = results
    assert texts == worker_texts
    assert steps == worker_steps > 0
    assert len(here) == 9
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one["pixels"]["front"], other["pixels"]["front"])
        np.testing.assert_array_equal(one["pixels"]["wrist"], other["pixels"]["wrist"])
        np.testing.assert_array_equal(one["agent_pos"], other["agent_pos"])
    assert here[0]["pixels"]["front"].std() > 10


def test_a_failing_worker_hands_its_traceback_back():
    env = SO101TwinVectorEnv(2, workers=1)
    try:
        env.reset(seed=0)
        with pytest.raises(WorkerError, match="6 finite numbers"):
            env.step(np.full((2, 6), np.nan))
        assert env.step(env.expert_actions())[0]["agent_pos"].shape == (2, 6)
    finally:
        env.close()


def test_reset_repeats_by_seed_and_goes_on_without_one():
    env = SO101TwinEnv()
    first, _ = env.reset(seed=11)
    task = env.task_description
    env.step(env.expert_action())
    second, _ = env.reset(seed=12)
    again, _ = env.reset(seed=11)
    assert env.task_description == task
    np.testing.assert_array_equal(first["pixels"]["front"], again["pixels"]["front"])
    assert not np.array_equal(first["pixels"]["front"], second["pixels"]["front"])
    following, _ = env.reset()
    np.testing.assert_array_equal(following["agent_pos"], second["agent_pos"])


def test_a_finished_table_stands_still_while_others_go_on():
    scenarios = [make_scenario(0, "touch"), make_scenario(1, "bin")]
    env = SO101TwinVectorEnv(2)
    env.reset(options={"scenarios": scenarios})
    rewards, frozen = np.zeros(2), None
    for _ in range(40):
        observation, reward, terminated, truncated, info = env.step(env.expert_actions())
        rewards += reward
        if terminated[0] and frozen is None:
            frozen = observation["agent_pos"][0].copy(), int(info["steps"][0])
        if (terminated | truncated).all():
            break
    assert frozen is not None
    np.testing.assert_array_equal(observation["agent_pos"][0], frozen[0])
    assert info["steps"][0] == frozen[1] < info["steps"][1]
    np.testing.assert_array_equal(rewards, [1.0, 1.0])
    np.testing.assert_array_equal(info["is_success"], [True, True])


def test_the_step_limit_truncates():
    env = SO101TwinEnv()
    observation, _ = env.reset(options={"scenarios": [make_scenario(0, "touch")]})
    hold = observation["agent_pos"].astype(np.float64)
    for tick in range(1, 41):
        _, _, terminated, truncated, info = env.step(hold, render=False)
        assert not terminated
        assert truncated == (tick == 40)
    assert not info["is_success"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_snapshot_brings_everything_back(workers):
    env = SO101TwinVectorEnv(2, ("push",), workers=workers)
    try:
        env.reset(seed=3)
        for _ in range(5):
            env.step(env.expert_actions(), render=False)
        snapshot = env.get_state(1)
        futures = []
        for _ in range(2):
            run = [env.step(env.expert_actions())[0]["pixels"]["front"][1] for _ in range(8)]
            futures.append((run, env.observation()[1]["steps"][1]))
            env.reset(seed=50)
            env.set_state(1, snapshot)
        assert futures[0][1] == futures[1][1]
        for one, other in zip(futures[0][0], futures[1][0], strict=True):
            np.testing.assert_array_equal(one, other)
    finally:
        env.close()


def test_objects_are_reported_in_colour_order():
    env = SO101TwinEnv()
    scenario = make_scenario(0, "touch")
    _, info = env.reset(options={"scenarios": [scenario]})
    layout = draw_layout(0, scenario.variation)
    np.testing.assert_array_equal(info["present"], layout.present)
    np.testing.assert_allclose(info["objects"][layout.present], layout.block_xy[layout.present], atol=1e-6)
    assert (info["objects"][~layout.present] == 0).all()


def test_play_moves_the_arm_and_the_blocks():
    simulation = TwinSimulation()
    moved = []
    for seed in range(6):
        simulation.reset(draw_layout(seed, Variation()))
        start = simulation.table_state()
        controller = PlayController(seed)
        for _ in range(30):
            simulation.tick(simulation.true_to_reported(controller.action(simulation.table_state())))
        end = simulation.table_state()
        assert np.abs(end.joints - start.joints)[:5].max() > 5.0
        moved.append(np.linalg.norm(end.blocks - start.blocks, axis=1).max())
    assert sum(distance > 0.02 for distance in moved) >= 3


def test_wrong_calls_say_what_to_do(tables):
    with pytest.raises(ValueError, match="3 scenarios were given for 20 tables"):
        tables.reset(options={"scenarios": [make_scenario(0, "touch")] * 3})
    with pytest.raises(ValueError, match=r"actions have shape \(2, 6\)"):
        tables.step(np.zeros((2, 6)))
    with pytest.raises(RuntimeError, match="call reset first"):
        SO101TwinVectorEnv(1).step(np.zeros((1, 6)))
    with pytest.raises(ValueError, match=r"families \['lift'\]"):
        SO101TwinVectorEnv(1, ("lift",))
    with pytest.raises(ValueError, match="image_size is 8"):
        SO101TwinEnv(image_size=8)
    with pytest.raises(AttributeError, match="no per-table attribute 'speed'"):
        tables.call("speed")


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


def test_the_arm_costs_no_simulator_and_the_twin_no_torch():
    code = (
        "import sys; import embodiments.so101, embodiments.so101.constants, embodiments.so101.kinematics\n"
        "assert not {'torch', 'lerobot', 'mujoco', 'gymnasium'} & set(sys.modules)\n"
        "import embodiments.so101.twin.shards, embodiments.so101.twin.workers, embodiments.so101.twin.env\n"
        "assert 'mujoco' in sys.modules and not {'torch', 'lerobot', 'datasets'} & set(sys.modules)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="hides a Linux GL driver")
def test_a_missing_gl_driver_says_what_to_install():
    code = "from embodiments.so101.twin import SO101TwinEnv; SO101TwinEnv().reset(seed=0)"
    done = run_python(code, MUJOCO_GL="egl", __EGL_VENDOR_LIBRARY_DIRS="/nonexistent")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "RenderingUnavailableError" in last
    assert "apt-get install libegl1 libgl1-mesa-dri" in last
    assert "MUJOCO_GL=egl" in last
