"""Record scripted demonstrations of a simulated arm.

The output is a LeRobotDataset with the columns and joint names that lerobot-record writes for the real arm.
Failed attempts are kept out and counted. A real arm is recorded with LeRobot's own lerobot-record; train on
it with `hybridpolicy train --dataset`.

Examples:
  hybridpolicy data record --episodes 40 --output outputs/demonstrations
  hybridpolicy data record --arm metaworld --tasks mt8 --episodes 40 --output outputs/mt8
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recipes.commands.data.arms import DEMONSTRATE
from recipes.commands.failures import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `data record`."""
    parser.add_argument("--arm", choices=tuple(DEMONSTRATE), default="so101", help="default: %(default)s")
    parser.add_argument("--tasks", metavar="NAMES", help="comma-separated; default: the arm's standard tasks")
    parser.add_argument(
        "--episodes",
        type=int,
        required=True,
        metavar="N",
        help="successes to keep of each task; of so101's on average, for they are drawn alike",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the new dataset")
    parser.add_argument("--seed", type=int, default=0, help="of the first reset; default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Records until N demonstrations of each task succeeded."""
    from recipes.commands.progress import progress

    if args.episodes < 1:
        raise CommandError(f"--episodes {args.episodes}: keep 1 or more of each task")
    with progress("recording", total=args.episodes, unit="episodes") as bar:
        summary = DEMONSTRATE[args.arm](Path(args.output), args.tasks, args.episodes, args.seed, bar.update)
    left_out = ", ".join(f"{count} of {task}" for task, count in summary.failures.items() if count) or "none"
    print(f"{summary.episodes} episodes, {summary.frames} frames; failed attempts left out: {left_out}")
    print(f"dataset: {args.output}")
    return 0
