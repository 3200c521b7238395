"""Charts as inline SVG. Positions are percentages, so a chart is as wide as its place and text never shrinks.

Every number drawn is also text beside the chart, so tracks are hidden from screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from recipes.report.metrics import Curve
from recipes.report.wording import large, number

LOG_SCALE_RATIO = 30.0  # a loss that falls further than this is a flat line on a linear axis
SHARE_OF_A_LABEL = 0.09  # a phase shorter than this share of the whole has no room for its name


@dataclass(frozen=True)
class Axis:
    """The range of a track, its grid lines, and an optional promised value."""

    low: float = 0.0
    high: float = 1.0
    grid: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    bar: float | None = None

    def at(self, value: float) -> str:
        """Where `value` is, clamped to the axis."""
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(1.0, max(0.0, share)):.2f}%"


def score_axis(values: Sequence[float], bar: float | None = None) -> Axis:
    """An axis to 1 for skills and R², from 0, or from as far below as the values need (at most −1)."""
    low = max(-1.0, math.floor(min(0.0, *values) * 4) / 4)
    return Axis(low, 1.0, tuple(step / 4 for step in range(int(low * 4), 5)), bar)


def amount_axis(values: Sequence[float]) -> Axis:
    """An axis from 0 to a round number above the largest of `values`."""
    ticks = _round_ticks(0.0, max(values) if max(values) > 0 else 1.0)
    return Axis(0.0, ticks[-1], tuple(ticks))


def dot_track(
    axis: Axis, value: float, low: float | None = None, high: float | None = None, kind: str = ""
) -> Markup:
    """A dot with its interval on `axis`."""
    parts = []
    if low is not None and high is not None:
        parts.append(_line("interval", axis.at(low), axis.at(high)))
        parts += [_cap(axis.at(low)), _cap(axis.at(high))]
    return _track(_grid(axis), [*parts, _dot(axis.at(value))], kind)


def span_track(axis: Axis, p50: float, p95: float) -> Markup:
    """A dot at the median and a tail to the 95th percentile."""
    start, end = axis.at(p50), axis.at(p95)
    return _track(_grid(axis), [_line("interval", start, end), _cap(end), _dot(start)])


def bar_track(axis: Axis, value: float, kind: str = "") -> Markup:
    """A bar from zero to `value`."""
    return _track(_grid(axis), [_line("fill", axis.at(0.0), axis.at(value))], kind)


def timeline(phases: Sequence[Mapping[str, float]]) -> list[dict[str, object]]:
    """Each phase with its share of the whole in percent, and whether its name fits inside it."""
    total = sum(phase["seconds"] for phase in phases) or 1.0
    return [
        {
            **phase,
            "share": 100 * phase["seconds"] / total,
            "fits": phase["seconds"] / total >= SHARE_OF_A_LABEL,
        }
        for phase in phases
    ]


def line_chart(lines: Sequence[Curve], label: str) -> Markup:
    """Curves over samples seen, on a common axis, logarithmic where a linear one would show nothing."""
    values = [value for line in lines for value in line.values]
    is_log = is_log_scale(lines)
    y_ticks = _log_ticks(min(values), max(values)) if is_log else _round_ticks(min(0.0, *values), max(values))
    x_low, x_high = _sample_range(lines)
    x_ticks = [tick for tick in _round_ticks(x_low, x_high, num=4) if x_low <= tick <= x_high]

    def along(samples: float) -> float:
        return 100 * (samples - x_low) / (x_high - x_low)

    def up(value: float) -> float:
        first, last = y_ticks[0], y_ticks[-1]
        if is_log:
            value, first, last = math.log10(value), math.log10(first), math.log10(last)
        return 100 * (value - first) / ((last - first) or 1.0)

    grid = "".join(
        f'<line x1="0" x2="1000" y1="{1000 - 10 * up(tick):.0f}" y2="{1000 - 10 * up(tick):.0f}"/>'
        for tick in y_ticks
    )
    paths = "".join(
        f'<polyline class="line-{line.colour % 6}" points="'
        + " ".join(
            f"{10 * along(x):.1f},{1000 - 10 * up(y):.1f}"
            for x, y in zip(line.samples, line.values, strict=True)
        )
        + '"/>'
        for line in lines
    )
    named = [tick for tick in y_ticks if not is_log or len(y_ticks) <= 7 or _is_power_of_ten(tick)]
    y_labels = "".join(f'<span style="bottom:{up(tick):.2f}%">{number(tick)}</span>' for tick in named)
    x_labels = "".join(f'<span style="left:{along(tick):.2f}%">{large(tick)}</span>' for tick in x_ticks)
    return Markup(  # every piece above is a number of ours; the only text is escaped here
        f'<div class="chart"><div class="y" aria-hidden="true">{y_labels}</div>'
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 1000 1000" preserveAspectRatio="none">'
        f'<g class="grid">{grid}</g>{paths}</svg><div class="x" aria-hidden="true">{x_labels}</div></div>'
    )


def _sample_range(lines: Sequence[Curve]) -> tuple[float, float]:
    """The samples a chart spans: from zero, or from its first point in a stage that began later."""
    low, high = min(line.samples[0] for line in lines), max(line.samples[-1] for line in lines)
    low = 0.0 if low < 0.1 * high else low
    return low, high if high > low else low + 1.0


def is_log_scale(lines: Sequence[Curve]) -> bool:
    """Whether `line_chart` draws these on a logarithmic axis."""
    values = [value for line in lines for value in line.values]
    return min(values) > 0 and max(values) / min(values) > LOG_SCALE_RATIO


def _grid(axis: Axis) -> list[str]:
    lines = [
        f'<line class="grid" x1="{axis.at(tick)}" x2="{axis.at(tick)}" y1="0" y2="100%"/>'
        for tick in axis.grid
    ]
    if axis.low < 0:
        lines.append(f'<line class="zero" x1="{axis.at(0)}" x2="{axis.at(0)}" y1="0" y2="100%"/>')
    if axis.bar is not None:
        lines.append(
            f'<line class="bar" x1="{axis.at(axis.bar)}" x2="{axis.at(axis.bar)}" y1="0" y2="100%"/>'
        )
    return lines


def _line(kind: str, start: str, end: str) -> str:
    return f'<line class="{kind}" x1="{start}" x2="{end}"/>'


def _cap(at: str) -> str:
    return f'<line class="cap" x1="{at}" x2="{at}" y1="-5" y2="5"/>'


def _dot(at: str) -> str:
    return f'<circle class="dot" cx="{at}" r="5"/>'


def _track(grid: Sequence[str], marks: Sequence[str], kind: str = "") -> Markup:
    # The grid is as high as its row, so that lines of neighbouring rows meet; marks sit on the middle.
    return Markup(
        f'<svg class="track {kind}" aria-hidden="true" focusable="false">{"".join(grid)}'
        f'<svg y="50%" overflow="visible">{"".join(marks)}</svg></svg>'
    )


def _round_ticks(low: float, high: float, num: int = 4) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`."""
    span = (high - low) or abs(high) or 1.0
    magnitude = 10 ** math.floor(math.log10(span / num))
    step = next(step * magnitude for step in (1, 2, 2.5, 5, 10) if step * magnitude * num >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def _is_power_of_ten(value: float) -> bool:
    return math.isclose(math.log10(value), round(math.log10(value)), abs_tol=1e-9)


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade from at or below `low` to at or above `high`."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ticks = [digit * 10.0**power for power in decades for digit in (1, 2, 5)]
    first = max(index for index, tick in enumerate(ticks) if tick <= low)
    last = min(index for index, tick in enumerate(ticks) if tick >= high)
    return ticks[first : max(last, first + 1) + 1]
