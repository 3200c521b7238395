"""Tasks in words: phrasings, the lexicon, scenarios and swaps."""

import pytest

from embodiments.so101.twin.language import (
    COLOURS,
    FAMILIES,
    HELD_OUT_PHRASINGS,
    LEXICON,
    TRAIN_PHRASINGS,
    VERBS,
    Task,
    instruction,
    num_phrasings,
    words,
)
from embodiments.so101.twin.scenario import draw_scenarios, make_scenario, present_colours, swap
from embodiments.so101.twin.variation import Variation


def all_texts(held_out):
    for verb in VERBS:
        for colour in COLOURS:
            for zone in ("left", "right") if verb == "push" else (None,):
                for phrasing in range(num_phrasings(verb, held_out=held_out)):
                    yield instruction(Task(verb, colour, zone), phrasing, held_out=held_out)


def test_the_lexicon_covers_every_text_and_has_no_idle_word():
    texts = [*all_texts(False), *all_texts(True)]
    assert len(texts) == 96
    assert {word for text in texts for word in words(text)} | {"then"} == set(LEXICON)


def test_held_out_phrasings_are_new_texts_made_of_known_words():
    train, held_out = set(all_texts(False)), set(all_texts(True))
    assert len(held_out) == 32
    assert not train & held_out
    known = {word for text in train for word in words(text)}
    assert {word for text in held_out for word in words(text)} <= known


def test_texts_tell_tasks_apart():
    for verb in VERBS:
        assert len(set(TRAIN_PHRASINGS[verb]) & set(HELD_OUT_PHRASINGS[verb])) == 0
    texts = list(all_texts(False))
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lift", "red"), "verb 'lift' is unknown"),
        (("touch", "pink"), "colour 'pink' is unknown"),
        (("push", "red"), "verb 'push' with zone None"),
        (("bin", "red", "left"), "verb 'bin' with zone 'left'"),
    ],
)
def test_a_wrong_task_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Task(*arguments)


def test_two_stages_read_as_one_sentence():
    task = Task("bin", "red", second=Task("touch", "blue"))
    assert instruction(task) == "put the red block into the bin, then touch the blue block"
    assert task.name == "bin_red+touch_blue"
    with pytest.raises(ValueError, match="at most two"):
        Task("bin", "red", second=task)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scenario_fits_its_scene(family):
    for seed in range(40):
        scenario = make_scenario(seed, family)
        there = present_colours(seed, scenario.variation)
        assert (scenario.task.colour in there) == (family != "absent")
        assert scenario == make_scenario(seed, family)
        if scenario.task.second is not None:
            assert scenario.task.second.colour in there
            assert scenario.task.second.colour != scenario.task.colour
            assert scenario.max_steps > 40


def test_wrong_families_and_impossible_absence_are_refused():
    with pytest.raises(ValueError, match="family 'lift' is unknown"):
        make_scenario(0, "lift")
    with pytest.raises(ValueError, match="raise num_colours"):
        make_scenario(0, "absent", Variation(num_colours=2))
    with pytest.raises(ValueError, match="no families"):
        draw_scenarios(3, 0, ())


def test_a_swap_keeps_the_scene_and_watches_the_original():
    for seed in range(20):
        original = make_scenario(seed, "push")
        for kind in ("colour", "zone", "verb"):
            other = swap(original, kind)
            assert other.task != original.task
            assert other.monitor == (original.task,)
            assert (other.seed, other.variation) == (original.seed, original.variation)
            assert other.instruction != original.instruction
        assert swap(original, "zone").task.colour == original.task.colour
        assert swap(original, "colour").task.colour in present_colours(seed, original.variation)
    with pytest.raises(ValueError, match="needs a push task, got 'touch_"):
        swap(make_scenario(0, "touch"), "zone")
    with pytest.raises(ValueError, match="swap 'size' is unknown"):
        swap(make_scenario(0, "touch"), "size")
