"""What goes wrong with replies on request: lost, damaged, late. Drawn from a seed, and counted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from embodiments.feetech.simulated.bus import SentStatus

KINDS = ("drop", "corrupt", "delay")


@dataclass
class ReplyFault:
    """One fault: which replies it hits, how often, and for how many more.

    id: one motor, or None for any (a delay without id holds the whole answer back). count: hits left, or None
    for no end. bits: flipped bits a reply, for "corrupt". seconds: how late, for "delay".
    """

    kind: str
    id: int | None = None
    probability: float = 1.0
    count: int | None = None
    bits: int = 1
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"reply fault {self.kind!r} is unknown; allowed is one of {KINDS}")
        if not 0.0 < self.probability <= 1.0:
            raise ValueError(f"reply fault: probability is {self.probability}; allowed is above 0 to 1")
        if self.kind == "delay" and not 0.0 < self.seconds <= 10.0:
            raise ValueError(f"reply fault: a delay of {self.seconds} s; allowed is above 0 to 10")
        if self.bits < 1 or (self.count is not None and self.count < 1):
            raise ValueError(f"reply fault: bits {self.bits}, count {self.count}; both must be at least 1")


class ReplyFaults:
    """The faults of one bus."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self.active: list[ReplyFault] = []
        self.injected = dict.fromkeys(KINDS, 0)

    def apply(self, replies: Sequence[SentStatus]) -> list[tuple[SentStatus, float]]:
        """The replies that are sent, each with its additional delay in seconds."""
        if not self.active:
            return [(reply, 0.0) for reply in replies]
        held_back = 0.0
        for fault in self.active:
            if fault.kind == "delay" and fault.id is None and replies and self._hits(fault):
                held_back += fault.seconds
        sent = []
        for reply in replies:
            data, late = self._through(reply)
            if data is not None:
                sent.append((reply._replace(data=data), held_back + late))
        self.active = [fault for fault in self.active if fault.count != 0]
        return sent

    def _through(self, reply: SentStatus) -> tuple[bytes | None, float]:
        data: bytes | None = reply.data
        late = 0.0
        for fault in self.active:
            if fault.id != reply.id and (fault.id is not None or fault.kind == "delay"):
                continue
            if data is None or not self._hits(fault):
                continue
            if fault.kind == "drop":
                data = None
            elif fault.kind == "corrupt":
                data = self._flipped(data, fault.bits)
            else:
                late += fault.seconds
        return data, late

    def _hits(self, fault: ReplyFault) -> bool:
        if fault.count == 0 or self._random.random() >= fault.probability:
            return False
        if fault.count is not None:
            fault.count -= 1
        self.injected[fault.kind] += 1
        return True

    def _flipped(self, data: bytes, bits: int) -> bytes:
        number = int.from_bytes(data, "big")
        for bit in self._random.sample(range(8 * len(data)), min(bits, 8 * len(data))):
            number ^= 1 << bit
        return number.to_bytes(len(data), "big")
