"""Measure what a policy must know about itself at run time; store it.

--imagine-rate R lets the policy decide when to imagine: it is rolled out without, and the threshold is set so
that a share R of its plans, those that break most with the plan before, would be made again with a future.

Examples:
  hybridpolicy calibrate --policy path/to/pretrained_model --env so101_twin --imagine-rate 0.2
  hybridpolicy calibrate --policy path/to/pretrained_model --env so101_twin --imagine-rate 0.2 --dry-run
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from recipes.commands import environment
from recipes.commands.failures import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `calibrate`."""
    parser.add_argument("--policy", required=True, metavar="DIR", help="a pretrained_model folder")
    environment.add_arguments(parser)
    parser.add_argument(
        "--imagine-rate", required=True, type=float, metavar="R", help="share of plans, 0 to 1"
    )
    parser.add_argument(
        "--episodes", type=int, default=48, help="rolled out, equally many of each task; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=100_000, help="of the first scene; default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="measure, store nothing")


def run(args: argparse.Namespace) -> int:
    """Prints the calibration as JSON and stores it in the policy's folder."""
    from hybridpolicy.location import find_policy

    environment.check_episodes(args)
    if not args.dry_run and not Path(find_policy(args.policy)).is_dir():
        raise CommandError(
            f"--policy {args.policy}: the threshold of a policy on the Hub cannot be stored there; download "
            "it and give its folder, or --dry-run"
        )
    from hybridpolicy.evaluation.calibration import calibrate_imagination, store_imagination
    from recipes.commands.progress import progress

    settings = environment.settings(args)
    with progress("rolling out", args.episodes, "episodes") as bar:
        calibration = calibrate_imagination(
            args.policy, args.env, args.imagine_rate, tasks=environment.tasks(args), episodes=args.episodes,
            seed=args.seed, progress=bar.update, **settings,
        )  # fmt: skip
    if not args.dry_run:
        store_imagination(Path(args.policy), calibration)
    shown = {
        "imagine_threshold": calibration.threshold,
        "imagine_rate": calibration.rate,
        "plans": calibration.plans,
        "success_without_imagination": calibration.success["rate"],
        "stored": None if args.dry_run else args.policy,
    }
    print(json.dumps(shown, indent=2))
    return 0
