"""A policy on the arm, for real: its own process, the control process, servos behind a port, cameras."""

import json
import os
import signal
import time

import numpy as np
import psutil
import pytest

from embodiments.control.errors import ArmStopped
from embodiments.control.limits import JointLimits
from embodiments.feetech.errors import PortUnavailable
from embodiments.so101.constants import JOINT_NAMES, MOTORS
from firmware_bridge.safety import State
from hybridpolicy.errors import CheckpointError
from hybridpolicy.planner_settings import PlannerSettings
from recipes.arm.errors import CheckFailed, PolicyGone
from recipes.arm.launch import run_policy
from recipes.arm.policy import Planning, PolicyProcess
from recipes.arm.setup import RunSettings
from recipes.arm.view import Key

START = (0.0, -48.0, 30.0, 82.0, 0.0, 3.0)


@pytest.fixture
def settings(twin, policy_folder):
    return lambda **given: RunSettings(
        **{
            "port": twin.port,
            "policy": policy_folder,
            "task": "touch the red block",
            "duration_s": 2.0,
            "start_pose": START,
        }
        | given
    )


@pytest.fixture(scope="module")
def loaded(policy_folder):
    """The policy in its process: every run asks it again, and importing LeRobot costs ten seconds."""
    process = PolicyProcess(str(policy_folder))
    yield process
    process.close()


def test_a_dry_run_checks_everything_and_moves_nothing(twin, settings, watched, loaded):
    number = len(twin.goals())
    view = watched()
    result = run_policy(settings(), view, consent=None, policy=loaded, dry_run=True)
    assert [check.name for check in view.checks] == [
        *("rate", "joints", "units", "cameras", "calibration", "limits", "freshness", "latency", "control")
    ]
    assert result.latency.plan.positions.shape == (8, 6)
    assert np.isfinite(result.latency.plan.positions).all()
    assert twin.ask("joints")["torque"] == [0] * 6
    assert len(twin.goals()) == number
    assert result.episodes == []


def test_two_episodes_are_led_recorded_and_the_arm_is_let_go(twin, settings, watched, loaded, tmp_path):
    view = watched()
    result = run_policy(
        settings(episodes=2, record=tmp_path), view, consent=None, policy=loaded, keep_frames=True
    )
    assert [episode.reason for episode in result.episodes] == ["time limit"] * 2
    assert all(episode.plans >= 3 for episode in result.episodes)
    assert all(len(episode.frames["front"]) >= 10 for episode in result.episodes)
    led = [shown for shown in view.shown if shown.state.state == State.RUN]
    assert len(led) > 10
    assert led[-1].rate_hz == pytest.approx(100, rel=0.15)
    assert np.abs(np.subtract(led[0].state.measured, START))[:5].max() < 6.0
    assert twin.ask("joints")["torque"] == [0] * 6  # parked, let go
    check_record(result.folder)


def test_a_planner_with_this_arms_gate_drives_it(twin, settings, watched, planned_folder):
    """K chunks imagined and judged within the budget, those beyond its limits refused."""
    view = watched()
    planner = PlannerSettings(candidates=4, budget_ms=150.0)
    result = run_policy(settings(policy=planned_folder, planner=planner, gate=True), view, consent=None)
    (episode,) = result.episodes
    assert episode.reason == "time limit"
    assert episode.plans >= 3
    assert np.isfinite(result.latency.plan.positions).all()
    assert result.latency.plan.imagined


@pytest.fixture
def nothing_passes(monkeypatch):
    """A planner whose gate has limits far from anywhere the arm is."""
    narrow = tuple(JointLimits(name, 149.5, 150.5, 1.0, 1.0, 1.0) for name in MOTORS)
    planning = Planning(PlannerSettings(candidates=2), narrow)
    monkeypatch.setattr(RunSettings, "planning", lambda _: planning)


def test_a_dry_run_says_that_no_chunk_would_pass(twin, settings, watched, planned_folder, nothing_passes):
    number, view = len(twin.goals()), watched()
    result = run_policy(settings(policy=planned_folder), view, consent=None, dry_run=True)
    assert result.latency.plan.held
    (found,) = [check.found for check in view.checks if check.name == "latency"]
    assert "no chunk passes the gate, and it would stand" in found
    assert twin.ask("joints")["torque"] == [0] * 6
    assert len(twin.goals()) == number


def test_where_no_candidate_passes_any_more_the_arm_stands(
    twin, settings, watched, planned_folder, nothing_passes
):
    """Where it was sent last, however long: not where it sags to, plan by plan. It is said once."""
    view = watched()
    stretched = (0.0, 0.0, 0.0, 0.0, 0.0, 3.0)
    result = run_policy(
        settings(policy=planned_folder, start_pose=stretched, duration_s=5.0), view, consent=None
    )
    assert result.latency.plan.held
    assert result.episodes[0].plans >= 5
    assert len(view.said("no candidate passed the gate")) == 1
    sent = np.array([shown.state.sent for shown in view.shown])
    measured = np.array([shown.state.measured for shown in view.shown])
    assert np.ptp(sent, axis=0).max() < 0.5
    assert np.ptp(measured[len(measured) // 2 :], axis=0).max() < 0.7


def check_record(folder):
    """The run's folder as somebody else would read it."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    identity = json.loads((folder / "identity.json").read_text())
    assert {"policy", "calibration", "limits", "git", "versions", "settings", "checks"} <= set(identity)
    assert len(identity["policy"]["base"]) == 64
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert any("READY -> HOLD" in event["text"] for event in events)
    dataset = LeRobotDataset(f"local/{folder.name}", root=folder / "dataset")
    assert dataset.meta.total_episodes == 2
    assert dataset.meta.robot_type == "so_follower"
    assert dataset.meta.features["action"]["names"] == list(JOINT_NAMES)
    rows = dataset.hf_dataset.with_format("numpy")
    done = np.asarray(rows["next.done"]).ravel()
    episode = np.asarray(rows["episode_index"])
    assert [int(done[episode == index].sum()) for index in (0, 1)] == [1, 1]
    assert done[np.flatnonzero(np.diff(episode))].all()
    assert not np.asarray(rows["next.success"]).any()
    reasons = {str(reason) for reason in np.asarray(rows["outcome.stop_reason"]).ravel()}
    assert reasons == {"", "time limit"}
    action = np.stack(rows["action"])
    state = np.stack(rows["observation.state"])
    assert np.abs(action - state)[:, :5].max() < 15.0  # both in degrees, of the same moment
    assert tuple(dataset[0]["observation.images.front"].shape) == (3, 32, 32)


def test_a_frozen_camera_pauses_the_policy_and_it_goes_on_by_itself(twin, settings, watched, loaded):
    done = []

    def freeze(view, telemetry):
        if not done and telemetry.plans >= 2:
            done.append(True)
            twin.ask("freeze", camera="front", seconds=1.5)

    view = watched(freeze)
    result = run_policy(settings(duration_s=5.0), view, consent=None, policy=loaded)
    assert len(view.said("policy paused: camera front")) == 1
    assert len(view.said("policy goes on")) == 1
    ((why, seconds),) = result.episodes[0].pauses
    assert "front" in why
    assert 0.8 < seconds < 2.5
    paused = [shown for shown in view.shown if shown.paused]
    assert {shown.state.state for shown in paused[3:]} == {State.HOLD}
    assert view.shown[-1].state.state == State.RUN
    assert view.shown[-1].plans > paused[-1].plans


def test_a_killed_policy_ends_the_run_and_the_arm_is_let_go(twin, settings, watched):
    killed = []

    def kill(view, telemetry):
        if not killed and telemetry.plans >= 2:
            os.kill(max(policies_of(os.getpid())), signal.SIGKILL)
            killed.append(time.monotonic())

    view = watched(kill)
    with pytest.raises(PolicyGone, match="code -9"):
        run_policy(settings(duration_s=20.0), view, consent=None)
    assert killed
    assert twin.ask("joints")["torque"] == [0] * 6


def policies_of(parent):
    """Processes of policies that `parent` started."""
    processes = psutil.Process(parent).children()
    return [process.pid for process in processes if any("arm.policy" in word for word in process.cmdline())]


def test_keys_end_an_episode_and_stop_the_arm(twin, settings, watched, loaded):
    def press(view, telemetry):
        if telemetry.plans >= 2:
            view.pressed = Key.SUCCESS if telemetry.episode == 1 else Key.STOP

    view = watched(press)
    with pytest.raises(ArmStopped, match="ESTOP"):
        run_policy(settings(episodes=2, duration_s=20.0), view, consent=None, policy=loaded)
    assert view.said("by key: success")
    assert view.said("emergency stop by key")
    assert twin.ask("joints")["torque"] == [0] * 6


def test_a_fault_costs_its_episode_where_it_may_be_cleared(twin, settings, watched, loaded):
    def block(view, telemetry):
        if telemetry.episode == 1 and telemetry.plans >= 1:
            view.acts.clear()
            twin.ask("hand", seconds=0.3, joints={"elbow_flex": START[2] + 30.0})
            view.event = lambda severity, text: (type(view).event(view, severity, text), release(text))

    def release(text):
        if text.startswith("episode 1"):
            twin.ask("let_go")

    view = watched(block)
    result = run_policy(
        settings(episodes=2, duration_s=8.0), view, consent=None, policy=loaded, clear_faults=True
    )
    blocked, free = result.episodes
    assert (blocked.success, blocked.reason) == (False, "FAULT: STALL")
    assert blocked.stopped.state == State.FAULT
    assert blocked.seconds < 8.0
    assert (free.reason, free.stopped) == ("time limit", None)
    assert free.plans >= 3
    assert result.last_state.state == State.HOLD
    assert twin.ask("joints")["torque"] == [0] * 6


def test_the_emergency_stop_key_works_on_the_way_to_the_start(twin, settings, watched, loaded):
    view = watched()
    view.pressed = Key.STOP
    with pytest.raises(ArmStopped, match="ESTOP"):
        run_policy(settings(), view, consent=None, policy=loaded)
    assert view.shown == []
    assert twin.ask("joints")["torque"] == [0] * 6


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"policy": "nowhere"}, CheckpointError, "no policy here"),
        ({"port": "/dev/none"}, CheckFailed, "/dev/none: no such port; .*lerobot-find-port"),
        ({"rate_hz": 10.0, "port": "/dev/none", "calibration": "own"}, PortUnavailable, "/dev/none"),
    ],
)
def test_what_cannot_run_is_refused_before_torque(twin, settings, watched, given, error, message, tmp_path):
    if given.get("calibration"):
        frames = {name: {"type": "twin", "path": path} for name, path in twin.info["cameras"].items()}
        given = given | {"calibration": twin.calibration_file, "cameras": frames}
    with pytest.raises(error, match=message):
        run_policy(settings(**given, record=tmp_path / "runs"), watched(), consent=None)
    assert twin.ask("joints")["torque"] == [0] * 6
    assert not list(tmp_path.glob("runs/*"))  # no record of a run that never began
