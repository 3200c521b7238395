"""The host's port against a simulated arm in another process: answers, deadlines, faults."""

import errno
import os
import subprocess
import sys
import termios
import time

import pytest
import serial

from embodiments.feetech import registers as r
from embodiments.feetech.errors import BusError, CorruptReply, NoReply, PortLost, PortUnavailable
from embodiments.feetech.port import FeetechPort

IDS = (1, 2, 3, 4, 5, 6)
POSITION = (r.PRESENT_POSITION.address, r.PRESENT_POSITION.size)


def test_every_motor_answers(port):
    assert [port.ping(id) for id in IDS] == [0] * 6
    assert port.read(3, 3, 2) == (777, 0)
    answer = port.sync_read(*POSITION, IDS)
    assert list(answer.replies) == list(IDS)
    assert answer.missing == ()
    assert answer.sent_s < answer.received_s < answer.sent_s + port.reply_deadline_s
    assert port.counters.transactions == 8
    assert (port.counters.timeouts, port.counters.damaged, port.counters.flushed_bytes) == (0, 0, 0)


def test_writes_arrive(port, twin):
    assert port.write_register(4, r.TORQUE_LIMIT, 321) == 0
    before = time.monotonic_ns()
    port.write_goals({1: 2000, 6: 1500})
    registers = twin.ask("registers", id=4)["registers"]
    assert registers["Torque_Limit"] == 321
    stamp, goals = twin.goals()[-1]
    assert goals == {1: 2000, 6: 1500}
    assert before <= stamp <= time.monotonic_ns()


def test_a_block_read_is_one_transaction(port):
    block = port.read(2, 56, 15).value
    assert r.PRESENT_VOLTAGE.take_from(block, 56) == 120
    assert r.PRESENT_TEMPERATURE.take_from(block, 56) == 25
    assert r.PRESENT_POSITION.take_from(block, 56) == pytest.approx(port.read(2, *POSITION).value, abs=3)


def test_error_bits_come_with_every_kind_of_answer(port, twin):
    twin.ask("error_bits", id=2, bits=0x20)
    assert port.sync_read(*POSITION, IDS).replies[2].error == 0x20
    assert port.read(2, *POSITION).error == 0x20
    assert port.ping(2) == 0x20
    assert port.write_register(2, r.TORQUE_LIMIT, 900) == 0x20
    assert port.read(2, r.TORQUE_LIMIT.address, 2).value == 900, "an error bit does not stop a write"


def test_a_dead_motor_is_named_and_the_others_still_answer(port, twin):
    twin.ask("dead", id=3)
    port.reply_deadline_s = 0.05
    answer = port.sync_read(*POSITION, IDS)
    assert answer.missing == (3,)
    assert sorted(answer.replies) == [1, 2, 4, 5, 6]
    began = time.monotonic()
    with pytest.raises(NoReply, match=r"motor 3 did not answer within 2 x 50 ms") as caught:
        port.read(3, *POSITION, attempts=2)
    assert 0.1 <= time.monotonic() - began < 0.5
    assert caught.value.ids == (3,)
    assert port.counters.retries == 1
    assert port.counters.timeouts == 3


def test_a_damaged_answer_is_another_error_than_none(port, twin):
    port.reply_deadline_s = 0.03
    twin.ask("corrupt", id=5, count=1)
    with pytest.raises(CorruptReply, match="motor 5 answered with damaged bytes"):
        port.read(5, *POSITION)
    twin.ask("corrupt", id=5, count=1)
    assert port.read(5, *POSITION, attempts=2).error == 0
    assert twin.ask("status")["arms"]["follower"]["injected"]["corrupt"] >= 2


def test_one_lost_reply_of_six_costs_only_itself(port, twin):
    port.reply_deadline_s = 0.05
    twin.ask("drop", id=1, count=1)
    assert port.sync_read(*POSITION, IDS).missing == (1,)
    assert port.sync_read(*POSITION, IDS).missing == ()


def test_a_late_reply_is_never_taken_for_the_next_answer(port, twin):
    """LeRobot 0.6.1 reads one cycle behind for ever after this."""
    port.reply_deadline_s = 0.02
    twin.ask("delay", seconds=0.06, count=1)
    assert port.sync_read(*POSITION, IDS).missing == IDS
    time.sleep(0.1)  # the late reply is in the buffer now
    twin.ask("encoder_jump", id=1, steps=100)
    port.reply_deadline_s = 0.2
    time.sleep(0.02)
    seen = port.sync_read(*POSITION, IDS).replies[1].value
    true = twin.ask("registers", id=1)["registers"]["Present_Position"]
    assert abs(seen - true) < 20
    assert port.counters.flushed_bytes == 48


def test_the_deadline_is_ours(twin):
    with FeetechPort(twin.port) as port:
        twin.ask("dead", id=1)
        spans = []
        for _ in range(5):
            began = time.monotonic()
            with pytest.raises(NoReply):
                port.ping(1)
            spans.append(time.monotonic() - began)
        assert min(spans) < 0.02, "8 ms, not the SDK's 50"


# -- the port itself
def test_a_second_owner_is_refused(port, twin):
    with pytest.raises(PortUnavailable, match="another process owns it"):
        FeetechPort(twin.port)
    script = (
        "import sys; from embodiments.feetech.port import FeetechPort\n"
        "try: FeetechPort(sys.argv[1])\n"
        "except ConnectionError as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, twin.port], capture_output=True, text=True, check=True
    ).stdout
    assert "another process owns it" in said
    assert port.ping(1) == 0, "the owner was not disturbed"


def test_a_closed_port_can_be_opened_again(twin):
    for _ in range(3):
        with FeetechPort(twin.port, reply_deadline_s=0.2) as port:
            assert port.ping(6) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none", r"no such port; plug the arm in, or use one of /dev/serial/by-id"),
        (lambda folder: folder, "cannot be opened"),
    ],
)
def test_a_port_that_is_none(tmp_path, make, message):
    with pytest.raises(PortUnavailable, match=message):
        FeetechPort(str(make(tmp_path)))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_permission_is_explained(code):
    error = serial.SerialException(code, "could not open port")
    port = FeetechPort.__new__(FeetechPort)
    port.path = "/dev/ttyACM0"
    assert "dialout" in str(port._unavailable(error))


@pytest.mark.parametrize(
    "use",
    [
        lambda port: port.sync_read(*POSITION, IDS),
        lambda port: port.write_goals({1: 2000}),
        lambda port: port.read(1, *POSITION),
        lambda port: port.write_register(1, r.TORQUE_ENABLE, 0),
    ],
    ids=["sync read", "sync write", "read", "write"],
)
def test_an_unplugged_cable_is_one_typed_error(port, twin, use):
    twin.ask("unplug")
    began = time.monotonic()
    with pytest.raises(PortLost, match="plug the arm in again") as caught:
        use(port)
    assert time.monotonic() - began < 0.2
    assert isinstance(caught.value, BusError)
    assert isinstance(caught.value, ConnectionError)
    assert isinstance(caught.value.__cause__, (serial.SerialException, OSError, termios.error, type(None)))
    assert not os.path.exists(twin.port)
    port.close()
    port.close()
    twin.ask("plug")
    with FeetechPort(twin.port, reply_deadline_s=0.2) as again:
        assert again.ping(1) == 0


def test_an_unplug_while_waiting_for_the_answer(port, twin):
    twin.ask("delay", seconds=0.5, count=1)
    port.reply_deadline_s = 1.0
    unplug = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib; from embodiments.so101.serial_twin.client import TwinClient\n"
            "time.sleep(0.1); TwinClient(pathlib.Path(sys.argv[1])).ask('unplug', seconds=0.2)",
            twin.info["control"],
        ]
    )
    try:
        with pytest.raises(PortLost):
            port.sync_read(*POSITION, IDS)
    finally:
        assert unplug.wait(timeout=20) == 0


def test_the_servos_go_on_while_the_cable_is_out(port, twin):
    port.write_register(1, r.TORQUE_ENABLE, 1)
    twin.ask("unplug", seconds=0.3)
    assert twin.ask("joints")["torque"][0] == 1
    deadline = time.monotonic() + 5
    while not os.path.exists(twin.port) and time.monotonic() < deadline:
        time.sleep(0.02)
    with FeetechPort(twin.port, reply_deadline_s=0.2) as again:
        assert again.read(1, r.TORQUE_ENABLE.address, 1).value == 1


def test_a_line_that_never_falls_silent_does_not_hold_the_caller(tmp_path):
    import threading

    master, slave = os.openpty()
    stop = threading.Event()

    def babble():
        while not stop.is_set():
            os.write(master, b"\x55" * 64)
            time.sleep(0.0005)

    thread = threading.Thread(target=babble)
    with FeetechPort(os.ttyname(slave), reply_deadline_s=0.05) as port:
        thread.start()
        try:
            began = time.monotonic()
            with pytest.raises(CorruptReply):
                port.ping(1)
            assert time.monotonic() - began < 1.0
        finally:
            stop.set()
            thread.join()
    os.close(master)
    os.close(slave)


def test_a_servo_at_another_speed_is_found_at_that_speed(twin):
    with FeetechPort(twin.port, reply_deadline_s=0.05) as port:
        assert port.write_register(4, r.register("Baud_Rate"), 1) == 0
        with pytest.raises(NoReply):
            port.ping(4)
    with FeetechPort(twin.port, baudrate=500_000, reply_deadline_s=0.2) as port:
        assert port.ping(4) == 0
        assert port.write_register(4, r.register("Baud_Rate"), 0) == 0
    with FeetechPort(twin.port, reply_deadline_s=0.2) as port:
        assert port.ping(4) == 0


def test_at_least_one_attempt(port):
    with pytest.raises(ValueError, match="attempts is 0; it must be at least 1"):
        port.ping(1, attempts=0)


def test_a_deadline_must_be_positive():
    with pytest.raises(ValueError, match="reply_deadline_s is 0; it must be above 0"):
        FeetechPort("/dev/none", reply_deadline_s=0)
