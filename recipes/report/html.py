"""`write_report_html`: one html file that opens offline, on a phone too, and adds no number of its own."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hybridpolicy.files import write_whole
from recipes.report import charts, wording
from recipes.report.checking import ReportError
from recipes.report.media import ClipView, EpisodeClip, FutureStrip, StripView, evenly, view_clip, view_strip
from recipes.report.metrics import Curve, curves
from recipes.report.schema import SUCCESS_KEYS, check_report

MAX_HTML_BYTES = 8_000_000
MAX_STRIPS = 12

# What a full report shows, so that what is absent can be named instead of passing unnoticed.
SECTIONS = {
    "bars": "the promised bars",
    "language": "whether instructions are followed",
    "two_stage": "the two-stage instruction",
    "world": "the quality of imagined futures",
    "stage1": "the data of stage 1",
    "latency_ms": "latency",
    "train": "training speed",
    "loader": "loader speed",
    "params": "the number of parameters",
    "peak_memory_mib": "peak memory",
    "phases": "where the time went",
    "options": "the options in use",
    "command": "the command",
    "machine": "the machine",
    "git": "the revision of the code",
    "next_steps": "how to go on",
}


def write_report_html(
    path: str | os.PathLike[str],
    report: Mapping[str, Any],
    episodes: Sequence[EpisodeClip] = (),
    strips: Sequence[FutureStrip] = (),
    metrics: Iterable[Mapping[str, Any]] = (),
) -> Path:
    """Path of the page. `metrics` are the rows of `read_metrics`.

    Where all episodes do not fit in 8 MB, an even selection of them is shown, and the page says so.

    Raises:
        ReportError: `success` is absent, or the report fails `check_report`.
        ValueError: pictures of a clip or strip have other shapes than documented there.
    """
    checked = check_report(report, SUCCESS_KEYS)
    by_stage = curves(metrics)
    strip_views = [view_strip(strips[index]) for index in evenly(len(strips), MAX_STRIPS)]
    views = [view_clip(clip) for clip in by_turns(episodes)]
    bare = render(checked, views=[], num_episodes=len(views), strips=strip_views, curves_by_stage=by_stage)
    shown = _fitting(views, MAX_HTML_BYTES - len(bare.encode()))
    page = render(checked, views=shown, num_episodes=len(views), strips=strip_views, curves_by_stage=by_stage)
    if len(page.encode()) > MAX_HTML_BYTES:
        raise ReportError(
            f"report.html: {len(page.encode()) / 1e6:.1f} MB without any episode; allowed are "
            f"{MAX_HTML_BYTES / 1e6:.0f} MB, shorten `details` or give smaller strips"
        )
    return write_whole(path, page)


def render(
    report: Mapping[str, Any],
    *,
    views: Sequence[ClipView],
    num_episodes: int,
    strips: Sequence[StripView],
    curves_by_stage: Mapping[str, Sequence[Curve]],
) -> str:
    """The page as text, from a checked report and encoded pictures."""
    absent = [meaning for key, meaning in SECTIONS.items() if key not in report]
    if not curves_by_stage:
        absent.append("learning curves")
    if not num_episodes:
        absent.append("videos of episodes")
    if not strips:
        absent.append("pictures of imagined futures")
    return (
        _environment()
        .get_template("page.html")
        .render(
            r=report,
            raw_json=json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False),
            clips=views,
            num_episodes=num_episodes,
            strips=strips,
            stages=_stage_charts(curves_by_stage),
            bars={bar["key"]: bar for bar in report.get("bars", [])},
            # Where a number has a bar, both places on the page show the same digits.
            measured_texts={bar["key"]: wording.against_bar(bar)[0] for bar in report.get("bars", [])},
            absent=absent,
        )
    )


def by_turns(episodes: Sequence[EpisodeClip]) -> list[EpisodeClip]:
    """`episodes` with their tasks taking turns, so that the first screen shows all of them."""
    turns: list[int] = []
    seen: Counter[str] = Counter()
    for clip in episodes:
        turns.append(seen[clip.task])
        seen[clip.task] += 1
    return [episodes[index] for index in sorted(range(len(episodes)), key=turns.__getitem__)]


def _stage_charts(curves_by_stage: Mapping[str, Sequence[Curve]]) -> list[dict[str, Any]]:
    stages = []
    for stage, lines in curves_by_stage.items():
        losses = [line for line in lines if line.name != "samples_per_s"]
        speed = [line for line in lines if line.name == "samples_per_s"]
        stages.append({"name": stage, "losses": losses, "speed": speed})
    return stages


def _fitting(views: Sequence[ClipView], budget_bytes: int) -> list[ClipView]:
    """As many of `views` as fit, evenly chosen over their order."""
    caption_bytes = 2_000  # markup and texts of one card, generously
    keep = len(views)
    while keep:
        chosen = [views[index] for index in evenly(len(views), keep)]
        if sum(view.num_bytes + caption_bytes for view in chosen) <= budget_bytes:
            return chosen
        keep = min(keep - 1, int(keep * 0.95))
    return []


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("recipes.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    texts = {name: getattr(wording, name) for name in ("percent", "number", "large", "duration", "measured")}
    environment.filters |= texts
    environment.globals |= texts | {
        "charts": charts,
        "interval": wording.interval,
        "ahead": wording.ahead,
        "against_bar": wording.against_bar,
        "asset": _asset,
    }
    return environment


def _asset(name: str) -> Markup:
    # Ours, not the report's: the only text that enters the page without escaping.
    return Markup(resources.files("recipes.report").joinpath("assets", name).read_text(encoding="utf-8"))
