"""The SO-101 twin: a MuJoCo table with the arm, tasks in words, a scripted expert. Names load on use."""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "SO101TwinEnv": "env",
    "SO101TwinVectorEnv": "vector_env",
    "Scenario": "scenario",
    "Task": "language",
    "Variation": "variation",
    "draw_scenarios": "scenario",
    "make_scenario": "scenario",
    "swap": "scenario",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there are {sorted(_WHERE)}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
