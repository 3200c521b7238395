"""`bench train`: what its table says of one row, and which bars it judges."""

import json

from recipes.bench import training
from recipes.commands import main


def test_ratios_and_bars_are_of_the_best_peer(monkeypatch):
    rates = {
        "hybrid joint": 300.0,
        "hybrid joint, 15 M": 90.0,
        "lerobot act": 50.0,
        "lerobot diffusion": 60.0,
    }

    def measured(name, seconds, precision):
        return {"samples_per_s": rates[name] * (1.0 if precision == "bf16" else 0.5), "peak_memory_mib": 1.0,
                "params": 1}  # fmt: skip

    monkeypatch.setattr(training, "measure_apart", measured)
    heard = []
    loaders = {"hybrid": 900.0}
    table = training.training_table(list(rates), 1.0, 2, loaders, lambda: heard.append(1))
    rows = {(row["policy"], row["precision"]): row for row in table}
    assert len(heard) == 2 * 2 * len(rates)
    assert rows["hybrid joint", "bf16"]["ratio_to_best_peer"] is None  # another size
    assert "pass" not in rows["hybrid joint", "bf16"]
    assert rows["hybrid joint, 15 M", "bf16"]["ratio_to_best_peer"] == 1.5
    assert rows["hybrid joint, 15 M", "bf16"]["pass"] is False
    assert rows["lerobot act", "bf16"]["ratio_to_best_peer"] == 50.0 / 60.0
    assert rows["hybrid joint", "bf16"]["loader_share"] == 300.0 / 1200.0
    assert rows["lerobot act", "bf16"]["loader_share"] is None


def test_a_row_is_trained_in_a_process_of_its_own(capsys):
    command = ["bench", "train", "--seconds", "0.1", "--rounds", "1", "--only", "hybrid joint", "--json"]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["precision"] for row in rows] == ["bf16", "fp32"]
    assert all(row["samples_per_s"] > 0 and row["peak_memory_mib"] > 100 for row in rows)
    assert all(0.0 < row["loader_share"] < 1.0 for row in rows)
    assert main([*command[:-2], "hybrid nothing"]) == 2
