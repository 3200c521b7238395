"""`--set`: typed by the field, checked by the dataclass, refused with the nearest name."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from recipes.commands.failures import CommandError
from recipes.commands.overrides import override


@dataclass(frozen=True)
class Policy:
    coupling: Literal["vla", "joint"] = "joint"
    width: int = 128
    derived: int = field(init=False, default=0)


@dataclass(frozen=True)
class Stage:
    lr: float = 1e-3
    samples: int = 10

    def __post_init__(self):
        if self.samples < 1:
            raise ValueError(f"samples = {self.samples}; must be 1 or more")


@dataclass(frozen=True)
class Config:
    name: str = "a"
    policy: Policy = field(default_factory=Policy)
    stages: list[Stage] = field(default_factory=lambda: [Stage(), Stage()])
    max_minutes: float | None = 3.0
    betas: tuple[float, float] = (0.9, 0.95)


@pytest.mark.parametrize(
    ("assignment", "read"),
    [
        ("name=on", lambda config: config.name == "on"),  # YAML would make it True
        ("name=a=b", lambda config: config.name == "a=b"),
        ("name=", lambda config: config.name == ""),
        ("policy.coupling=vla", lambda config: config.policy.coupling == "vla"),
        ("stages.1.lr=3e-4", lambda config: [stage.lr for stage in config.stages] == [1e-3, 3e-4]),
        ("max_minutes=null", lambda config: config.max_minutes is None),
        ("betas=[0.8, 0.99]", lambda config: config.betas == (0.8, 0.99)),
    ],
)
def test_the_field_decides_how_text_is_read(assignment, read):
    assert not read(Config())
    assert read(override(Config(), [assignment]))


@dataclass(frozen=True)
class Pair:
    names: tuple[str, ...] = ()
    offsets: tuple[int, ...] = ()

    def __post_init__(self):
        if bool(self.names) != bool(self.offsets):
            raise ValueError("names and offsets only go together")


@dataclass(frozen=True)
class Pairs:
    pair: Pair = field(default_factory=Pair)
    all: list[Pair] = field(default_factory=lambda: [Pair()])


@pytest.mark.parametrize("where", ["pair", "all.0"])
@pytest.mark.parametrize("swapped", [False, True])
def test_fields_that_only_go_together_can_be_set_in_any_order(where, swapped):
    assignments = [f'{where}.names=["past"]', f"{where}.offsets=[-4]"]
    changed = override(Pairs(), assignments[::-1] if swapped else assignments)
    pair = changed.pair if where == "pair" else changed.all[0]
    assert pair == Pair(("past",), (-4,))


def test_a_field_set_as_a_whole_and_in_part_is_refused():
    with pytest.raises(CommandError, match=r"--set policy\.width: it is set as a whole and in part"):
        override(Config(), ["policy.width=3", "policy={}"])


def test_later_assignments_win_and_the_original_stays():
    config = Config()
    changed = override(config, ["policy.width=64", "name=b", "policy.width=32"])
    assert (changed.policy.width, changed.name) == (32, "b")
    assert config == Config()


def test_a_changed_dataclass_is_checked_again():
    with pytest.raises(ValueError, match="samples = 0; must be 1 or more"):
        override(Config(), ["stages.0.samples=0"])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "policy.copling=vla",
            r"no field 'copling'; did you mean 'coupling'\? allowed are coupling, width[.]$",
        ),
        ("policy.derived=1", "no field 'derived'"),
        ("policy.coupling=vlx", "policy.coupling=vlx: not a value of type .*vla, joint"),
        ("policy.width=wide", "policy.width=wide: not a value of type int"),
        ("policy.width=3.5", "policy.width=3.5: not a value of type int"),
        ("betas=[", r"betas=\[: not a value"),
        ("stages.2.lr=1", "'2' is not a position; there are 2, from 0"),
        ("stages.one.lr=1", "'one' is not a position"),
        ("stages.1=1", r"name a field of item 1, e\.g\. stages\.1\.samples"),
        ("name.x=1", "str has no fields to name"),
        ("seed", "'seed': write it as key=value"),
        ("=3", "'=3': write it as key=value"),
    ],
)
def test_what_is_refused(assignment, message):
    with pytest.raises(CommandError, match=message):
        override(Config(), [assignment])
