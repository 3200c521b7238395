"""The line: which request causes which status packets, when they leave, and what faults do to them."""

import os

import pytest
import serial

from embodiments.feetech import packets
from embodiments.feetech.packets import Instruction, InstructionReader, StatusReader
from embodiments.feetech.simulated.bus import SentStatus, SimulatedBus
from embodiments.feetech.simulated.factory import eeprom_image
from embodiments.feetech.simulated.faults import ReplyFault, ReplyFaults
from embodiments.feetech.simulated.servo import SimulatedServo
from embodiments.feetech.simulated.wire import PtyWire


@pytest.fixture
def bus():
    return SimulatedBus([SimulatedServo(eeprom_image(ID=id, Return_Delay_Time=0)) for id in (1, 2, 3)])


def ask(bus, request):
    (parsed,) = InstructionReader().feed(request)
    return StatusReader().feed(b"".join(reply.data for reply in bus.answer(parsed)))


def test_ping(bus):
    assert ask(bus, packets.ping(2)) == [(2, 0, b"")]
    assert ask(bus, packets.ping(9)) == []
    assert [reply.id for reply in ask(bus, packets.ping(254))] == [1, 2, 3]


def test_sync_read_answers_in_the_order_asked_and_skips_who_is_not_there(bus):
    assert [reply.id for reply in ask(bus, packets.sync_read(56, 2, (3, 9, 1)))] == [3, 1]


def test_a_silent_motor_may_silence_the_rest(bus):
    bus.dead.add(2)
    request = packets.sync_read(56, 2, (1, 2, 3))
    assert [reply.id for reply in ask(bus, request)] == [1, 3]
    bus.dead_silences_rest = True
    assert [reply.id for reply in ask(bus, request)] == [1]


def test_writes_answer_except_to_everyone(bus):
    assert ask(bus, packets.write(1, 40, b"\x01")) == [(1, 0, b"")]
    assert ask(bus, packets.write(254, 40, b"\x01")) == []
    assert [servo.torque for servo in bus.servos] == [True, True, True]


def test_sync_write_reaches_each_its_own_and_nobody_answers(bus):
    assert ask(bus, packets.sync_write(42, {1: b"\x10\x00", 3: b"\x30\x80", 7: b"\x00\x00"})) == []
    assert bus.goals == {1: 0x10, 3: -0x30}


def test_registered_writes_wait_for_the_action(bus):
    ask(bus, packets.instruction(1, packets.REG_WRITE, b"\x2a\x10\x00"))
    assert bus.goals == {}
    ask(bus, packets.instruction(254, packets.ACTION))
    assert bus.goals == {1: 0x10}


def test_the_quiet_status_level_answers_reading_only(bus):
    ask(bus, packets.write(1, 8, b"\x00"))
    assert ask(bus, packets.write(1, 40, b"\x01")) == []
    assert len(ask(bus, packets.read(1, 40, 1))) == 1
    assert len(ask(bus, packets.ping(1))) == 1


def test_a_new_id_is_acknowledged_under_the_old_one(bus):
    assert ask(bus, packets.write(1, 5, b"\x07")) == [(1, 0, b"")]
    assert ask(bus, packets.ping(7)) == [(7, 0, b"")]
    assert ask(bus, packets.ping(1)) == []


def test_servos_hear_only_their_own_speed(bus):
    ping = Instruction(254, packets.PING, b"")
    bus.servos[1].write(6, b"\x01")
    bus.servos[2].write(6, b"\x63")
    assert [reply.id for reply in bus.answer(ping, 1_000_000)] == [1]
    assert [reply.id for reply in bus.answer(ping, 500_000)] == [2]
    assert bus.answer(ping, 9600) == []


def test_dead_and_unpowered_servos_are_silent(bus):
    bus.dead.add(1)
    bus.servos[1].power_down()
    assert [reply.id for reply in ask(bus, packets.ping(254))] == [3]


@pytest.mark.parametrize(
    "request_",
    [
        Instruction(1, 0x77, b""),
        Instruction(1, packets.READ, b"\x38"),
        Instruction(1, packets.WRITE, b""),
        Instruction(254, packets.SYNC_READ, b"\x38"),
        Instruction(254, packets.SYNC_WRITE, b""),
        Instruction(254, packets.SYNC_WRITE, b"\x2a\x02\x01"),
    ],
)
def test_nonsense_is_ignored(bus, request_):
    assert bus.answer(request_) == []


# -- time on the line
@pytest.fixture
def wire(tmp_path):
    made = PtyWire(tmp_path / "port")
    made.plug()
    set_speed(made, 1_000_000)
    yield made
    made.unplug()


def replies(count, size=8, delay_s=0.0):
    return [(SentStatus(id, bytes(size), delay_s), 0.0) for id in range(1, count + 1)]


def set_speed(wire, baudrate):
    serial.Serial(str(wire.path), baudrate).close()


@pytest.mark.parametrize("baudrate", [1_000_000, 500_000, 250_000, 128_000, 115_200, 19_200])
def test_the_line_runs_at_the_speed_a_program_sets(wire, baudrate):
    set_speed(wire, baudrate)
    assert wire.baudrate == baudrate
    wire.transmit(100.0, 14, replies(6))
    assert wire.next_due == pytest.approx(100.0 + 62 * 10 / baudrate + 0.5e-3)


def test_a_sync_read_of_six_takes_what_a_real_line_takes(wire):
    wire.transmit(100.0, 14, replies(6))
    # 62 bytes of 10 us, and the adapter's half millisecond.
    assert wire.next_due == pytest.approx(100.0 + 62 * 10e-6 + 0.5e-3)


def test_return_delays_add_up_and_the_line_carries_one_thing_at_a_time(wire):
    wire.transmit(100.0, 14, replies(2, delay_s=0.5e-3))
    first = 100.0 + 30 * 10e-6 + 1.0e-3 + 0.5e-3
    assert wire.next_due == pytest.approx(first)
    wire.transmit(100.0, 8, replies(1))
    wire.deliver(first)
    assert wire.next_due == pytest.approx(first + 16 * 10e-6)


def test_a_late_reply_comes_by_itself_later(wire):
    (kept, _), (late, _) = replies(2)
    wire.transmit(100.0, 14, [(kept, 0.0), (late, 0.06)])
    outer = os.open(wire.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    wire.deliver(100.01)
    assert len(os.read(outer, 100)) == 8
    assert os.read(outer, 100) == b""
    wire.deliver(100.1)
    assert len(os.read(outer, 100)) == 8
    os.close(outer)


def test_a_replugged_port_has_the_same_name(wire):
    before = os.readlink(wire.path)
    wire.transmit(100.0, 14, replies(1))
    wire.unplug()
    assert not wire.path.is_symlink()
    assert wire.next_due is None
    assert wire.receive() == b""
    wire.plug()
    assert wire.path.exists()
    assert os.readlink(wire.path)
    assert before


# -- faults
def sent(faults, count=1000):
    reply = SentStatus(1, packets.status(1, 0, b"\x01\x02"), 0.0)
    return [faults.apply([reply]) for _ in range(count)]


def test_one_percent_lost_is_one_percent():
    faults = ReplyFaults(seed=5)
    faults.active.append(ReplyFault("drop", probability=0.01))
    lost = sum(not out for out in sent(faults, 20_000))
    assert 150 < lost < 250
    assert faults.injected["drop"] == lost


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_damage_flips_exactly_that_many_bits(bits):
    faults = ReplyFaults(seed=1)
    faults.active.append(ReplyFault("corrupt", bits=bits))
    good = packets.status(1, 0, b"\x01\x02")
    for out in sent(faults, 50):
        ((reply, _),) = out
        flipped = sum((a ^ b).bit_count() for a, b in zip(good, reply.data, strict=True))
        assert flipped == bits


def test_a_counted_fault_ends():
    faults = ReplyFaults()
    faults.active.append(ReplyFault("drop", count=3))
    assert [len(out) for out in sent(faults, 5)] == [0, 0, 0, 1, 1]
    assert faults.active == []


def test_a_delay_without_an_id_holds_back_the_whole_answer_once():
    faults = ReplyFaults()
    faults.active.append(ReplyFault("delay", seconds=0.1, count=1))
    answer = [reply for reply, _ in replies(3)]
    assert [late for _, late in faults.apply(answer)] == [0.1, 0.1, 0.1]
    assert [late for _, late in faults.apply(answer)] == [0.0, 0.0, 0.0]


def test_faults_of_one_motor_spare_the_others():
    faults = ReplyFaults()
    faults.active += [ReplyFault("drop", id=2), ReplyFault("delay", id=3, seconds=0.2)]
    answer = faults.apply([reply for reply, _ in replies(3)])
    assert [(reply.id, late) for reply, late in answer] == [(1, 0.0), (3, 0.2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "explode"}, "'explode' is unknown; allowed is one of"),
        ({"kind": "drop", "probability": 0.0}, "probability is 0.0; allowed is above 0 to 1"),
        ({"kind": "delay"}, "a delay of 0.0 s; allowed is above 0 to 10"),
        ({"kind": "drop", "count": 0}, "both must be at least 1"),
    ],
)
def test_a_fault_that_makes_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReplyFault(**arguments)
