"""Success predicates, on made-up histories: each can be true, and each reason to refuse refuses."""

from dataclasses import replace

import numpy as np
import pytest

from embodiments.so101.twin.language import COLOURS, Task
from embodiments.so101.twin.monitor import HOLD_TICKS, TOUCH_TICKS, TaskMonitor
from embodiments.so101.twin.simulation import TableState

RED, GREEN, BLUE = (COLOURS.index(name) for name in ("red", "green", "blue"))
ZONES = np.array([[0.2, 0.15], [0.2, -0.15]])
BIN = np.array([0.33, 0.0])


def state(touching=(), touched=None, gripper=0.0, **positions):
    """A table with red and green blocks, fingers on the blocks `touching` at the end of the tick."""
    blocks = np.zeros((4, 3))
    blocks[RED], blocks[GREEN] = (0.2, 0.05, 0.015), (0.2, -0.05, 0.015)
    for name, position in positions.items():
        blocks[COLOURS.index(name)] = position
    now = np.isin(np.arange(4), list(touching))
    during = now | np.isin(np.arange(4), list(touched or ()))
    joints = np.array([0.0, -48.0, 30.0, 82.0, 0.0, gripper])
    return TableState(joints, blocks, np.array([True, True, False, False]), during, now, ZONES, BIN)


def run(task, states):
    monitor = TaskMonitor(task, state())
    for one in states:
        monitor.update(one)
    return monitor


def test_touch_needs_contact_held_by_a_closed_gripper():
    held = [state([RED])] * TOUCH_TICKS
    assert run(Task("touch", "red"), held).success
    assert not run(Task("touch", "red"), held[:-1]).success
    assert not run(Task("touch", "red"), [state([RED]), state(), state([RED]), state([RED])]).success
    assert not run(Task("touch", "red"), [state([RED], gripper=30.0)] * 10).success
    assert not run(Task("touch", "green"), held).success


def test_touch_fails_if_another_block_came_first_or_the_block_moved():
    wrong_first = run(Task("touch", "red"), [state([GREEN])] + [state([RED])] * 10)
    assert wrong_first.failed
    assert not wrong_first.success
    pushed = run(Task("touch", "red"), [state([RED], red=(0.2, 0.06, 0.015))] * 10)
    assert pushed.failed
    assert not pushed.success


def test_a_block_already_touched_when_the_task_is_given_is_not_the_first():
    letting_go = TaskMonitor(Task("touch", "red"), state([GREEN]))
    for one in [state([GREEN])] + [state([RED])] * TOUCH_TICKS:
        letting_go.update(one)
    assert letting_go.success


def test_push_needs_the_block_in_the_right_zone_for_two_ticks():
    inside = state([RED], red=(0.2, 0.13, 0.015))
    assert run(Task("push", "red", "left"), [inside, inside]).success
    assert not run(Task("push", "red", "left"), [inside]).success
    assert not run(Task("push", "red", "right"), [inside] * 5).success
    outside = state([RED], red=(0.2, 0.11, 0.015))
    assert not run(Task("push", "red", "left"), [outside] * 5).success


def test_push_refuses_lifting_and_blocks_shoved_by_another():
    inside = state([RED], red=(0.2, 0.15, 0.015))
    lifted = run(Task("push", "red", "left"), [state([RED], red=(0.2, 0.1, 0.05)), inside, inside])
    assert lifted.failed
    assert not lifted.success
    dragged = state([GREEN], red=(0.2, 0.15, 0.015), green=(0.2, 0.12, 0.015))
    assert not run(Task("push", "red", "left"), [dragged] * 4).success
    assert run(Task("push", "green", "left"), [dragged] * 4).success


def test_bin_needs_the_block_inside_and_let_go():
    inside = state(red=(0.34, 0.01, 0.016))
    assert run(Task("bin", "red"), [inside, inside]).success
    assert not run(Task("bin", "red"), [state([RED], red=(0.34, 0.01, 0.016))] * 4).success
    assert not run(Task("bin", "red"), [state(red=(0.34, 0.01, 0.06))] * 4).success
    assert not run(Task("bin", "red"), [state(red=(0.40, 0.01, 0.016))] * 4).success
    assert not run(Task("bin", "green"), [inside] * 4).success


def test_an_absent_block_asks_for_stillness():
    still = run(Task("push", "blue", "left"), [state()] * HOLD_TICKS)
    assert still.absent
    assert still.success
    assert not run(Task("push", "blue", "left"), [state()] * (HOLD_TICKS - 1)).success
    turned = replace(state(), joints=np.array([9.0, -48.0, 30.0, 82.0, 0.0, 0.0]))
    assert run(Task("touch", "blue"), [turned] + [state()] * HOLD_TICKS).failed
    nudged = state(red=(0.2, 0.06, 0.015))
    assert run(Task("touch", "blue"), [nudged] * HOLD_TICKS).failed


def test_two_stages_count_in_order():
    task = Task("bin", "red", second=Task("touch", "green"))
    binned = {"red": (0.34, 0.0, 0.016)}
    stage_one = [state(**binned)] * 2
    touch_green = [state([GREEN], **binned)] * TOUCH_TICKS
    assert run(task, stage_one + touch_green).success
    assert not run(task, stage_one).success
    assert not run(task, [state([GREEN])] * 5 + stage_one).success
    # Letting go of the first block is no wrong touch; touching a third party is not asked for here.
    assert run(task, [*stage_one, state([RED], **binned), *touch_green]).success


@pytest.mark.parametrize("verb", ["touch", "bin"])
def test_success_latches(verb):
    done = [state([RED])] * TOUCH_TICKS if verb == "touch" else [state(red=(0.34, 0.0, 0.016))] * 2
    monitor = run(Task(verb, "red"), [*done, state(red=(0.1, 0.1, 0.2))])
    assert monitor.success
