"""The codec: golden bytes, the SDK's own bytes, and any stream of noise."""

import os
import tty

import pytest
import scservo_sdk
from hypothesis import given
from hypothesis import strategies as st

from embodiments.feetech import packets
from embodiments.feetech.packets import Instruction, InstructionReader, Status, StatusReader

PARAMS = st.binary(max_size=40)
STATUSES = st.builds(Status, st.integers(0, packets.MAX_ID), st.integers(0, 0x7F), PARAMS)
INSTRUCTIONS = st.builds(Instruction, st.integers(0, 254), st.integers(0, 255), PARAMS)


# -- golden: written out from the protocol manual's examples
@pytest.mark.parametrize(
    ("made", "golden"),
    [
        (packets.ping(1), "ff ff 01 02 01 fb"),
        (packets.read(1, 56, 2), "ff ff 01 04 02 38 02 be"),
        (packets.write(1, 5, bytes([1])), "ff ff 01 04 03 05 01 f1"),
        (packets.write(254, 40, bytes([0])), "ff ff fe 04 03 28 00 d2"),
        (packets.sync_read(56, 2, (1, 2)), "ff ff fe 06 82 38 02 01 02 3c"),
        (
            packets.sync_write(42, {1: b"\x00\x08", 2: b"\x00\x08"}),
            "ff ff fe 0a 83 2a 02 01 00 08 02 00 08 35",
        ),
        (packets.status(1, 0, b"\x18\x05"), "ff ff 01 04 00 18 05 dd"),
        (packets.status(2, 0x20), "ff ff 02 02 20 db"),
    ],
)
def test_golden_bytes(made, golden):
    assert made.hex(" ") == golden


@pytest.fixture
def sdk():
    """(packet handler, port handler, read) of the SDK on a pseudo-terminal; `read` gives what it sent."""
    master, slave = os.openpty()
    tty.setraw(master)
    tty.setraw(slave)
    port = scservo_sdk.PortHandler(os.ttyname(slave))
    assert port.openPort()
    yield scservo_sdk.PacketHandler(0), port, lambda: os.read(master, 1024)
    port.closePort()
    os.close(master)
    os.close(slave)


def test_requests_are_the_sdks_bytes(sdk):
    handler, port, sent = sdk
    for act, ours in (
        (lambda: handler.readTx(port, 3, 65, 1), packets.read(3, 65, 1)),
        (lambda: handler.writeTxOnly(port, 4, 48, 2, [0xF4, 0x01]), packets.write(4, 48, b"\xf4\x01")),
        (lambda: handler.regWriteTxOnly(port, 4, 42, 2, [1, 2]), packets.instruction(4, 4, b"\x2a\x01\x02")),
        (lambda: handler.syncReadTx(port, 56, 2, [1, 2, 6], 3), packets.sync_read(56, 2, (1, 2, 6))),
        (
            lambda: handler.syncWriteTxOnly(port, 42, 2, [1, 5, 0, 2, 6, 0], 6),
            packets.sync_write(42, {1: b"\x05\x00", 2: b"\x06\x00"}),
        ),
    ):
        port.is_using = False
        act()
        assert sent() == ours


# -- readers
@given(st.lists(STATUSES, max_size=6), st.data())
def test_replies_survive_any_fragmentation(replies, data):
    stream = b"".join(packets.status(*reply) for reply in replies)
    reader, found = StatusReader(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert found == replies
    assert (reader.damaged, reader.skipped) == (0, 0)


@given(st.lists(INSTRUCTIONS, max_size=6))
def test_requests_survive_one_byte_at_a_time(requests):
    reader, found = InstructionReader(), []
    for byte in b"".join(packets.instruction(*request) for request in requests):
        found += reader.feed(bytes([byte]))
    assert found == requests


@given(st.binary(max_size=60).filter(lambda noise: b"\xff" not in noise), STATUSES)
def test_noise_before_a_reply_costs_nothing_but_itself(noise, reply):
    reader = StatusReader()
    assert reader.feed(noise + packets.status(*reply)) == [reply]
    assert reader.skipped == len(noise)


@given(STATUSES, st.integers(0, 7), st.data())
def test_one_flipped_bit_is_never_believed_and_never_hides_the_next_reply(reply, bit, data):
    good = packets.status(*reply)
    where = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[where] ^= 1 << bit
    other = Status(9, 0, reply.params)
    found = StatusReader(len(reply.params)).feed(bytes(bad) + packets.status(*other))
    assert other in found
    assert reply not in found or reply == other


def test_a_damaged_length_is_seen_at_once_when_the_length_is_known():
    bad = bytearray(packets.status(1, 0, b"\x01\x02"))
    bad[3] = 200
    next_one = packets.status(2, 0, b"\x03\x04")
    assert StatusReader(2).feed(bytes(bad) + next_one) == [Status(2, 0, b"\x03\x04")]
    assert StatusReader().feed(bytes(bad) + next_one) == [], "without it, 200 bytes are waited for"


def test_header_bytes_inside_a_packet():
    reply = Status(1, 0, b"\xff\xff\x01")
    assert StatusReader().feed(packets.status(*reply)) == [reply]


@pytest.mark.parametrize(
    ("value", "bit", "word"), [(-1, 15, 0x8001), (5, 11, 5), (-2047, 11, 0xFFF), (0, 10, 0)]
)
def test_signed_words(value, bit, word):
    assert packets.to_sign_magnitude(value, bit) == word
    assert packets.from_sign_magnitude(word, bit) == value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: packets.ping(255), "id is 255; allowed is 0 to 254"),
        (lambda: packets.status(1, 0x80), "error byte is 128; allowed is 0 to 127"),
        (lambda: packets.sync_write(42, {1: b"a", 2: b"bc"}), r"\[1, 2\] bytes"),
        (lambda: packets.instruction(1, 3, bytes(245)), "245 parameter bytes; allowed are 244"),
        (lambda: packets.to_sign_magnitude(2048, 11), "2048 does not fit; allowed is -2047 to 2047"),
    ],
)
def test_what_cannot_be_sent_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_error_bits_have_names():
    assert packets.error_names(0x21) == ("voltage", "overload")
    assert packets.error_names(0) == ()
    assert packets.error_names(0x10) == ("bit 0x10",)
