"""A reader of replies that accepts nothing but what the protocol says, byte by byte.

Uses no codec of the target's. What a reply counts it has to carry, and nothing else but zeros.
"""

from __future__ import annotations

FRAME_BYTES_MIN = 60
RESPONSE, ERROR = 0x08, 0x04
ATA, CONFIG, MASK, RESERVE = range(4)
ARGUMENT_BYTES = {ATA: 12, CONFIG: 8, MASK: 4, RESERVE: 2}
DATA_OPCODES = frozenset({0x20, 0x24, 0x25, 0xC8, 0xEC})
SMART = 0xB0
"""Its replies carry a sector always."""
DRDY, ERR = 0x40, 0x01


def check_reply(frame: bytes, opcode: int = 0, sectors: int = 0) -> None:
    """AssertionError where `frame` is no well-formed reply; to an ATA request it was to `opcode`
    and so many sectors."""
    assert len(frame) >= FRAME_BYTES_MIN
    assert frame[12:14] == b"\x88\xa2"
    assert frame[14] & ~ERROR == 0x10 | RESPONSE, "version 1, R, and no flag that is not defined"
    is_error, code, command = bool(frame[14] & ERROR), frame[15], frame[19]
    assert 1 <= code <= 6 if is_error else code == 0
    assert frame[16:18] != b"\xff\xff"
    assert frame[18] != 0xFF
    if is_error and not any(frame[24:]):
        return  # nothing but the header: there was no argument that could be read
    assert command in ARGUMENT_BYTES
    end = 24 + ARGUMENT_BYTES[command] + _counted_bytes(frame, command, is_error, opcode, sectors)
    assert len(frame) == max(end, FRAME_BYTES_MIN), "it carries what it counts, and no more"
    assert not any(frame[end:]), "what fills it up is zero"


def _counted_bytes(frame: bytes, command: int, is_error: bool, opcode: int, sectors: int) -> int:
    """How much follows the argument, as it says itself."""
    if command == CONFIG:
        assert frame[29] >> 4 == 1
        count = int.from_bytes(frame[30:32])
        assert count <= 1024
        return count
    if command == MASK:
        assert frame[24] == 0
        assert frame[26] <= 3
        return 0 if frame[26] else 8 * frame[27]  # where a directive failed, that is its number
    if command == RESERVE:
        return 6 * frame[25]
    assert not any(frame[34:36])
    if is_error:
        return 0
    assert frame[27] & ~ERR == DRDY
    assert bool(frame[25]) == bool(frame[27] & ERR)
    if opcode == SMART:
        return 512
    return 512 * sectors if opcode in DATA_OPCODES and not frame[27] & ERR else 0
