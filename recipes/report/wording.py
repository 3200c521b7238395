"""Numbers as people read them. Every function returns plain text; nothing is rounded into another verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

THIN = "\u202f"  # narrow no-break space, between a number and its unit


def percent(rate: float, digits: int = 1) -> str:
    """`rate` in [0, 1] as percent; whole numbers without decimals."""
    text = f"{100 * rate:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}{THIN}%"


def interval(low: float, high: float) -> str:
    """Both ends of a rate's interval."""
    return f"{percent(low).removesuffix(THIN + '%')}–{percent(high)}"


def number(value: float, digits: int = 3) -> str:
    """About `digits` significant digits, thousands apart: 0.342, 13.6, 1 284."""
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}".replace(",", THIN)
    if abs(value) < 1e-3:
        return f"{value:.1e}".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


def large(value: float) -> str:
    """A count in thousands or millions: 1.31 M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        scaled = float(f"{value / limit:.3g}")
        if abs(scaled) >= 1:
            return f"{scaled:g}{THIN}{unit}"
    return number(value)


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.42 s, 38 s, 11 min 02 s, 1 h 24 min."""
    if seconds < 10:
        return f"{seconds:.2g}{THIN}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN}s"
    if whole < 3600:
        return f"{whole // 60}{THIN}min {whole % 60:02d}{THIN}s"
    return f"{whole // 3600}{THIN}h {whole % 3600 // 60:02d}{THIN}min"


def ahead(offset_frames: int | str, fps: float | None) -> str:
    """A future offset in seconds, or in frames where the rate is unknown."""
    frames = int(offset_frames)
    return f"+{frames / fps:.2g}{THIN}s" if fps else f"+{frames} frame{'s' if frames != 1 else ''}"


def measured(key: str, value: float, digits: int = 1) -> str:
    """A report's number in the unit its key implies."""
    section, name = key.split(".")[0], key.split(".")[-1]
    if name.endswith("samples_per_s"):
        return f"{number(value)}{THIN}samples/s"
    if name in ("wall_s", "seconds"):
        return duration(value) if digits == 1 else f"{value:.{digits}f}{THIN}s"
    if name.endswith("_minutes"):
        return duration(60 * value) if digits == 1 else f"{value:.{digits}f}{THIN}min"
    if section == "latency_ms":
        return f"{number(value, 2 + digits)}{THIN}ms"
    if name.endswith("_mib"):
        return f"{number(value, 2 + digits)}{THIN}MiB"
    if section in ("success", "language", "stage1", "two_stage", "imagining") and not name.endswith("motion"):
        return percent(value, digits)
    return number(value, 2 + digits)


def against_bar(bar: Mapping[str, Any]) -> tuple[str, str]:
    """What was measured and what was promised; a missed bar never reads as equal, digits are added."""
    limit = bar["at_least"] if "at_least" in bar else bar["at_most"]
    sign = "≥" if "at_least" in bar else "≤"
    promised = measured(bar["key"], limit)
    if "value" not in bar:
        return "not measured", f"{sign} {promised}"
    text = measured(bar["key"], bar["value"])
    for digits in range(2, 8):
        if text != promised or bar["value"] == limit:
            break
        text = measured(bar["key"], bar["value"], digits)
    return text, f"{sign} {promised}"
