"""`bench interrupts`: what uncommanded motion is, and 20 programs interrupted."""

import json

import pytest

from recipes.bench import interrupts
from recipes.bench.interrupts import Look, run_interrupts, summary, uncommanded_deg
from recipes.bench.stand import Stand
from recipes.commands import main

S = 1_000_000_000


def look(at_s, pan, gripper=0.0):
    return Look(round(at_s * S), (pan, 0.0, 0.0, 0.0, 0.0, gripper), 0.0)


def goal(at_s, raw):
    return (round(at_s * S), {1: raw})


def test_motion_that_follows_goals_is_commanded():
    goals = [goal(k * 0.01, 2000 + 10 * k) for k in range(100)]
    looks = [look(k * 0.02, 0.9 * k) for k in range(60)]
    assert uncommanded_deg(looks, goals) == 0.0


def test_motion_after_the_last_goal_is_not():
    goals = [goal(0.0, 2000), goal(0.01, 2010)]
    looks = [look(0.1, 0.0), look(0.3, 5.0), look(0.6, 5.0), look(2.0, 7.5, gripper=50.0)]
    assert uncommanded_deg(looks, goals) == pytest.approx(2.5)  # what it had left to go counts as commanded


def test_an_arm_that_falls_without_any_goal_is_seen():
    assert uncommanded_deg([look(0.0, 0.0), look(1.0, -30.0)], []) == pytest.approx(30.0)


def instant(**changed):
    return {
        "kind": "kill",
        "phase": "run",
        "ended_before": False,
        "arrived": True,
        "uncommanded_deg": 0.1,
        "tip_speed_let_go_m_s": 0.0,
        "torque": [0] * 6,
        "port_free": True,
        "ok": True,
        "starved": False,
        **changed,
    }


def test_one_wrong_instant_fails_the_whole():
    assert summary([instant(), instant()], 0)["pass"]
    found = summary([instant(), instant(ok=False, torque=[1] * 6, port_free=False)], 0)
    assert not found["pass"]
    assert (found["in_order"], found["torque_not_off"], found["port_not_free"]) == (1, 1, 1)
    assert not summary([], 0)["pass"]


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    with Stand(tmp_path_factory.mktemp("interrupts")) as made:
        yield made


def check(found, instants):
    assert found["instants"] == instants
    assert found["not_arrived"] == 0
    wrong = [row for row in found["rows"] if not row["ok"] and not row["starved"]]
    assert not wrong, wrong


def test_twenty_interrupted_programs_leave_an_arm_that_came_down_by_itself(stand):
    found = run_interrupts(stand, 20, seed=20)
    check(found, 20)
    assert found["by_kind"] == {"ctrl-c": 10, "kill": 10}
    assert set(found["by_phase"]) == {"connect", "run", "park", "disconnect"}


def test_the_command_prints_sums_and_every_instant_out_of_order(capsys, monkeypatch, stand):
    found = summary([instant(ok=False)], 0)
    monkeypatch.setattr(interrupts, "run_interrupts", lambda stand, instants, seed, advance: found)
    assert main(["bench", "interrupts", "--instants", "1"]) == 1
    assert "out of order: {'kind': 'kill'" in capsys.readouterr().out
    assert main(["bench", "interrupts", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["instants"] == 1
    assert main(["bench", "interrupts", "--instants", "0"]) == 2
