"""Everything about tasks under one name: language, scenarios and monitors."""

from embodiments.so101.twin.language import (
    COLOURS,
    FAMILIES,
    HELD_OUT_PHRASINGS,
    LEXICON,
    TRAIN_PHRASINGS,
    VERBS,
    ZONES,
    Task,
    instruction,
    words,
)
from embodiments.so101.twin.monitor import TaskMonitor, in_bin, in_zone
from embodiments.so101.twin.scenario import Scenario, draw_scenarios, make_scenario, present_colours, swap

__all__ = [
    "COLOURS",
    "FAMILIES",
    "HELD_OUT_PHRASINGS",
    "LEXICON",
    "TRAIN_PHRASINGS",
    "VERBS",
    "ZONES",
    "Scenario",
    "Task",
    "TaskMonitor",
    "draw_scenarios",
    "in_bin",
    "in_zone",
    "instruction",
    "make_scenario",
    "present_colours",
    "swap",
    "words",
]
