"""Samples a second of a training step, beside LeRobot's policies.

Every row runs in a process of its own, on one micro-batch in memory, in bfloat16 and in float32. Both loaders
are measured on the dataset: what share of a row's time they would take.

Examples:
  hybridpolicy bench train
  hybridpolicy bench train --dataset outputs/quickstart/data/demonstrations --json
  hybridpolicy bench train --only "hybrid joint" "lerobot act" --rounds 1
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

DEMONSTRATIONS = 40  # recorded where no dataset is given
LOADER_S = 4.0  # of measuring each loader, at most

ROW = "{:<24}{:<6}{:>10}{:>12.0f}{:>12.0f}{:>10.2f}"
HEADER = "{:<24}{:<6}{:>10}{:>12}{:>12}{:>10}".format(
    "policy", "", "params", "samples/s", "peak MiB", "× peer"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `bench train`."""
    parser.add_argument("--seconds", type=float, default=6.0, help="of steps a row; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=2, help="over all rows; default: %(default)s")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="some of the rows that --json prints")
    parser.add_argument("--dataset", metavar="PATH_OR_ID", help="default: demonstrations recorded now")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the table; 1 where a row misses its bar."""
    from hybridpolicy.errors import allowed
    from recipes.bench.training import row_names, training_table
    from recipes.commands.failures import CommandError
    from recipes.commands.progress import progress
    from recipes.job import git_revision, machine

    names = args.only or row_names()
    for name in names:
        if name not in row_names():
            raise CommandError(f"no row {name!r}: {allowed(name, row_names())}")
    loaders = _loaders(args.dataset, min(args.seconds, LOADER_S))
    with progress("training", 2 * args.rounds * len(names), "rows") as bar:
        table = training_table(names, args.seconds, args.rounds, loaders, bar.advance)
    status = int(any(not row.get("pass", True) for row in table))
    if args.json:
        json.dump({"machine": machine(), "git": git_revision(), "rows": table}, sys.stdout, indent=2)
        print()
        return status
    print(HEADER)
    for row in table:
        ratio = row["ratio_to_best_peer"] or float("nan")
        print(
            ROW.format(
                row["policy"],
                row["precision"],
                row["params"],
                row["samples_per_s"],
                row["peak_memory_mib"],
                ratio,
            )
        )
        if not row.get("pass", True):
            print(f"  misses its bar: {row['bars']}")
    return status


def _loaders(dataset: str | None, seconds: float) -> dict[str, float]:
    """Samples a second of this project's loader and of LeRobot's."""
    from embodiments.so101.recording import record_demonstrations
    from hybridpolicy.training.bench import measure_loader
    from hybridpolicy.training.config import DatasetSource
    from hybridpolicy.training.loader import Window
    from recipes.commands.data.location import locate

    with tempfile.TemporaryDirectory() as folder:
        if dataset is None:
            source = DatasetSource(str(Path(folder) / "demonstrations"))
            record_demonstrations(source.root, DEMONSTRATIONS)
        else:
            source = DatasetSource(*locate(dataset))
        ours, theirs = (
            measure_loader(
                source, Window(observed, tuple(range(8))), Path(folder) / "cache", budget_s=seconds,
                image_size=(96, 96),
            )
            for observed in ((0, 4, 8), (0,))  # the peers see no future
        )  # fmt: skip
    return {"hybrid": ours.samples_per_s, "lerobot": theirs.lerobot_samples_per_s}
