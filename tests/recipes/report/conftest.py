"""A complete report with every optional key, and small clips and strips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hybridpolicy.stats import wilson_interval
from recipes.report.bars import judge_bars
from recipes.report.media import EpisodeClip, FutureStrip


def rate(successes: int, episodes: int) -> dict[str, Any]:
    interval = wilson_interval(successes, episodes)
    return {"rate": interval.value, "low": interval.low, "high": interval.high, "episodes": episodes}


@pytest.fixture
def report() -> dict[str, Any]:
    full: dict[str, Any] = {
        "recipe": "so101_quickstart",
        "title": "A quickstart",
        "started": "2025-01-02 03:04",
        "wall_s": 662.0,
        "train_minutes": 6.5,
        "train_core_minutes": 11.9,
        "seed": 7,
        "command": "make quickstart",
        "machine": "2 cores, 8 GiB",
        "git": "abc1234",
        "success": {
            **rate(43, 48),
            "by_task": {"touch_red": {**rate(24, 25), "label": "touch red"}, "push_blue": rate(19, 23)},
        },
        "two_stage": {**rate(9, 16), "instruction": "touch the red block, then push it"},
        "imagining": rate(41, 48),
        "language": {
            "followed": 0.88, "followed_low": 0.81, "followed_high": 0.93,
            "swapped_success": 0.021, "swapped_low": 0.006, "swapped_high": 0.073,
            "paraphrase_success": 0.9, "paraphrase_low": 0.79, "paraphrase_high": 0.96,
            "absent_motion": 0.03, "present_motion": 0.41, "absent_motion_unit": "metres",
            "swapped_episodes": 95, "paraphrase_episodes": 61, "absent_episodes": 22,
        },
        "world": {
            "skill": 0.34, "skill_by_offset": {"4": 0.42, "8": 0.26}, "fps": 10.0,
            "probe_r2": 0.83, "probe_r2_imagined": 0.46, "rank": 13.6, "width": 64,
        },
        "stage1": {"share_not_demonstrations": 0.64, "samples": 48_000, "seconds": 96.0},
        "stage2": {"samples": 163_000, "seconds": 311.0},
        "latency_ms": {"never": {"p50": 6.8, "p95": 9.4}, "always": {"p50": 8.1, "p95": 11.9}},
        "train": {"samples_per_s": 524.0},
        "loader": {"samples_per_s": 9130.0, "lerobot_samples_per_s": 212.0},
        "params": 1_312_448,
        "peak_memory_mib": 1844.0,
        "options": ["Privileged loss: object positions"],
        "phases": [{"name": "record", "seconds": 61.0}, {"name": "train", "seconds": 407.0}],
        "next_steps": [{"title": "Longer", "command": "hybridpolicy train --recipe so101_twin"}],
    }  # fmt: skip
    full["bars"] = judge_bars(full)
    return full


@pytest.fixture
def clips() -> list[EpisodeClip]:
    rng = np.random.default_rng(0)
    return [
        EpisodeClip(
            task=task,
            instruction=f"{task} block",
            success=index % 2 == 0,
            steps=40 + index,
            cameras={
                name: rng.integers(256, size=(5 + index, 32, 32, 3), dtype=np.uint8)
                for name in ("front", "wrist")
            },
            fps=10.0,
            outcome="time limit" if index % 2 else "",
        )
        for index, task in enumerate(["touch the red", "touch the red", "push the blue"])
    ]


@pytest.fixture
def strips() -> list[FutureStrip]:
    rng = np.random.default_rng(1)
    pictures = rng.integers(256, size=(7, 16, 16, 3), dtype=np.uint8)
    return [
        FutureStrip(
            "touch the red block",
            now=pictures[0],
            offsets=(4, 8),
            real=pictures[1:3],
            imagined=pictures[3:5],
            fps=10.0,
            decoded_real=pictures[5:7],
        )
    ]
