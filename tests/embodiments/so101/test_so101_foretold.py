"""Judging without contacts: from positions alone, against the twin's own monitor."""

import numpy as np
import pytest

from embodiments.so101.twin.episode import Episode
from embodiments.so101.twin.foretold import Foretold
from embodiments.so101.twin.language import (
    COLOURS,
    HELD_OUT_PHRASINGS,
    TRAIN_PHRASINGS,
    Task,
    instruction,
    num_phrasings,
    parse,
)
from embodiments.so101.twin.scenario import draw_scenarios, swap


def test_parsing_undoes_saying():
    said = 0
    for held_out, table in ((False, TRAIN_PHRASINGS), (True, HELD_OUT_PHRASINGS)):
        for verb in table:
            for colour in COLOURS:
                task = Task(verb, colour, "left" if verb == "push" else None)
                for phrasing in range(num_phrasings(verb, held_out=held_out)):
                    assert parse(instruction(task, phrasing, held_out=held_out)) == task
                    said += 1
    assert said == 4 * 18
    both = Task("bin", "red", second=Task("touch", "blue"))
    assert parse(instruction(both)) == both
    with pytest.raises(ValueError, match="'make tea' is no instruction of the twin"):
        parse("make tea")


def play(scenario, noise_m, text=None):
    """(what the judge says, what the twin says) of the expert's episode, positions with noise."""
    rng, episode = np.random.default_rng(scenario.seed), Episode(16)
    episode.start(scenario)

    def seen():
        objects, present = episode.objects()
        noisy = objects + rng.normal(0, noise_m, objects.shape)
        return noisy[None], present[None], episode.agent_pos()[None]

    judge, judged = Foretold([text or scenario.instruction], *seen()), False
    while not episode.done:
        episode.advance(episode.expert_action())
        objects, _, state = seen()
        judged = bool(judge.update(objects, state)[0])
    return judged, episode.success


@pytest.mark.parametrize("noise_m", [0.0, 0.006])
def test_the_experts_successes_are_seen(noise_m):
    pairs = [play(scenario, noise_m) for scenario in draw_scenarios(18, 77_000)]
    judged, true = (np.array(side) for side in zip(*pairs, strict=True))
    assert true.mean() > 0.9
    assert (judged & true).sum() >= 0.9 * true.sum()


def test_another_task_is_not_done_by_the_way():
    scenarios = draw_scenarios(18, 78_000)
    others = [swap(s, "colour" if i % 2 else "verb").instruction for i, s in enumerate(scenarios)]
    judged = [play(s, 0.006, text)[0] for s, text in zip(scenarios, others, strict=True)]
    assert len(judged) == 18
    assert sum(judged) <= 2


def test_an_arm_that_does_nothing_succeeds_only_where_nothing_is_to_be_done():
    for family, expected in (("touch", False), ("push", False), ("bin", False), ("absent", True)):
        (scenario,) = draw_scenarios(1, 79_000, (family,))
        episode = Episode(16)
        episode.start(scenario)
        objects, present = episode.objects()
        state = episode.agent_pos()
        judge = Foretold([scenario.instruction], objects[None], present[None], state[None])
        results = [judge.update(objects[None], state[None])[0] for _ in range(25)]
        assert results[-1] == expected, family
