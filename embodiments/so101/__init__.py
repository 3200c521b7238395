"""The SO-101 arm: constants, kinematics, twin, guard. Importing it costs no simulator and no torch."""

from __future__ import annotations

from typing import Any

_ROBOTS = ("GuardedSO101", "GuardedSO100")


def __getattr__(name: str) -> Any:
    """The robots, imported when LeRobot looks for them: in the package of their configuration."""
    if name in _ROBOTS:
        from embodiments.so101 import robot

        return getattr(robot, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; lazily it has {_ROBOTS}")
