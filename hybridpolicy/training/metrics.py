"""metrics.jsonl: one line per log window, cut back to the checkpoint when a run resumes."""

import json
import os
from pathlib import Path
from typing import Any

from hybridpolicy.errors import CheckpointError

METRICS_FILE = "metrics.jsonl"


class MetricsFile:
    """Append-only JSON lines. Each has `step`, the optimizer steps of the run so far."""

    def __init__(self, path: Path, last_step: int) -> None:
        """Keeps the lines up to `last_step`, the resumed checkpoint's; 0 starts an empty file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_metrics(path) if line["step"] <= last_step]
        replacement = path.with_suffix(".partial")
        replacement.write_text("".join(json.dumps(line) + "\n" for line in kept))
        replacement.replace(path)
        self._file = path.open("a")

    def append(self, line: dict[str, Any]) -> None:
        """Writes one line. Raises CheckpointError when the disk does not take it."""
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise CheckpointError(
                f"{self._file.name}: not written ({error}); checkpoints are untouched. Free some space, then "
                "run the same command again to resume"
            ) from error

    def sync(self) -> None:
        """On disk when this returns: a checkpoint must never be ahead of its metrics."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a metrics file, without a last one that was cut off; empty when there is no file."""
    lines = path.read_text().splitlines() if path.is_file() else []
    parsed: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError:
            if number != len(lines):
                raise
    return parsed
