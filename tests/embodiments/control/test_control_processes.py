"""Processes that die or freeze, and terminals that press Ctrl-C: who brings the arm down, and how soon.

Row 6 kills and stops the policy's process. Row 7, Ctrl-C typed through a terminal and SIGKILL at random
instants of connect, run, park and disconnect, is in tests/recipes/bench/test_interrupts.py.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embodiments.feetech.errors import PortUnavailable
from embodiments.feetech.port import FeetechPort
from firmware_bridge.safety import Cause, State

POLICY = Path(__file__).with_name("policy_process.py")
SLACK_S = 0.1
TTL_S = 0.1


@pytest.fixture
def policy(bench, tmp_path):
    """(mode, **settings of the spec) → a policy's process, running."""
    started = []

    def start(mode="stream", wait_for="RUNNING", **settings):
        spec = tmp_path / "spec.json"
        spec.write_text(bench.spec(**settings).dump())
        process = subprocess.Popen(
            [sys.executable, str(POLICY), str(spec), mode], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        control = None
        for line in process.stdout:
            if line.startswith("STARTED"):
                control = int(line.split()[1])
                started.append(control)
            if line.startswith(wait_for):
                return process, control
        raise AssertionError("the policy's process ended")

    yield start
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one if isinstance(one, int) else one.pid, signal.SIGKILL)
    for one in started:
        if not isinstance(one, int):
            one.wait()
            one.stdout.close()


def gone(pid):
    """Whether a process that is not our child has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition, timeout_s):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def port_is_free(path):
    try:
        FeetechPort(path).close()
    except PortUnavailable:
        return False
    return True


def last_motion(bench, since, joint_id=1):
    """When, in seconds of CLOCK_MONOTONIC, the goal of a motor changed last."""
    goals = bench.twin.goals(since=since)
    changes = [b[0] for a, b in itertools.pairwise(goals) if a[1][joint_id] != b[1][joint_id]]
    return max(changes) * 1e-9


@pytest.mark.parametrize("mode", ["stream", "chunk"])
def test_row_6_a_killed_policy_leaves_an_arm_that_stops_parks_and_lets_go(bench, policy, mode):
    process, control = policy(mode)
    since = bench.twin.ask("status")["arms"]["follower"]["goal_writes"]
    time.sleep(0.3)
    killed = time.monotonic()
    process.kill()
    process.wait()
    time.sleep(1.0)
    # Decelerating is motion, too: 150 ms of it at most.
    assert last_motion(bench, since) - killed <= 0.1 + TTL_S + 0.15 + SLACK_S
    assert bench.torque() == [1] * 6
    assert not gone(control)
    wait_until(lambda: gone(control), 20.0)
    texts = [text for _, text in bench.events()]
    assert any("FAULT (HEARTBEAT" in text for text in texts)
    assert any("FAULT -> PARK" in text for text in texts)
    assert bench.torque() == [0] * 6
    assert port_is_free(bench.twin.port)


@pytest.mark.parametrize("mode", ["stream", "chunk"])
def test_row_6_a_frozen_policy_is_a_fault_although_its_chunk_has_not_ended(bench, policy, mode):
    process, _ = policy(mode)
    since = bench.twin.ask("status")["arms"]["follower"]["goal_writes"]
    time.sleep(0.3)
    stopped = time.monotonic()
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.0)
    assert last_motion(bench, since) - stopped <= 0.1 + TTL_S + 0.15 + SLACK_S
    fault = bench.when("FAULT (HEARTBEAT")
    assert 0.2 <= fault * 1e-6 - stopped <= 0.26 + SLACK_S
    assert bench.torque() == [1] * 6
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(15.0) != 0  # its next request finds the fault and ends it; the arm is brought down
    wait_until(lambda: bench.torque() == [0] * 6, 20.0)


def test_a_terminated_control_process_parks_first(bench, policy):
    _, control = policy()
    os.kill(control, signal.SIGTERM)
    wait_until(lambda: gone(control), 15.0)
    texts = [text for _, text in bench.events()]
    assert any("-> PARK" in text for text in texts)
    bench.when(": torque is off on motors 1, 2, 3, 4, 5, 6, read back")
    assert bench.torque() == [0] * 6


def test_ctrl_c_and_hang_up_do_not_reach_the_control_process(bench):
    arm = bench.raised()
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(arm.pid, number)
    bench.follow(arm, bench.up, 0.3)
    assert arm.state.state.name == "RUN"
    assert os.getsid(arm.pid) == arm.pid


def test_a_hold_ends_a_chunk_that_is_still_flowing(bench):
    arm = bench.raised()
    here = arm.observe().measured
    arm.send_chunk([(here[0] + 0.5 * step, *here[1:]) for step in range(40)], 0.1)
    wait_until(lambda: arm.state.state.name == "RUN" and arm.state.sent[0] > here[0] + 0.2, 3.0)
    arm.hold()
    wait_until(lambda: arm.state.state.name == "HOLD", 1.0)
    time.sleep(0.3)  # what it takes to come to a stand
    stood = arm.state.sent[0]
    states = set()
    for _ in range(20):
        time.sleep(0.02)
        states.add(arm.state.state.name)
    assert states == {"HOLD"}
    assert arm.state.sent[0] == stood < here[0] + 2.0


def test_sigusr1_is_an_emergency_stop(bench):
    arm = bench.raised()
    os.kill(arm.pid, signal.SIGUSR1)
    wait_until(lambda: bench.torque() == [0] * 6, 1.0 + SLACK_S)
    assert arm.wait_for(State.ESTOP).cause == Cause.ESTOP_SIGNAL


BREAK = """
import sys
from embodiments.control import pilot, process
def broken(self, now_us, periods):
    if self._machine.state.name == "HOLD":
        raise RuntimeError("an invariant broke")
pilot.Pilot.feed = broken
sys.exit(process.main())
"""


def test_a_control_process_that_breaks_down_releases_on_its_way_out(bench, monkeypatch):
    """A defect of ours in the middle of a cycle: a traceback for us, torque off for the arm."""
    real = subprocess.Popen

    def start_broken(command, **kwargs):
        return real([command[0], "-c", BREAK, *command[3:]], **kwargs)

    monkeypatch.setattr("embodiments.control.launch.subprocess.Popen", start_broken)
    arm = bench.start()
    monkeypatch.undo()
    with pytest.raises(ConnectionError, match=r"(?s)control process ended .code 1.*an invariant broke"):
        arm.arm()
    assert "RELEASED" in bench.when_text("broke down")
    assert bench.torque() == [0] * 6
