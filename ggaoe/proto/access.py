"""Commands 2 and 3: the MAC mask list and reserve/release (AoE r11).

Owns the two lists' codecs and what edits do to them. Lists are tuples of 6-byte MACs without
duplicates, in the order in which they were added.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from ggaoe.proto.frame import (
    ETHERNET_BYTES,
    FLAG_RESPONSE,
    FLAGS_AT,
    HEADER_BYTES,
    MASK_HEADER_BYTES,
    RESERVE_HEADER_BYTES,
    Buffer,
)

LIST_ENTRIES_MAX = 255
"""The count is one byte."""

MacList = tuple[bytes, ...]

_MASK = struct.Struct(">BBBB")
_DIRECTIVE = struct.Struct(">BB6s")


class Mcmd(IntEnum):
    READ = 0
    EDIT = 1


class Dcmd(IntEnum):
    NOTHING = 0
    ADD = 1
    DELETE = 2


class MaskError(IntEnum):
    """Byte 26 of a mask reply."""

    NONE = 0
    UNSPECIFIED = 1
    BAD_DIRECTIVE = 2
    FULL = 3


class Rcmd(IntEnum):
    READ = 0
    SET = 1
    FORCE = 2


class Directive(NamedTuple):
    dcmd: int
    mac: bytes


class MaskArgument(NamedTuple):
    mcmd: int
    error: int
    entries: int
    directives: tuple[Directive, ...]


class ReserveArgument(NamedTuple):
    rcmd: int
    macs: MacList


def mask_entries_max(mtu_bytes: int) -> int:
    """Entries of a mask list whose reply fits into one frame."""
    room = mtu_bytes + ETHERNET_BYTES - MASK_HEADER_BYTES
    return min(room // _DIRECTIVE.size, LIST_ENTRIES_MAX)


def reserve_entries_max(mtu_bytes: int) -> int:
    """Entries of a reservation whose reply fits into one frame."""
    return min((mtu_bytes + ETHERNET_BYTES - RESERVE_HEADER_BYTES) // 6, LIST_ENTRIES_MAX)


def unpack_mask(frame: Buffer) -> MaskArgument | None:
    """The argument of a frame of at least 28 bytes; None where its count reaches beyond the frame.

    A reply that reports a failed directive carries an index in the count, and no list. In a
    request that byte means nothing.
    """
    _, mcmd, error, count = _MASK.unpack_from(frame, HEADER_BYTES)
    if error and frame[FLAGS_AT] & FLAG_RESPONSE:
        return MaskArgument(mcmd, error, count, ())
    if MASK_HEADER_BYTES + count * _DIRECTIVE.size > len(frame):
        return None
    directives = tuple(
        Directive(*_DIRECTIVE.unpack_from(frame, MASK_HEADER_BYTES + index * _DIRECTIVE.size)[1:])
        for index in range(count)
    )
    return MaskArgument(mcmd, error, count, directives)


def pack_mask(mcmd: int, directives: tuple[Directive, ...] = ()) -> bytes:
    """The argument and its directives."""
    body = b"".join(_DIRECTIVE.pack(0, dcmd, mac) for dcmd, mac in directives)
    return _MASK.pack(0, mcmd, MaskError.NONE, len(directives)) + body


def pack_mask_list(mcmd: int, macs: MacList) -> bytes:
    """A successful reply's argument: the whole list, each entry with dcmd 0."""
    return pack_mask(mcmd, tuple(Directive(Dcmd.NOTHING, mac) for mac in macs))


def pack_mask_error(mcmd: int, error: MaskError, index: int) -> bytes:
    """A failed edit's argument: which directive failed, and why."""
    return _MASK.pack(0, mcmd, error, index)


def edit_mask(
    current: MacList, directives: tuple[Directive, ...], entries_max: int
) -> tuple[MacList, MaskError, int]:
    """Apply `directives` in order: (new list, error, index of the failing directive).

    Stops at the first failure; what was applied before it stays. Adding a present MAC and
    deleting an absent one succeed, so that a retransmission does.
    """
    macs = list(current)
    for index, (dcmd, mac) in enumerate(directives):
        match dcmd:
            case Dcmd.NOTHING:
                pass
            case Dcmd.ADD if mac not in macs:
                if len(macs) >= entries_max:
                    return tuple(macs), MaskError.FULL, index
                macs.append(mac)
            case Dcmd.DELETE if mac in macs:
                macs.remove(mac)
            case Dcmd.ADD | Dcmd.DELETE:
                pass
            case _:
                return tuple(macs), MaskError.BAD_DIRECTIVE, index
    return tuple(macs), MaskError.NONE, 0


def unpack_reserve(frame: Buffer) -> ReserveArgument | None:
    """The argument of a frame of at least 26 bytes; None where the list exceeds the frame."""
    rcmd, count = frame[HEADER_BYTES], frame[HEADER_BYTES + 1]
    end = RESERVE_HEADER_BYTES + 6 * count
    if end > len(frame):
        return None
    macs = (bytes(frame[at : at + 6]) for at in range(RESERVE_HEADER_BYTES, end, 6))
    return ReserveArgument(rcmd, tuple(dict.fromkeys(macs)))


def pack_reserve(rcmd: int, macs: MacList = ()) -> bytes:
    """The argument and its list."""
    return bytes([rcmd, len(macs)]) + b"".join(macs)
