"""Measure a policy's success in closed loop on held-out resets.

--policy is a checkpoint's pretrained_model folder or a Hub id. The environment is one that the embodiments
registered with LeRobot (`hybridpolicy info --full` lists them).

Examples:
  hybridpolicy eval --policy path/to/pretrained_model --env so101_twin
  hybridpolicy eval --policy path/to/pretrained_model --env hybrid_metaworld --env-set view=workspace
  hybridpolicy eval --policy path/to/pretrained_model --env so101_twin --imagine always
  hybridpolicy eval --policy path/to/pretrained_model --env so101_twin --planner-k 8 --gate
  hybridpolicy eval --policy path/to/pretrained_model --env so101_twin --planner-k 8 --planner-goal pictures
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hybridpolicy.couplings import IMAGINE_MODES
from recipes.commands import environment, files, planning


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `eval`."""
    parser.add_argument(
        "--policy", required=True, metavar="PATH_OR_ID", help="what training wrote, or a Hub id"
    )
    environment.add_arguments(parser)
    parser.add_argument(
        "--episodes",
        type=int,
        default=90,
        metavar="N",
        help="resets in all, equally many of each task; default: %(default)s",
    )
    parser.add_argument("--seed", type=int, default=1000, help="of the first reset; default: %(default)s")
    parser.add_argument("--imagine", choices=IMAGINE_MODES, help="default: what the policy was saved with")
    planning.add_arguments(parser)
    parser.add_argument("--output", metavar="DIR", help="also write evaluation.json there")


def run(args: argparse.Namespace) -> int:
    """Prints success per task."""
    import lerobot_policy_hybrid

    planning.check(args)
    environment.check_episodes(args)
    file = Path(args.output) / "evaluation.json" if args.output else None
    files.check_new(file, "--output")
    lerobot_policy_hybrid.register(everything=True)
    from hybridpolicy.evaluation import evaluate_policy
    from hybridpolicy.evaluation.acting import Actor
    from hybridpolicy.files import write_json
    from recipes.commands.progress import progress
    from recipes.job import git_revision, machine

    settings = environment.settings(args)
    actor = Actor.load(args.policy, args.imagine)
    planner = planning.set_planner(args, actor)
    with progress(f"evaluating {args.env}", args.episodes, "episodes") as bar:
        result = evaluate_policy(
            actor,
            args.env,
            tasks=environment.tasks(args),
            episodes=args.episodes,
            seed=args.seed,
            progress=bar.update,
            **settings,
        )
    success = result["success"]
    rows = [*success["by_task"].items(), ("all", success)]
    width = max(len(name) for name, _ in rows)
    for name, row in rows:
        interval = f"[{row['low']:.1%}, {row['high']:.1%}]"
        print(f"{name:<{width}}  {row['rate']:6.1%}  95 % {interval:<16}  {row['episodes']} episodes")
    print(f"{result['imagined_share']:.1%} of plans were made with an imagined future")
    if actor.num_held:
        print(f"in {actor.num_held} of {actor.num_planned} plans no candidate passed the gate: the arm stood")
    if file is not None:
        asked = {
            "policy": {"path": args.policy, "base": actor.policy.base_hash()}, "env": args.env,
            "tasks": list(environment.tasks(args)), "env_set": settings, "seed": args.seed,
            "imagine": actor.policy.config.imagine, "planner": planner and planner | (actor.planning or {}),
        }  # fmt: skip
        write_json(file, asked | result | {"machine": machine(), "git": git_revision()})
        print(f"evaluation: {file}")
    return 0
