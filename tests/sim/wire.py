"""Requests and replies as the judge and the hosts see them: taken from frames by their offsets.

Uses no codec of the target's but constants.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ggaoe.proto.ata import Op
from ggaoe.proto.frame import ETHERTYPE, HEADER_BYTES, SECTOR_BYTES

SHELF, SLOT, ANY_SLOT = 7, 3, 0xFF
WILDCARD_EVERY = 5
READ, WRITE, VERIFY, FLUSH = 0x24, 0x34, 0x42, 0xEA
OPS = {READ: Op.READ, WRITE: Op.WRITE, VERIFY: Op.VERIFY, FLUSH: Op.FLUSH}
TAG_AT, FLAGS_AT, COMMAND_AT, DATA_AT = 20, 14, 19, 36
ATA, CONFIG, MASK, RESERVE = range(4)
SETTINGS = (CONFIG, MASK, RESERVE)
"""Commands by which hosts set what the target keeps: a text, and two lists of addresses."""
ERROR_FLAG = 0x04
UNAVAILABLE, RESERVED = 3, 6
"""AoE errors."""
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
    """The frame of one ATA request; some are for every slot, of which the target has one."""
    is_wildcard = opcode in (READ, VERIFY) and tag % WILDCARD_EVERY == 0
    slot = ANY_SLOT if is_wildcard else SLOT
    flags = W_FLAG | E_FLAG if opcode == WRITE else E_FLAG
    return (
        _FRAME.pack(
            destination, source, ETHERTYPE, 0x10, 0, SHELF, slot, 0, tag, flags, 0, count, opcode,
            sector.to_bytes(6, "little"), 0,
        )
        + data
    )  # fmt: skip


@dataclass(frozen=True)
class Told:
    """A reply of the target's about the setting `command`."""

    command: int
    tag: int
    value: bytes
    """The text, or the addresses one after the other."""

    def __str__(self) -> str:
        return f"reply {self.tag:x} to command {self.command}: {self.value.hex() or 'nothing'}"


def setting(
    destination: bytes, source: bytes, tag: int, command: int, value: bytes | None, known: bytes
) -> bytes:
    """The frame that asks for a setting (`value` is None), or sets it to `value`, by force; `known`
    are all addresses that a mask list can hold."""
    if command == CONFIG:
        text = value or b""
        argument = struct.pack(">HHBBH", 0, 0, 0, 0x10 if value is None else 0x14, len(text)) + text
    elif command == RESERVE:
        argument = bytes([0 if value is None else 2, len(value or b"") // 6]) + (value or b"")
    else:
        directive, macs = (b"\0\1", value) if value else (b"\0\2", known)
        entries = b"" if value is None else b"".join(directive + mac for mac in macs_of(macs))
        argument = bytes([0, value is not None, 0, len(entries) // 8]) + entries
    head = _FRAME.pack(
        destination, source, ETHERTYPE, 0x10, 0, SHELF, SLOT, command, tag, 0, 0, 0, 0, bytes(6), 0
    )
    return head[:HEADER_BYTES] + argument


def told_of(frame: bytes) -> Told | None:
    """What the reply `frame` says of a setting; None: it says nothing of any."""
    command = frame[COMMAND_AT]
    if command not in SETTINGS or frame[FLAGS_AT] & ERROR_FLAG:
        return None
    if command == CONFIG:
        value = frame[32 : 32 + int.from_bytes(frame[30:32])]
    elif command == RESERVE:
        value = frame[26 : 26 + 6 * frame[25]]
    else:
        value = b"".join(frame[30 + 8 * index :][:6] for index in range(frame[27]))
    return Told(command, int.from_bytes(frame[TAG_AT:HEADER_BYTES]), value)


def macs_of(value: bytes) -> list[bytes]:
    """The addresses of a list."""
    return [value[at : at + 6] for at in range(0, len(value), 6)]


def asked_of(path: int, frame: bytes) -> Asked | None:
    """The request for the disk in `frame`; None where it is another, or too short to tell."""
    if len(frame) < HEADER_BYTES or frame[COMMAND_AT] != ATA:
        return None
    if len(frame) < DATA_AT:
        tag = int.from_bytes(frame[TAG_AT:HEADER_BYTES])
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
    error = code if flags & ERROR_FLAG else None
    sector = int.from_bytes(lba, "little")
    return Answered(path, destination, tag, sector, status, error, frame[DATA_AT:])
