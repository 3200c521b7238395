"""Milliseconds of one chunk, every coupling beside LeRobot's policies.

Rows are timed in turn in one process on this machine, with random weights. Success is joined from committed
results of the same configuration where there are any. What each key of --json is: docs/bench.md.

Examples:
  hybridpolicy bench latency
  hybridpolicy bench latency --json
  hybridpolicy bench latency --seconds 60 --only couplings planner
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

GROUPS = ("couplings", "steps", "planner", "variants", "peers")
COLUMNS = ("policy", "coupling", "imagine", "steps", "K", "tokens", "p50 ms", "p95 ms", "× vla")
ROW = "{:<22}{:<16}{:<15}{:>5}{:>4}{:>8}{:>9.2f}{:>9.2f}{:>7.2f}"
HEADER = ROW.replace(".2f", "").format(*COLUMNS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `bench latency`."""
    parser.add_argument("--seconds", type=float, default=240.0, help="of timing; default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="default: all of them")
    parser.add_argument("--results", default="docs/results", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the table; 1 where a row misses its bar."""
    from recipes.bench.latency import build_rows, latency_table, time_rows
    from recipes.commands.progress import progress
    from recipes.job import git_revision, machine

    with tempfile.TemporaryDirectory() as folder:
        rows = build_rows(args.only, Path(folder))
        with progress("timing", int(args.seconds), "s") as bar:
            spent = time_rows(rows, args.seconds, bar.update)
        table = latency_table(rows, spent, Path(args.results))
    status = int(any(line.get("pass") is False for line in table))
    if args.json:
        json.dump({"machine": machine(), "git": git_revision(), "rows": table}, sys.stdout, indent=2)
        print()
        return status
    print(HEADER)
    for line in table:
        names = ("policy", "coupling", "imagine", "steps", "planner_k", "tokens")
        shown = ["" if line[name] is None else line[name] for name in names]
        ratio = line["ratio_to_vla"] or float("nan")
        print(ROW.format(*shown, line["p50_ms"], line["p95_ms"], ratio))
        if line.get("pass") is False:
            print(f"  misses its bar: {line['bars']}")
        if "unjudged" in line:
            print(f"  not judged by success: {line['unjudged']}")
    return status
