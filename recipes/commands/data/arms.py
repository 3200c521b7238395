"""The simulated arms that the data commands record, each by its own recorder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Progress = Callable[[int, int], None]  # (episodes done, episodes in all)


def demonstrate_so101(root: Path, tasks: str | None, episodes: int, seed: int, progress: Progress) -> Any:
    """Demonstrations of the simulated SO-101 by its scripted expert."""
    from embodiments.so101.recording import record_demonstrations

    chosen: dict[str, Any] = {"tasks": tasks} if tasks else {}
    return record_demonstrations(root, episodes_per_task=episodes, seed=seed, progress=progress, **chosen)


def demonstrate_metaworld(root: Path, tasks: str | None, episodes: int, seed: int, progress: Progress) -> Any:
    """Demonstrations by Meta-World's own scripted experts."""
    from embodiments.metaworld.recording import record_metaworld

    chosen: dict[str, Any] = {"tasks": tasks} if tasks else {}
    return record_metaworld(root, episodes_per_task=episodes, seed=seed, **chosen)


def play_so101(root: Path, episodes: int, seed: int, progress: Progress) -> Any:
    """Aimless play of the simulated SO-101."""
    from embodiments.so101.recording import record_play

    return record_play(root, episodes=episodes, seed=seed, progress=progress)


DEMONSTRATE = {"so101": demonstrate_so101, "metaworld": demonstrate_metaworld}
PLAY = {"so101": play_so101}
