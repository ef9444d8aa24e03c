"""AoE frame header: constants and codec (AoE r11, common header; offsets from the Ethernet header).

Owns layout and lengths of frames. Knows no command's meaning, no device, no socket.
All integers are big-endian except the six LBA bytes and the contents of IDENTIFY.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

ETHERTYPE = 0x88A2
VERSION = 1
BROADCAST = b"\xff" * 6
ZERO_MAC = bytes(6)

FLAGS_AT = 14
FLAG_RESPONSE = 0x08
FLAG_ERROR = 0x04

SHELF_ANY = 0xFFFF
SLOT_ANY = 0xFF

SECTOR_BYTES = 512
ETHERNET_BYTES = 14
HEADER_BYTES = 24
ATA_HEADER_BYTES = 36
CONFIG_HEADER_BYTES = 32
MASK_HEADER_BYTES = 28
RESERVE_HEADER_BYTES = 26
FRAME_BYTES_MIN = 60
"""Shorter replies are zero-padded: veth, lo, tap and rings do not pad, and aoetools drop them."""
SECTORS_PER_FRAME_MAX = 255
MTU_BYTES_MIN = 1060
"""Two sectors, the least that initiators such as iPXE and scnt 0 of Linux take for granted."""


class Command(IntEnum):
    """Byte 19."""

    ATA = 0
    CONFIG = 1
    MASK = 2
    RESERVE = 3


class Error(IntEnum):
    """Byte 15 of a response with the E flag."""

    COMMAND = 1
    ARGUMENT = 2
    UNAVAILABLE = 3
    CONFIG_PRESENT = 4
    VERSION = 5
    RESERVED = 6


_HEADER = struct.Struct(">6s6sHBBHBBI")
_ATA = struct.Struct(">BBBB6sH")


class Header(NamedTuple):
    """The 24 bytes common to all frames; MACs as 6 bytes, the tag as the target echoes it."""

    destination: bytes
    source: bytes
    ethertype: int
    version_flags: int
    error: int
    shelf: int
    slot: int
    command: int
    tag: int

    @property
    def version(self) -> int:
        return self.version_flags >> 4

    @property
    def is_response(self) -> bool:
        return bool(self.version_flags & FLAG_RESPONSE)

    @property
    def is_error(self) -> bool:
        return bool(self.version_flags & FLAG_ERROR)

    @property
    def is_wildcard(self) -> bool:
        return self.shelf == SHELF_ANY or self.slot == SLOT_ANY


class Taskfile(NamedTuple):
    """Command 0's argument, bytes 24 to 35; `lba` still as the six little-endian bytes."""

    aflags: int
    feature: int
    sectors: int
    command: int
    lba: bytes
    reserved: int


def unpack_header(frame: Buffer) -> Header | None:
    """The header of `frame`, or None where it is shorter than 24 bytes or no AoE frame."""
    if len(frame) < HEADER_BYTES:
        return None
    header = Header._make(_HEADER.unpack_from(frame))
    return header if header.ethertype == ETHERTYPE else None


def unpack_taskfile(frame: Buffer) -> Taskfile:
    """Bytes 24 to 35 of a frame of at least 36 bytes."""
    return Taskfile._make(_ATA.unpack_from(frame, HEADER_BYTES))


def pack_taskfile(
    aflags: int = 0, feature: int = 0, sectors: int = 0, command: int = 0, lba: bytes = bytes(6)
) -> bytes:
    """The 12 bytes of command 0's argument."""
    return _ATA.pack(aflags, feature, sectors, command, lba, 0)


def pack_request(
    destination: bytes, source: bytes, shelf: int, slot: int, command: int, tag: int
) -> bytes:
    """The header of a request, as an initiator sends it."""
    flags = VERSION << 4
    return _HEADER.pack(destination, source, ETHERTYPE, flags, 0, shelf, slot, command, tag)


def pack_response(
    request: Header, source: bytes, shelf: int, slot: int, error: int | None = None
) -> bytes:
    """The header of the response to `request`: from `source`, with the real address, never the
    request's wildcards; flag E and `error` where one is given."""
    flags = VERSION << 4 | FLAG_RESPONSE | (FLAG_ERROR if error is not None else 0)
    return _HEADER.pack(
        request.source,
        source,
        ETHERTYPE,
        flags,
        error or 0,
        shelf,
        slot,
        request.command,
        request.tag,
    )


def pack_advertisement(destination: bytes, source: bytes, shelf: int, slot: int) -> bytes:
    """The header of an unsolicited config response: tag 0, as Linux discards bit 31."""
    flags = VERSION << 4 | FLAG_RESPONSE
    return _HEADER.pack(destination, source, ETHERTYPE, flags, 0, shelf, slot, Command.CONFIG, 0)


def padded(frame: bytes) -> bytes:
    """`frame`, zero-filled to the 60 bytes of the shortest Ethernet frame."""
    return frame.ljust(FRAME_BYTES_MIN, b"\0")


def sectors_advertised(mtu_bytes: int) -> int:
    """Sectors per frame as Linux reckons: the whole 36-byte header counts into the MTU."""
    return max(0, min((mtu_bytes - ATA_HEADER_BYTES) // SECTOR_BYTES, SECTORS_PER_FRAME_MAX))


def sectors_that_fit(mtu_bytes: int) -> int:
    """Most sectors of one frame: the MTU does not count the 14 bytes of the Ethernet header."""
    payload_bytes = mtu_bytes + ETHERNET_BYTES - ATA_HEADER_BYTES
    return max(0, min(payload_bytes // SECTOR_BYTES, SECTORS_PER_FRAME_MAX))
