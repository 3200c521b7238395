"""From a command line to an exit code: finds the commands, parses, runs, turns known errors into a message.

A command is a module under `recipes/commands/` with `add_arguments(parser)` and `run(args) -> int`; its file
name is its name, its folder is its group, and its docstring is its help (first line: summary; from the line
`Examples:` on: printed as written). Nothing is registered anywhere else.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import os
import pkgutil
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

import recipes.commands
from hybridpolicy.errors import allowed
from recipes.commands.failures import CANDIDATES, EXIT_INTERRUPTED, EXIT_REFUSED, describe, is_deliberate

EXAMPLES = "Examples:"
MAX_HELP_WIDTH = 110
OVERVIEW = """Robot policies that see, imagine and act, for low-cost LeRobot arms.

From nothing to a trained policy and a report, offline, on two CPU cores:
  hybridpolicy quickstart

On your own arm's data, a folder or a Hub id that lerobot-record wrote:
  hybridpolicy train --dataset path/to/dataset"""
MORE = """Each command explains itself with examples: hybridpolicy COMMAND --help"""


@dataclass(frozen=True)
class Command:
    """One command: its words on the command line, for example `("data", "record")`, and its module."""

    words: tuple[str, ...]
    module: ModuleType


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Text as written, and one line a command."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, MAX_HELP_WIDTH)
        super().__init__(prog, max_help_position=28, width=width)


class _Parser(argparse.ArgumentParser):
    """argparse with whole option names only, help as written, and the nearest name after a misspelt one."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)  # an abbreviation is a surface nobody froze
        options.setdefault("formatter_class", _HelpFormatter)
        super().__init__(**options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, after a look at the names of options: a misspelt one may be the one it would miss."""
        if self._subparsers is None:
            for word in args or ():
                name = word.partition("=")[0]
                if name == "--":
                    break
                if name.startswith("--") and name not in self._option_string_actions:
                    options = [known for known in self._option_string_actions if known.startswith("--")]
                    self.error(f"no option {name}; {allowed(name, options)}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"no {value!r}; {allowed(value, action.choices)}")

    def error(self, message: str) -> NoReturn:
        """Exits with code 2 after one line on what is wrong and one on where the help is."""
        self.exit(EXIT_REFUSED, f"{self.prog}: {message}\nSee `{self.prog} --help`.\n")


def discover(package: ModuleType = recipes.commands, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """Every command below `package`, in alphabetical order."""
    for found in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
        if found.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        if found.ispkg:
            yield from discover(module, (*words, found.name))
        elif hasattr(module, "run"):
            yield Command((*words, found.name), module)


def _help_of(module: ModuleType) -> dict[str, str]:
    """The `help`, `description` and `epilog` of argparse, from a module's docstring."""
    text, mark, examples = (inspect.getdoc(module) or "").partition(f"\n{EXAMPLES}\n")
    return {"help": text.partition("\n")[0], "description": text.strip(), "epilog": (mark + examples).strip()}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; the chosen command's `run` is in `args.run`."""
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of a known error"
    )
    parser = _Parser(prog="hybridpolicy", description=OVERVIEW, epilog=MORE)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.set_defaults(debug=False, run=None, parser=parser)
    groups: dict[tuple[str, ...], Any] = {(): parser.add_subparsers(metavar="COMMAND", title="commands")}
    for command in discover():
        parents = groups[()]
        for depth in range(1, len(command.words)):
            group = command.words[:depth]
            if group not in groups:
                package = importlib.import_module(f"recipes.commands.{'.'.join(group)}")
                sub = parents.add_parser(group[-1], **_help_of(package))
                sub.set_defaults(parser=sub)
                groups[group] = sub.add_subparsers(metavar="COMMAND", title="commands")
            parents = groups[group]
        sub = parents.add_parser(command.words[-1], parents=[everywhere], **_help_of(command.module))
        command.module.add_arguments(sub)
        sub.set_defaults(run=command.module.run, parser=sub)
    return parser


def set_rendering_default() -> None:
    """Headless rendering unless the user chose otherwise; MuJoCo reads the variable at its first import."""
    backend = {"linux": "egl", "darwin": "cgl"}.get(sys.platform)
    if backend:
        os.environ.setdefault("MUJOCO_GL", backend)


def run_command_line(argv: Sequence[str]) -> int:
    """Exit code of `hybridpolicy *argv`; a known error is one message, a bug keeps its traceback."""
    args = build_parser().parse_args(argv)
    if args.version:
        from importlib.metadata import version

        print(f"hybridpolicy {version('lerobot_policy_hybrid')}")
        return 0
    if args.run is None:
        args.parser.print_help()
        return EXIT_REFUSED
    set_rendering_default()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it asks for a package of no use here
    try:
        code: int = args.run(args)
        sys.stdout.flush()  # a closed pipe shows here, not at interpreter exit
        return code
    except KeyboardInterrupt:
        print(f"\n{args.parser.prog}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `hybridpolicy info | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except CANDIDATES as error:
        if args.debug or not is_deliberate(error):
            raise
        print(f"{args.parser.prog}: {describe(error)}", file=sys.stderr)
        return EXIT_REFUSED
