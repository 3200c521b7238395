"""Every fault of the project's fault table, injected into ours and into unmodified LeRobot in the same run.

Each row runs on a twin that was folded, switched off and on, and freed of faults; first ours, then LeRobot on
the same twin. How long the machine itself stood still meanwhile is measured and is part of the row: a row of
ours that misses its target on a starved machine is run again, and says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from recipes.bench import faults_line as line
from recipes.bench import faults_motion as motion
from recipes.bench import faults_process as process
from recipes.bench.fault import Effort, Fault, Found
from recipes.bench.fork_server import LeRobotProcess
from recipes.bench.stand import STARVED_MS, BenchError, Stand
from recipes.bench.witness import LagWitness

ATTEMPTS = 3  # of a row that misses its target while the machine is starved
SLACK_S = 120.0  # for LeRobot's side, beyond what it measures
BITS = {"voltage": 0x01, "overheat": 0x04, "overload": 0x20}


def _fault(name: str, row: int, fault: str, target: str, ours: Callable[..., Found], **rest: Any) -> Fault:
    """A row whose LeRobot side has the same name, in the module of the same subject."""
    subject = ours.__module__.rpartition("_")[2]
    return Fault(name, row, fault, target, ours, f"lerobot_{subject}:{ours.__name__}", **rest)


FAULTS: tuple[Fault, ...] = (
    *(
        _fault(
            f"1-{kind}", 1, f"1 % of replies: {kind}", "cycle p99 <= 15 ms, 0 aborts, 0 wrong values",
            line.lost_replies, same={"kind": kind},
        )
        for kind in ("drop", "corrupt")
    ),
    *(
        _fault(
            f"2-late-{ms}", 2, f"one reply {ms} ms late", "0 stale reads after the next cycle",
            line.late_reply, same={"late_s": ms / 1000},
        )
        for ms in (60, 120, 500)
    ),
    _fault("3-dead", 3, "a dead motor, each id", "FAULT <= 60 ms, the others as commanded", line.dead_motor),
    *(
        _fault(
            f"4-{name}", 4, f"{name} error, each motor", "detected <= 100 ms, torque off reaches all",
            line.error_bit, same={"bits": bits},
        )
        for name, bits in BITS.items()
    ),
    _fault(
        "4-off-erroring", 4, "torque off, motor 2 overloaded", "6/6 off in <= 10 ms",
        line.torque_off, same={"kind": "error_bits"},
    ),
    _fault(
        "4-off-dead", 4, "torque off, motor 2 dead", "5/5 off in <= 10 ms",
        line.torque_off, same={"kind": "dead"},
    ),
    *(
        _fault(
            f"5-{during}", 5, f"cable pulled for 0.7 s during a {during}",
            "typed error <= 20 ms, reopened <= 2 s, 0 goal writes before re-arm",
            line.unplugged, same={"during": during},
        )
        for during in ("read", "write")
    ),
    _fault(
        "6-kill-policy", 6, "SIGKILL of the policy's process", "held <= 200 ms, then parked and released",
        process.policy_signalled, same={"number": int(signal.SIGKILL)},
    ),
    _fault(
        "6-stop-policy", 6, "SIGSTOP of the policy's process", "held <= 200 ms, then parked and released",
        process.policy_signalled, same={"number": int(signal.SIGSTOP)},
    ),
    _fault(
        "6-kill-io", 6, "SIGKILL of the process that owns the port", "torque read back off <= 1 s",
        process.control_killed,
    ),
    _fault(
        "7-interrupts", 7, "Ctrl-C typed, and SIGKILL, at random instants",
        "<= 0.5 deg uncommanded, torque off, port free, every time", process.interrupted,
    ),
    _fault(
        "8-actions", 8, "NaN, inf, 1e6, wrong shapes, 170 deg, 30 deg step",
        "0 goals outside the range, |dq/dt| <= 1.05 vmax, every injection rejected", motion.wrong_actions,
    ),
    _fault("9-far", 9, "first action 60 deg away", "peak <= 30 deg/s, or refused", motion.far_first_action),
    _fault(
        "10-calibration", 10, "another arm's calibration file",
        "refused <= 1 s, torque untouched", motion.other_calibration,
    ),
    _fault(
        "11-stale-goal", 11, "torque on with an old goal", "jump <= 0.5 deg",
        motion.stale_goal, twin={"torque_on": "old_goal"},
    ),
    _fault("11-attach", 11, "taking over a powered arm", "sag <= 0.2 deg", motion.attach_again),
    _fault("12-release", 12, "the end of a run", "tip <= 0.05 m/s when let go", motion.park_and_release),
    _fault("13-owner", 13, "a second process opens the port", "refused", line.second_owner),
    _fault(
        "14-sag", 14, "supply falls from 12 V to 7 V", "slow, then FAULT before the servos give up",
        motion.supply_sag,
    ),
    _fault("15-stall", 15, "a wall in the way", "back-off <= 0.5 s, < 60 C", motion.stall),
    _fault(
        "16-camera", 16, "a camera stands still", "policy paused, arm held, resume noted",
        motion.frozen_camera, twin={"cameras": True},
    ),
    _fault("17-encoder", 17, "an encoder jumps by 35 deg", "FAULT, no goal from it", motion.encoder_jump),
    _fault(
        "29-soak", 29, "a long run at 100 Hz",
        "missed <= 0.5 %, 0 with real-time priority, round trip p99 <= 10 ms", process.soak,
    ),
)  # fmt: skip


def names() -> list[str]:
    """What `--only` may select."""
    return [fault.name for fault in FAULTS]


def run_faults(
    only: Sequence[str], effort: Effort, keep: Callable[[dict[str, Any]], None] = lambda row: None
) -> list[dict[str, Any]]:
    """The rows of `only` (see `names`), in the table's order; `keep` gets each as it is measured."""
    rows: dict[str, dict[str, Any]] = {}
    chosen = [fault for fault in FAULTS if fault.name in only]
    with LeRobotProcess() as lerobot, LagWitness() as witness:
        for settings in dict.fromkeys(json.dumps(dict(fault.twin)) for fault in chosen):
            with _stand(json.loads(settings)) as stand:
                for fault in (each for each in chosen if json.dumps(dict(each.twin)) == settings):
                    rows[fault.name] = measure(fault, stand, effort, lerobot, witness)
                    keep(rows[fault.name])
    return [rows[fault.name] for fault in chosen]


@contextlib.contextmanager
def _stand(settings: dict[str, Any]) -> Iterator[Stand]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Stand(Path(folder), **settings) as stand:
        yield stand


def measure(
    fault: Fault, stand: Stand, effort: Effort, lerobot: LeRobotProcess, witness: LagWitness
) -> dict[str, Any]:
    """One row."""
    attempts, lag_ms, found = 0, 0.0, Found({}, False, "")
    while attempts < ATTEMPTS and not found.met and (attempts == 0 or lag_ms > STARVED_MS):
        attempts += 1
        stand.reset()
        witness.take()
        found = _try(fault, stand, effort)
        lag_ms = witness.worst_ms()
    stand.reset()
    theirs = _theirs(fault, stand, effort, lerobot)
    stand.reset()
    starved = lag_ms > STARVED_MS
    note = f"starved: the machine stood still for {lag_ms:.0f} ms" if starved else ""
    return {
        "fault": fault.name,
        "row": fault.row,
        "injected": fault.fault,
        "target": fault.target,
        "ours": {**found.numbers, "text": found.text, "own_lag_ms": lag_ms, "attempts": attempts},
        "lerobot": theirs,
        "starved": note,
        "pass": found.met,
    }


def _try(fault: Fault, stand: Stand, effort: Effort) -> Found:
    """A measurement; one that could not be made is a row that is not met, with the reason."""
    try:
        return fault.measure(stand, effort)
    except (BenchError, ConnectionError) as error:
        return Found({}, False, f"not measured: {error}")


def _theirs(fault: Fault, stand: Stand, effort: Effort, lerobot: LeRobotProcess) -> dict[str, Any]:
    given = {"twin": stand.twin.info, "effort": dataclasses.asdict(effort), **fault.same}
    timeout_s = SLACK_S + max(effort.seconds, effort.soak_s)
    try:
        found = lerobot.call(fault.lerobot, timeout_s, **given)
    except BenchError as error:
        return {"text": f"not measured: {error}"}
    if "timed_out" in found:
        return found | {"text": f"did not return within {found['timed_out']:.0f} s: killed"}
    return found
