"""`--set key=value` on a resolved configuration: the field's own type decides how the text is read."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from hybridpolicy.errors import allowed
from recipes.commands.failures import CommandError

HELP = "change one field of the resolved configuration, e.g. policy.coupling=vla; may be repeated"

type Setting = tuple[list[str], str, str]  # words still to follow, text of the value, key as given


def override[Config](config: Config, assignments: list[str]) -> Config:
    """A copy of the dataclass `config` with every `dotted.key=value` applied; of one key the last wins.

    A number in a key is a position in a list (`stages.1.batch_size`). Every changed dataclass is built again
    once, with all its new values, so its `__post_init__` checks them together: some only go with others.
    Raises CommandError for a key that does not exist (with the nearest) and for a value that its field cannot
    hold.
    """
    texts = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise CommandError(f"--set {assignment!r}: write it as key=value, e.g. seed=3.")
        texts[key] = text
    changed: Config = _replace(config, [(key.split("."), text, key) for key, text in texts.items()])
    return changed


def read_fields(owner: type, assignments: list[str], option: str) -> dict[str, Any]:
    """{field: value} of `key=value` texts, for building the dataclass `owner`.

    Raises:
        CommandError: `owner` has no such field, or it cannot hold the value.
    """
    names = [field.name for field in dataclasses.fields(owner) if field.init]
    found = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise CommandError(f"{option} {assignment}: write it as key=value; {allowed(key, names)}.")
        if key not in names:
            raise CommandError(f"{option} {assignment}: no field {key!r}; {allowed(key, names)}.")
        found[key] = _read(owner, key, text, key, option)
    return found


def _replace(node: Any, settings: list[Setting]) -> Any:
    """`node` with the fields that the settings' words lead to read from their texts."""
    by_head: dict[str, list[Setting]] = {}
    for words, text, key in settings:
        by_head.setdefault(words[0], []).append((words[1:], text, key))
    if isinstance(node, (list, tuple)):
        return _replace_items(node, by_head)
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        raise CommandError(
            f"--set {settings[0][2]}: {type(node).__name__} has no fields to name; stop one word earlier."
        )
    names = [field.name for field in dataclasses.fields(node) if field.init]
    values = {}
    for head, inner in by_head.items():
        words, text, key = inner[0]
        if head not in names:
            raise CommandError(f"--set {key}: no field {head!r}; {allowed(head, names)}.")
        if not all(words for words, _, _ in inner):
            if len(inner) > 1:
                raise CommandError(
                    f"--set {key}: it is set as a whole and in part; leave out one of the two."
                )
            values[head] = _read(type(node), head, text, key)
        else:
            values[head] = _replace(getattr(node, head), inner)
    return dataclasses.replace(node, **values)


def _replace_items(items: list[Any] | tuple[Any, ...], by_head: dict[str, list[Setting]]) -> Any:
    """The same of a list, whose fields are positions."""
    changed = list(items)
    for head, inner in by_head.items():
        words, _, key = inner[0]
        if not head.isdigit() or int(head) >= len(items):
            raise CommandError(f"--set {key}: {head!r} is not a position; there are {len(items)}, from 0.")
        if not words:
            raise CommandError(f"--set {key}: name a field of item {head}, e.g. {key}.samples=1000.")
        changed[int(head)] = _replace(changed[int(head)], inner)
    return type(items)(changed)


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
