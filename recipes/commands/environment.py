"""The environment's options, for every command that plays in one."""

from __future__ import annotations

import argparse
from typing import Any

from recipes.commands.failures import CommandError


def add_arguments(parser: argparse.ArgumentParser, tasks: str = "all tasks of the environment") -> None:
    """Adds `--env`, `--tasks` and `--env-set`. tasks: what is played by default, in words."""
    parser.add_argument(
        "--env",
        required=True,
        metavar="TYPE",
        help="LeRobot environment; `hybridpolicy info --full` lists them",
    )
    parser.add_argument("--tasks", metavar="NAMES", help=f"comma-separated; default: {tasks}")
    parser.add_argument(
        "--env-set", metavar="KEY=VALUE", action="append", default=[],
        help="a field of the environment's configuration, e.g. view=workspace; may be repeated",
    )  # fmt: skip


def tasks(args: argparse.Namespace) -> tuple[str, ...]:
    """Names given with `--tasks`; () for all."""
    return tuple(args.tasks.split(",")) if args.tasks else ()


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of the environment's configuration and their values, tasks apart.

    Raises:
        ConfigurationError: no such environment. CommandError: it has no such field, or another kind of value.
    """
    from hybridpolicy.evaluation.closed_loop import environment_type
    from recipes.commands.overrides import read_fields

    owner = environment_type(args.env)
    return read_fields(owner, args.env_set, "--env-set") if args.env_set else {}


def check_episodes(args: argparse.Namespace) -> None:
    """Raises CommandError for less than one episode."""
    if args.episodes < 1:
        raise CommandError(f"--episodes {args.episodes}: play 1 or more")
