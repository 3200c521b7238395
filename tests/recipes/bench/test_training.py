"""`bench train`: what its table says of one row, and which bars it judges."""

import json

import pytest
import torch

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
    monkeypatch.setattr(training, "measure_work", lambda name: {"future_share": 0.25})
    heard = []
    loaders = {"hybrid": 1200.0, "hybrid, future": 400.0}
    table = training.training_table(list(rates), 1.0, 2, loaders, lambda: heard.append(1))
    rows = {(row["policy"], row["precision"]): row for row in table}
    assert len(heard) == 2 * 2 * len(rates)
    assert rows["hybrid joint", "bf16"]["ratio_to_best_peer"] is None  # another size
    assert "pass" not in rows["hybrid joint", "bf16"]
    assert rows["hybrid joint, 15 M", "bf16"]["ratio_to_best_peer"] == 1.5
    assert rows["hybrid joint, 15 M", "bf16"]["pass"] is False
    assert rows["lerobot act", "bf16"]["ratio_to_best_peer"] == 50.0 / 60.0
    assert rows["hybrid joint", "bf16"]["loader_samples_per_s"] == pytest.approx(800.0)  # 3 of 4 at 1200
    assert rows["hybrid joint", "bf16"]["loader_share"] == pytest.approx(300.0 / 1100.0)
    assert rows["lerobot act", "bf16"]["loader_share"] is None


class Products(torch.nn.Module):
    """A sample is multiplied by one matrix a moment; both factors are learned, so a step takes three."""

    def __init__(self):
        super().__init__()
        self.sample = torch.nn.Parameter(torch.randn(training.COUNTED_BATCH, 5))
        self.matrix = torch.nn.Parameter(torch.randn(5, 5))

    def forward(self, batch):
        moments = batch["observation.state"].shape[1]
        return sum((self.sample @ self.matrix).sum() for _ in range(moments)), {}


@pytest.mark.parametrize("peer", [False, True])
def test_the_work_of_a_sample_is_that_of_its_steps_in_their_proportion(monkeypatch, peer):
    """One step in four looks at three moments, the others at one: 1.5 moments."""
    name = "lerobot act" if peer else "hybrid joint"

    def looks(step):
        return not peer and step % 4 == 0

    row = training.Trained(Products(), looks, lambda: None, (1, 3), torch.uint8)
    monkeypatch.setattr(training, "build", {name: row}.__getitem__)
    found = training.measure_work(name)
    assert found["future_share"] == (0.0 if peer else 0.25)
    product = 2 * 5 * 5
    assert found["mflops_per_sample"] == pytest.approx(1e-6 * 3 * product * (1.0 if peer else 1.5))


def test_pictures_are_as_the_rows_loader_gives_them():
    for name, dtype, most in (("hybrid joint", torch.uint8, 255), ("lerobot act", torch.float32, 1.0)):
        batch = training.build(name).batches(2)(0)
        for camera in training.CAMERAS:
            pictures = batch[f"observation.images.{camera}"]
            assert pictures.dtype == dtype
            assert 0.9 * most < float(pictures.max()) <= most


def test_rows_that_are_compared_are_of_one_size():
    """What counts as matched: within a tenth of 14.5 million parameters."""
    matched = [name for name in training.row_names() if name.endswith("15 M") or name in training.PEERS]
    counts = {name: sum(p.numel() for p in training.build(name).policy.parameters()) for name in matched}
    assert len(counts) == 7 + 3
    assert {name: count for name, count in counts.items() if abs(count / 14.5e6 - 1) > 0.1} == {}


def test_a_row_is_trained_in_a_process_of_its_own(capsys):
    command = ["bench", "train", "--seconds", "0.1", "--rounds", "1", "--only", "hybrid joint", "--json"]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["precision"] for row in rows] == ["bf16", "fp32"]
    assert all(row["samples_per_s"] > 0 and row["peak_memory_mib"] > 100 for row in rows)
    assert all(0.0 < row["loader_share"] < 1.0 for row in rows)
    assert all(row["future_share"] == pytest.approx(0.5, abs=0.03) for row in rows)  # the quickstart's
    assert all(300 < row["mflops_per_sample"] < 1200 for row in rows)
    assert main([*command[:-2], "hybrid nothing"]) == 2
