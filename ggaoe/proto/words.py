"""Frames in words, for people.

Owns the words. Frames may be cut off behind the argument; what they hold is not checked.
"""

from __future__ import annotations

from ggaoe.proto import ata
from ggaoe.proto.ata import Opcode
from ggaoe.proto.frame import (
    ATA_HEADER_BYTES,
    CONFIG_HEADER_BYTES,
    MASK_HEADER_BYTES,
    RESERVE_HEADER_BYTES,
    Command,
    Error,
    Header,
    unpack_header,
    unpack_taskfile,
)
from ggaoe.proto.query import Ccmd
from ggaoe.units import counted

TAGGED_BY_TARGET = 0
"""The tag of advertisements, which answer nobody."""

_MASK_WORDS = {0: "read", 1: "edit"}
_RESERVE_WORDS = {0: "read", 1: "set", 2: "force"}


def words(frame: bytes, length_bytes: int) -> str:
    """What an AoE frame of `length_bytes`, whose beginning is `frame`, asks for or answers, without
    addresses and tag."""
    header = unpack_header(frame)
    if header is None:
        return f"no AoE frame, {length_bytes} bytes"
    if header.is_error:
        return f"{_named(Error, header.error, 'error')} refused"
    if header.command == Command.ATA and len(frame) >= ATA_HEADER_BYTES:
        return _ata(frame, header)
    if header.command == Command.CONFIG and len(frame) >= CONFIG_HEADER_BYTES:
        counts = ""
        if header.is_response:
            queue_length = int.from_bytes(frame[24:26], "big")
            counts = f", {counted(queue_length, 'request')} of {counted(frame[28], 'sector')}"
        text = (
            "advertisement" if header.is_response and header.tag == TAGGED_BY_TARGET else "CONFIG"
        )
        return f"{text} {_named(Ccmd, frame[29] & 0x0F, 'subcommand')}{counts}"
    if header.command == Command.MASK and len(frame) >= MASK_HEADER_BYTES:
        return f"MASK {_MASK_WORDS.get(frame[25], frame[25])}, {counted(frame[27], 'directive')}"
    if header.command == Command.RESERVE and len(frame) >= RESERVE_HEADER_BYTES:
        return f"RESERVE {_RESERVE_WORDS.get(frame[24], frame[24])}, {counted(frame[25], 'host')}"
    return f"command {header.command}, {length_bytes} bytes"


def _ata(frame: bytes, header: Header) -> str:
    taskfile = unpack_taskfile(frame)
    if header.is_response:
        if not taskfile.command & ata.Status.ERR:
            return "ok"
        bits = [bit.name for bit in ata.AtaError if taskfile.feature & bit]
        return f"ATA error {'+'.join(filter(None, bits)) or hex(taskfile.feature)}"
    name = _named(Opcode, taskfile.command, "opcode")
    if (
        taskfile.command not in ata.OP_OF_OPCODE
        or ata.OP_OF_OPCODE[taskfile.command] is ata.Op.FLUSH
    ):
        return name
    return f"{name} {ata.lba_sector(taskfile.command, taskfile.lba)}+{taskfile.sectors}"


def _named(names: type[Error | Ccmd | Opcode], value: int, kind: str) -> str:
    try:
        return names(value).name
    except ValueError:
        return f"{kind} {value:#x}"
