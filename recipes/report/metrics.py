"""The learning curves of a run, from the lines the trainer wrote to metrics.jsonl."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_POINTS = 160  # more cannot be told apart at the width of the chart


@dataclass(frozen=True)
class Curve:
    """One number of one stage over the samples seen.

    pooled   logged values averaged into each point
    colour   index of its colour, the same for one name in every stage
    """

    stage: str
    name: str
    samples: list[float]
    values: list[float]
    pooled: int
    colour: int = 0

    @property
    def last(self) -> float:
        return self.values[-1]


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl: one JSON object a line with `stage`, `samples` and any numbers.

    A last line cut off by a killed run is dropped; of lines that a resumed run wrote again, the later counts.

    Raises:
        ValueError: another line is not JSON, or a row lacks `samples`.
    """
    lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    rows: dict[tuple[str, float], dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}, line {number}: not JSON ({error.msg}); delete that line to draw the rest"
            ) from None
        if not isinstance(row, dict) or "samples" not in row:
            raise ValueError(
                f"{path}, line {number}: {line[:80]!r} has no `samples`; needed is an object with it"
            )
        rows[str(row.get("stage", "training")), row["samples"]] = row
    return list(rows.values())


def curves(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Curve]]:
    """Stage → its curves: every number named like a loss, the total first, and `samples_per_s`."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        stage = points.setdefault(str(row.get("stage", "training")), {})
        for name, value in row.items():
            if _is_shown(name) and isinstance(value, int | float) and math.isfinite(value):
                stage.setdefault(name, []).append((float(row["samples"]), float(value)))
    names = sorted(
        {name for by_name in points.values() for name in by_name}, key=lambda name: (name != "loss", name)
    )
    return {
        stage: [
            _pool(stage, name, sorted(by_name[name]), names.index(name)) for name in names if name in by_name
        ]
        for stage, by_name in points.items()
        if by_name
    }


def _is_shown(name: str) -> bool:
    return "loss" in name or name == "samples_per_s"


def _pool(stage: str, name: str, series: list[tuple[float, float]], colour: int) -> Curve:
    pooled = math.ceil(len(series) / MAX_POINTS)
    table = np.asarray(series)
    chunks = [table[start : start + pooled].mean(axis=0) for start in range(0, len(series), pooled)]
    samples, values = np.asarray(chunks).T
    return Curve(stage, name, samples.tolist(), values.tolist(), pooled, colour)
