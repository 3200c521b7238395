"""Columns that say how an episode went: one schema for collection, the flight recorder and training.

They stand beside the columns lerobot-record writes for the robot, under the robot's own joint names; `action`
is what was really sent. Standard library only.
"""

from typing import Any

SUCCESS = "next.success"
DONE = "next.done"
INTERVENTION = "intervention"
EVENT = "outcome.event"
IMAGINED = "policy.imagined"
STOP_REASON = "outcome.stop_reason"
FLAGS = (SUCCESS, DONE, INTERVENTION, EVENT, IMAGINED)


def outcome_features() -> dict[str, dict[str, Any]]:
    """LeRobot's features of the schema, one value a frame.

    next.success, next.done: after this frame's action the task is done; the episode is over.
    intervention: a person took over or stopped the arm in this frame.
    outcome.event: something happened in this frame that the head `risk` must foretell.
    policy.imagined: the plan this frame's action is of was made with an imagined future.
    outcome.stop_reason: why the episode ended, in its last frame; empty before.
    """
    flags: dict[str, dict[str, Any]] = {
        name: {"dtype": "bool", "shape": (1,), "names": None} for name in FLAGS
    }
    return flags | {STOP_REASON: {"dtype": "string", "shape": (1,), "names": None}}
