"""What an arm is, as data: joints, units, limits, cameras and rate, each number with where it came from.

Joint order is LeRobot's order everywhere: the order of `observation.state` and of `action`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

UNITS = ("deg", "percent", "normalised", "m", "rad")


@dataclass(frozen=True)
class Sourced:
    """A number and where it came from; `source` names a document, a measurement, or says "ours: …"."""

    value: float
    source: str

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"Sourced: value {self.value!r} is not finite; give a finite number")
        if not self.source.strip():
            raise ValueError(f"Sourced: value {self.value!r} has no source; say where the number comes from")


@dataclass(frozen=True)
class JointSpec:
    """One joint: LeRobot name, unit, and limits in that unit (per second, per second squared)."""

    name: str
    unit: str
    lower: Sourced
    upper: Sourced
    max_velocity: Sourced
    max_acceleration: Sourced

    def __post_init__(self) -> None:
        if not self.name.endswith(".pos"):
            raise ValueError(
                f"joint {self.name!r}: LeRobot position names end in '.pos'; use '{self.name}.pos'"
            )
        if self.unit not in UNITS:
            raise ValueError(f"joint {self.name!r}: unit {self.unit!r} is unknown; use one of {UNITS}")
        if self.lower.value >= self.upper.value:
            raise ValueError(
                f"joint {self.name!r}: lower limit {self.lower.value:g} is not below upper limit "
                f"{self.upper.value:g} {self.unit}; swap or correct them"
            )
        for label, limit in (
            ("max_velocity", self.max_velocity),
            ("max_acceleration", self.max_acceleration),
        ):
            if limit.value <= 0:
                raise ValueError(f"joint {self.name!r}: {label} is {limit.value:g}; it must be above 0")


@dataclass(frozen=True)
class CameraSpec:
    """One camera as a dataset column sees it: name after `observation.images.`, size in pixels."""

    name: str
    height: int
    width: int
    source: str

    def __post_init__(self) -> None:
        if not self.name or "." in self.name or "/" in self.name:
            raise ValueError(f"camera {self.name!r}: the name must be non-empty, without '.' or '/'")
        if self.height < 8 or self.width < 8:
            raise ValueError(
                f"camera {self.name!r}: {self.height}x{self.width} px; both sides must be at least 8"
            )


@dataclass(frozen=True)
class EmbodimentSpec:
    """A complete arm: what a recipe, a limiter and a dataset check need to know about it."""

    tag: str
    robot_type: str
    joints: tuple[JointSpec, ...]
    cameras: tuple[CameraSpec, ...]
    control_rate_hz: Sourced
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tag.isidentifier():
            raise ValueError(f"embodiment {self.tag!r}: the tag must be a Python identifier, such as 'so101'")
        if not self.joints:
            raise ValueError(f"embodiment {self.tag!r}: no joints; list at least one JointSpec")
        for what, names in (("joint", self.joint_names), ("camera", tuple(c.name for c in self.cameras))):
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(
                    f"embodiment {self.tag!r}: {what} names repeated: {repeated}; names are unique"
                )
        if self.control_rate_hz.value <= 0:
            raise ValueError(
                f"embodiment {self.tag!r}: control rate {self.control_rate_hz.value:g} Hz; it must be above 0"
            )

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names in LeRobot order, such as `shoulder_pan.pos`."""
        return tuple(joint.name for joint in self.joints)

    def joint(self, name: str) -> JointSpec:
        """The joint called `name`; KeyError lists the names there are."""
        for joint in self.joints:
            if joint.name == name:
                return joint
        raise KeyError(f"embodiment {self.tag!r}: no joint {name!r}; there are {list(self.joint_names)}")

    def check_columns(self, names: list[str] | tuple[str, ...], column: str) -> None:
        """Raise ValueError unless `names` of dataset column `column` are this arm's joints in this order."""
        if tuple(names) != self.joint_names:
            raise ValueError(
                f"embodiment {self.tag!r}: column {column!r} has names {list(names)}; "
                f"allowed is exactly {list(self.joint_names)}; re-order or rename the columns of the dataset"
            )
