"""Which scene lies on the table, as data that crosses processes, and the judge of what is done with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from embodiments.so101.twin.language import FAMILIES
from embodiments.so101.twin.scenario import Scenario, make_scenario
from embodiments.so101.twin.variation import Layout, Variation, draw_layout


@dataclass(frozen=True)
class SceneSpec:
    """A scene and, with a `family`, a task in it: what `make_scenario` of the twin makes of them.

    The cameras stand where the scene's variation puts them. Its zero errors are left out: here they are the
    owner's, in the calibration.
    """

    seed: int = 0
    family: str | None = None
    variation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.family is not None and self.family not in FAMILIES:
            raise ValueError(f"scene: family {self.family!r} is unknown; allowed is one of {FAMILIES}")
        known = {entry.name for entry in fields(Variation)}
        unknown = sorted(set(self.variation) - known)
        if unknown:
            raise ValueError(f"scene: variation {unknown} is unknown; allowed are {sorted(known)}")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SceneSpec:
        """From a JSON object with any of the fields."""
        unknown = sorted(set(content) - {entry.name for entry in fields(cls)})
        if unknown:
            raise ValueError(f"scene: {unknown} is unknown; allowed are seed, family, variation")
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)

    def drawn_variation(self) -> Variation:
        """The variation as the twin's own type."""
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in self.variation.items()
        }
        return Variation(**given)

    def layout(self) -> Layout:
        """Where everything is."""
        return draw_layout(self.seed, self.drawn_variation())

    def scenario(self) -> Scenario | None:
        """The task with its instruction, if the scene has one."""
        if self.family is None:
            return None
        return make_scenario(self.seed, self.family, self.drawn_variation())
