"""From settings to a running policy: processes up, checks, consent, episodes, arm down."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embodiments.control.client import ControlledArm
from embodiments.control.errors import ArmStopped, Refused
from embodiments.control.launch import open_stop_device
from embodiments.control.link import ArmState, Severity
from embodiments.control.spec import ControlSpec
from embodiments.so101.constants import JOINT_NAMES
from firmware_bridge.safety import Code, State
from hybridpolicy.location import find_policy
from recipes.arm.cameras import Cameras
from recipes.arm.checks import (
    Check,
    Latency,
    check_calibration,
    check_freshness,
    check_latency,
    check_limits,
    check_policy,
    measure_latency,
)
from recipes.arm.errors import ArmRunError
from recipes.arm.judge import Judge, PersonJudge
from recipes.arm.policy import Observation, PolicyFacts, PolicyProcess
from recipes.arm.record import (
    CONTROL_LOG,
    Recorder,
    discard_unbegun,
    identity,
    run_folder,
    write_identity,
)
from recipes.arm.session import STOPPED_BY_KEY, EpisodeResult, Session, stop_on_key
from recipes.arm.setup import RunSettings
from recipes.arm.view import Key, View

CAUSE_GONE_S = 2.0  # a servo that was let go answers once more with the error that stopped it

Consent = Callable[[], None]


@dataclass
class RunResult:
    """What a run did. `dry`: the chunk that would have been sent first, (T, 6) joint units."""

    checks: list[Check] = field(default_factory=list)
    episodes: list[EpisodeResult] = field(default_factory=list)
    facts: PolicyFacts | None = None
    latency: Latency | None = None
    last_state: ArmState | None = None
    folder: Path | None = None


def consent_at_terminal() -> None:
    """Somebody presses ENTER; ArmRunError where nobody can."""
    if not sys.stdin.isatty():
        raise ArmRunError(
            "somebody has to consent to torque, and there is no terminal to ask; give --arm auto if starting "
            "the command is the consent"
        )
    input("stand clear of the arm, then press ENTER to switch its torque on... ")


def run_policy(
    settings: RunSettings,
    view: View,
    *,
    judge: Judge | None = None,
    consent: Consent | None = consent_at_terminal,
    dry_run: bool = False,
    keep_frames: bool = False,
    clear_faults: bool = False,
    policy: PolicyProcess | None = None,
) -> RunResult:
    """Runs `settings.episodes` episodes; the arm is parked and let go at the end, however it ends.

    consent: called before torque; None where starting was the consent. dry_run: checks and one chunk, nothing
    is energised or moved. clear_faults: a fault costs its episode and is cleared, for a simulated arm that
    nobody stands near; otherwise it ends the run, as an emergency stop always does. policy: that of the
    settings, if it is loaded already; it is left running. Raises CheckpointError,
    CheckFailed, ArmStopped, the arm's other errors, PolicyGone.
    """
    result = RunResult()
    said: deque[tuple[Severity, str]] = deque()
    with ExitStack() as stack:
        stack.callback(view.close)
        if policy is None:
            policy = PolicyProcess(
                find_policy(settings.policy), settings.imagine, settings.threads, settings.planning()
            )
            stack.callback(policy.close)
        if settings.record is not None and not dry_run:
            result.folder = run_folder(settings.record)
            stack.callback(discard_unbegun, result.folder)
        cameras = Cameras(settings.find_cameras())
        stack.callback(cameras.close)
        spec = settings.control_spec(result.folder / CONTROL_LOG if result.folder else None)
        # What is wrong with the arm is said before the policy has loaded.
        arm = _take(settings, spec, view, said, stack)
        result.facts = policy.load()
        for check in _checks(settings, result, spec, arm, cameras, policy):
            result.checks.append(check)
            view.check(check)
        if dry_run:
            return result
        recorder = _record(settings, result, spec, cameras, stack)
        if consent is not None:
            consent()
        arm.arm()
        judge = judge or PersonJudge(settings.task)
        session = Session(
            settings, arm, cameras, policy, result.facts, judge, view, said, recorder, keep_frames
        )
        for number in range(settings.episodes):
            episode = session.play(number)
            result.episodes.append(episode)
            if episode.stopped is not None:
                _clear(arm, episode.stopped, clear_faults)
            if episode.reason == "by key: quit":
                break
        result.last_state = arm.state
        view.event(Severity.INFO, "parking the arm, then letting go")
    return result


def _take(
    settings: RunSettings,
    spec: ControlSpec,
    view: View,
    said: deque[tuple[Severity, str]],
    stack: ExitStack,
) -> ControlledArm:
    """The arm, attached and without torque; `stack` brings it down."""
    pressed = None
    if settings.estop_device is not None:
        pressed = open_stop_device(settings.estop_device)
        stack.callback(os.close, pressed)
    arm = ControlledArm(spec, lambda severity, text: said.append((severity, text)), pressed)
    arm.start()
    stack.callback(_bring_down, arm, view, said)
    view.event(Severity.INFO, f"emergency stop: SPACE, or kill -USR1 {arm.pid}")
    return arm


def _bring_down(arm: ControlledArm, view: View, said: deque[tuple[Severity, str]]) -> None:
    """Parks the arm and lets go; an emergency stop is obeyed on the way, too."""

    def listen() -> None:
        if stop_on_key(arm, view) == Key.STOP:
            view.event(Severity.ERROR, STOPPED_BY_KEY)
        while said:
            view.event(*said.popleft())

    arm.close(meanwhile=listen)


def _clear(arm: ControlledArm, stopped: ArmStopped, clear_faults: bool) -> None:
    """Lets go of an arm in a fault, which may still press on something, and arms it again."""
    if not clear_faults or stopped.state != State.FAULT:
        raise stopped
    arm.release()
    ends = time.monotonic() + CAUSE_GONE_S
    while True:
        try:
            arm.clear()
            break
        except Refused as refused:
            if refused.code != Code.CAUSE_PRESENT or time.monotonic() > ends:
                raise
        time.sleep(0.05)
    arm.arm()


def _checks(
    settings: RunSettings,
    result: RunResult,
    spec: ControlSpec,
    arm: ControlledArm,
    cameras: Cameras,
    policy: PolicyProcess,
) -> Any:
    """Every check in turn: the cheap ones first."""
    facts, port = result.facts, settings.port
    assert facts is not None
    yield from check_policy(port, facts, spec, cameras.names)
    digest = spec.load_calibration().digest
    yield check_calibration(facts, digest, settings.find_calibration().name)
    state = arm.observe(max_age_s=0.5)
    yield check_limits(port, spec, state)
    yield check_freshness(port, cameras)
    look = cameras.look()
    pixels = {name: look.pixels[name] for name in facts.cameras}
    seen = Observation(0, state.plan_us, look.taken_us, state.measured, pixels, settings.task)
    result.latency = measure_latency(policy, seen)
    yield check_latency(port, facts, result.latency)
    state = arm.state
    late = state.counters
    yield Check("control", f"{spec.rate_hz:g} Hz, late p99 {late.late_p99_us / 1e3:.2f} ms, "
                           f"{late.missed} of {state.cycle} deadlines missed")  # fmt: skip


def _record(
    settings: RunSettings, result: RunResult, spec: ControlSpec, cameras: Cameras, stack: ExitStack
) -> Recorder | None:
    if result.folder is None:
        return None
    assert result.facts is not None
    content = identity(spec, result.facts.identity, settings.to_json(), result.checks)
    write_identity(result.folder, content)
    recorder = Recorder(result.folder, result.facts.fps, JOINT_NAMES, cameras.shapes, settings.keep_gb)
    stack.callback(recorder.close)
    return recorder


def with_start(settings: RunSettings) -> RunSettings:
    """The simulated arm's start pose where none is given: where its policies' recordings begin."""
    if settings.start_pose is not None or settings.twin is None:
        return settings
    from embodiments.so101.twin.variation import REST_DEG

    return replace(settings, start_pose=tuple(float(value) for value in REST_DEG))
