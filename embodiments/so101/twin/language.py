"""The twin's instruction language: verbs, colours, zones, phrasings kept for training and held out.

Held-out phrasings use only words that also occur in training phrasings, in other combinations.
"""

from __future__ import annotations

from dataclasses import dataclass

COLOURS = ("red", "green", "blue", "yellow")
ZONES = ("left", "right")
VERBS = ("touch", "push", "bin")
FAMILIES = ("touch", "push", "bin", "absent", "two_stage")

TRAIN_PHRASINGS: dict[str, tuple[str, ...]] = {
    "touch": (
        "touch the {colour} block",
        "tap the {colour} block",
        "touch the {colour} cube with the gripper",
        "gently tap the {colour} cube",
    ),
    "push": (
        "push the {colour} block into the {zone} zone",
        "slide the {colour} block into the {zone} zone",
        "push the {colour} cube to the {zone} area",
        "slide the {colour} cube to the zone on the {zone}",
    ),
    "bin": (
        "put the {colour} block into the bin",
        "drop the {colour} block in the bin",
        "pick up the {colour} cube and put it in the bin",
        "place the {colour} cube into the bin",
    ),
}
HELD_OUT_PHRASINGS: dict[str, tuple[str, ...]] = {
    "touch": ("gently touch the {colour} block", "tap the {colour} cube with the gripper"),
    "push": (
        "slide the {colour} cube into the {zone} area",
        "push the {colour} block to the zone on the {zone}",
    ),
    "bin": ("pick up the {colour} block and drop it in the bin", "place the {colour} block in the bin"),
}
JOIN = "{first}, then {second}"


@dataclass(frozen=True)
class Task:
    """What is asked: a verb, a block colour, a zone for `push`, and for two stages the task that follows.

    Whether the colour is in the scene is not part of the task: asked for a block that is not there, the arm
    must hold still.
    """

    verb: str
    colour: str
    zone: str | None = None
    second: Task | None = None

    def __post_init__(self) -> None:
        if self.verb not in VERBS:
            raise ValueError(f"task: verb {self.verb!r} is unknown; use one of {VERBS}")
        if self.colour not in COLOURS:
            raise ValueError(f"task: colour {self.colour!r} is unknown; use one of {COLOURS}")
        if (self.verb == "push") != (self.zone in ZONES):
            raise ValueError(
                f"task: verb {self.verb!r} with zone {self.zone!r}; push, and only push, has one of {ZONES}"
            )
        if self.second is not None and self.second.second is not None:
            raise ValueError("task: three stages given; at most two are supported")

    @property
    def slot(self) -> int | None:
        """Index in COLOURS of the one block it names; None for two stages, which name two."""
        return None if self.second else COLOURS.index(self.colour)

    @property
    def name(self) -> str:
        """Short unique name, such as `push_red_left` or `bin_red+touch_blue`."""
        own = "_".join(part for part in (self.verb, self.colour, self.zone) if part)
        return f"{own}+{self.second.name}" if self.second else own


def num_phrasings(verb: str, *, held_out: bool = False) -> int:
    """How many phrasings there are for `verb`."""
    return len((HELD_OUT_PHRASINGS if held_out else TRAIN_PHRASINGS)[verb])


def instruction(task: Task, phrasing: int = 0, *, held_out: bool = False) -> str:
    """The text of `task`; `phrasing` counts within the training or the held-out list."""
    phrasings = (HELD_OUT_PHRASINGS if held_out else TRAIN_PHRASINGS)[task.verb]
    text = phrasings[phrasing % len(phrasings)].format(colour=task.colour, zone=task.zone)
    if task.second is None:
        return text
    return JOIN.format(first=text, second=instruction(task.second, phrasing, held_out=held_out))


def parse(text: str) -> Task:
    """The task that an instruction of this language asks for; ValueError for any other text."""
    first, then, rest = text.partition(JOIN.format(first="", second=""))
    verb_colour_zone = _MEANINGS.get(first)
    if verb_colour_zone is None:
        example = instruction(Task("touch", "red"))
        raise ValueError(f"so101 twin: {text!r} is no instruction of the twin; say it as in {example!r}")
    return Task(*verb_colour_zone, second=parse(rest) if then else None)


def _meanings() -> dict[str, tuple[str, str, str | None]]:
    return {
        phrasing.format(colour=colour, zone=zone): (verb, colour, zone if verb == "push" else None)
        for table in (TRAIN_PHRASINGS, HELD_OUT_PHRASINGS)
        for verb, phrasings in table.items()
        for phrasing in phrasings
        for colour in COLOURS
        for zone in ZONES
    }


_MEANINGS = _meanings()


def words(text: str) -> list[str]:
    """Lower-case words of an instruction, punctuation dropped."""
    return text.lower().replace(",", " ").split()


def _lexicon() -> tuple[str, ...]:
    found: set[str] = {"then", *COLOURS, *ZONES}
    for table in (TRAIN_PHRASINGS, HELD_OUT_PHRASINGS):
        for phrasings in table.values():
            for phrasing in phrasings:
                found.update(words(phrasing.format(colour="", zone="")))
    return tuple(sorted(found))


LEXICON = _lexicon()
