"""Random instants of Ctrl-C, typed through a terminal, and of SIGKILL, over connect, run, park, disconnect.

What is judged is what the arm does, at the twin: no motion that no goal asked for; no falling when it is let
go in its rest pose, where the last degree or two to the mechanical stops is gravity's; torque off at the end;
and a port that the next program can have.
"""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from embodiments.so101.serial_twin.client import TwinClient
from recipes.bench.stand import STARVED_MS, Stand
from recipes.bench.terminal import Terminal, has_ended
from recipes.bench.witness import LagWitness

PROGRAM = "recipes.bench.arm_program"
RUN_S = 2.5
KINDS = ("ctrl-c", "kill")
# Phase → (what the program says when it begins, how long it takes). All get as many instants, short or long.
PHASES = {
    "connect": (None, 0.7),
    "run": ("RUN", RUN_S),
    "park": ("PARK", 3.2),
    "disconnect": ("DISCONNECT", 0.1),
}
PHASE_S = 20.0  # until a phase begins, on a busy machine
ALLOWED_DEG = 0.5
ALLOWED_TIP_M_S = 0.05  # after letting go: row 12 of the fault table
SETTLING_NS = 400_000_000  # how long a joint may still move after its last goal
LEAVE_S = 40.0  # until the arm is down: a host's silence, five seconds of it, parking, the torque ramp
SAMPLE_S = 0.02
UNANNOUNCED_S = 0.6


class Look(NamedTuple):
    """The arm at one moment, as the twin has it."""

    now_ns: int
    true: tuple[float, ...]
    tip_speed_m_s: float


class Watcher:
    """Looks at the arm all the time, on a connection and a thread of its own."""

    def __init__(self, stand: Stand) -> None:
        self._twin = TwinClient(stand.twin.control)
        self.looks: list[Look] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            seen = self._twin.ask("joints")
            self.looks.append(Look(seen["now_ns"], tuple(seen["true"]), seen["tip_speed_m_s"]))

    def close(self) -> list[Look]:
        """Ends watching; everything seen."""
        self._stop.set()
        self._thread.join()
        self._twin.close()
        return self.looks


def uncommanded_deg(looks: Sequence[Look], goals: Sequence[tuple[int, dict[int, int]]]) -> float:
    """The largest motion of a joint (degrees; the gripper left out) while no goal of any joint changed.

    looks: in order of time. goals: every goal write, receive time in ns and raw goals by id.
    """
    changes = [b[0] for a, b in itertools.pairwise(goals) if a[1] != b[1]]
    edges = [0, *changes, 1 << 62]
    worst = 0.0
    for begin, end in itertools.pairwise(edges):
        quiet = [look.true[:5] for look in looks if begin + SETTLING_NS * bool(begin) <= look.now_ns < end]
        for joint in zip(*quiet, strict=True):
            worst = max(worst, max(joint) - min(joint))
    return worst


def interrupt(stand: Stand, spec_file: str, kind: str, phase: str, after_s: float) -> dict[str, Any]:
    """Interrupt a program `after_s` into a phase: what the arm did from the program's start to its rest."""
    since = stand.goal_writes()
    watcher = Watcher(stand)
    with Terminal(PROGRAM, [spec_file, str(RUN_S)]) as terminal:
        word, _ = PHASES[phase]
        if word is not None:
            _wait(lambda: terminal.has_ended() or [word] in terminal.words(), PHASE_S)
        deadline = time.monotonic() + after_s
        while (left := deadline - time.monotonic()) > 0:
            terminal.read(left)
            time.sleep(0.001)
        last, ended_before = terminal.last_phase(), terminal.process.poll() is not None
        if kind == "ctrl-c":
            terminal.type_ctrl_c()
        else:
            terminal.send(signal.SIGKILL)
        began = time.monotonic()
        free = _wait(lambda: terminal.has_ended() and _control_ended(terminal) and stand.port_is_free())
        if terminal.control_pid() is None:  # one that was only being started may still come, and go
            time.sleep(UNANNOUNCED_S)
            free = free and _wait(stand.port_is_free)
        took = time.monotonic() - began
        code = terminal.process.poll()
        heard = kind == "kill" or ended_before or "KeyboardInterrupt" in terminal.text or code != 0
    stand.settle()
    looks = watcher.close()
    let_go_ns = _let_go_ns(stand, looks[0].now_ns)
    motion = uncommanded_deg(
        [look for look in looks if look.now_ns < let_go_ns], stand.twin.goals(since=since)
    )
    tip = max((look.tip_speed_m_s for look in looks if look.now_ns >= let_go_ns), default=0.0)
    torque = stand.torque()
    return {
        "kind": kind,
        "phase": phase,
        "after_s": round(after_s, 3),
        "last_said": last,
        "ended_before": ended_before,
        "arrived": heard,
        "uncommanded_deg": round(motion, 3),
        "tip_speed_let_go_m_s": round(tip, 4),
        "torque": torque,
        "port_free": free,
        "at_rest_after_s": round(took, 2),
        "ok": motion <= ALLOWED_DEG and tip <= ALLOWED_TIP_M_S and torque == [0] * 6 and free,
    }


def _let_go_ns(stand: Stand, since_ns: int) -> int:
    """When the control process began to let go, by its journal; never, if it had nothing to let go of."""
    said = [at * 1000 for at, text in stand.events() if "-> LIMP" in text and at * 1000 >= since_ns]
    return said[-1] if said else 1 << 62


def _control_ended(terminal: Terminal) -> bool:
    control = terminal.control_pid()
    return control is None or has_ended(control)


def _wait(condition: Callable[[], bool], timeout_s: float = LEAVE_S) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def run_interrupts(
    stand: Stand, instants: int, seed: int, advance: Callable[[int, str], None] = lambda count, note: None
) -> dict[str, Any]:
    """`instants` interruptions, kinds and phases in turn; what happened, summed and one by one."""
    random_instants = random.Random(seed)
    spec_file = stand.folder / "spec.json"
    spec_file.write_text(stand.spec().dump())
    found: list[dict[str, Any]] = []
    stand.reset()
    with LagWitness() as witness:
        for index in range(instants):
            kind, phase = KINDS[index % 2], list(PHASES)[index // 2 % len(PHASES)]
            after_s = random_instants.uniform(0.0, PHASES[phase][1])
            one = interrupt(stand, str(spec_file), kind, phase, after_s)
            one["own_lag_ms"] = round(witness.worst_ms(), 1)
            one["starved"] = one["own_lag_ms"] > STARVED_MS
            found.append(one)
            if not one["ok"]:
                stand.reset()
            advance(1, f"{sum(each['ok'] for each in found)} in order")
    return summary(found, seed)


def summary(found: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The sums, then every instant."""
    wrong = [each for each in found if not each["ok"]]
    return {
        "instants": len(found),
        "in_order": len(found) - len(wrong),
        "seed": seed,
        "by_kind": dict(Counter(each["kind"] for each in found)),
        "by_phase": dict(Counter(each["phase"] for each in found)),
        "ended_before": sum(each["ended_before"] for each in found),
        "not_arrived": sum(not each["arrived"] for each in found),
        "worst_uncommanded_deg": max((each["uncommanded_deg"] for each in found), default=0.0),
        "worst_tip_speed_let_go_m_s": max((each["tip_speed_let_go_m_s"] for each in found), default=0.0),
        "torque_not_off": sum(each["torque"] != [0] * 6 for each in found),
        "port_not_free": sum(not each["port_free"] for each in found),
        "wrong_and_starved": sum(each["starved"] for each in wrong),
        "pass": not wrong and bool(found),
        "rows": list(found),
    }
