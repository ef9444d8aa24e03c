"""Which AoE frames the kernel passes to a packet socket: programs of classic BPF.

Owns the programs and how one is put in force. Must not know: sockets' other settings; why somebody
wants fewer frames. The kernel's document is networking/filter.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Collection
from enum import Enum

from ggaoe.proto.ata import OP_OF_OPCODE
from ggaoe.proto.frame import (
    ATA_HEADER_BYTES,
    ETHERTYPE,
    FLAG_RESPONSE,
    SHELF_ANY,
    SLOT_ANY,
    Command,
)

ADDRESSES_MAX = 256
"""A longer list would be more than a socket's option memory (net.core.optmem_max) may hold."""

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h

# (code, jump if true, jump if false, operand), jumps counted from the next line. A load beyond the
# frame's end refuses the frame.
Line = tuple[int, int, int, int]
Program = tuple[Line, ...]
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _LOAD_LENGTH = 0x20, 0x28, 0x30, 0x80
_AND, _RETURN = 0x54, 0x06
_JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET = 0x15, 0x35, 0x45
_ACCEPT: Line = (_RETURN, 0, 0, 0xFFFFFFFF)
_REFUSE: Line = (_RETURN, 0, 0, 0)

# Where frames have what is looked at; what the kernel knows besides is at negative offsets.
_AT_SOURCE, _AT_TYPE, _AT_FLAGS, _AT_SHELF, _AT_SLOT, _AT_COMMAND, _AT_OPCODE = (
    6, 12, 14, 16, 18, 19, 27,
)  # fmt: skip
_AT_PACKET_TYPE, _AT_INTERFACE, _AT_HAS_VLAN_TAG = (0xFFFFF000 + number for number in (4, 8, 48))


class Role(Enum):
    """Which AoE frames the kernel passes to a link; the rest never wakes us."""

    TARGET = "target"
    """Requests, and config responses: another target answering for our address shows in those."""
    INITIATOR = "initiator"
    """Responses."""
    ALL = "all"


def _require(load: int, at: int, *values: int) -> Program:
    """Refuse what has none of `values` there."""
    last = len(values)
    return (
        (load, 0, 0, at),
        *((_JUMP_EQUAL, last - number, 0, value) for number, value in enumerate(values)),
        _REFUSE,
    )


_FOR_TARGETS: Program = (
    *_require(_LOAD_HALF, _AT_TYPE, ETHERTYPE),
    (_LOAD_BYTE, 0, 0, _AT_FLAGS),
    (_JUMP_SET, 0, 3, FLAG_RESPONSE),
    *_require(_LOAD_BYTE, _AT_COMMAND, Command.CONFIG),
)
_OF_ROLE: dict[Role, Program] = {
    Role.TARGET: (*_FOR_TARGETS, _ACCEPT),
    Role.INITIATOR: (
        *_require(_LOAD_HALF, _AT_TYPE, ETHERTYPE),
        (_LOAD_BYTE, 0, 0, _AT_FLAGS),
        (_JUMP_SET, 0, 1, FLAG_RESPONSE),
        _ACCEPT,
        _REFUSE,
    ),
    Role.ALL: (_ACCEPT,),
}


def for_role(role: Role) -> Program:
    """Everything that is for a link of that role."""
    return _OF_ROLE[role]


def within(interfaces: Collection[int], program: Program) -> Program:
    """`program`, for frames that belong to one of `interfaces` (indexes). A socket on an interface
    is also given what the kernel has found to belong to a VLAN above it, or to a macvlan."""
    return (*_require(_LOAD_WORD, _AT_INTERFACE, *interfaces), *program)


def narrow(addresses: Collection[tuple[int, int]], shed: Collection[bytes]) -> Program:
    """Of what targets hear only what `addresses` (shelf, slot) are meant by, without frames that
    no link takes; and of the hosts `shed` (addresses of 6 bytes) only what reads and writes."""
    return (
        *_FOR_TARGETS,
        (_LOAD_BYTE, 0, 0, _AT_PACKET_TYPE),
        (_JUMP_AT_LEAST, 0, 1, socket.PACKET_OTHERHOST),
        _REFUSE,
        *_require(_LOAD_BYTE, _AT_HAS_VLAN_TAG, 0),
        (_LOAD_BYTE, 0, 0, _AT_COMMAND),
        (_JUMP_EQUAL, 0, 3, Command.ATA),
        (_LOAD_LENGTH, 0, 0, 0),
        (_JUMP_AT_LEAST, 1, 0, ATA_HEADER_BYTES),
        _REFUSE,
        *_shedding(shed),
        *_addressed(addresses),
    )


def _shedding(hosts: Collection[bytes]) -> Program:
    refusal: list[Line] = []
    for mac in hosts:
        refusal += [
            (_LOAD_WORD, 0, 0, _AT_SOURCE),
            (_JUMP_EQUAL, 0, 3, int.from_bytes(mac[:4], "big")),
            (_LOAD_HALF, 0, 0, _AT_SOURCE + 4),
            (_JUMP_EQUAL, 0, 1, int.from_bytes(mac[4:], "big")),
            _REFUSE,
        ]
    if not refusal:
        return ()
    opcodes = sorted(OP_OF_OPCODE)
    over = len(opcodes) - 1 + len(refusal)
    return (
        (_LOAD_BYTE, 0, 0, _AT_COMMAND),
        (_JUMP_EQUAL, 0, 1 + len(opcodes), Command.ATA),
        (_LOAD_BYTE, 0, 0, _AT_OPCODE),
        *((_JUMP_EQUAL, over - number, 0, opcode) for number, opcode in enumerate(opcodes)),
        *refusal,
    )


def _addressed(addresses: Collection[tuple[int, int]]) -> Program:
    if len(addresses) > ADDRESSES_MAX:
        return (_ACCEPT,)
    lines: list[Line] = [
        (_LOAD_HALF, 0, 0, _AT_SHELF),
        (_JUMP_EQUAL, 0, 1, SHELF_ANY),
        _ACCEPT,
        (_LOAD_BYTE, 0, 0, _AT_SLOT),
        (_JUMP_EQUAL, 0, 1, SLOT_ANY),
        _ACCEPT,
        (_LOAD_WORD, 0, 0, _AT_SHELF),
        (_AND, 0, 0, 0xFFFFFF00),
    ]
    for shelf, slot in addresses:
        lines += [(_JUMP_EQUAL, 0, 1, shelf << 16 | slot << 8), _ACCEPT]
    return (*lines, _REFUSE)


def attach(sock: socket.socket, program: Program) -> None:
    """Put `program` in force in place of any other, between two frames; raises OSError."""
    code = b"".join(struct.pack("@HBBI", *line) for line in program)
    memory = ctypes.create_string_buffer(code, len(code))
    descriptor = struct.pack("@HP", len(program), ctypes.addressof(memory))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, descriptor)
