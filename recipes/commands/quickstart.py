"""Record, train, evaluate and report, offline, in 12 minutes.

Everything happens on the simulated SO-101 arm and two processor cores. Demonstrations and aimless play are
recorded into LeRobotDatasets, a world prior is trained on action-free video, then the policy on
demonstrations; held-out resets are evaluated in closed loop. The output folder holds the datasets, the
policy, report.json and report.html (open it in a browser).

Examples:
  hybridpolicy quickstart
  hybridpolicy quickstart --output outputs/second --seed 1
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `quickstart`."""
    parser.add_argument("--output", default="outputs/quickstart", metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of recording and training; evaluation plays the same scenes always; default: %(default)s",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the whole job and names what it wrote."""
    from recipes.commands.progress import progress
    from recipes.so101_quickstart import run as run_quickstart

    page = run_quickstart(Path(args.output), seed=args.seed, progress=progress)
    print(f"report: {page}")
    return 0
