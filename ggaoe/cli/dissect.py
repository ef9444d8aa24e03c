"""Frames in words: one line each, requests and replies beside each other.

Owns the words. Must not know where the frames come from. Frames may be cut off behind the argument.
"""

from __future__ import annotations

import time

from ggaoe.engine.trace import Traced
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
from ggaoe.units import counted, format_mac

PENDING_MAX = 65536
"""Requests without a reply that are remembered, to say how long replies took."""
TAGGED_BY_TARGET = 0
"""The tag of advertisements, which answer nobody."""

_MASK_WORDS = {0: "read", 1: "edit"}
_RESERVE_WORDS = {0: "read", 1: "set", 2: "force"}


class Dissector:
    """Lines of one trace."""

    def __init__(self) -> None:
        self._asked_ns: dict[tuple[bytes, int], int] = {}

    def line(self, passed: Traced) -> str:
        """What `passed` says, and of a reply how long it took."""
        seconds, ns = divmod(passed.time_ns, 1_000_000_000)
        stamp = f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{ns // 1000:06d}"
        header = unpack_header(passed.frame)
        if header is None:
            return f"{stamp} {passed.interface} no AoE frame, {passed.length_bytes} bytes"
        if not header.is_response:
            self._remember(header, passed.time_ns)
            way, peer = "<", header.source
        else:
            way, peer = ">", header.destination
        line = f"{stamp} {passed.interface} {way} {format_mac(peer)} {words(passed)}"
        asked_ns = self._asked_ns.pop((peer, header.tag), None) if header.is_response else None
        if asked_ns is None:
            return line
        return f"{line}, {max(0, passed.time_ns - asked_ns) / 1000:.0f} µs"

    def _remember(self, header: Header, time_ns: int) -> None:
        if len(self._asked_ns) >= PENDING_MAX:
            del self._asked_ns[next(iter(self._asked_ns))]
        self._asked_ns[header.source, header.tag] = time_ns


def words(passed: Traced) -> str:
    """What an AoE frame asks for or answers, without the addresses."""
    frame = passed.frame
    header = unpack_header(frame)
    assert header is not None
    tag = f"tag {header.tag:08x}"
    if header.is_error:
        return f"{tag} {_named(Error, header.error, 'error')} refused"
    if header.command == Command.ATA and len(frame) >= ATA_HEADER_BYTES:
        return f"{tag} {_ata(frame, header)}"
    if header.command == Command.CONFIG and len(frame) >= CONFIG_HEADER_BYTES:
        counts = ""
        if header.is_response:
            queue_length = int.from_bytes(frame[24:26], "big")
            counts = f", {counted(queue_length, 'request')} of {counted(frame[28], 'sector')}"
        text = (
            "advertisement" if header.is_response and header.tag == TAGGED_BY_TARGET else "CONFIG"
        )
        return f"{tag} {text} {_named(Ccmd, frame[29] & 0x0F, 'subcommand')}{counts}"
    if header.command == Command.MASK and len(frame) >= MASK_HEADER_BYTES:
        word, edits = _MASK_WORDS.get(frame[25], frame[25]), counted(frame[27], "directive")
        return f"{tag} MASK {word}, {edits}"
    if header.command == Command.RESERVE and len(frame) >= RESERVE_HEADER_BYTES:
        word, hosts = _RESERVE_WORDS.get(frame[24], frame[24]), counted(frame[25], "host")
        return f"{tag} RESERVE {word}, {hosts}"
    return f"{tag} command {header.command}, {passed.length_bytes} bytes"


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
