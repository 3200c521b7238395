"""Files that a command is to write, looked at before the work and not after it."""

from __future__ import annotations

import os
from pathlib import Path

from recipes.commands.failures import CommandError


def check_new(file: Path | None, option: str) -> None:
    """Raises CommandError where `file`, given with `option`, is there already, or cannot be made."""
    if file is not None and file.exists() and not file.is_dir():
        raise CommandError(f"{option}: {file} is there already; name another place, or remove it")
    check_writable(file, option)


def check_writable(file: Path | None, option: str) -> None:
    """Raises CommandError where `file`, given with `option`, is a folder, or where nothing can be made."""
    if file is None:
        return
    if file.is_dir():
        raise CommandError(f"{option}: {file} is a folder; name a file in it")
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise CommandError(f"{option}: {folder} is a file, so {file} cannot be made; name another place")
    if not os.access(folder, os.W_OK):
        raise CommandError(f"{option}: {folder} cannot be written to; name another place")
