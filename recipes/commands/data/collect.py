"""Record a policy's own rollouts, failures included.

The output is a LeRobotDataset with the columns of a recording and those of the outcome schema: what the heads
progress, success and risk are trained on (`train --rollouts`). --env is an environment type as of `eval`; of
events, which risk foretells, so101_twin alone tells. Scenes are apart from those of evaluation and of
demonstrations. --noise moves the actions of each plan by an offset with that standard deviation, in units of
the action (so101_twin: degrees and percent of the gripper); what is recorded is what was sent.

Examples:
  hybridpolicy data collect --policy path/to/policy --env so101_twin --episodes 96 --output own
  hybridpolicy data collect --policy path/to/policy --env so101_twin --episodes 48 --output more --noise 2
  hybridpolicy data collect --policy path/to/policy --env so101_twin --episodes 48 --output k8 --planner-k 8
  hybridpolicy data collect --policy path/to/policy --env hybrid_metaworld --episodes 96 --output tried
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hybridpolicy.couplings import IMAGINE_MODES
from recipes.commands import environment, planning
from recipes.commands.failures import CommandError

TWIN = "so101_twin"  # has a path of its own: it tells of events, and of where objects are


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `data collect`."""
    parser.add_argument(
        "--policy", required=True, metavar="PATH_OR_ID", help="what training wrote, or a Hub id"
    )
    environment.add_arguments(parser, "all of the environment, of so101_twin touch,push,bin")
    parser.add_argument("--episodes", type=int, required=True, metavar="N", help="kept, however they end")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the new dataset")
    parser.add_argument("--seed", type=int, default=0, help="each has its own scenes; default: %(default)s")
    parser.add_argument("--imagine", choices=IMAGINE_MODES, help="default: what the policy was saved with")
    parser.add_argument(
        "--noise",
        type=float,
        default=0.0,
        metavar="SIZE",
        help="in units of the action; default: %(default)s",
    )
    planning.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Plays, records and counts."""
    from recipes.commands.progress import progress

    planning.check(args)
    if Path(args.output).exists():  # said before minutes of loading
        raise CommandError(f"--output {args.output} exists already; choose another folder or remove it")

    from hybridpolicy.evaluation.acting import Actor
    from recipes.job import git_revision, machine

    settings, collect = _chosen(args)
    actor = Actor.load(args.policy, args.imagine)
    planner = planning.set_planner(args, actor)
    facts = {
        "policy": {"path": args.policy, "base": actor.policy.base_hash()},
        "imagine": actor.policy.config.imagine,
        "planner": planner,
        "machine": machine(),
        "git": git_revision(),
    }
    with progress("collecting", args.episodes, "episodes") as bar:
        found = collect(actor, args.output, settings, facts=facts, progress=bar.update)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    _print(found)
    print(f"dataset: {args.output}")
    return 0


def _chosen(args: argparse.Namespace) -> tuple[Any, Callable[..., dict[str, Any]]]:
    """What is played, checked as far as it can be without the policy, and the function that plays it."""
    tasks, further = environment.tasks(args), environment.settings(args)
    if args.env == TWIN:
        if further:
            raise CommandError(
                f"--env-set {args.env_set[0]}: {TWIN} is played here as it was recorded; leave it out"
            )
        from recipes.twin import collect as twin
        from recipes.twin.suites import FAMILIES

        return twin.CollectSettings(args.episodes, args.seed, tasks or FAMILIES, args.noise), twin.collect
    from recipes import collect as anywhere

    settings = anywhere.CollectSettings(args.env, args.episodes, args.seed, tasks, args.noise, further)
    settings.configuration()
    return settings, anywhere.collect


def _print(found: dict[str, Any]) -> None:
    rows = [*found["by_family"].items(), ("all", found["success"])]
    width = max(len(name) for name, _ in rows)
    for name, row in rows:
        interval = f"[{row['low']:.1%}, {row['high']:.1%}]"
        print(
            f"{name:<{width}}  {row['rate']:6.1%}  95 % {interval:<16}  "
            f"{row['episodes'] - row['failures']} successes, {row['failures']} failures"
        )
    if found.get("left_out"):
        print(f"{found['left_out']} episodes ended in their first step: they are not in the dataset")
    frames = f"{found['frames']} frames"
    if "eventful_episodes" in found:
        events = ", ".join(f"{name} {count}" for name, count in found["eventful_episodes"].items())
        print(f"{frames}; episodes with events: {events}")
    else:
        print(f"{frames}; this environment tells of no events: for heads trained on them, risk stays unknown")
