"""Gymnasium spaces of the twin, for one environment."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from embodiments.so101 import constants as c
from embodiments.so101.constants import SO101

CAMERAS = ("front", "wrist")
_LOWER = np.array([joint.lower.value for joint in SO101.joints], dtype=np.float32)
_UPPER = np.array([joint.upper.value for joint in SO101.joints], dtype=np.float32)
_SLACK = 30.0  # zero errors and overshoot may carry a reading past the nominal range


def observation_space(image_size: int) -> spaces.Dict:
    """{"pixels": {camera: (S, S, 3) uint8}, "agent_pos": (6,) float32 in degrees and percent}."""
    picture = spaces.Box(0, 255, (image_size, image_size, 3), dtype=np.uint8)
    return spaces.Dict(
        {
            "pixels": spaces.Dict(dict.fromkeys(CAMERAS, picture)),
            "agent_pos": spaces.Box(_LOWER - _SLACK, _UPPER + _SLACK, (c.NUM_JOINTS,), dtype=np.float32),
        }
    )


def action_space() -> spaces.Box:
    """Absolute joint targets (6,) in degrees, gripper in percent."""
    return spaces.Box(_LOWER - _SLACK, _UPPER + _SLACK, (c.NUM_JOINTS,), dtype=np.float32)
