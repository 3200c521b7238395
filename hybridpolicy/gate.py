"""What stands between a chunk and an arm: a protocol, because this package knows no arm.

Limits, kinematics and self-collision implement it beside each embodiment; recipes join the two. B chunks, T
actions, A action size, S state size.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Violation(Protocol):
    """The first thing wrong with a chunk.

    Attributes:
        step: index of the action. part: the joint, or the part of the arm. kind: which rule.
        reason: a sentence: what was given and what is allowed.
    """

    @property
    def step(self) -> int: ...
    @property
    def part(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def reason(self) -> str: ...


class Verdict(Protocol):
    """What a gate says of B chunks: `violations` holds None for each that may be sent."""

    @property
    def violations(self) -> Sequence[Violation | None]: ...


class Gate(Protocol):
    """Says which chunks an arm may be given. It changes none: what fails is not sent."""

    def check(self, chunk: np.ndarray, state: np.ndarray) -> Verdict:
        """The verdict on `chunk` (B, T, A), each planned from `state` (B, S), both in physical units."""
        ...
