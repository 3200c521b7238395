"""Torque off on every motor, whatever one of them says, and never a claim that was not read back."""

import subprocess
import sys
import time

import pytest

from embodiments.feetech import registers as r
from embodiments.feetech.port import FeetechPort
from embodiments.feetech.release import RELEASED, UNCONFIRMED, Release, release_port, release_torque

IDS = (1, 2, 3, 4, 5, 6)


@pytest.fixture
def driven(port):
    """The port of an arm with torque on all motors."""
    for id in IDS:
        port.write_register(id, r.TORQUE_ENABLE, 1)
    return port


def torque(twin):
    return twin.ask("joints")["torque"]


def test_all_motors_are_released_and_read_back(driven, twin):
    assert torque(twin) == [1] * 6
    result = release_torque(driven)
    assert result.outcome == RELEASED
    assert result.off == IDS
    assert torque(twin) == [0] * 6
    assert str(result).startswith("RELEASED: torque is off on motors 1, 2, 3, 4, 5, 6, read back")


@pytest.mark.parametrize("bits", [0x01, 0x04, 0x20])
@pytest.mark.parametrize("id", [1, 2, 6])
def test_a_motor_that_reports_an_error_stops_nothing(driven, twin, id, bits):
    """LeRobot 0.6.1 leaves every motor after it with its torque on."""
    twin.ask("error_bits", id=id, bits=bits)
    assert release_torque(driven).outcome == RELEASED
    assert torque(twin) == [0] * 6


@pytest.mark.parametrize("id", IDS)
def test_a_dead_motor_is_reported_and_the_others_are_released(driven, twin, id):
    driven.reply_deadline_s = 0.05
    twin.ask("dead", id=id)
    result = release_torque(driven)
    assert result.outcome == UNCONFIRMED
    assert result.silent == (id,)
    assert sorted(result.off) == sorted(set(IDS) - {id})
    assert [on for other, on in zip(IDS, torque(twin), strict=True) if other != id] == [0] * 5
    assert f"no answer {id}" in str(result)
    assert "Cut the servo power" in str(result)


def test_lost_replies_are_asked_for_again(driven, twin):
    driven.reply_deadline_s = 0.05
    twin.ask("drop", count=2)
    result = release_torque(driven)
    assert result.outcome == RELEASED
    assert torque(twin) == [0] * 6


def test_a_port_that_vanishes_is_unconfirmed(driven, twin):
    twin.ask("unplug")
    result = release_torque(driven)
    assert result.outcome == UNCONFIRMED
    assert result.silent == IDS
    assert "plug the arm in again" in result.error


def test_a_port_that_is_not_there(tmp_path):
    result = release_port(str(tmp_path / "none"))
    assert result.outcome == UNCONFIRMED
    assert "no such port" in str(result)


def test_a_port_somebody_owns_is_used_all_the_same(driven, twin):
    assert release_port(twin.port).outcome == RELEASED
    assert torque(twin) == [0] * 6


def test_nothing_known_is_not_released():
    assert Release((1,), (), (), 0.0).outcome == RELEASED
    assert Release((), (1,), (), 0.0).outcome == UNCONFIRMED
    assert Release((1,), (), (), 0.0, "lost").outcome == UNCONFIRMED
    assert "STILL ON 1" in str(Release((), (1,), (), 0.0))


def run(*arguments):
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "embodiments.feetech.release", *arguments], capture_output=True, text=True
    )
    return done, time.monotonic() - began


def test_the_command_is_one_line_and_an_exit_code(twin):
    with FeetechPort(twin.port, reply_deadline_s=0.2) as port:
        for id in IDS:
            port.write_register(id, r.TORQUE_ENABLE, 1)
    done, _ = run(twin.port)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{twin.port}: RELEASED")
    assert done.stdout.count("\n") == 1
    assert torque(twin) == [0] * 6
    done, _ = run(twin.port, "1", "9")
    assert done.returncode == 1
    assert "off 1; no answer 9" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("--help",), ("/dev/x", "one")])
def test_the_command_says_how_it_is_used(arguments):
    done, _ = run(*arguments)
    assert done.returncode == 2
    assert "usage: python -m embodiments.feetech.release PORT" in done.stderr


def test_it_starts_at_once():
    """Measured against an empty interpreter on this machine; the promise, under 0.1 s, is for an idle one."""

    def best(arguments):
        spans = []
        for _ in range(5):
            began = time.process_time(), time.monotonic()
            subprocess.run([sys.executable, *arguments], capture_output=True)
            spans.append(time.monotonic() - began[1])
        return min(spans)

    extra = best(["-m", "embodiments.feetech.release", "/dev/none"]) - best(["-c", "pass"])
    assert extra < 0.1
    script = "import sys, embodiments.feetech.release; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    assert not {"'numpy'", "'torch'", "'lerobot'", "'mujoco'"} & set(loaded.strip("[]\n").split(", "))
