"""Rate and jitter of an arm's goals at its motors, by who drives it, under which load and priority.

Measured where the goals arrive: at the receive times of the simulated servos, whatever the sender believes.
On a virtual machine the machine itself may stand still for milliseconds; a witness of the highest priority
on every processor notes that, and a row says how many of its missed deadlines fell into such a time. Between
the two ends of a pseudo-terminal a kernel worker of ordinary priority carries the bytes, which no real port
needs; `missed_by_sender` is what our control process counted before that. Nothing is taken off.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.bench.fork_server import LeRobotProcess
from recipes.bench.stand import BenchError, Stand
from recipes.bench.witness import Lag, LagWitness

RUNNERS = ("hybridpolicy", "lerobot-sync", "lerobot-rtc")
LOADS = ("idle", "busy")
TICKS = 6000
TICKS_OF_THE_BAR = 30_000  # 0.01 % of them is three
# Of our own runner beside inference: shares of deadlines missed, by whether priority was real-time; of rate.
MOST_MISSED = {False: 0.005, True: 0.0001}
MOST_RATE_ERROR = 0.0005
SLACK_S = 180.0


@dataclass(frozen=True)
class Setting:
    """One row before it is measured."""

    runner: str
    load: str
    realtime: bool
    rate_hz: float

    @property
    def name(self) -> str:
        """For example `hybridpolicy-busy-realtime`."""
        return f"{self.runner}-{self.load}-{'realtime' if self.realtime else 'plain'}"

    @property
    def ticks(self) -> int:
        """As many as the row's bar needs."""
        return TICKS_OF_THE_BAR if self.is_barred and self.realtime else TICKS

    @property
    def is_barred(self) -> bool:
        """Whether the row has a bar to meet."""
        return self.runner == "hybridpolicy" and self.load == "busy"


def settings(rate_hz: float) -> list[Setting]:
    """Every row at one rate."""
    every = itertools.product(RUNNERS, LOADS, (False, True))
    return [Setting(runner, load, realtime, rate_hz) for runner, load, realtime in every]


def names() -> list[str]:
    """What `--only` may select."""
    return [setting.name for setting in settings(100.0)]


def timing(stamps_ns: Sequence[int], rate_hz: float) -> dict[str, Any]:
    """Rate error (a share, signed), jitter and missed deadlines of goals received at `stamps_ns`.

    Jitter is how far an interval is from the period. A deadline is missed if a goal comes more than half a
    period later than a period after the last one; an interval of n periods has missed n - 1. BenchError for
    fewer than three goals.
    """
    if len(stamps_ns) < 3:
        raise BenchError(f"{len(stamps_ns)} goals arrived; three are the least that has a jitter")
    period_ms = 1e3 / rate_hz
    gaps = [(b - a) * 1e-6 for a, b in itertools.pairwise(stamps_ns)]
    jitter = sorted(abs(gap - period_ms) for gap in gaps)
    mean_ms = (stamps_ns[-1] - stamps_ns[0]) * 1e-6 / len(gaps)
    return {
        "ticks": len(gaps),
        "rate_error": period_ms / mean_ms - 1.0,
        "jitter_p50_ms": jitter[len(jitter) // 2],
        "jitter_p99_ms": jitter[int(len(jitter) * 0.99)],
        "jitter_max_ms": jitter[-1],
        "missed": sum(max(0, int(gap / period_ms + 0.5) - 1) for gap in gaps),
    }


def run_control(
    chosen: Sequence[Setting],
    ticks: int | None,
    advance: Callable[[int, str], None] = lambda count, note: None,
) -> list[dict[str, Any]]:
    """One row a setting; `ticks` instead of what the row's bar needs."""
    rows = []
    with (
        LeRobotProcess() as server,
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Stand(Path(folder)) as stand,
        LagWitness() as witness,
    ):
        for setting in chosen:
            rows.append(_measure(setting, ticks or setting.ticks, stand, server, witness))
            advance(1, setting.name)
        scheduling = stand.twin.ask("status")["scheduling"]
    return [{**row, "measured_by": f"twin, {scheduling}"} for row in rows]


def missed_while_standing(stamps_ns: Sequence[int], rate_hz: float, lags: Sequence[Lag]) -> int:
    """How many of the missed deadlines of `timing` fall into an interval in which the machine stood still.

    Standing still is a lag of a quarter of a period: what is left of the half is then no longer the sender's.
    """
    period_ns = 1e9 / rate_hz
    long = [lag for lag in lags if lag.end_ns - lag.begin_ns > period_ns / 4]
    missed = 0
    for begin, end in itertools.pairwise(stamps_ns):
        skipped = max(0, int((end - begin) / period_ns + 0.5) - 1)
        if skipped and any(lag.begin_ns < end and lag.end_ns > begin for lag in long):
            missed += skipped
    return missed


def _measure(
    setting: Setting, ticks: int, stand: Stand, server: LeRobotProcess, witness: LagWitness
) -> dict[str, Any]:
    stand.reset()
    witness.take()
    seconds = (ticks + 1) / setting.rate_hz
    found = server.call(
        "control_runners:run",
        seconds + SLACK_S,
        runner=setting.runner,
        twin=stand.twin.info,
        rate_hz=setting.rate_hz,
        seconds=seconds,
        busy=setting.load == "busy",
        realtime=setting.realtime,
    )
    lags = witness.take()
    if "timed_out" in found:
        raise BenchError(f"{setting.name}: did not end within {found['timed_out']:.0f} s")
    goals = stand.twin.goals(since=found["first"])[: found["last"] - found["first"]]
    stamps = [stamp for stamp, _ in goals]
    row = {
        "runner": setting.runner,
        "rate_hz": setting.rate_hz,
        "load": setting.load,
        "realtime": setting.realtime,
        **timing(stamps, setting.rate_hz),
        "missed_while_machine_stood": missed_while_standing(stamps, setting.rate_hz, lags),
        "missed_by_sender": found.get("missed_by_sender"),
        "machine_stood_max_ms": max(((lag.end_ns - lag.begin_ns) * 1e-6 for lag in lags), default=0.0),
        "inferences": found["inferences"],
        "stale": found.get("stale"),
        "scheduling": found["scheduling"],
    }
    if setting.is_barred:
        most = MOST_MISSED[setting.realtime]
        row["bars"] = {"missed_share": most, "rate_error": MOST_RATE_ERROR}
        missed = row["missed"] / row["ticks"]
        row["pass"] = missed <= most and abs(row["rate_error"]) <= MOST_RATE_ERROR
    if setting.realtime and "FIFO" not in found["scheduling"]:
        row["note"] = f"real-time priority is not permitted here: ran as {found['scheduling']}"
    return row
