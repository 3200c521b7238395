"""report.json: what is refused, what is written, and how bars are judged."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.report.bars import judge_bars
from recipes.report.checking import ReportError, find
from recipes.report.schema import (
    METAWORLD_KEYS,
    QUICKSTART_KEYS,
    RESULT_KEYS,
    check_report,
    write_report_json,
)


def without(report: dict[str, Any], key: str) -> dict[str, Any]:
    root = copy.deepcopy(report)
    target: Any = root
    *parents, last = key.split(".")
    for parent in parents:
        target = target[parent]
    del target[last]
    return root


def replaced(report: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    root = copy.deepcopy(report)
    target: Any = root
    *parents, last = key.split(".")
    for parent in parents:
        target = target[parent]
    target[last] = value
    return root


def test_written_json_reads_back_equal_and_numpy_is_welcome(tmp_path: Path, report: dict[str, Any]) -> None:
    report["params"] = np.int64(report["params"])
    report["world"]["rank"] = np.float32(13.5)
    path = write_report_json(tmp_path / "new" / "report.json", report, RESULT_KEYS)
    read = json.loads(path.read_text(encoding="utf-8"))
    assert read["params"] == 1_312_448
    assert read["world"]["rank"] == 13.5
    assert read == check_report(report)
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]


def test_keys_of_the_issue_are_required() -> None:
    for key in ("wall_s", "language.swapped_high", "world.probe_r2_imagined", "latency_ms.always.p95"):
        assert key in QUICKSTART_KEYS
    # A forgotten NotRequired, or a postponed annotation, would make optional keys required.
    assert len(QUICKSTART_KEYS) == 25
    assert not [key for key in QUICKSTART_KEYS if "episodes" in key and key != "success.episodes"]


@pytest.mark.parametrize("key", RESULT_KEYS)
def test_each_missing_key_is_named(key: str, report: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match=rf"required keys are missing: {key}(\.|,| )"):
        check_report(without(report, key), RESULT_KEYS)


def test_all_missing_keys_are_listed_and_nothing_is_written(tmp_path: Path, report: dict[str, Any]) -> None:
    del report["wall_s"], report["world"]
    with pytest.raises(ReportError, match=r"6 of 25 .*: wall_s, world\.probe_r2, .*world\.skill_by_offset\."):
        write_report_json(tmp_path / "report.json", report)
    assert list(tmp_path.iterdir()) == []


def test_a_smaller_report_needs_only_what_it_promises(tmp_path: Path, report: dict[str, Any]) -> None:
    small = {key: report[key] for key in ("success", "train_minutes", "command")}
    assert write_report_json(tmp_path / "small.json", small, METAWORLD_KEYS).exists()


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("wall_s", "662", r"wall_s is '662'; needed is a number"),
        ("params", 1.5, r"params is 1\.5; needed is a whole number"),
        ("success.episodes", True, r"success\.episodes is True; needed is a whole number"),
        ("world.skill", float("nan"), r"world\.skill is nan; leave out"),
        ("world.skill_by_offset", [0.4], r"world\.skill_by_offset is \[0\.4\]; needed is a dict"),
        ("options", "privileged", r"options is 'privileged'; needed is a list"),
        ("phases", [{"name": "a"}], r"phases\[0\]\.seconds is missing"),
        ("language.obeyed", 0.9, r"language\.obeyed is unknown; allowed are .*followed"),
        ("success.low", 0.95, r"success has rate 0\.895833 in \[0\.95, "),
        ("two_stage.high", 1.2, r"two_stage has rate"),
        ("success.episodes", 50, r"success\.episodes is 50, its tasks add up to 48"),
        ("details", {"runs": [float("inf")]}, r"details\.runs\[0\] is inf"),
        ("wall_s", 900.0, r"bars: wall_s says 662\.0, passed True, its numbers say 900\.0, False"),
    ],
)
def test_misleading_values_are_refused(key: str, value: Any, match: str, report: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match=match):
        check_report(replaced(report, key, value))


def test_a_failed_write_leaves_the_old_report(
    tmp_path: Path, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_report_json(tmp_path / "report.json", report)
    before = path.read_text(encoding="utf-8")

    def disk_full(self: Path, text: str, encoding: str) -> int:
        with self.open("w", encoding=encoding) as file:
            file.write(text[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_report_json(path, report)
    assert path.read_text(encoding="utf-8") == before
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_bars_at_their_limit_pass_and_beyond_fail(report: dict[str, Any]) -> None:
    def passed(key: str, value: float) -> bool:
        judged = [bar for bar in judge_bars(replaced(report, key, value)) if bar["key"] == key]
        assert len(judged) == 1
        assert judged[0]["value"] == value
        return judged[0]["passed"]

    assert [passed("wall_s", value) for value in (719.9, 720.0, 720.1)] == [True, True, False]
    assert [passed("success.rate", value) for value in (0.849, 0.85, 0.86)] == [False, True, True]
    assert [passed("language.swapped_high", value) for value in (0.15, 0.151)] == [True, False]


def test_what_was_not_measured_is_not_passed(report: dict[str, Any]) -> None:
    judged = {bar["key"]: bar for bar in judge_bars(without(report, "world"))}
    assert judged["world.skill"]["passed"] is False
    assert "value" not in judged["world.skill"]
    assert judged["wall_s"]["passed"] is True


def test_a_bar_needs_one_limit(report: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match=r"bar 'wall_s' has limits \[\]"):
        judge_bars(report, [{"label": "time", "key": "wall_s"}])


def test_find_ends_where_the_path_ends() -> None:
    assert find({"a": {"b": 0}}, "a.b") == 0
    assert find({"a": {"b": 0}}, "a.b.c") is None
