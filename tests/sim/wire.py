"""Requests and replies as the judge and the hosts see them: taken from frames by their offsets.

Uses no codec of the target's but constants.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ggaoe.proto.ata import Op
from ggaoe.proto.frame import ETHERTYPE, HEADER_BYTES, SECTOR_BYTES

SHELF, SLOT = 7, 3
READ, WRITE, VERIFY, FLUSH = 0x24, 0x34, 0x42, 0xEA
OPS = {READ: Op.READ, WRITE: Op.WRITE, VERIFY: Op.VERIFY, FLUSH: Op.FLUSH}
COMMAND_AT, RESERVE = 19, 3
DATA_AT = 36
W_FLAG, E_FLAG = 0x01, 0x40
STATUS_ERRORS = 0xA9
"""BSY, DF, DRQ, ERR: what Linux takes for a failure."""

_FRAME = struct.Struct(">6s6sHBBHBBIBBBB6sH")


@dataclass(frozen=True)
class Asked:
    """A request that has arrived by the path `path`."""

    path: int
    source: bytes
    tag: int
    op: Op
    sector: int
    count: int
    data: bytes = b""
    is_whole: bool = True
    """False: it was cut off, and nothing may be done."""

    @property
    def key(self) -> tuple[object, ...]:
        """What a reply has in common with its request."""
        return self.path, self.source, self.tag, self.sector

    @property
    def span(self) -> range:
        return range(self.sector, self.sector + self.count)

    def __str__(self) -> str:
        where = f" {self.sector}+{self.count}" if self.count else ""
        return f"{self.op.name}{where} tag {self.tag:x} of {self.source.hex()} on {self.path}"


@dataclass(frozen=True)
class Answered:
    """A reply that has left by the path `path`; `error` is the AoE error where flag E is set."""

    path: int
    destination: bytes
    tag: int
    sector: int
    status: int
    error: int | None
    data: bytes

    @property
    def key(self) -> tuple[object, ...]:
        return self.path, self.destination, self.tag, self.sector

    @property
    def is_good(self) -> bool:
        return self.error is None and not self.status & STATUS_ERRORS

    def __str__(self) -> str:
        how = "good" if self.is_good else f"error {self.error} status {self.status:x}"
        return f"reply {self.tag:x} to {self.destination.hex()} on {self.path}: {how}"


def request(
    destination: bytes, source: bytes, tag: int, opcode: int, sector: int, count: int, data: bytes
) -> bytes:
    """The frame of one ATA request."""
    flags = W_FLAG | E_FLAG if opcode == WRITE else E_FLAG
    return (
        _FRAME.pack(
            destination, source, ETHERTYPE, 0x10, 0, SHELF, SLOT, 0, tag, flags, 0, count, opcode,
            sector.to_bytes(6, "little"), 0,
        )
        + data
    )  # fmt: skip


def reserve(destination: bytes, source: bytes, owners: list[bytes]) -> bytes:
    """The frame that reserves the device for `owners`, or releases it, by force."""
    head = _FRAME.pack(
        destination, source, ETHERTYPE, 0x10, 0, SHELF, SLOT, RESERVE, 0, 0, 0, 0, 0, bytes(6), 0
    )
    return head[:HEADER_BYTES] + bytes([2, len(owners)]) + b"".join(owners)


def owners_of(frame: bytes) -> list[bytes] | None:
    """Whom the reply `frame` says that the device is reserved for; None: another reply."""
    if frame[COMMAND_AT] != RESERVE:
        return None
    return [frame[26 + 6 * index :][:6] for index in range(frame[25])]


def asked_of(path: int, frame: bytes) -> Asked | None:
    """The request in `frame`; None where it is too short to be answered."""
    if len(frame) < HEADER_BYTES:
        return None
    if len(frame) < DATA_AT:
        tag = int.from_bytes(frame[20:HEADER_BYTES])
        return Asked(path, frame[6:12], tag, Op.FLUSH, 0, 0, is_whole=False)
    (_, source, _, _, _, _, _, _, tag, _, _, count, opcode, lba, _) = _FRAME.unpack_from(frame)
    op = OPS[opcode]
    data = frame[DATA_AT : DATA_AT + count * SECTOR_BYTES] if op is Op.WRITE else b""
    is_whole = op is not Op.WRITE or len(data) == count * SECTOR_BYTES
    return Asked(path, source, tag, op, int.from_bytes(lba, "little"), count, data, is_whole)


def answered_of(path: int, frame: bytes) -> Answered:
    """The reply in `frame`."""
    (destination, _, _, flags, code, _, _, _, tag, _, _, _, status, lba, _) = _FRAME.unpack_from(
        frame
    )
    error = code if flags & 0x04 else None
    sector = int.from_bytes(lba, "little")
    return Answered(path, destination, tag, sector, status, error, frame[DATA_AT:])
