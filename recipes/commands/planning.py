"""The planner's options, for every command that lets a policy act."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser, candidates: int | None = None) -> None:
    """Adds `--planner-k`, what else begins with `--planner-`, and `--gate`.

    candidates: where `--planner-k` is not given; None: no planner.
    """
    parser.add_argument(
        "--planner-k", type=int, default=candidates, metavar="K",
        help=f"candidates a plan is chosen from; default: {candidates or 'no planner'}",
    )  # fmt: skip
    parser.add_argument(
        "--planner-budget-ms", type=float, metavar="MS", help="time of a plan; K is lowered to what fits"
    )
    parser.add_argument(
        "--planner-risk", type=float, default=0.0, metavar="W", help="weight of risk; default: %(default)s"
    )
    parser.add_argument(
        "--planner-success", type=float, default=1.0, metavar="W",
        help="weight of the chance of success, progress having 1; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--planner-goal",
        metavar="DIR",
        help="plan towards a picture instead: <camera>.png there for every camera; needs no outcome heads",
    )
    parser.add_argument(
        "--gate",
        action="store_true",
        help="choose only among candidates within the SO-101's limits; where none is, the arm stands",
    )


def check(args: argparse.Namespace) -> None:
    """Raises CommandError for options that do not go together, before anything is loaded."""
    from recipes.commands.failures import CommandError

    weighed = args.planner_risk != 0.0 or args.planner_success != 1.0
    asked = args.gate or args.planner_budget_ms is not None or args.planner_goal is not None
    if args.planner_k is None and (asked or weighed):
        raise CommandError("--gate and --planner-… are of a planner; give --planner-k, too")
    if args.planner_goal is not None and weighed:
        raise CommandError(
            "--planner-goal with --planner-risk or --planner-success: nearness to the picture is the score, "
            "and outcome heads are not asked; leave out one of them"
        )
    if args.planner_goal is not None and not Path(args.planner_goal).is_dir():
        raise CommandError(
            f"--planner-goal {args.planner_goal}: no such folder; give one that holds <camera>.png for every "
            "camera of the policy"
        )
    if args.planner_k is not None and args.imagine:
        raise CommandError(
            "--imagine with --planner-k: a planner imagines every candidate; leave out one of them"
        )


def settings(args: argparse.Namespace) -> Any:
    """`PlannerSettings`, or None where no planner was asked for."""
    if args.planner_k is None:
        return None
    from hybridpolicy.planner import PlannerSettings  # with torch, which driving an arm does without

    return PlannerSettings(
        args.planner_k, args.planner_risk, args.planner_success, budget_ms=args.planner_budget_ms
    )


def set_planner(args: argparse.Namespace, actor: Any) -> dict[str, Any] | None:
    """Gives `actor` the planner and goal that were asked for; their facts for a record, None without one."""
    from embodiments.so101.constants import JOINT_NAMES
    from embodiments.so101.gate import SO101Gate
    from recipes.commands.failures import CommandError
    from recipes.goal_pictures import read_goal

    asked = settings(args)
    if asked is None:
        return None
    config = actor.policy.config
    if args.gate and list(config.action_feature_names or ()) != list(JOINT_NAMES):
        raise CommandError(
            f"--gate is of the SO-101 and judges {list(JOINT_NAMES)}; the policy acts on "
            f"{config.action_feature_names}"
        )
    gate = SO101Gate(float(config.fps)) if args.gate else None
    actor.set_planner(asked, gate)
    if args.planner_goal is not None:
        actor.set_goal(read_goal(args.planner_goal, config.cameras))
    return asdict(asked) | {"gate": args.gate, "goal": args.planner_goal}
