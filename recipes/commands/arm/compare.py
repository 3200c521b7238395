"""Compare a policy in direct simulation and over the serial bus.

Both sides play the same scenes. The simulated SO-101 is started on a serial port, with servos, weight and
time as on a table, and the policy is deployed to it as `arm run` deploys it. Both successes have 95 % Wilson
intervals, their difference one of pairs of scenes. About eight seconds an episode: the serial side runs in
real time.

Examples:
  hybridpolicy arm compare --policy path/to/pretrained_model --episodes 60 --output so101_serial.json
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from hybridpolicy.couplings import IMAGINE_MODES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `arm compare`."""
    parser.add_argument(
        "--policy", required=True, metavar="PATH_OR_ID", help="what training wrote, or a Hub id"
    )
    parser.add_argument("--episodes", type=int, default=60, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--seed", type=int, default=50_000_000, help="of the first scene; default: %(default)s"
    )
    parser.add_argument(
        "--rate", type=float, default=100.0, metavar="HZ", help="of control; default: %(default)s"
    )
    parser.add_argument(
        "--error-deg",
        type=float,
        default=0.0,
        metavar="DEG",
        help="calibration error of the simulated arm, which direct simulation has none of; "
        "default: %(default)s",
    )
    parser.add_argument("--imagine", choices=IMAGINE_MODES, help="default: what the policy was saved with")
    parser.add_argument("--output", metavar="FILE", help="also write everything there as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints both successes and their difference."""
    import lerobot_policy_hybrid
    from recipes.arm.setup import RunSettings
    from recipes.commands import files

    # Refused now, and not after the direct side has been played.
    RunSettings("the simulated arm", args.policy, rate_hz=args.rate, episodes=args.episodes)
    files.check_writable(Path(args.output) if args.output else None, "--output")
    lerobot_policy_hybrid.register(everything=True)
    from hybridpolicy.files import write_json
    from recipes.arm.compare import compare_on_twin
    from recipes.arm.view import view_for
    from recipes.commands.progress import progress

    found = compare_on_twin(
        args.policy,
        args.episodes,
        args.seed,
        imagine=args.imagine,
        rate_hz=args.rate,
        error_deg=args.error_deg,
        view=view_for(sys.stdout),
        progress=progress,
        command=shlex.join(["hybridpolicy", *sys.argv[1:]]),
    )
    budget = found["serial"]["success_within_budget"]
    _print("direct simulation", found["direct"])
    _print("serial bus", found["serial"]["success"])
    _print(f"serial bus, {budget['budget_ticks']} ticks", budget)
    for name, entry in (("difference", "difference"), ("in the same time", "difference_within_budget")):
        row = found[entry]
        print(f"{name:<22}{row['value']:+7.1%}  95 % [{row['low']:+.1%}, {row['high']:+.1%}]")
    if args.output:
        write_json(Path(args.output), found)
        print(f"written: {args.output}")
    return 0


def _print(name: str, row: dict[str, Any]) -> None:
    interval = f"[{row['low']:.1%}, {row['high']:.1%}]"
    print(f"{name:<22}{row['rate']:7.1%}  95 % {interval:<16}  {row['episodes']} episodes")
