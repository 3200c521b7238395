"""The planner's options, for every command that lets a policy act."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hybridpolicy.planner_settings import WEIGHTS, PlannerSettings

_WEIGHED = {
    "consensus": "being like the other candidates",
    "progress": "how far the task will be",
    "success": "the chance of success",
    "risk": "the chance that something happens, against a candidate",
}


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
    for name in WEIGHTS:
        parser.add_argument(
            f"--planner-{name}", type=float, default=getattr(PlannerSettings, name), metavar="W",
            help=f"weight of {_WEIGHED[name]}; default: %(default)s",
        )  # fmt: skip
    parser.add_argument(
        "--planner-warm-start", action="store_true", help="one candidate goes on with the last plan"
    )
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
    """Raises an error for options that are out of range or do not go together, before anything is loaded."""
    from recipes.commands.failures import CommandError

    weighed = [
        f"--planner-{name}"
        for name in WEIGHTS
        if getattr(args, f"planner_{name}") != getattr(PlannerSettings, name)
    ]
    asked = args.gate or args.planner_warm_start or weighed
    if args.planner_k is None and (asked or {args.planner_budget_ms, args.planner_goal} != {None}):
        raise CommandError("--gate and --planner-… are of a planner; give --planner-k, too")
    if args.planner_goal is not None and weighed:
        raise CommandError(
            f"--planner-goal with {', '.join(weighed)}: nearness to the picture is the score, and nothing "
            "else is weighed; leave out one of them"
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
    settings(args)


def settings(args: argparse.Namespace) -> PlannerSettings | None:
    """What was asked for, or None where it was no planner."""
    if args.planner_k is None:
        return None
    weights = {name: getattr(args, f"planner_{name}") for name in WEIGHTS}
    return PlannerSettings(
        args.planner_k, **weights, warm_start=args.planner_warm_start, budget_ms=args.planner_budget_ms
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
