"""LeRobot camera type `twin`: frames of a simulated arm through shared memory, each with its source time.

Importing the package costs nothing; LeRobot finds `TwinCamera` here by name, which loads it.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "TwinCamera": "embodiments.twin_camera.camera",
    "TwinCameraConfig": "embodiments.twin_camera.configuration",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {sorted(_LAZY)}")
    return getattr(importlib.import_module(_LAZY[name]), name)
