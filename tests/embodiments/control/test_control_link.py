"""The link: messages survive the wire, the newest wins, nobody waits, a death is seen."""

import math
import os
import random
import socket
import time

import pytest

from embodiments.control import link as wire
from embodiments.control.link import ArmState, Counters, Halt, Kind, Link, LinkError
from embodiments.control.setpoints import NOW, Chunk
from firmware_bridge.safety import Cause, Code, State


def state(cycle=1, joints=6):
    return ArmState(
        State.RUN,
        Cause.NONE,
        1,
        1,
        1 << 7,
        cycle,
        *range(10, 16),
        measured=tuple(i + 0.25 for i in range(joints)),
        sent=tuple(-i - 0.5 for i in range(joints)),
        load=tuple(float(i) for i in range(joints)),
        errors=tuple(range(joints)),
        counters=Counters(*range(12)),
        approach=1,
    )


@pytest.fixture
def ends():
    here, there = Link.pair()
    other = Link(there)
    yield here, other
    here.close()
    other.close()


@pytest.mark.parametrize("joints", [1, 6, 16])
def test_a_state_survives_the_wire(joints):
    assert wire.unpack(wire.pack_state(state(joints=joints))).state == state(joints=joints)


def test_random_chunks_survive_the_wire():
    rng = random.Random(3)
    for _ in range(200):
        joints = rng.randint(1, 16)
        rows = tuple(
            tuple(rng.choice((rng.uniform(-1e6, 1e6), math.inf)) for _ in range(joints))
            for _ in range(rng.randint(1, 512))
        )
        chunk = Chunk(rng.randrange(2**40), rng.randrange(2**50), 1, rng.choice((NOW, 7)), 33_333, rows)
        assert wire.unpack(wire.pack_chunk(chunk)).chunk == chunk


def test_commands_carry_argument_request_text_and_the_senders_clock():
    before = wire.now_us()
    message = wire.unpack(wire.pack(Kind.HALT, Halt.PARK, request=9, text="prüfe"))
    assert message.header[:3] == (Kind.HALT, Halt.PARK, 9)
    assert before <= message.header.time_us <= wire.now_us()
    assert message.text == "prüfe"


@pytest.mark.parametrize("rows", [(), ((),), ((1.0, 2.0), (1.0,)), ((0.0,) * 17,), ((0.0,),) * 513])
def test_a_chunk_that_is_no_rectangle_is_refused(rows):
    with pytest.raises(ValueError, match="chunk: "):
        wire.pack_chunk(Chunk(0, 0, 0, 0, 0, rows))


def test_noise_is_an_error_and_never_a_message():
    """Truncated, extended and random packets: LinkError, or a message without body."""
    rng = random.Random(5)
    whole = wire.pack_state(state())
    cuts = 0
    for size in range(len(whole)):
        with pytest.raises(LinkError, match=f"{size} bytes that are no message"):
            wire.unpack(whole[:size])
        cuts += 1
    assert cuts > 200
    with pytest.raises(LinkError, match="no message"):
        wire.unpack(whole + b"x")
    for _ in range(3000):
        noise = rng.randbytes(rng.randint(0, 300))
        try:
            message = wire.unpack(noise)
        except LinkError:
            continue
        assert message.state is None


def test_a_reader_that_sleeps_never_makes_the_sender_wait(ends):
    here, other = ends
    packet = wire.pack_state(state())
    began = time.monotonic()
    taken = sum(here.send(packet) for _ in range(20_000))
    assert time.monotonic() - began < 2.0
    assert 0 < taken < 20_000
    assert here.dropped == 20_000 - taken
    assert len(list(other.receive())) == taken
    assert here.send(wire.pack_state(state(cycle=77)))
    assert [m.state.cycle for m in other.receive()] == [77]


def test_a_largest_chunk_fits(ends):
    here, other = ends
    rows = tuple((0.5,) * 16 for _ in range(512))
    assert here.send(wire.pack_chunk(wire.chunk_of(1, rows, 10_000, NOW, 100_000)))
    (message,) = other.receive()
    assert message.chunk.positions == rows


def test_the_other_ends_death_is_seen_at_once():
    here, there = Link.pair()
    child = os.fork()
    if child == 0:
        here._socket.close()
        os._exit(0)
    there.close()
    os.waitpid(child, 0)
    assert list(here.receive()) == []
    assert not here.open
    assert here.send(b"x") is False
    here.close()


def test_every_code_has_words_for_it():
    assert all(wire.code_text(code) for code in Code)
    assert len(Code) == 6


def test_it_is_a_packet_socket_so_no_message_is_ever_half_there():
    here, there = Link.pair()
    assert there.type == socket.SOCK_SEQPACKET
    here.close()
    there.close()
