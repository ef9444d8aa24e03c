"""What frames are called."""

from __future__ import annotations

import pytest

from ggaoe.proto.frame import pack_request, pack_taskfile, padded
from ggaoe.proto.words import words

US, HOST = bytes.fromhex("0200000000fe"), bytes.fromhex("02000000000a")


def passed(command: int, argument: bytes, *, flags: int = 0x10, error: int = 0,
           tag: int = 0x1234) -> bytes:  # fmt: skip
    frame = bytearray(padded(pack_request(US, HOST, 1, 2, command, tag) + argument))
    frame[14:16] = bytes([flags, error])
    if flags & 8:
        frame[:12] = HOST + US
    return bytes(frame)


def ata(opcode: int, sector: int = 0, sectors: int = 0, feature: int = 0) -> bytes:
    return pack_taskfile(0x40, feature, sectors, opcode, sector.to_bytes(6, "little"))


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (passed(0, ata(0x24, 1 << 40, 2)), f"READ_SECTORS_EXT {1 << 40}+2"),
        (passed(0, ata(0xEA)), "FLUSH_CACHE_EXT"),
        (passed(0, ata(0x77)), "opcode 0x77"),
        (passed(0, ata(0x40), flags=0x18), "ok"),
        (passed(0, ata(0x41, feature=0x14), flags=0x18), "ATA error ABRT+IDNF"),
        (passed(0, b"", flags=0x1C, error=6), "RESERVED refused"),
        (passed(0, b"", flags=0x1C, error=99), "error 0x63 refused"),
        (passed(1, bytes([0, 0, 0, 0, 0, 0x13, 0, 0])), "CONFIG SET"),
        (
            passed(1, bytes([0, 64, 0, 0, 2, 0x10, 0, 0]), flags=0x18, tag=0),
            "advertisement READ, 64 requests of 2 sectors",
        ),
        (passed(2, bytes([0, 1, 0, 3])), "MASK edit, 3 directives"),
        (passed(3, bytes([2, 1])), "RESERVE force, 1 host"),
        (passed(9, b""), "command 9, 60 bytes"),
    ],
)
def test_words(frame: bytes, text: str) -> None:
    assert words(frame, len(frame)) == text
