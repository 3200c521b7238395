"""Learning curves, pictures, ticks and wording on their own."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.report.charts import Axis, _log_ticks, _round_ticks, amount_axis, line_chart, score_axis
from recipes.report.media import EpisodeClip, FutureStrip, evenly, side_by_side
from recipes.report.metrics import MAX_POINTS, Curve, curves, read_metrics
from recipes.report.wording import against_bar, ahead, duration, interval, large, measured, number, percent


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_a_cut_last_line_is_dropped_and_a_repeated_one_replaced(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "metrics.jsonl",
        {"stage": "a", "samples": 10, "loss": 3.0},
        {"stage": "a", "samples": 20, "loss": 2.0},
        {"stage": "a", "samples": 20, "loss": 1.5},
        '{"stage": "a", "samp',
    )
    rows = read_metrics(path)
    assert [(row["samples"], row["loss"]) for row in rows] == [(10, 3.0), (20, 1.5)]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{broken\n", r"line 1: not JSON .*; delete that line"),
        ({"loss": 1.0}, r"line 1: .* has no `samples`"),
    ],
)
def test_other_broken_lines_are_refused(tmp_path: Path, line: object, match: str) -> None:
    path = write_lines(tmp_path / "metrics.jsonl", line, {"stage": "a", "samples": 20, "loss": 2.0})
    with pytest.raises(ValueError, match=match):
        read_metrics(path)


def test_curves_keep_losses_by_stage_and_leave_the_rest() -> None:
    rows = [
        {"stage": "one", "samples": 10, "world_loss": 2.0, "loss": 3.0, "rank": 5.0, "note": "x"},
        {"stage": "two", "samples": 20, "action_loss": float("nan"), "loss": 1.0, "samples_per_s": 400.0},
        {"stage": "two", "samples": 30, "action_loss": 0.5, "loss": 0.9, "samples_per_s": 410.0},
    ]
    by_stage = curves(rows)
    assert {stage: [line.name for line in lines] for stage, lines in by_stage.items()} == {
        "one": ["loss", "world_loss"],
        "two": ["loss", "action_loss", "samples_per_s"],
    }
    assert by_stage["two"][1].values == [0.5]
    assert by_stage["two"][0].last == 0.9
    assert by_stage["one"][0].colour == by_stage["two"][0].colour == 0


def test_long_curves_are_averaged_and_say_how_much() -> None:
    rows = [{"samples": step, "loss": float(step % 2)} for step in range(4 * MAX_POINTS)]
    (line,) = curves(rows)["training"]
    assert line.pooled == 4
    assert len(line.values) == MAX_POINTS
    assert set(line.values) == {0.5}


def test_a_flat_and_a_single_point_curve_can_be_drawn() -> None:
    flat = Curve("s", "loss", [0.0, 10.0], [0.0, 0.0], 1)
    single = Curve("s", "loss", [64.0], [0.7], 1)
    for line in (flat, single):
        drawn = line_chart([line], "a <label>")
        assert "nan" not in drawn
        assert "a &lt;label&gt;" in drawn


def test_a_later_stage_is_drawn_from_its_own_start() -> None:
    drawn = line_chart([Curve("two", "loss", [1000.0, 2000.0], [2.0, 1.0], 1)], "loss")
    assert 'points="0.0,' in drawn
    assert "1000.0," in drawn


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_round_ticks_cover_the_range(low: float, span: float) -> None:
    ticks = _round_ticks(low, low + span)
    slack = 1e-6 * max(abs(low), span)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= 7


@given(st.floats(1e-8, 1e8), st.floats(1.0, 1e6))
def test_log_ticks_cover_the_range(low: float, ratio: float) -> None:
    ticks = _log_ticks(low, low * ratio)
    assert ticks[0] <= low
    assert ticks[-1] >= low * ratio
    assert all(after > before for before, after in pairwise(ticks))


def test_axes_reach_their_values() -> None:
    assert score_axis([0.4, 0.9]).low == 0.0
    assert score_axis([-0.3]).low == -0.5
    assert score_axis([-9.0]).low == -1.0
    assert amount_axis([9130.0]).high >= 9130.0
    assert amount_axis([0.0]).high > 0
    assert Axis().at(2.0) == "100.00%"


@given(st.integers(0, 200), st.integers(0, 250))
def test_an_even_selection_keeps_both_ends(count: int, keep: int) -> None:
    chosen = evenly(count, keep)
    assert len(chosen) == min(count, keep)
    assert chosen == sorted(set(chosen))
    if count and keep >= 2:
        assert (chosen[0], chosen[-1]) == (0, count - 1)


def clip(**cameras: np.ndarray) -> EpisodeClip:
    return EpisodeClip("t", "touch it", True, 3, cameras, 10.0)


def test_cameras_lie_side_by_side_in_order() -> None:
    frames = side_by_side(
        clip(front=np.full((2, 4, 6, 3), 10, np.uint8), wrist=np.full((2, 4, 6, 3), 20, np.uint8))
    )
    assert frames.shape == (2, 4, 13, 3)
    assert frames[0, 0, :, 0].tolist() == [10] * 6 + [128] + [20] * 6


@pytest.mark.parametrize(
    ("cameras", "match"),
    [
        ({}, r"'touch it': cameras have shapes \{\}; needed is at least one camera"),
        ({"front": np.zeros((0, 4, 4, 3), np.uint8)}, r"\(0, 4, 4, 3\).*T ≥ 1"),
        (
            {"front": np.zeros((2, 4, 4, 3), np.uint8), "wrist": np.zeros((3, 4, 4, 3), np.uint8)},
            "the same number of frames",
        ),
        ({"front": np.zeros((2, 4, 4, 3), np.float32)}, r"\{'front': 'float32'\}; needed is uint8"),
    ],
)
def test_odd_cameras_are_refused(cameras: dict[str, np.ndarray], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        side_by_side(clip(**cameras))


def test_a_strip_needs_one_picture_for_each_offset() -> None:
    now = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(
        ValueError, match=r"'touch it': imagined has shape \(1, 4, 4, 3\), needed is \(2, 4, 4, 3\)"
    ):
        FutureStrip("touch it", now, (4, 8), np.stack([now, now]), np.stack([now]), 10.0)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (percent(0.9479), "94.8 %"), (percent(1.0), "100 %"), (percent(0.1), "10 %"), (percent(0.0), "0 %"),
        (interval(0.884, 0.978), "88.4–97.8 %"), (interval(0.2, 1.0), "20–100 %"),
        (duration(662), "11 min 02 s"), (duration(59.7), "1 min 00 s"), (duration(0.42), "0.42 s"),
        (duration(3599.8), "1 h 00 min"), (duration(9.96), "10 s"), (duration(5040), "1 h 24 min"),
        (number(0.3421), "0.342"), (number(13.6), "13.6"), (number(9130.4), "9 130"),
        (number(-0.25), "−0.25"),
        (large(1_312_448), "1.31 M"), (large(48_000), "48 k"), (large(512), "512"),
        (large(999_999), "1 M"), (ahead("4", 10), "+0.4 s"), (ahead(1, None), "+1 frame"),
        (measured("train_minutes", 38.5), "38 min 30 s"),
        (measured("loader.samples_per_s", 212.0), "212 samples/s"),
    ],
)  # fmt: skip
def test_wording(text: str, wanted: str) -> None:
    assert text.replace("\u202f", " ") == wanted


@given(st.floats(0.0, 1.0), st.sampled_from(["success.rate", "world.skill", "language.swapped_high"]))
def test_a_missed_bar_never_reads_as_its_limit(value: float, key: str) -> None:
    text, promised = against_bar({"label": "x", "key": key, "at_least": 0.85, "value": value})
    if abs(value - 0.85) > 1e-7:
        assert text != promised.removeprefix("≥ ")
