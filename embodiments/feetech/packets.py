"""The Feetech packet, both directions, byte for byte; no I/O.

Instruction: FF FF ID LEN INST params CHK. Status: FF FF ID LEN ERR params CHK. LEN counts what follows it;
CHK is the inverted low byte of the sum from ID on. Words are little-endian; signed ones are sign-magnitude.

Sources: Feetech "SMS/STS communication protocol manual", chapters 1 and 2, and feetech-servo-sdk 1.0.0, whose
bytes the tests compare with these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

HEADER = b"\xff\xff"
MAX_ID = 0xFD
BROADCAST_ID = 0xFE
MAX_PACKET = 250  # bytes, limit of feetech-servo-sdk in both directions
OVERHEAD = 6  # bytes of a packet without parameters

PING = 0x01
READ = 0x02
WRITE = 0x03
REG_WRITE = 0x04
ACTION = 0x05
SYNC_READ = 0x82
SYNC_WRITE = 0x83

# Bits of the error byte and of the Status register. The byte of a valid reply never has bit 7.
ERROR_BITS = {
    0x01: "voltage",
    0x02: "angle sensor",
    0x04: "overheat",
    0x08: "overcurrent",
    0x20: "overload",
}
MAX_ERROR = 0x7F


class Status(NamedTuple):
    """One reply: who, its error bits, its parameter bytes."""

    id: int
    error: int
    params: bytes


class Instruction(NamedTuple):
    """One request: to whom (254: everyone), its code, its parameter bytes."""

    id: int
    code: int
    params: bytes


def error_names(error: int) -> tuple[str, ...]:
    """Names of the bits set in an error byte; an unknown bit is named by its value."""
    known = tuple(name for bit, name in ERROR_BITS.items() if error & bit)
    rest = error & ~sum(ERROR_BITS)
    return (*known, f"bit 0x{rest:02x}") if rest else known


def checksum(body: bytes | bytearray) -> int:
    """Checksum byte of `body`, the bytes from ID to the last parameter."""
    return ~sum(body) & 0xFF


def _frame(id: int, code: int, params: bytes, max_id: int) -> bytes:
    if not 0 <= id <= max_id:
        raise ValueError(f"feetech packet: id is {id}; allowed is 0 to {max_id}")
    if len(params) > MAX_PACKET - OVERHEAD:
        raise ValueError(
            f"feetech packet: {len(params)} parameter bytes; allowed are {MAX_PACKET - OVERHEAD}. "
            "Address fewer motors or registers at a time"
        )
    body = bytes((id, len(params) + 2, code)) + params
    return HEADER + body + bytes((checksum(body),))


def instruction(id: int, code: int, params: bytes = b"") -> bytes:
    """The bytes of a request. ValueError for an id above 254 or parameters that do not fit."""
    return _frame(id, code, params, BROADCAST_ID)


def status(id: int, error: int, params: bytes = b"") -> bytes:
    """The bytes of a reply. ValueError for an id above 253, error bit 7, or parameters that do not fit."""
    if not 0 <= error <= MAX_ERROR:
        raise ValueError(f"feetech packet: error byte is {error}; allowed is 0 to {MAX_ERROR}")
    return _frame(id, error, params, MAX_ID)


def ping(id: int) -> bytes:
    """Request: are you there?"""
    return instruction(id, PING)


def read(id: int, address: int, size: int) -> bytes:
    """Request: `size` bytes from `address`."""
    return instruction(id, READ, bytes((address, size)))


def write(id: int, address: int, data: bytes) -> bytes:
    """Request: put `data` at `address`. Everyone but the broadcast id answers with an empty status."""
    return instruction(id, WRITE, bytes((address,)) + data)


def sync_read(address: int, size: int, ids: Sequence[int]) -> bytes:
    """Request: `size` bytes from `address` of each id; one status packet each, in this order."""
    return instruction(BROADCAST_ID, SYNC_READ, bytes((address, size, *ids)))


def sync_write(address: int, data: Mapping[int, bytes]) -> bytes:
    """Request without reply: put each id's bytes at `address`. All must be of one size."""
    sizes = {len(part) for part in data.values()}
    if len(sizes) != 1:
        raise ValueError(f"feetech packet: sync write of {sorted(sizes)} bytes; all motors need one size")
    parts = b"".join(bytes((id,)) + part for id, part in data.items())
    return instruction(BROADCAST_ID, SYNC_WRITE, bytes((address, sizes.pop())) + parts)


def to_sign_magnitude(value: int, sign_bit: int) -> int:
    """Register word of a signed number. ValueError if its magnitude needs the sign bit."""
    if abs(value) >= 1 << sign_bit:
        limit = (1 << sign_bit) - 1
        raise ValueError(f"feetech register: {value} does not fit; allowed is -{limit} to {limit}")
    return abs(value) | (1 << sign_bit if value < 0 else 0)


def from_sign_magnitude(word: int, sign_bit: int) -> int:
    """Signed number of a register word; bits above the sign bit are ignored, as LeRobot ignores them."""
    magnitude = word & ((1 << sign_bit) - 1)
    return -magnitude if word >> sign_bit & 1 else magnitude


class PacketReader:
    """Finds whole packets in a stream of bytes that may begin, break or be damaged anywhere.

    What does not check is given up one byte at a time, so a damaged packet never hides the next whole one.
    `damaged` counts packets with a wrong checksum, `skipped` the bytes given up.
    """

    def __init__(self, plausible: Callable[[int, int, int], bool]) -> None:
        """`plausible(id, length, code)` rejects a header before its body is waited for."""
        self._plausible = plausible
        self._buffer = bytearray()
        self.damaged = 0
        self.skipped = 0

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """(id, code or error, params) of each packet completed by `data`, in order."""
        self._buffer += data
        found = []
        while (packet := self._next()) is not None:
            found.append(packet)
        return found

    def _next(self) -> tuple[int, int, bytes] | None:
        buffer = self._buffer
        while True:
            start = buffer.find(HEADER)
            if start < 0:
                self._drop(len(buffer) - buffer.endswith(b"\xff"))
                return None
            self._drop(start)
            if len(buffer) < 5:
                return None
            id, length, code = buffer[2], buffer[3], buffer[4]
            if length < 2 or length > MAX_PACKET - 4 or not self._plausible(id, length, code):
                self._drop(1)
                continue
            end = 4 + length
            if len(buffer) < end:
                return None
            if checksum(buffer[2 : end - 1]) != buffer[end - 1]:
                self.damaged += 1
                self._drop(1)
                continue
            params = bytes(buffer[5 : end - 1])
            del buffer[:end]
            return id, code, params

    def _drop(self, count: int) -> None:
        self.skipped += count
        del self._buffer[:count]


class StatusReader:
    """Decodes replies.

    With `num_params`, only packets with that many parameter bytes count: a damaged length byte is then seen
    at once, and the replies of the motors after it are not lost with it.
    """

    def __init__(self, num_params: int | None = None) -> None:
        length = None if num_params is None else num_params + 2
        self._reader = PacketReader(
            lambda id, found, error: id <= MAX_ID and error <= MAX_ERROR and length in (None, found)
        )

    @property
    def damaged(self) -> int:
        """Packets with a wrong checksum so far."""
        return self._reader.damaged

    @property
    def skipped(self) -> int:
        """Bytes that belonged to no packet."""
        return self._reader.skipped

    def feed(self, data: bytes) -> list[Status]:
        """The replies completed by `data`, in order."""
        return [Status(*packet) for packet in self._reader.feed(data)]


class InstructionReader:
    """Decodes requests: the servos' side of the bus."""

    def __init__(self) -> None:
        self._reader = PacketReader(lambda id, length, code: id <= BROADCAST_ID)

    @property
    def damaged(self) -> int:
        """Packets with a wrong checksum so far."""
        return self._reader.damaged

    def feed(self, data: bytes) -> list[Instruction]:
        """The requests completed by `data`, in order."""
        return [Instruction(*packet) for packet in self._reader.feed(data)]
