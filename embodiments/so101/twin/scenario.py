"""A scenario: one seed, one task, its text. Equal scenarios give equal episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from embodiments.so101.twin.language import COLOURS, FAMILIES, ZONES, Task, instruction, num_phrasings
from embodiments.so101.twin.variation import Variation, draw_layout

MAX_STEPS = 40
MAX_STEPS_TWO_STAGE = 70
SWAPS = ("colour", "zone", "verb")


@dataclass(frozen=True)
class Scenario:
    """One episode. `monitor` lists further tasks whose success is reported beside the given one."""

    seed: int
    task: Task
    instruction: str
    family: str
    variation: Variation = field(default_factory=Variation)
    monitor: tuple[Task, ...] = ()

    @property
    def name(self) -> str:
        """Short name of what is asked; of a block that is not there, it says so."""
        return f"absent_{self.task.name}" if self.family == "absent" else self.task.name

    @property
    def max_steps(self) -> int:
        """Ticks after which the episode is cut."""
        return MAX_STEPS_TWO_STAGE if self.task.second is not None else MAX_STEPS


def present_colours(seed: int, variation: Variation) -> tuple[str, ...]:
    """Colours of the blocks in the scene of `seed`."""
    layout = draw_layout(seed, variation)
    return tuple(colour for colour, there in zip(COLOURS, layout.present, strict=True) if there)


def make_scenario(
    seed: int, family: str, variation: Variation | None = None, *, held_out_phrasing: bool = False
) -> Scenario:
    """The scenario of `seed` in `family`: a scene drawn from the seed alone, then a task in it."""
    if family not in FAMILIES:
        raise ValueError(f"so101 twin: family {family!r} is unknown; use one of {FAMILIES}")
    variation = variation or Variation()
    rng = np.random.default_rng([seed, 202, FAMILIES.index(family)])
    there = list(present_colours(seed, variation))
    missing = [colour for colour in variation.palette if colour not in there]
    if family == "absent":
        if not missing:
            raise ValueError(
                f"so101 twin: family 'absent' needs a colour that is not in the scene, but num_blocks "
                f"{variation.num_blocks} can use all {variation.num_colours} colours; raise num_colours"
            )
        verb = str(rng.choice(["touch", "push", "bin"]))
        task = _task(rng, verb, str(rng.choice(missing)))
    elif family == "two_stage":
        first, second = (str(colour) for colour in rng.permutation(there)[:2])
        task = Task("bin", first, second=Task("touch", second))
    else:
        task = _task(rng, family, str(rng.choice(there)))
    phrasing = int(rng.integers(num_phrasings(task.verb, held_out=held_out_phrasing)))
    text = instruction(task, phrasing, held_out=held_out_phrasing)
    return Scenario(seed, task, text, family, variation)


def _task(rng: np.random.Generator, verb: str, colour: str) -> Task:
    return Task(verb, colour, str(rng.choice(ZONES)) if verb == "push" else None)


def swap(scenario: Scenario, kind: str) -> Scenario:
    """The same scene with another instruction; the original task is monitored beside the new one.

    kind: "colour" names another block of the scene, "zone" the other zone (push only), "verb" another verb.
    """
    if kind not in SWAPS:
        raise ValueError(f"so101 twin: swap {kind!r} is unknown; use one of {SWAPS}")
    task = scenario.task
    rng = np.random.default_rng([scenario.seed, 303, SWAPS.index(kind)])
    if kind == "colour":
        others = [c for c in present_colours(scenario.seed, scenario.variation) if c != task.colour]
        other = replace(task, colour=str(rng.choice(others)), second=None)
    elif kind == "zone":
        if task.zone is None:
            raise ValueError(
                f"so101 twin: swap 'zone' needs a push task, got {task.name!r}; use swap 'colour'"
            )
        other = replace(task, zone=ZONES[1 - ZONES.index(task.zone)])
    else:
        verbs = [verb for verb in ("touch", "push", "bin") if verb != task.verb]
        other = _task(rng, str(rng.choice(verbs)), task.colour)
    text = instruction(other, int(rng.integers(num_phrasings(other.verb))))
    return replace(scenario, task=other, instruction=text, family=other.verb, monitor=(task,))


def draw_scenarios(
    count: int,
    seed: int,
    families: Sequence[str] = ("touch", "push", "bin"),
    variation: Variation | None = None,
    *,
    held_out_phrasing: bool = False,
) -> list[Scenario]:
    """`count` scenarios, families in turn, scene seeds `seed`, `seed` + 1, …"""
    if not families:
        raise ValueError(f"so101 twin: no families given; name at least one of {FAMILIES}")
    return [
        make_scenario(seed + i, families[i % len(families)], variation, held_out_phrasing=held_out_phrasing)
        for i in range(count)
    ]
