"""Checks a plain dict against a TypedDict: missing, unknown, wrong type, not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

import numpy as np

_NAMES = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}


class ReportError(ValueError):
    """A report that would mislead its reader, and what to change."""


def find(report: Mapping[str, Any], key: str) -> Any | None:
    """The value at a dotted path such as `world.skill`, None where the path ends early."""
    value: Any = report
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def missing_keys(report: Mapping[str, Any], required: Sequence[str]) -> list[str]:
    """The dotted paths of `required` that `report` lacks, in order."""
    return [key for key in required if find(report, key) is None]


def plain(value: Any) -> Any:
    """A copy of `value` with numpy scalars, arrays, mappings and sequences as JSON's own types."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def type_problems(value: Any, kind: Any, path: str = "") -> list[str]:
    """What in `value` does not fit the type `kind`, each with its dotted path."""
    return list(_problems(value, kind, path))


def _problems(value: Any, kind: Any, path: str) -> Iterator[str]:
    if get_origin(kind) is NotRequired:
        kind = get_args(kind)[0]
    if kind is Any:
        yield from _non_finite(value, path)
    elif is_typeddict(kind):
        yield from _typed_dict_problems(value, kind, path)
    elif get_origin(kind) is list:
        yield from _sequence_problems(value, get_args(kind)[0], path)
    elif get_origin(kind) is dict:
        yield from _mapping_problems(value, get_args(kind)[1], path)
    elif not _is_scalar(value, kind):
        yield f"{path} is {value!r}; needed is {_NAMES[kind]}"
    else:
        yield from _non_finite(value, path)


def _typed_dict_problems(value: Any, kind: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        names = ", ".join(sorted(kind.__annotations__))
        yield f"{path or 'report'} is {value!r}; needed is a dict of {names}"
        return
    hints = get_type_hints(kind, include_extras=True)
    for name in sorted(kind.__required_keys__ - value.keys()):
        yield f"{_join(path, name)} is missing"
    for name, item in value.items():
        if name in hints:
            yield from _problems(item, hints[name], _join(path, name))
        else:
            yield f"{_join(path, name)} is unknown; allowed are {', '.join(sorted(hints))}"


def _sequence_problems(value: Any, kind: Any, path: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{path} is {value!r}; needed is a list"
        return
    for index, item in enumerate(value):
        yield from _problems(item, kind, f"{path}[{index}]")


def _mapping_problems(value: Any, kind: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path} is {value!r}; needed is a dict"
        return
    for name, item in value.items():
        yield from _problems(item, kind, _join(path, name))


def _non_finite(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _non_finite(item, _join(path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _non_finite(item, f"{path}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{path} is {value}; leave out what was not measured"


def _is_scalar(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
