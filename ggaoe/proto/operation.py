"""What a request wants to do with a target, as far as hosts can be permitted it one by one.

Owns which command is which operation; not who may do it.
"""

from __future__ import annotations

from enum import StrEnum

from ggaoe.proto import ata
from ggaoe.proto.access import Mcmd, Rcmd
from ggaoe.proto.ata import Op, Opcode
from ggaoe.proto.frame import HEADER_BYTES, Buffer, Command
from ggaoe.proto.query import Ccmd


class Operation(StrEnum):
    """The values are the names of the lists that say who may."""

    DISCOVER = "discover"
    """Learn that the target is there and what it is: IDENTIFY, whatever only reads of config
    string, mask list and reservation, and all that is no other operation: any answer tells."""
    READ = "read"
    """READ, VERIFY, and what SMART reads."""
    WRITE = "write"
    """WRITE and FLUSH."""
    CHANGE = "change"
    """Set what the target keeps: config string, mask list, reservation, SMART."""


_OPERATION_OF_OP = {
    Op.READ: Operation.READ,
    Op.VERIFY: Operation.READ,
    Op.WRITE: Operation.WRITE,
    Op.FLUSH: Operation.WRITE,
}
_OPERATION_OF_OPCODE: dict[int, Operation] = {
    **{opcode: _OPERATION_OF_OP[op] for opcode, op in ata.OP_OF_OPCODE.items()},
    Opcode.IDENTIFY_DEVICE: Operation.DISCOVER,
    Opcode.SMART: Operation.READ,
}
_SMART_CHANGES = frozenset({ata.Smart.ENABLE, ata.Smart.DISABLE, ata.Smart.WRITE_LOG})


def operation_of(command: int, frame: Buffer) -> Operation:
    """What a request whose argument is whole wants to do."""
    if command == Command.ATA:
        opcode = frame[HEADER_BYTES + 3]
        if opcode == Opcode.SMART and frame[HEADER_BYTES + 1] in _SMART_CHANGES:
            return Operation.CHANGE
        return _OPERATION_OF_OPCODE.get(opcode, Operation.DISCOVER)
    match command:
        case Command.CONFIG:
            is_change = frame[HEADER_BYTES + 5] & 0x0F in (Ccmd.SET, Ccmd.FORCE)
        case Command.MASK:
            is_change = frame[HEADER_BYTES + 1] == Mcmd.EDIT
        case Command.RESERVE:
            is_change = frame[HEADER_BYTES] in (Rcmd.SET, Rcmd.FORCE)
        case _:
            is_change = False
    return Operation.CHANGE if is_change else Operation.DISCOVER
