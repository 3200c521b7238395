"""Files that are whole at any moment, results as JSON among them."""

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: str | os.PathLike[str], text: str) -> Path:
    """`path`, holding `text`; folders above it are made. Killed or on a full disk, the old file is untouched.

    Raises:
        OSError: the file cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def write_json(path: str | os.PathLike[str], content: Any) -> Path:
    """`path`, holding `content`; whole as by `write_whole`.

    Raises:
        OSError: the file cannot be written.
        TypeError: `content` is no JSON.
    """
    return write_whole(path, json.dumps(content, indent=2) + "\n")
