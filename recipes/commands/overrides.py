"""`--set key=value` on a resolved configuration: the field's own type decides how the text is read."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from hybridpolicy.errors import allowed
from recipes.commands.failures import CommandError

HELP = "change one field of the resolved configuration, e.g. policy.coupling=vla; may be repeated"


def override[Config](config: Config, assignments: list[str]) -> Config:
    """A copy of the dataclass `config` with every `dotted.key=value` applied, in order.

    A number in a key is a position in a list (`stages.1.batch_size`). Every changed dataclass is built
    again, so its `__post_init__` checks the new values. Raises CommandError for a key that does not exist
    (with the nearest) and for a value that its field cannot hold.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise CommandError(f"--set {assignment!r}: write it as key=value, e.g. seed=3.")
        config = _replace(config, key.split("."), text, key)
    return config


def read_fields(owner: type, assignments: list[str], option: str) -> dict[str, Any]:
    """{field: value} of `key=value` texts, for building the dataclass `owner`.

    Raises:
        CommandError: `owner` has no such field, or it cannot hold the value.
    """
    names = [field.name for field in dataclasses.fields(owner) if field.init]
    found = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or key not in names:
            raise CommandError(f"{option} {assignment}: write it as key=value; {allowed(key, names)}.")
        found[key] = _read(owner, key, text, key, option)
    return found


def _replace(node: Any, words: list[str], text: str, key: str) -> Any:
    """`node` with the field that `words` lead to read from `text`."""
    head, rest = words[0], words[1:]
    if isinstance(node, (list, tuple)):
        if not head.isdigit() or int(head) >= len(node):
            raise CommandError(f"--set {key}: {head!r} is not a position; there are {len(node)}, from 0.")
        if not rest:
            raise CommandError(f"--set {key}: name a field of item {head}, e.g. {key}.samples=1000.")
        items = list(node)
        items[int(head)] = _replace(items[int(head)], rest, text, key)
        return type(node)(items)
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        raise CommandError(
            f"--set {key}: {type(node).__name__} has no fields to name; stop one word earlier."
        )
    names = [field.name for field in dataclasses.fields(node) if field.init]
    if head not in names:
        raise CommandError(f"--set {key}: no field {head!r}; {allowed(head, names)}.")
    current = getattr(node, head)
    value = _replace(current, rest, text, key) if rest else _read(type(node), head, text, key)
    return dataclasses.replace(node, **{head: value})


def _read(owner: type, name: str, text: str, key: str, option: str = "--set") -> Any:
    """`text` as a value of `owner`'s field `name`, read as YAML and then by draccus, as a file would be."""
    import draccus
    import yaml

    hint = typing.get_type_hints(owner)[name]
    try:
        return text if hint is str else draccus.decode(hint, yaml.safe_load(text))
    except (draccus.utils.DecodingError, yaml.YAMLError) as error:
        wanted = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint)
        raise CommandError(f"{option} {key}={text}: not a value of type {wanted}. {error}") from error
