"""Train a policy by a recipe, or on your own dataset.

Your own dataset is a folder or a Hub id that lerobot-record wrote; cameras, joints, units and rate are read
from it, shown, and checked against the known arms before anything is trained. The output folder holds
checkpoints, metrics.jsonl and the resolved configuration. `accelerate launch -m recipes.commands train
--dataset ...` runs the same on several devices.

Examples:
  hybridpolicy train --list
  hybridpolicy train --recipe so101_twin
  hybridpolicy train --dataset path/to/dataset --output outputs/mine
  hybridpolicy train --dataset someone/so101_pick_cube --dry-run
  hybridpolicy train --dataset path/to/dataset --rollouts outputs/own outputs/more --output outputs/judging
  hybridpolicy train --recipe so101_twin --resume
  hybridpolicy train --recipe so101_twin --set policy.coupling=cascaded --set stages.1.samples=20000
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipes.commands import coupling, overrides
from recipes.commands.failures import CommandError

OWN_DATA_RECIPE = "own_data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `train`."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipe", metavar="NAME", help="a recipe of --list")
    what.add_argument("--dataset", metavar="PATH_OR_ID", help="your own dataset: a folder or a Hub id")
    what.add_argument("--list", action="store_true", help="list the recipes and exit")
    parser.add_argument(
        "--rollouts",
        metavar="DIR",
        nargs="+",
        default=[],
        help="a policy's own tries, beside --dataset: outcome heads learn how they end; none is imitated",
    )
    parser.add_argument("--output", metavar="DIR", help="where the run goes (default: what the recipe says)")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last complete checkpoint in --output"
    )
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help=overrides.HELP)
    parser.add_argument("--dry-run", action="store_true", help="print the resolved configuration and exit")


def run(args: argparse.Namespace) -> int:
    """Trains to the end of the last stage."""
    from recipes.registry import find_recipes, get_job, get_recipe

    if args.list:
        entries = find_recipes()
        width = max((len(entry.name) for entry in entries), default=0)
        for entry in entries:
            print(f"{entry.name:<{width}}  {entry.summary}")
        return 0
    output = (args.output,) if args.output else ()
    if args.rollouts and not args.dataset:
        raise CommandError("--rollouts go beside demonstrations; give these with --dataset")
    if args.dataset:
        from recipes.own_data import describe_rollouts, read_arm

        print(read_arm(args.dataset).describe())
        config = get_recipe(OWN_DATA_RECIPE)(args.dataset, *output, rollouts=args.rollouts)
        for rollouts in args.rollouts:
            print(describe_rollouts(rollouts))
    else:
        config = get_recipe(args.recipe)(*output)
    if args.recipe and any(assignment.startswith("output_dir=") for assignment in args.set):
        raise CommandError("--set output_dir: a recipe's data lie beside its run; give both with --output")
    config = _set(config, args.set)
    if args.dry_run:
        from hybridpolicy.training.config import encode_recipe

        print(json.dumps(encode_recipe(config), indent=2))
        return 0
    job = None if args.dataset else get_job(args.recipe)
    return train(config, resume=args.resume, job=job)


def _set(config: Any, assignments: list[str]) -> Any:
    """`config` with the assignments of --set, and with what follows from a coupling among them."""
    config = overrides.override(config, coupling.complete(config, assignments))
    if any(assignment.startswith(f"{coupling.COUPLING}=") for assignment in assignments):
        config, idle = coupling.leave_out_idle_stages(config)
        for name in idle:
            print(
                f"stage    {name} left out: coupling {config.policy.coupling} learns nothing from its video"
            )
    return config


def train(config: Any, *, resume: bool, job: Callable[..., Path] | None = None) -> int:
    """Runs `config` to its end. A finished or broken-off run in its folder is only touched with `resume`.

    `job`: the recipe's whole job, which also records its data, evaluates and reports.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if job is not None and processes > 1:
        raise CommandError(
            f"recipe {config.name!r} also records, evaluates and reports, in one process, and this is one of "
            f"{processes}: run it without `accelerate launch`, or train on several with --dataset"
        )
    checkpoints = Path(config.output_dir) / "checkpoints"
    if checkpoints.exists() and not resume:
        raise CommandError(
            f"{config.output_dir} holds a run already; go on with --resume, or choose another --output"
        )
    if resume and not checkpoints.exists():
        raise CommandError(
            f"{config.output_dir} holds no run to resume; leave out --resume, or give its folder as --output"
        )
    import lerobot_policy_hybrid

    lerobot_policy_hybrid.register(everything=True)
    from hybridpolicy.training.run import train_recipe
    from recipes.commands.progress import follow_training, progress

    try:
        if job is not None:
            page = job(Path(config.output_dir).parent, seed=config.seed, progress=progress, config=config)
            print(f"report:  {page}")
            return 0
        with follow_training() as show:
            summary = train_recipe(config, progress=show)
    except KeyboardInterrupt:
        further = " and --resume" if checkpoints.exists() else ""
        print(f"\n{config.output_dir}: to go on, give the same command{further}", file=sys.stderr)
        raise
    print(f"policy:  {summary.policy_path}")
    print(f"metrics: {summary.metrics}")
    return 0
