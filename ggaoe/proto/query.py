"""Command 1, query config: the argument's codec and its five subcommands (AoE r11, config query).

Owns what happens to a config string. The string is bytes: no encoding, NUL or case is assumed.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from ggaoe.proto.frame import CONFIG_HEADER_BYTES, HEADER_BYTES, VERSION, Buffer

CONFIG_STRING_BYTES_MAX = 1024
BUFFER_COUNT_MIN = 2
"""With 0 or 1, Linux starts with a window of none, and the device never comes up."""

_ARGUMENT = struct.Struct(">HHBBH")


class Ccmd(IntEnum):
    """Low nibble of byte 29; the high one is the AoE version in replies and means nothing here."""

    READ = 0
    TEST = 1
    PREFIX = 2
    SET = 3
    FORCE = 4


class ConfigArgument(NamedTuple):
    """Bytes 24 to 31 and the string behind them."""

    buffer_count: int
    firmware: int
    sectors: int
    ccmd: int
    text: bytes


class Answer(IntEnum):
    """What a config command leads to."""

    REPLY = 0
    SILENCE = 1
    STORE = 2
    PRESENT = 3
    """Error 4: another string is set."""


def unpack_config(frame: Buffer) -> ConfigArgument | None:
    """The argument of a frame of at least 32 bytes, or None where the string's length is over 1024
    or reaches beyond the frame. A READ's string is ignored: aoeping's has no meaning."""
    buffer_count, firmware, sectors, version_ccmd, text_bytes = _ARGUMENT.unpack_from(
        frame, HEADER_BYTES
    )
    ccmd = version_ccmd & 0x0F
    end = CONFIG_HEADER_BYTES + text_bytes
    if text_bytes > CONFIG_STRING_BYTES_MAX or end > len(frame):
        if ccmd != Ccmd.READ:
            return None
        end = CONFIG_HEADER_BYTES
    text = bytes(frame[CONFIG_HEADER_BYTES:end])
    return ConfigArgument(buffer_count, firmware, sectors, ccmd, text)


def pack_config(
    ccmd: int, text: bytes = b"", buffer_count: int = 0, firmware: int = 0, sectors: int = 0
) -> bytes:
    """The 8-byte argument and `text`; a target fills in the counts, an initiator need not."""
    return _ARGUMENT.pack(buffer_count, firmware, sectors, VERSION << 4 | ccmd, len(text)) + text


def evaluate(ccmd: int, text: bytes, current: bytes) -> Answer | None:
    """What command `ccmd` with `text` does to the string `current`; None for an unknown command."""
    match ccmd:
        case Ccmd.READ:
            return Answer.REPLY
        case Ccmd.TEST:
            return Answer.REPLY if text == current else Answer.SILENCE
        case Ccmd.PREFIX:
            return Answer.REPLY if current.startswith(text) else Answer.SILENCE
        case Ccmd.SET:
            if text == current:  # a retransmission, too, must find success
                return Answer.REPLY
            return Answer.PRESENT if current else Answer.STORE
        case Ccmd.FORCE:
            return Answer.REPLY if text == current else Answer.STORE
    return None
