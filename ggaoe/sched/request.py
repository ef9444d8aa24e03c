"""One admitted request for the medium, from arrival to reply."""

from __future__ import annotations

from ggaoe.proto.ata import Op
from ggaoe.proto.frame import SECTOR_BYTES


class Request:
    """A READ, WRITE, FLUSH or VERIFY of one initiator.

    `key` is its identity while it is active: (port, source, tag, taskfile), so that an
    identical retransmission is known. `waiting_bytes` is what it holds while it waits. `throttled`
    says, once it has started, whether a limit has delayed it.
    Engines derive from it what they need for the reply.
    """

    __slots__ = (
        "arrival_ns",
        "blockers",
        "dependents",
        "key",
        "length_bytes",
        "offset_bytes",
        "op",
        "ready_number",
        "source",
        "started",
        "throttled",
        "waiting_bytes",
    )

    def __init__(
        self,
        op: Op,
        sector: int,
        sectors: int,
        source: bytes,
        key: object,
        arrival_ns: int,
        waiting_bytes: int,
    ) -> None:
        self.op = op
        self.offset_bytes = sector * SECTOR_BYTES
        self.length_bytes = sectors * SECTOR_BYTES
        self.source = source
        self.key = key
        self.arrival_ns = arrival_ns
        self.waiting_bytes = waiting_bytes
        self.started = False
        self.throttled = False
        self.ready_number = 0
        self.blockers = 0
        self.dependents: list[Request] = []

    def __repr__(self) -> str:
        return f"<{self.op.name} {self.offset_bytes}+{self.length_bytes} {self.source.hex(':')}>"
