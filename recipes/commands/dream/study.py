"""Compare success in the dream with success on the simulated arm.

At least 16 policies of different quality are made of those given: as trained, with noise on their actions,
with shortened motion, with a shifted joint. Each plays the same scenes on the twin and in the dream, and the
report says how well the two agree. Give several checkpoints, the best one last.

Examples:
  hybridpolicy dream study --policy path/to/pretrained_model
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `dream study`."""
    parser.add_argument("--policy", required=True, nargs="+", metavar="DIR", help="pretrained_model folders")
    parser.add_argument("--world", metavar="DIR", help="the policy that imagines; default: the last of them")
    parser.add_argument("--episodes", type=int, default=96, help="per policy; default: %(default)s")
    parser.add_argument("--judge", choices=("auto", "outcome", "probe"), default="auto",
                        help="default: %(default)s")  # fmt: skip
    parser.add_argument("--output", default="outputs/dream_study", metavar="DIR", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Prints the answer in a sentence and where the figures are."""
    from recipes.commands.progress import progress
    from recipes.twin.dream_study import run_study

    path = run_study(
        Path(args.world or args.policy[-1]),
        [Path(folder) for folder in args.policy],
        Path(args.output),
        episodes=args.episodes,
        judge=args.judge,
        progress=progress,
    )
    print(json.loads(path.read_text(encoding="utf-8"))["plainly"])
    print(f"report: {path}")
    return 0
