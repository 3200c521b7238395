"""What the twin counts as an event, and that good work has none."""

import numpy as np
import pytest

from embodiments.so101.constants import GRIPPER, GRIPPER_RANGE_PERCENT, JOINT_RANGE_DEG
from embodiments.so101.twin.episode import Episode
from embodiments.so101.twin.events import EVENTS, LIFTED_M, LIMIT_SLACK
from embodiments.so101.twin.language import COLOURS
from embodiments.so101.twin.scenario import make_scenario, swap
from embodiments.so101.twin.variation import BLOCK_HALF_M, Variation


@pytest.fixture
def started():
    """(seed, family, **variation) → an episode at its first state."""

    def start(seed, family, **variation):
        episode = Episode(32)
        episode.start(make_scenario(seed, family, Variation(**variation)))
        return episode

    return start


def names(episode):
    return [name for name, found in zip(EVENTS, episode.events, strict=True) if found]


@pytest.mark.parametrize("family", ["touch", "push", "bin"])
def test_the_expert_works_without_events(started, family):
    eventful = 0
    for seed in range(15):
        episode = started(seed, family)
        found = set()
        while not episode.done:
            episode.advance(episode.expert_action())
            found.update(names(episode))
        assert episode.success
        eventful += bool(found)
    assert eventful <= 3  # a push may brush the other block


def test_touching_what_was_not_named_is_a_contact(started):
    episode = started(3, "touch")
    other = swap(episode.scenario, "colour").task
    ticks = []
    for tick in range(25):
        episode.advance(episode.expert_action(other))
        touched = episode.simulation.table_state().touched[COLOURS.index(other.colour)]
        assert ("contact" in names(episode)) == bool(touched)
        ticks += [tick] if touched else []
    assert len(ticks) >= 3

    episode.restart_task()  # told the task while it touches the wrong block: no event, but touching again is
    assert episode.simulation.table_state().touching.any()
    episode.advance(episode.expert_action(other))
    assert names(episode) == []
    while episode.simulation.table_state().touching.any():
        episode.advance(episode.expert_action())
        assert "contact" not in names(episode)
    for _ in range(10):
        episode.advance(episode.expert_action(other))
        if "contact" in names(episode):
            return
    raise AssertionError("the second contact was not seen")


def test_opening_the_gripper_in_the_air_is_a_drop_once(started):
    episode = started(1, "bin")
    slot = COLOURS.index(episode.scenario.task.colour)
    for _ in range(30):
        episode.advance(episode.expert_action())
        assert names(episode) == []
        if episode.simulation.table_state().blocks[slot, 2] > BLOCK_HALF_M + 2 * LIFTED_M:
            break
    opened = episode.agent_pos().astype(np.float64)
    opened[GRIPPER] = 60.0
    drops = 0
    snapshot = episode.get_state()
    for _ in range(6):
        episode.advance(opened)
        drops += "drop" in names(episode)
    assert drops == 1
    assert episode.simulation.table_state().blocks[slot, 2] < BLOCK_HALF_M + LIFTED_M

    again = Episode(32)  # a snapshot carries what the watch knows
    again.set_state(snapshot)
    seen = 0
    for _ in range(6):
        again.advance(opened)
        seen += "drop" in names(again)
    assert seen == 1


def test_asking_beyond_the_range_is_a_limit_and_the_clipped_goal_is_what_was_sent(started):
    episode, twin = started(0, "touch"), started(0, "touch")
    rest = episode.agent_pos().astype(np.float64)
    upper = np.array([*JOINT_RANGE_DEG, GRIPPER_RANGE_PERCENT])[:, 1]
    for joint in (0, GRIPPER):
        asked = rest.copy()
        asked[joint] = upper[joint] + LIMIT_SLACK - 0.1
        episode.advance(asked)
        assert names(episode) == []
        asked[joint] = upper[joint] + LIMIT_SLACK + 0.1
        episode.advance(asked)
        assert names(episode) == ["limit"]
        clipped = rest.copy()
        clipped[joint] = upper[joint]
        np.testing.assert_allclose(episode.sent, clipped)
        twin.advance(clipped)
        twin.advance(clipped)
        np.testing.assert_array_equal(episode.agent_pos(), twin.agent_pos())


def test_the_sent_action_knows_the_zero_errors_of_the_arm(started):
    episode = started(5, "touch", joint_offset_deg=8.0)
    asked = np.full(6, 500.0)
    episode.advance(asked)
    layout = episode.simulation.layout
    upper = np.array([*JOINT_RANGE_DEG, GRIPPER_RANGE_PERCENT])[:, 1]
    np.testing.assert_allclose(episode.sent[:5], upper[:5] + layout.joint_offset)
