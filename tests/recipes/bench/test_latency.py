"""`bench latency`: what its table says, timed in turn, joined with nothing that was not measured."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recipes import couplings_study
from recipes.bench import latency
from recipes.bench.work import count_flops, count_live
from recipes.commands import main
from recipes.commands.bench import latency as command


def row(policy, coupling, imagine="never"):
    facts = {"policy": policy, "coupling": coupling, "imagine": imagine, "steps": 1, "planner_k": None,
             "params": 1, "default": False}  # fmt: skip
    return latency.Row(facts, lambda: None, network={"coupling": coupling, "width": len(policy)})


def commit(folder, policy, coupling, gained=None, **figures):
    """A table of couplings with one row, and before it one of the same network, trained otherwise."""
    measured = {"network": row(policy, coupling).network, "imagine": figures, "always_minus_never": gained}
    other = {mode: {"rate": 0.5, "episodes": 999} for mode in figures}
    study = {
        "variants": [measured | {"stage1": "with", "imagine": other}, measured | {"stage1": "without"}],
        "cells": {"stage1-with": [{"seed": 0}], "stage1-without": [{"seed": 0}, {"seed": 1}]},
    }
    (folder / "couplings.json").write_text(json.dumps(study))


def test_ratios_are_to_vla_of_the_same_size(tmp_path):
    rows = [row("hybrid", "vla"), row("hybrid", "joint", "always"), row("hybrid, 15 M", "vla"),
            row("lerobot act", None)]  # fmt: skip
    table = latency.latency_table(rows, [[2.0] * 9, [3.0] * 9, [10.0] * 9, [25.0] * 9], tmp_path)
    assert [line["ratio_to_vla"] for line in table] == [1.0, 1.5, 1.0, 2.5]
    assert all(line["success"] is None for line in table)


def test_success_comes_from_a_committed_result_of_the_same_network(tmp_path):
    commit(tmp_path, "hybrid", "joint", always={"rate": 0.9, "episodes": 288})
    rows = [row("hybrid", "joint", "always"), row("hybrid", "joint"), row("hybrid, flow", "joint", "always"),
            row("hybrid", "cascaded", "always"),
            replace(row("hybrid", "joint", "always"), network=None)]  # fmt: skip
    table = latency.latency_table(rows, [[1.0]] * 5, tmp_path)
    assert [line["success"] for line in table] == [0.9, None, None, None, None]
    assert table[0]["episodes"] == 288
    assert table[0]["results"] == "couplings.json"
    assert table[0]["checkpoint"] == ["stage1-without/seed0", "stage1-without/seed1"]


def test_a_table_of_the_couplings_study_can_be_joined(tmp_path):
    """The committed one; its variant with a stage 1 stands apart."""
    results = Path(__file__).parents[3] / "docs/results"
    measured = json.loads((results / "couplings.json").read_text())["variants"]
    rows = [
        replace(row("hybrid", one["coupling"], next(iter(one["imagine"]))), network=one["network"])
        for one in measured
        if one["stage1"] == "without"
    ]
    table = latency.latency_table(rows, [[1.0]] * len(rows), results)
    assert len(table) >= 2
    assert all(line["success"] > 0 and line["checkpoint"] for line in table)


@pytest.mark.parametrize(
    ("episodes", "gained", "passed"),
    [(288, -0.1, False), (288, -0.04, True), (96, -0.04, None), (0, None, None)],
)
def test_bars_are_of_cost_and_of_what_imagining_loses(tmp_path, episodes, gained, passed):
    if episodes:
        figures = {name: {"rate": 0.9, "episodes": episodes} for name in ("never", "always")}
        commit(tmp_path, "hybrid", "joint", {"value": gained, "low": -1.0, "high": 1.0}, **figures)
    rows = [row("hybrid", "vla"), row("hybrid", "joint"), row("hybrid", "joint", "always"),
            row("hybrid", "cascaded", "always"), row("lerobot act", None)]  # fmt: skip
    table = latency.latency_table(rows, [[1.0], [1.1], [1.2], [1.9], [9.0]], tmp_path)
    assert [line.get("pass") for line in table] == [True, False, passed, False, None]
    assert table[2]["bars"] == {"ratio_to_vla": 1.3, "success_lost_by_imagining": 0.05}
    assert ("unjudged" in table[2]) is (passed is None)


def test_one_plan_in_five_counts_where_it_imagines(tmp_path):
    rows = [row("hybrid", "vla"), row("hybrid", "joint", "on_uncertainty")]
    table = latency.latency_table(rows, [[1.0] * 5, [1.0] * 4 + [6.0]], tmp_path)
    assert (table[1]["p50_ms"], table[1]["ratio_to_vla"]) == (1.0, 2.0)


def test_a_row_is_the_studys_where_their_networks_are_one(tmp_path):
    """The quickstart's own policy, as the study trains it; what runs it with other numbers is not it."""
    trained = {(v.factors["coupling"], v.factors["streams"]): v.config.policy.network
               for v in couplings_study.variants(couplings_study.recipe(str(tmp_path)))}  # fmt: skip
    for one in latency.build_rows(["couplings"], tmp_path):
        assert one.network == trained[one.facts["coupling"], "two"]
    others = {one.facts["policy"]: one.network for one in latency.build_rows(["variants"], tmp_path)}
    assert others.pop("hybrid, tied") == trained["joint", "tied"]
    assert others.pop("hybrid, explicit") not in trained.values()
    assert others == {"hybrid, compiled": None, "hybrid, bfloat16": None, "hybrid, int8 streams": None}


def test_every_kind_of_row_runs(tmp_path):
    """Steps, planner and variants (compiled, bfloat16, explicit, int8, tied), once each."""
    rows = latency.build_rows(["steps", "planner", "variants"], tmp_path)
    for one in rows:
        one.call()
    counted = [(one.facts, one.tokens()) for one in rows if one.tokens is not None]
    assert all(tokens > 0 for _, tokens in counted)
    by_steps = {(facts["steps"], facts["prefix_cache"]): tokens for facts, tokens in counted
                if "prefix_cache" in facts}  # fmt: skip
    chunk = 8
    context = by_steps[1, True] - chunk
    for steps in (2, 4, 10):
        assert by_steps[steps, True] == context + steps * chunk
        assert by_steps[steps, False] == steps * (context + chunk)
    assert {one.facts["policy"] for one in rows} >= {"hybrid, compiled", "hybrid, tied", "hybrid, flow world"}


def test_without_a_cache_the_chunk_is_the_same():
    """Of two observations, one of which holds a token that nobody may see: its instruction is empty."""
    policy = latency.small_policy(coupling="joint", action_law="flow", action_steps=3)
    other = latency.uncached(policy)
    one = latency.observation()
    batch = {key: x.repeat(2, *[1] * (x.ndim - 1)) for key, x in one.items() if isinstance(x, torch.Tensor)}
    batch["task"] = [*one["task"], ""]
    cached, bare = (each.predict_action_chunk(batch) for each in (policy, other))
    torch.testing.assert_close(bare, cached, rtol=0, atol=1e-5)
    policy.reset()  # the same noise again
    heard = policy.predict_action_chunk(batch | {"task": one["task"] * 2})
    assert float((heard[1] - cached[1]).abs().max()) > 1e-3  # else any context would do


def test_what_a_call_takes_is_counted():
    """A product of (3, 4) by (4, 5) is 60 multiply-adds; a layer that is not called is not alive."""
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(4, 5), "idle": torch.nn.Linear(4, 7)})
    x = torch.randn(3, 4)
    assert count_live(model, lambda: model["used"](x)) == 25
    assert count_flops(lambda: model["used"](x)) == 120
    q = torch.randn(1, 2, 6, 8)
    attended = count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert attended == 2 * (2 * 6 * 6 * 8) * 2
    q.requires_grad_()  # backward takes five such products, for one of the two is made again
    trained = lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()  # noqa: E731
    assert count_flops(trained, trained=True) == attended + 5 * (2 * 6 * 6 * 8) * 2
    alternating = itertools.count()
    assert count_flops(lambda: model["used"](x) if next(alternating) % 2 else None, 4) == 60


def test_imagining_costs_operations_and_uses_more_of_the_network(tmp_path):
    rows = {(one.facts["coupling"], one.facts["imagine"]): one.facts
            for one in latency.build_rows(["couplings"], tmp_path)}  # fmt: skip
    never, always = (rows["joint", imagine] for imagine in ("never", "always"))
    assert never["flops"] == rows["vla", "never"]["flops"] < always["flops"]
    assert never["live_params"] < always["live_params"] < always["params"]
    on_demand = rows["joint", "on_uncertainty"]["flops"]
    assert never["flops"] < on_demand < always["flops"]


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
    status = main(["bench", "latency", "--seconds", "0.1", "--only", "couplings", "planner", "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert status == int(any(line.get("pass") is False for line in rows))
    assert sum("pass" in line for line in rows) == 8  # never: 5, always: 2, K = 8
    named = {(line["coupling"], line["imagine"]): line for line in rows if line["planner_k"] is None}
    assert (
        named["joint", "always"]["tokens"]
        > named["joint", "never"]["tokens"]
        == named["vla", "never"]["tokens"]
    )
    for coupling in ("joint", "cascaded"):
        on_demand = named[coupling, "on_uncertainty"]
        assert on_demand["imagined_share"] == 0.2
        assert named[coupling, "never"]["tokens"] <= on_demand["tokens"]
    assert [line["planner_k"] for line in rows if line["planner_k"]] == [1, 4, 8, 16, 8, 8]
    assert named["vla", "never"]["ratio_to_vla"] == pytest.approx(1.0)
    assert all(0 < line["p50_ms"] <= line["p95_ms"] for line in rows)
