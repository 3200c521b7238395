"""Draw a report's page again from its JSON.

For a report that came from another machine or from docs/results. The JSON holds no pictures, so the page has
none; the page that the run itself wrote is never replaced.

Examples:
  hybridpolicy report docs/results/so101_twin.json
  hybridpolicy report outputs/quickstart --output numbers.html
  hybridpolicy report report.json --metrics metrics.jsonl --output page.html
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from recipes.commands.failures import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `report`."""
    parser.add_argument(
        "report", metavar="PATH", help="a report's JSON file, or the folder that holds report.json"
    )
    parser.add_argument("--metrics", metavar="FILE", help="the run's metrics.jsonl, for the learning curves")
    parser.add_argument(
        "--output", metavar="FILE", help="the page; default: beside the JSON, ending in .html"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the page."""
    from recipes.report.html import write_report_html
    from recipes.report.metrics import read_metrics

    given = Path(args.report)
    source = given / "report.json" if given.is_dir() else given
    page = Path(args.output) if args.output else source.with_suffix(".html")
    if page.exists():
        raise CommandError(f"{page} exists, and a page made from JSON has no pictures; give another --output")
    try:
        report = json.loads(source.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CommandError(
            f"{source}, line {error.lineno}: not JSON ({error.msg}); give a report.json"
        ) from error
    if not isinstance(report, dict) or not isinstance(report.get("success"), dict):
        raise CommandError(
            f"{source} is not the report of a run: it says nothing of `success`; give the report.json that "
            "`quickstart` or `train --recipe` wrote"
        )
    metrics = read_metrics(args.metrics) if args.metrics else ()
    print(f"report: {write_report_html(page, report, metrics=metrics)}")
    return 0
