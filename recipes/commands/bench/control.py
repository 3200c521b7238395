"""Rate and jitter of goals at an arm's motors, ours and LeRobot's.

Everyone drives the same simulated arm on a serial port with the same policy; `busy` adds a process of
inference for each of two cores. Measured at the motors' receive times. `realtime` asks for SCHED_FIFO and
says if it was not permitted.

Examples:
  hybridpolicy bench control --json
  hybridpolicy bench control --ticks 1000
  hybridpolicy bench control --only hybridpolicy-busy-realtime lerobot-rtc-busy-plain
"""

from __future__ import annotations

import argparse
import json
import sys

ROW = "{:<14}{:<6}{:<9}{:>7}{:>10.3%}{:>9.2f}{:>9.2f}{:>9.1f}{:>9}"
HEADER = "{:<14}{:<6}{:<9}{:>7}{:>10}{:>9}{:>9}{:>9}{:>9}".format(
    "runner", "load", "realtime", "ticks", "rate err", "p50 ms", "p99 ms", "max ms", "missed"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `bench control`."""
    parser.add_argument("--rate", type=float, default=100.0, metavar="HZ", help="default: %(default)s")
    parser.add_argument(
        "--ticks", type=int, help="a row; default: 6000, 30000 for the row with the tightest bar"
    )
    parser.add_argument("--only", nargs="+", metavar="ROW", help="RUNNER-LOAD-realtime or RUNNER-LOAD-plain")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the table; 1 where a row of ours misses its bar."""
    from hybridpolicy.errors import allowed
    from recipes.bench.control import names, run_control, settings
    from recipes.commands.failures import CommandError
    from recipes.commands.progress import progress

    only = args.only or names()
    for name in only:
        if name not in names():
            raise CommandError(f"no row {name!r}: {allowed(name, names())}")
    if args.ticks is not None and args.ticks < 100:
        raise CommandError(f"--ticks is {args.ticks}; give at least 100")
    if not 10.0 <= args.rate <= 200.0:
        raise CommandError(f"--rate is {args.rate:g}; allowed is 10 to 200 Hz")
    chosen = [setting for setting in settings(args.rate) if setting.name in only]
    with progress("control", len(chosen), "rows") as bar:
        rows = run_control(chosen, args.ticks, bar.advance)
    status = int(any(not row.get("pass", True) for row in rows))
    if args.json:
        from recipes.job import git_revision, machine  # torch: after measuring

        json.dump({"machine": machine(), "git": git_revision(), "rows": rows}, sys.stdout, indent=2)
        print()
        return status
    print(HEADER)
    for row in rows:
        figures = [
            row[name] for name in ("ticks", "rate_error", "jitter_p50_ms", "jitter_p99_ms", "jitter_max_ms")
        ]
        print(ROW.format(row["runner"], row["load"], str(row["realtime"]), *figures, row["missed"]))
        if "note" in row:
            print(f"  {row['note']}")
        if not row.get("pass", True):
            print(f"  misses its bar: {row['bars']}")
    return status
