"""Every fault, injected into ours and into unmodified LeRobot.

Each fault is injected into a simulated arm on a serial port while our control process drives it, and then
while LeRobot's SO101Follower does. Rows say what was measured on both sides and whether ours met its target;
a machine too busy to judge timing is measured and named, and the row is run again. Takes most of an hour as
it is; --seconds, --soak and --instants make it shorter. With --output every row is written as soon as it is
measured, and a run that was ended goes on with the rows that are missing.

Examples:
  hybridpolicy bench faults --json
  hybridpolicy bench faults --output faults.json
  hybridpolicy bench faults --only 2-late-120 12-release
  hybridpolicy bench faults --seconds 5 --soak 10 --instants 4
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipes.bench.fault import Effort


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `bench faults`."""
    parser.add_argument("--only", nargs="+", metavar="FAULT", help="some of the rows that --list names")
    parser.add_argument("--list", action="store_true", help="name every fault and its target")
    parser.add_argument("--seconds", type=float, default=60.0, help="of lossy replies; default: %(default)s")
    parser.add_argument(
        "--soak", type=float, default=600.0, help="seconds of the long run; default: %(default)s"
    )
    parser.add_argument("--instants", type=int, default=20, help="of interruption; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", metavar="FILE", help="write the rows there as they come; go on from it")


def run(args: argparse.Namespace) -> int:
    """Prints the table; exit code 1 if a target was not met."""
    from hybridpolicy.errors import allowed
    from hybridpolicy.files import write_json
    from recipes.bench.fault import Effort
    from recipes.bench.faults import FAULTS, names, run_faults
    from recipes.commands.failures import CommandError
    from recipes.commands.progress import progress

    if args.list:
        for fault in FAULTS:
            print(f"{fault.name:<16}{fault.fault}: {fault.target}")
        return 0
    only = args.only or names()
    for name in only:
        if name not in names():
            raise CommandError(f"no fault {name!r}: {allowed(name, names())}")
    for option in ("seconds", "soak", "instants"):
        if not getattr(args, option) > 0:
            raise CommandError(f"--{option} is {getattr(args, option)}; it must be above 0")
    effort = Effort(args.seconds, args.soak, args.instants)
    file = Path(args.output) if args.output else None
    rows = {} if file is None else _rows_of(file, effort)

    def keep(row: dict[str, Any]) -> None:
        rows[row["fault"]] = row
        if file is not None:
            write_json(file, _document(effort, [rows[name] for name in names() if name in rows]))
        bar.advance(1, row["fault"])

    missing = [name for name in only if name not in rows]
    if file is not None:  # what cannot be written is said before an hour of measuring
        write_json(file, _document(effort, [rows[name] for name in names() if name in rows]))
    with progress("faults", len(missing)) as bar:
        run_faults(missing, effort, keep)
    _print([rows[name] for name in names() if name in only], effort, args.json)
    return 0 if all(rows[name]["pass"] for name in only) else 1


def _document(effort: Effort, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from recipes.job import git_revision, machine

    return {"machine": machine(), "git": git_revision(), "effort": asdict(effort), "rows": [*rows]}


def _rows_of(file: Path, effort: Effort) -> dict[str, dict[str, Any]]:
    """What `--output` holds, by name.

    Raises:
        CommandError: it is no such file, or one of another effort.
    """
    from recipes.commands.failures import CommandError

    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text())
        rows, made_with = {row["fault"]: row for row in found["rows"]}, found["effort"]
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f"--output {file} holds no rows of `bench faults`; name another file") from error
    if made_with != asdict(effort):
        raise CommandError(f"--output {file} was made with {made_with}; repeat those or name another file")
    return rows


def _print(rows: Sequence[dict[str, Any]], effort: Effort, as_json: bool) -> None:
    if as_json:
        json.dump(_document(effort, rows), sys.stdout, indent=2)
        print()
        return
    for row in rows:
        print(f"{row['fault']}: {row['injected']} ({row['target']}): {'met' if row['pass'] else 'NOT MET'}")
        print(f"  ours     {row['ours']['text']}")
        print(f"  lerobot  {row['lerobot']['text']}")
        if row["starved"]:
            print(f"  {row['starved']}")
