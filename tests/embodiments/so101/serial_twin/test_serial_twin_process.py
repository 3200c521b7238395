"""The twin as a process: its name, its end, its control channel, its clock."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from embodiments.feetech import registers as r
from embodiments.feetech.port import FeetechPort
from embodiments.so101.serial_twin.client import TwinClient, TwinError, TwinProcess

IDS = (1, 2, 3, 4, 5, 6)
COMMAND = (sys.executable, "-m", "recipes.commands", "arm", "twin", "so101")


def wait_until(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    with TwinProcess(
        tmp_path_factory.mktemp("sim") / "so101", seed=1, cameras=False, clock="sim", leader=True
    ) as process:
        yield process


# -- the command
def test_the_command_prints_what_to_connect_to_and_ends_by_ctrl_c(tmp_path):
    link = tmp_path / "so101"
    process = subprocess.Popen(
        [*COMMAND, "--link", str(link), "--no-cameras", "--json", "--seed", "4"],
        stdout=subprocess.PIPE,
        text=True,
    )
    found = json.loads(process.stdout.readline())
    assert found["port"] == str(link)
    assert Path(found["calibration_dir"], "twin.json").exists()
    with FeetechPort(found["port"], reply_deadline_s=0.2) as port:
        assert port.ping(1) == 0
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=15) == 0
    assert not link.is_symlink()
    assert not Path(found["control"]).exists()


def test_a_name_that_is_taken_is_refused(tmp_path):
    with TwinProcess(tmp_path / "so101", cameras=False) as twin:
        second = subprocess.run(
            [*COMMAND, "--link", twin.port, "--no-cameras"], capture_output=True, text=True
        )
        assert second.returncode == 2
        assert "another simulated arm runs here; stop it, or use another --link" in second.stderr
        with FeetechPort(twin.port, reply_deadline_s=0.2) as port:
            assert port.ping(1) == 0, "the first was not disturbed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--task", "juggle"), "family 'juggle' is unknown"),
        (("--size", "8"), "camera size is 8; allowed is 16 to 640"),
        (("--fps", "0"), "camera rate is 0.0; allowed is 1 to 120"),
        (("--error-deg", "30"), "error_deg is 30.0; allowed is 0 to 10"),
        (("--id", "../x"), "give a plain name"),
        (("--link", "/tmp/" + "x" * 120), "use a shorter --link"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_message(tmp_path, options, message):
    done = subprocess.run(
        [*COMMAND, "--link", str(tmp_path / "so101"), "--no-cameras", *options],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_twin_leaves_nothing_that_disturbs_the_next(tmp_path):
    first = TwinProcess(tmp_path / "so101", size=32)
    cameras = psutil.Process(first._process.pid).children()
    assert len(cameras) == 1
    first._process.kill()
    first._process.wait()
    wait_until(lambda: not cameras[0].is_running() or cameras[0].status() == psutil.STATUS_ZOMBIE)
    first.close()
    with (
        TwinProcess(tmp_path / "so101", cameras=False) as second,
        FeetechPort(second.port, reply_deadline_s=0.2) as port,
    ):
        assert port.ping(6) == 0


def test_a_program_that_dies_takes_its_twin_along(tmp_path):
    script = (
        "import sys, os, pathlib; from embodiments.so101.serial_twin.client import TwinProcess\n"
        "twin = TwinProcess(pathlib.Path(sys.argv[1]), cameras=False)\n"
        "print(twin._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "so101")], capture_output=True, text=True
    )
    pid = int(done.stdout)
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert not (tmp_path / "so101").is_symlink()


# -- the control channel
@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"command": "explode"}, "'explode' is unknown; allowed are"),
        ({"command": "joints", "leg": 1}, r"has no ['leg']; it takes ['arm']"),
        ({"command": "dead", "id": 9}, "motor id 9 is not here; allowed are [1, 2, 3, 4, 5, 6]"),
        ({"command": "joints", "arm": "third"}, "allowed are ['follower', 'leader']"),
        ({"command": "freeze", "camera": "top"}, "camera 'top' is unknown"),
        ({"command": "supply", "volts": 40}, "40.0 V; allowed is 0 to 15"),
        ({"command": "stall", "id": 1, "direction": 2}, "allowed is 1 or -1"),
        ({"command": "hand", "joints": {"neck": 3}}, "joints ['neck'] are unknown"),
        ({"command": "error_bits", "id": 1, "bits": 128}, "allowed is 0 to 127"),
        ({"command": "dead"}, "missing 1 required"),
        ({"command": "write_register", "id": 1, "name": "Goal", "value": 1}, "'Goal' is unknown"),
    ],
)
def test_a_wrong_command_is_answered_with_what_is_allowed(twin, request_, message):
    with pytest.raises(TwinError) as caught:
        twin.ask(**request_)
    assert message in str(caught.value)


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b"\xff\xfe\n", b"{}\n"])
def test_nonsense_on_the_channel_is_an_answer_and_no_more(twin, line):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.settimeout(10)
        raw.connect(str(twin.control))
        raw.sendall(line)
        assert not json.loads(raw.recv(65536))["ok"]
        raw.sendall(b'{"command": "joints"}\n')
        assert json.loads(raw.recv(65536))["ok"]


def test_clients_come_and_go(twin):
    for _ in range(50):
        client = TwinClient(twin.control)
        client.ask("joints")
        client.close()
    first, second = TwinClient(twin.control), TwinClient(twin.control)
    assert first.ask("joints")["true"] == second.ask("joints")["true"]
    first.close()
    second.close()


def test_nobody_there(tmp_path):
    with pytest.raises(TwinError, match="start one with `hybridpolicy arm twin so101`"):
        TwinClient(tmp_path / "none.control")


# -- time
def test_on_a_simulated_clock_nothing_moves_by_itself(twin):
    with FeetechPort(twin.port, reply_deadline_s=0.2) as port:
        for id in IDS:
            port.write_register(id, r.TORQUE_ENABLE, 1)
        before = port.sync_read(56, 2, IDS).replies
        goals = {id: reply.value for id, reply in before.items()} | {1: before[1].value + 200}
        port.write_goals(goals)
        time.sleep(0.2)
        assert port.sync_read(56, 2, IDS).replies == before
        started = twin.ask("joints")["simulated_s"]
        assert twin.ask("advance", seconds=1.0)["simulated_s"] == pytest.approx(started + 1.0)
        after = port.sync_read(56, 2, IDS).replies[1].value
        assert after == pytest.approx(goals[1], abs=6)


def test_two_arms_are_two_arms(twin):
    with (
        FeetechPort(twin.port, reply_deadline_s=0.2) as follower,
        FeetechPort(twin.info["leader"]["port"], reply_deadline_s=0.2) as leader,
    ):
        offsets = [[port.read(id, 31, 2).value for id in IDS] for port in (follower, leader)]
    assert offsets[0] != offsets[1], "mounted and calibrated separately"
    files = [
        json.loads(Path(folder, "twin.json").read_text())
        for folder in (twin.info["calibration_dir"], twin.info["leader"]["calibration_dir"])
    ]
    assert files[0] != files[1]


def test_goal_writes_are_numbered(twin):
    with FeetechPort(twin.port, reply_deadline_s=0.2) as port:
        first = len(twin.goals())
        for raw in range(2000, 2005):
            port.write_goals({4: raw})
        port.ping(1)
    fresh = twin.goals(since=first)
    assert [goals for _, goals in fresh] == [{4: raw} for raw in range(2000, 2005)]
    stamps = [stamp for stamp, _ in fresh]
    assert stamps == sorted(stamps)


def test_both_torque_on_behaviours_over_the_bus(tmp_path):
    jumps = {}
    for behaviour in ("hold", "old_goal"):
        link = tmp_path / behaviour
        with (
            TwinProcess(link, seed=1, cameras=False, clock="sim", torque_on=behaviour) as twin,
            FeetechPort(twin.port, reply_deadline_s=0.2) as port,
        ):
            present = port.read(5, 56, 2).value
            port.write_goals({5: present + 400})
            port.write_register(5, r.TORQUE_ENABLE, 1)
            twin.ask("advance", seconds=1.0)
            jumps[behaviour] = abs(port.read(5, 56, 2).value - present)
    assert jumps["hold"] < 5
    assert jumps["old_goal"] > 390


def test_it_says_how_it_is_scheduled(twin):
    said = twin.ask("status")["scheduling"]
    assert said.startswith(("SCHED_FIFO", "nice", "normal"))
    if said.startswith("SCHED_FIFO"):
        assert os.sched_getscheduler(twin._process.pid) == os.SCHED_FIFO
