"""Record aimless play of a simulated arm, for the world prior.

Play has no task and no demonstrator: nearly free video of what the arm can do to its world.

Examples:
  hybridpolicy data play --episodes 60 --output outputs/play
"""

from __future__ import annotations

import argparse
from pathlib import Path

from recipes.commands.data.arms import PLAY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `data play`."""
    parser.add_argument("--arm", choices=tuple(PLAY), default="so101", help="default: %(default)s")
    parser.add_argument("--episodes", type=int, required=True, metavar="N", help="episodes to record")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the new dataset")
    parser.add_argument("--seed", type=int, default=0, help="of the first reset; default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Records N episodes of play."""
    from recipes.commands.progress import progress

    with progress("recording play", total=args.episodes, unit="episodes") as bar:
        PLAY[args.arm](Path(args.output), args.episodes, args.seed, bar.update)
    print(f"dataset: {args.output}")
    return 0
