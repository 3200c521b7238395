"""Results as JSON files that are whole at any moment."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Writes `content` there, and the folders above: a killed process leaves the old file or the new one.

    Raises:
        OSError: the file cannot be written; what was there is untouched.
        TypeError: `content` is no JSON.
    """
    text = json.dumps(content, indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
