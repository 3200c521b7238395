"""A dataset as a user names it: a folder, or `owner/name` on the Hub."""

from __future__ import annotations

import re
from pathlib import Path

from recipes.commands.failures import CommandError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate(given: str) -> tuple[str, str | None]:
    """(folder, None) for what is on this disk, ("", id) for a Hub id, as `DatasetSource` takes them.

    Raises CommandError for what is neither.
    """
    if Path(given).exists():
        return given, None
    if _HUB_ID.fullmatch(given):
        return "", given
    raise CommandError(
        f"{given!r}: no such folder, and not a Hub id (owner/name); give the folder that holds meta/, "
        "or record one with `hybridpolicy data record`"
    )
