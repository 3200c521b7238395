"""The simulated arms that the data commands record, each by its own recorder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hybridpolicy.errors import allowed
from recipes.commands.failures import CommandError

Progress = Callable[[int, int], None]  # (episodes done, episodes in all)
SO101_TASKS = ("touch", "push", "bin", "absent")


@dataclass(frozen=True)
class Recorded:
    """What a recording holds; `failures` are attempts left out, per task."""

    episodes: int
    frames: int
    failures: Mapping[str, int]


def demonstrate_so101(
    root: Path, tasks: str | None, episodes: int, seed: int, progress: Progress
) -> Recorded:
    """Demonstrations of the simulated SO-101 by its scripted expert, families drawn alike."""
    from embodiments.so101.recording import record_demonstrations
    from embodiments.so101.twin.language import FAMILIES

    families = tuple(dict.fromkeys(tasks.split(","))) if tasks else SO101_TASKS
    for family in families:
        if family not in FAMILIES:
            raise CommandError(
                f"--tasks {tasks}: no task {family!r} of the so101; {allowed(family, FAMILIES)}"
            )
    weights = dict.fromkeys(families, 1.0)
    summary = record_demonstrations(
        root, episodes * len(families), seed=seed, weights=weights, progress=progress
    )
    return Recorded(summary.num_episodes, summary.num_frames, summary.failures)


def demonstrate_metaworld(
    root: Path, tasks: str | None, episodes: int, seed: int, progress: Progress
) -> Recorded:
    """Demonstrations by Meta-World's own scripted experts."""
    from embodiments.metaworld.recording import record_metaworld

    summary = record_metaworld(root, tasks or "mt8", episodes, seed, progress=progress)
    return Recorded(sum(summary.episodes.values()), sum(summary.frames.values()), summary.failures)


def play_so101(root: Path, episodes: int, seed: int, progress: Progress) -> Recorded:
    """Aimless play of the simulated SO-101."""
    from embodiments.so101.recording import record_play

    summary = record_play(root, episodes, seed, progress=progress)
    return Recorded(summary.num_episodes, summary.num_frames, {})


DEMONSTRATE = {"so101": demonstrate_so101, "metaworld": demonstrate_metaworld}
PLAY = {"so101": play_so101}
