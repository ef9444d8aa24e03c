"""IDENTIFY DEVICE as an initiator reads it (ATA-7; words as AoE initiators use them)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ggaoe.proto.ata import LBA48_SECTORS_MAX
from ggaoe.proto.frame import SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class RemoteIdentity:
    """What a disk says of itself; texts without their padding."""

    model: str
    serial: str
    firmware: str
    size_sectors: int
    """At most what addresses reach, whatever the disk says."""
    lba48: bool
    write_cache: bool
    """A volatile cache is switched on: only FLUSH makes writes durable."""
    flush: bool
    flush_ext: bool
    smart: bool
    physical_sector_bytes: int

    @property
    def size_bytes(self) -> int:
        return self.size_sectors * SECTOR_BYTES


def parse_identify(page: bytes | memoryview) -> RemoteIdentity:
    """Read the first 512 bytes of `page`; any bytes give some identity."""
    words = struct.unpack_from("<256H", page)
    command_sets = words[83] | words[86]
    lba48 = bool(command_sets & 1 << 10)
    capacity = words[100:104] if lba48 else words[60:62]
    exponent = words[106] & 0x0F if words[106] & 0xE000 == 0x6000 else 0
    return RemoteIdentity(
        model=_text(page, 27, 47),
        serial=_text(page, 10, 20),
        firmware=_text(page, 23, 27),
        size_sectors=min(
            sum(word << 16 * index for index, word in enumerate(capacity)), LBA48_SECTORS_MAX
        ),
        lba48=lba48,
        write_cache=bool(words[85] & 1 << 5),
        flush=bool(command_sets & 1 << 12),
        flush_ext=bool(command_sets & 1 << 13),
        smart=bool(words[82] & 1 << 0),
        physical_sector_bytes=SECTOR_BYTES << exponent,
    )


def _text(page: bytes | memoryview, first_word: int, end_word: int) -> str:
    """ATA texts have the two bytes of each word swapped."""
    raw = bytes(page[2 * first_word : 2 * end_word])
    swapped = bytearray(len(raw))
    swapped[0::2], swapped[1::2] = raw[1::2], raw[0::2]
    return swapped.decode("ascii", "replace").strip(" \0")
