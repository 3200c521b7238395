"""`bench latency`: what its table says, timed in turn, joined with nothing that was not measured."""

import json

import pytest

from recipes.bench import latency
from recipes.commands import main
from recipes.commands.bench import latency as command


def row(policy, coupling, imagine="never"):
    facts = {"policy": policy, "coupling": coupling, "imagine": imagine, "steps": 1, "planner_k": None,
             "params": 1, "default": False}  # fmt: skip
    return latency.Row(facts, lambda: None)


def test_ratios_are_to_vla_of_the_same_size(tmp_path):
    rows = [row("hybrid", "vla"), row("hybrid", "joint", "always"), row("hybrid, 15 M", "vla"),
            row("lerobot act", None)]  # fmt: skip
    table = latency.latency_table(rows, [[2.0] * 9, [3.0] * 9, [10.0] * 9, [25.0] * 9], tmp_path)
    assert [line["ratio_to_vla"] for line in table] == [1.0, 1.5, 1.0, 2.5]
    assert all(line["success"] is None for line in table)


def test_success_comes_from_a_committed_result_of_the_same_row(tmp_path):
    figures = {"rate": 0.9, "episodes": 288}
    found = {"variants": [{"coupling": "joint", "imagine": {"always": figures}}]}
    (tmp_path / "couplings.json").write_text(json.dumps(found))
    rows = [row("hybrid", "joint", "always"), row("hybrid", "joint"), row("hybrid, flow", "joint", "always")]
    table = latency.latency_table(rows, [[1.0]] * 3, tmp_path)
    assert [line["success"] for line in table] == [0.9, None, None]
    assert table[0]["episodes"] == 288


def test_every_row_is_timed_in_every_round():
    calls = []
    rows = [latency.Row({}, lambda i=i: calls.append(i)) for i in range(3)]
    spent = latency.time_rows(rows, budget_s=0.0)
    rounds = len(calls) // 3
    assert [sorted(calls[3 * n : 3 * n + 3]) for n in range(rounds)] == [[0, 1, 2]] * rounds
    assert calls != sorted(calls)
    assert [len(times) for times in spent] == [rounds - latency.WARM_UP] * 3


def test_the_command_prints_the_couplings(capsys):
    assert tuple(command.GROUPS) == tuple(latency.GROUPS)
    assert main(["bench", "latency", "--seconds", "0.1", "--only", "couplings", "planner", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    named = {(line["coupling"], line["imagine"]): line for line in rows if line["planner_k"] is None}
    assert (
        named["joint", "always"]["tokens"]
        > named["joint", "never"]["tokens"]
        == named["vla", "never"]["tokens"]
    )
    assert [line["planner_k"] for line in rows if line["planner_k"]] == [1, 4, 8, 16]
    assert named["vla", "never"]["ratio_to_vla"] == pytest.approx(1.0)
    assert all(0 < line["p50_ms"] <= line["p95_ms"] for line in rows)
