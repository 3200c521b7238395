"""What choosing among K candidates gains on the twin, and could gain.

At decision points the simulated table is restored, each candidate executed, and the policy goes on by itself.
Best-of-K by outcome is the ceiling of one choice; the planner's own choice is compared with a candidate at
random. Then the same scenes are played whole, with one candidate and with K. The policy needs action_law =
flow, and trained outcome heads or --planner-success 0. Give the planner's options as you would let it act.
What each key of --json is: docs/bench.md.

Examples:
  hybridpolicy bench planner --policy path/to/pretrained_model --output planner.json
  hybridpolicy bench planner --policy path/to/pretrained_model --episodes 48 --planner-k 16 --gate
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from recipes.commands import files, planning

CANDIDATES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `bench planner`."""
    parser.add_argument(
        "--policy", required=True, metavar="PATH_OR_ID", help="what training wrote, or a Hub id"
    )
    parser.add_argument("--episodes", type=int, default=24, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--every", type=int, default=4, metavar="PLANS", help="between decision points; default: %(default)s"
    )
    parser.add_argument(
        "--seed", type=int, default=60_000_000, help="of the first scene; default: %(default)s"
    )
    planning.add_arguments(parser, CANDIDATES)
    parser.set_defaults(imagine=None)  # a planner imagines every candidate
    parser.add_argument("--output", metavar="FILE", help="also write everything there as JSON")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints success of one candidate, the planner's choice and the oracle's."""
    from recipes.commands.failures import CommandError

    planning.check(args)
    if args.planner_k < 2:
        raise CommandError(f"--planner-k is {args.planner_k}; there is a choice from 2 candidates on")

    file = Path(args.output) if args.output else None
    files.check_writable(file, "--output")

    from hybridpolicy.evaluation.acting import Actor
    from hybridpolicy.files import write_json
    from recipes.commands.progress import progress
    from recipes.job import git_revision, machine
    from recipes.twin.oracle import OracleSettings, measure_planner

    settings = OracleSettings(args.episodes, args.every, args.seed)
    actor = Actor.load(args.policy)
    planner = Actor(actor.policy, actor.preprocessor, actor.postprocessor)
    facts = planning.set_planner(args, planner) or {}
    policy = {"path": args.policy, "base": actor.policy.base_hash()}
    with progress("planner", 3 * args.episodes, "episodes") as bar:
        found = measure_planner(actor, planner, settings, progress=bar.update)
    facts |= planner.planning or {}
    found = {"policy": policy, "planner": facts, **found, "machine": machine(), "git": git_revision()}
    if file is not None:
        write_json(file, found)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    _print(found)
    return 0


def _print(found: dict[str, Any]) -> None:
    success, loop = found["success"], found["closed_loop"]
    print(f"{found['points']} decision points; candidates {found['spread']['mean']:.2f} degrees apart")
    if found["refused"]:
        print(f"at {found['refused']} of them no candidate passed the gate: the planner stood")
    for name, row in (("one candidate", success["one"]), ("planner", success["planner"]),
                      ("best of K", success["oracle"]), ("whole, one", loop["one"]),
                      ("whole, planner", loop["planner"])):  # fmt: skip
        interval = f"[{row['low']:.1%}, {row['high']:.1%}]"
        print(
            f"{name:<16}{row['rate']:7.1%}  95 % {interval:<16}  of {row.get('episodes', row.get('points'))}"
        )
    gains = (("planner − random", found["gain"]["planner"]), ("best − random", found["gain"]["oracle"]),
             ("whole episodes", loop["gain"]))  # fmt: skip
    for name, row in gains:
        print(f"{name:<16}{row['value']:+7.1%}  95 % [{row['low']:+.1%}, {row['high']:+.1%}]")
