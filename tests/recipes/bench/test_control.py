"""`bench control`: what jitter and a missed deadline are, and one short row of ours and of LeRobot's."""

import json

import pytest

from recipes.bench import control
from recipes.bench.stand import BenchError
from recipes.bench.witness import Lag
from recipes.commands import main

MS = 1_000_000


def stamps(*gaps_ms):
    at, found = 0, [0]
    for gap in gaps_ms:
        at += round(gap * MS)
        found.append(at)
    return found


def test_an_even_stream_has_no_jitter():
    found = control.timing(stamps(*[10.0] * 50), 100.0)
    assert found["ticks"] == 50
    assert found["rate_error"] == pytest.approx(0.0)
    assert found["jitter_max_ms"] == pytest.approx(0.0)
    assert found["missed"] == 0


def test_a_drifting_loop_has_a_rate_error_and_misses_nothing():
    found = control.timing(stamps(*[10.2] * 50), 100.0)
    assert found["rate_error"] == pytest.approx(-0.0196, abs=1e-4)
    assert found["missed"] == 0


def test_more_than_half_a_period_late_is_missed_and_what_follows_early_is_not():
    assert control.timing(stamps(10, 14.9, 5.1, 10), 100.0)["missed"] == 0
    assert control.timing(stamps(10, 15.1, 4.9, 10), 100.0)["missed"] == 1
    assert control.timing(stamps(10, 40.0, 10), 100.0)["missed"] == 3
    assert control.timing(stamps(10, 40.0, 10), 100.0)["jitter_max_ms"] == pytest.approx(30.0)


def test_too_few_goals_are_an_error_and_not_a_perfect_row():
    with pytest.raises(BenchError, match="2 goals arrived"):
        control.timing(stamps(10), 100.0)


def test_a_missed_deadline_is_the_machines_if_it_stood_still_then():
    given = stamps(10, 16, 10, 30, 10)
    during, elsewhere = Lag(18 * MS, 24 * MS), Lag(70 * MS, 76 * MS)
    assert control.missed_while_standing(given, 100.0, [during]) == 1
    assert control.missed_while_standing(given, 100.0, [elsewhere]) == 0
    assert control.missed_while_standing(given, 100.0, [Lag(18 * MS, 20 * MS)]) == 0  # too short to matter
    assert control.missed_while_standing(given, 100.0, [Lag(0, 100 * MS)]) == 3


def test_every_runner_load_and_priority_is_a_row():
    assert len(set(control.names())) == 12
    ticks = {setting.name: setting.ticks for setting in control.settings(100.0)}
    assert ticks["hybridpolicy-busy-realtime"] >= 30_000


@pytest.fixture(scope="module")
def rows():
    chosen = [
        setting
        for setting in control.settings(100.0)
        if setting.name in ("hybridpolicy-idle-realtime", "lerobot-rtc-idle-plain", "lerobot-sync-idle-plain")
    ]
    return {row["runner"]: row for row in control.run_control(chosen, ticks=200)}


def test_ours_keeps_its_rate_and_lerobot_does_not(rows):
    assert set(rows) == {"hybridpolicy", "lerobot-sync", "lerobot-rtc"}
    ours = rows["hybridpolicy"]
    assert ours["ticks"] >= 190
    assert ours["stale"] == 0
    assert ours["inferences"] > 0
    assert 0 <= ours["missed_by_sender"] < 20
    assert abs(ours["rate_error"]) < 0.02
    assert ours["jitter_p50_ms"] < 2.0
    for name in ("lerobot-sync", "lerobot-rtc"):
        assert rows[name]["rate_error"] < -0.005  # it always runs behind


def test_wrong_options_are_refused(capsys):
    assert main(["bench", "control", "--only", "hybridpolicy-busy"]) == 2
    assert "hybridpolicy-busy-plain" in capsys.readouterr().err
    assert main(["bench", "control", "--rate", "500"]) == 2
    assert "10 to 200" in capsys.readouterr().err


def test_the_command_prints_the_rows(capsys, monkeypatch):
    row = {"runner": "hybridpolicy", "load": "busy", "realtime": True, "ticks": 9, "rate_error": 0.0,
           "jitter_p50_ms": 0.1, "jitter_p99_ms": 0.2, "jitter_max_ms": 0.3, "missed": 0}  # fmt: skip
    monkeypatch.setattr(control, "run_control", lambda chosen, ticks, advance: [row])
    assert main(["bench", "control", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == [row]
    assert main(["bench", "control"]) == 0
    assert "hybridpolicy" in capsys.readouterr().out
