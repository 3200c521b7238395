"""`bench faults`: every row of the fault table is there, measured on both sides, or says why not."""

import importlib
import json
import signal
import time

import pytest

from recipes.bench import faults
from recipes.bench.fault import Effort, Fault, Found
from recipes.bench.stand import BenchError, Stand, share
from recipes.bench.witness import LagWitness
from recipes.commands import main

SHORT = Effort(seconds=3.0, soak_s=3.0, instants=1)
QUICK = ("2-late-60", "4-off-erroring", "5-write", "12-release", "13-owner")


def test_every_row_of_the_table_is_there_once():
    assert {fault.row for fault in faults.FAULTS} == {*range(1, 18), 29}
    assert len(faults.FAULTS) >= 18
    assert len(set(faults.names())) == len(faults.FAULTS)


def test_both_sides_of_every_row_exist():
    seen = 0
    for fault in faults.FAULTS:
        module, _, name = fault.lerobot.partition(":")
        assert callable(getattr(importlib.import_module(f"recipes.bench.{module}"), name))
        seen += 1
    assert seen == len(faults.FAULTS)


@pytest.fixture(scope="module")
def rows():
    return {row["fault"]: row for row in faults.run_faults(QUICK, SHORT)}


def test_rows_are_measured_on_both_sides(rows):
    assert tuple(rows) == QUICK
    for row in rows.values():
        assert {"fault", "target", "ours", "lerobot", "pass"} <= set(row)
        assert "not measured" not in row["ours"]["text"] + row["lerobot"]["text"], row
        assert row["pass"] or row["starved"], row


def test_what_lerobot_does_is_what_the_defects_page_says(rows):
    assert rows["2-late-60"]["lerobot"]["stale_reads"] == 10
    assert rows["4-off-erroring"]["lerobot"]["torque"] == [0, 0, 1, 1, 1, 1]
    assert rows["5-write"]["lerobot"]["failed_after_return"] == 20
    assert rows["12-release"]["lerobot"]["fell_deg"] > 5.0
    assert not rows["13-owner"]["lerobot"]["refused"]


class Table:
    """A stand without an arm: enough for rows that touch none."""

    def reset(self):
        """Nothing to reset."""


class NoLeRobot:
    """Its other side is tested above."""

    def call(self, function, timeout_s, **arguments):
        raise BenchError("left out")


class Lags:
    """A witness that has seen what the test says."""

    def __init__(self, *worst_ms):
        self.worst = list(worst_ms)

    def take(self):
        return []

    def worst_ms(self):
        return self.worst.pop(0)


def measured(monkeypatch, lags, outcomes):
    monkeypatch.setattr(faults, "_theirs", lambda *given: {"text": ""})
    outcomes = iter(outcomes)

    def ours(stand, effort):
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return Found({}, outcome, "measured")

    fault = Fault("x", 1, "", "", ours, "")
    return faults.measure(fault, Table(), SHORT, NoLeRobot(), Lags(*lags))


def test_a_starved_machine_is_named_and_the_row_is_run_again(monkeypatch):
    row = measured(monkeypatch, (50.0, 3.0), (False, True))
    assert row["pass"]
    assert row["ours"]["attempts"] == 2
    row = measured(monkeypatch, (50.0, 60.0, 70.0), (False, False, False))
    assert not row["pass"]
    assert "stood still for 70 ms" in row["starved"]


def test_a_miss_on_a_machine_that_was_not_starved_is_a_miss(monkeypatch):
    row = measured(monkeypatch, (3.0,), (False,))
    assert not row["pass"]
    assert not row["starved"]
    assert row["ours"]["attempts"] == 1


def test_a_row_that_cannot_be_measured_is_not_met_and_says_why(monkeypatch):
    row = measured(monkeypatch, (3.0,), (BenchError("the arm did not come up"),))
    assert not row["pass"]
    assert "the arm did not come up" in row["ours"]["text"]


def test_no_values_have_no_quantile():
    assert share([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    with pytest.raises(BenchError, match="nothing was sent"):
        share([], 0.5)


def test_the_witness_sees_a_process_that_does_not_run():
    with LagWitness() as witness:
        for process in witness._processes:
            process.send_signal(signal.SIGSTOP)  # SIGSTOP: as if its processor stood still
        time.sleep(0.15)
        for process in witness._processes:
            process.send_signal(signal.SIGCONT)
        time.sleep(0.1)
        worst = witness.worst_ms()
        assert witness.worst_ms() < worst
    assert worst > 50.0


def test_a_stand_leaves_the_arm_folded_without_torque(tmp_path):
    with Stand(tmp_path) as stand:
        stand.reset()
        assert stand.torque() == [0] * 6
        arm = stand.raised()
        assert stand.torque() == [1] * 6
        stand.twin.ask("dead", id=2)
        stand.reset()
        assert not arm.is_running
        assert stand.torque() == [0] * 6
        assert stand.port_is_free()


def test_the_list_and_a_misspelt_row(capsys):
    assert main(["bench", "faults", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(faults.FAULTS)
    assert main(["bench", "faults", "--only", "13-owner", "12-releases"]) == 2
    assert "12-release" in capsys.readouterr().err


def row_of(name, met=True):
    return {"fault": name, "injected": "", "target": "", "ours": {"text": ""}, "lerobot": {"text": ""},
            "starved": "", "pass": met}  # fmt: skip


@pytest.fixture
def measuring(monkeypatch):
    """Rows without an arm: the names that were asked for, and those that are not met."""
    asked, missed = [], set()

    def run_faults(only, effort, keep):
        for name in only:
            asked.append(name)
            keep(row_of(name, name not in missed))

    monkeypatch.setattr(faults, "run_faults", run_faults)
    return asked, missed


def test_the_command_prints_rows_and_says_by_its_code_whether_all_were_met(capsys, measuring):
    only = ["bench", "faults", "--only", "13-owner"]
    assert main([*only, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == [row_of("13-owner")]
    measuring[1].add("13-owner")
    assert main(only) == 1
    assert "NOT MET" in capsys.readouterr().out


def test_rows_are_kept_as_they_come_and_gone_on_with(capsys, measuring, tmp_path):
    asked, _ = measuring
    file = tmp_path / "new" / "faults.json"
    given = ["bench", "faults", "--output", str(file), "--seconds", "5"]
    assert main([*given, "--only", "13-owner", "12-release"]) == 0
    assert [row["fault"] for row in json.loads(file.read_text())["rows"]] == ["12-release", "13-owner"]
    asked.clear()
    assert main([*given, "--only", "13-owner", "9-far"]) == 0
    assert asked == ["9-far"]
    assert len(json.loads(file.read_text())["rows"]) == 3
    capsys.readouterr()
    assert main(["bench", "faults", "--output", str(file)]) == 2
    assert "repeat those" in capsys.readouterr().err
    file.write_text("[]")
    assert main(given) == 2
    assert "no rows of `bench faults`" in capsys.readouterr().err
    assert file.read_text() == "[]"
    asked.clear()
    file.unlink()
    (file.parent / "plain").write_text("")
    assert main([*given[:2], "--output", str(file.parent / "plain" / "faults.json")]) == 2
    assert asked == []  # nothing was measured first
