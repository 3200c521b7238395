"""One fault: how it is injected into ours and into LeRobot, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from recipes.bench.stand import Stand


@dataclass(frozen=True)
class Effort:
    """How long the rows that measure for a while do so: seconds of rows 1 and 29, instants of row 7."""

    seconds: float = 60.0
    soak_s: float = 600.0
    instants: int = 20


class Found(NamedTuple):
    """What was measured, whether it meets the target, and the same in a few words."""

    numbers: dict[str, Any]
    met: bool
    text: str


@dataclass(frozen=True)
class Fault:
    """One row. `row` is that of the project's fault table; `lerobot` names `module:function` in this package.

    `twin`: settings of the twin it needs. `same`: arguments that the function of ours and LeRobot's share.
    """

    name: str
    row: int
    fault: str
    target: str
    ours: Callable[..., Found]
    lerobot: str
    same: Mapping[str, Any] = field(default_factory=dict)
    twin: Mapping[str, Any] = field(default_factory=dict)

    def measure(self, stand: Stand, effort: Effort) -> Found:
        """Inject it into ours."""
        return self.ours(stand, effort, **self.same)
