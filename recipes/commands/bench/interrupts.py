"""Ctrl-C and SIGKILL at random instants: whether anything moves.

The program connects to a simulated arm, arms it, moves it, parks it and disconnects, over and over. Ctrl-C is
typed through a terminal of its own, so the whole foreground process group gets it. Judged at the motors: at
most 0.5 degrees of motion that no goal asked for, a tip slower than 5 cm/s once let go in the rest pose,
torque off, port free. An instant takes about ten seconds.

Examples:
  hybridpolicy bench interrupts --instants 200 --json
  hybridpolicy bench interrupts --instants 10 --seed 1
"""

from __future__ import annotations

import argparse
import json
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `bench interrupts`."""
    parser.add_argument("--instants", type=int, default=200, help="half of each; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the instants; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON, every instant with it")


def run(args: argparse.Namespace) -> int:
    """Prints the sums; exit code 1 if anything was out of order."""
    import tempfile
    from pathlib import Path

    from recipes.bench.interrupts import run_interrupts
    from recipes.bench.stand import Stand
    from recipes.commands.failures import CommandError
    from recipes.commands.progress import progress

    if args.instants < 1:
        raise CommandError(f"--instants is {args.instants}; give at least 1")
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Stand(Path(folder)) as stand,
        progress("interrupting", args.instants, "instants") as bar,
    ):
        found = run_interrupts(stand, args.instants, args.seed, bar.advance)
    if args.json:
        from recipes.job import git_revision, machine  # torch: after measuring

        json.dump({"machine": machine(), "git": git_revision(), **found}, sys.stdout, indent=2)
        print()
    else:
        for name, value in found.items():
            if name != "rows":
                print(f"{name:<28}{value}")
        for row in found["rows"]:
            if not row["ok"]:
                print(f"out of order: {row}")
    return 0 if found["pass"] else 1
