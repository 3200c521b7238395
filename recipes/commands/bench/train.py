"""Samples a second of a training step, beside LeRobot's policies.

Every row runs in a process of its own, on micro-batches in memory, in bfloat16 and in float32. Both loaders
are measured on the dataset: what share of a row's time they would take if nothing were loaded ahead.
What each key of --json is: docs/bench.md.

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

ROW = "{:<30}{:<6}{:>10}{:>14.0f}{:>11.0f}{:>10.0f}{:>8.2f}"
HEADER = "{:<30}{:<6}{:>10}{:>14}{:>11}{:>10}{:>8}".format(
    "policy", "", "params", "MFLOP/sample", "samples/s", "peak MiB", "× peer"
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

    if args.seconds <= 0 or args.rounds < 1:
        raise CommandError(
            f"--seconds {args.seconds:g} --rounds {args.rounds}; give more than 0 s, and 1 round"
        )
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
        names = ("policy", "precision", "params", "mflops_per_sample", "samples_per_s", "peak_memory_mib")
        print(ROW.format(*(row[name] for name in names), row["ratio_to_best_peer"] or float("nan")))
        if not row.get("pass", True):
            print(f"  misses its bar: {row['bars']}")
    return status


def _loaders(dataset: str | None, seconds: float) -> dict[str, float]:
    """Samples a second of this project's loader, with and without futures, and of LeRobot's without."""
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
        ahead, now = (
            measure_loader(
                source, Window(observed, tuple(range(8))), Path(folder) / "cache", budget_s=seconds,
                image_size=(96, 96),
            )
            for observed in ((0, 4, 8), (0,))
        )  # fmt: skip
    return {"hybrid, future": ahead.samples_per_s, "hybrid": now.samples_per_s,
            "lerobot": now.lerobot_samples_per_s}  # fmt: skip
