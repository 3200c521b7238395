"""What a run shows, and the keys it obeys to its end. The whole deployment is a part of test_twin_job."""

import io
import os
import pty
import sys
import termios
import threading
import time
from collections import deque
from pathlib import Path

import pytest

from embodiments.control.client import ControlledArm
from embodiments.control.errors import ControlError
from embodiments.control.launch import open_stop_device
from embodiments.control.link import ArmState, Counters, Severity
from firmware_bridge.safety import Cause, State
from recipes.arm.checks import Check
from recipes.arm.launch import _bring_down
from recipes.arm.telemetry import RateMeter, Telemetry, median_and_p95
from recipes.arm.view import Key, LiveView, PlainView
from recipes.bench.stand import Stand


def state(cycle, time_us, **changed):
    values = {
        "state": State.RUN,
        "cause": Cause.NONE,
        "torque": 1,
        "supply": 1,
        "conditions": 0,
        "cycle": cycle,
        "time_us": time_us,
        "measured_us": time_us,
        "sent_us": time_us,
        "plan_us": 0,
        "buffered_us": 300_000,
        "sequence": 7,
        "measured": (0.0,) * 6,
        "sent": (0.0,) * 6,
        "load": (0.0,) * 6,
        "errors": (0,) * 6,
        "counters": Counters(missed=3, late_p99_us=1500),
    }
    return ArmState(**values | changed)


def test_the_rate_is_of_the_last_second():
    meter = RateMeter()
    rates = [meter.see(state(cycle, cycle * 10_000)) for cycle in range(300)]
    assert rates[0] == 0.0
    assert rates[-1] == pytest.approx(100.0)
    for cycle in range(300, 400):
        rate = meter.see(state(cycle, 3_000_000 + (cycle - 300) * 20_000))
    assert rate == pytest.approx(50.0, rel=0.02)
    assert median_and_p95([]) == (0.0, 0.0)


def test_plain_lines_say_what_matters_and_not_too_often():
    stream = io.StringIO()
    view = PlainView(stream)
    view.check(Check("rate", "policy 10 Hz"))
    shown = Telemetry(
        *(state(5, 50_000), 1, 2, "touch it", 1.0, 99.9, (("gripper", 3.0),), (8.0, 12.0)),
        picture_ms=40.0,
        plans=4,
        paused="camera front shows nothing new",
    )
    began = time.monotonic()
    for _ in range(5):
        view.show(shown)
    assert time.monotonic() - began < 2.0
    view.event(Severity.WARNING, "something")
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("ok  rate")
    assert lines[-1] == "warning: something"
    assert len(lines) == 3
    for part in (
        "RUN",
        "99.9 Hz",
        "3 missed",
        "1.50 ms",
        "gripper 3",
        "8 ms",
        "40 ms old",
        "300 ms",
        "paused",
    ):
        assert part in lines[1]
    quiet = io.StringIO()
    PlainView(quiet, quiet=True).event(Severity.INFO, "nothing")
    assert quiet.getvalue() == ""


@pytest.fixture
def terminal(monkeypatch):
    """What a person types on, with the program's end of it as standard input."""
    typed, theirs = pty.openpty()
    with os.fdopen(theirs) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        yield typed, stream
    os.close(typed)


def test_keys_are_read_without_enter_and_the_terminal_is_given_back(terminal):
    typed, stream = terminal
    before = termios.tcgetattr(stream)
    view = LiveView()
    assert view.key() is None
    os.write(typed, b"xs ")
    assert [view.key(), view.key(), view.key(), view.key()] == [None, Key.SUCCESS, Key.STOP, None]
    assert termios.tcgetattr(stream) != before
    view.close()
    assert termios.tcgetattr(stream) == before


def test_the_emergency_stop_is_obeyed_while_the_arm_parks(terminal, tmp_path):
    with Stand(tmp_path) as stand:
        arm, view = stand.raised(park_speed=10.0), LiveView()  # some seven seconds
        typist = threading.Timer(1.0, os.write, (terminal[0], b" "))
        typist.start()
        began = time.monotonic()
        _bring_down(arm, view, deque())
        assert time.monotonic() - began < 3.0
        texts = [text for _, text in stand.events()]
        view.close()
        assert any("PARK -> ESTOP (ESTOP_" in text for text in texts), texts
        assert stand.torque() == [0] * 6


def test_a_pedal_is_a_device_that_speaks_and_no_plain_file(tmp_path):
    pedal = tmp_path / "pedal"
    os.mkfifo(pedal)
    with Stand(tmp_path) as stand:
        descriptor = open_stop_device(pedal)
        with ControlledArm(stand.spec(), estop_input=descriptor) as arm:
            os.close(descriptor)  # the control process has its own
            arm.arm()
            pedal.write_bytes(b"!")
            assert arm.wait_for(State.ESTOP).cause == Cause.ESTOP_INPUT
    for wrong, words in ((tmp_path / "none", "No such file"), (Path(__file__), "no character device")):
        with pytest.raises(ControlError, match=words):
            open_stop_device(wrong)
