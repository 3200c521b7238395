"""Every fault, injected into ours and into unmodified LeRobot.

Each fault is injected into a simulated arm on a serial port while our control process drives it, and then
while LeRobot's SO101Follower does. Rows say what was measured on both sides and whether ours met its target;
a machine too busy to judge timing is measured and named, and the row is run again. Takes most of an hour as
it is; --seconds, --soak and --instants make it shorter.

Examples:
  hybridpolicy bench faults --json
  hybridpolicy bench faults --only 2-late-120 12-release
  hybridpolicy bench faults --seconds 5 --soak 10 --instants 4
"""

from __future__ import annotations

import argparse
import json
import sys


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


def run(args: argparse.Namespace) -> int:
    """Prints the table; exit code 1 if a target was not met."""
    from hybridpolicy.errors import allowed
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
    with progress("faults", len(only)) as bar:
        rows = run_faults(only, Effort(args.seconds, args.soak, args.instants), bar.advance)
    if args.json:
        from recipes.job import git_revision, machine  # torch: after measuring

        json.dump({"machine": machine(), "git": git_revision(), "rows": rows}, sys.stdout, indent=2)
        print()
    else:
        for row in rows:
            print(
                f"{row['fault']}: {row['injected']} ({row['target']}): {'met' if row['pass'] else 'NOT MET'}"
            )
            print(f"  ours     {row['ours']['text']}")
            print(f"  lerobot  {row['lerobot']['text']}")
            if row["starved"]:
                print(f"  {row['starved']}")
    return 0 if all(row["pass"] for row in rows) else 1
