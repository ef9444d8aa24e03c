"""Command 0: opcodes, status and error registers, IDENTIFY and SMART pages (AoE r11 and ATA-7/8).

Owns what a taskfile means. Direction and address width come from the opcode alone: WinAoE sets E
on IDENTIFY, and Linux attaches write-sized payloads to probing READs.
"""

from __future__ import annotations

import errno
import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum

from ggaoe.proto.frame import (
    ATA_HEADER_BYTES,
    HEADER_BYTES,
    SECTOR_BYTES,
    VERSION,
    Buffer,
    Command,
    Header,
)

AFLAG_WRITE = 0x01
AFLAG_ASYNC = 0x02
AFLAG_DEVICE = 0x10
AFLAG_EXTENDED = 0x40


class Opcode(IntEnum):
    """Command register values that are implemented."""

    READ_SECTORS = 0x20
    READ_SECTORS_EXT = 0x24
    READ_DMA_EXT = 0x25
    READ_DMA = 0xC8
    WRITE_SECTORS = 0x30
    WRITE_SECTORS_EXT = 0x34
    WRITE_DMA_EXT = 0x35
    WRITE_DMA = 0xCA
    READ_VERIFY = 0x40
    READ_VERIFY_EXT = 0x42
    SMART = 0xB0
    STANDBY_IMMEDIATE = 0xE0
    IDLE_IMMEDIATE = 0xE1
    STANDBY = 0xE2
    IDLE = 0xE3
    CHECK_POWER_MODE = 0xE5
    SLEEP = 0xE6
    FLUSH_CACHE = 0xE7
    FLUSH_CACHE_EXT = 0xEA
    IDENTIFY_DEVICE = 0xEC
    SET_FEATURES = 0xEF


class Op(IntEnum):
    """What a command does to the medium; VERIFY is a READ whose data nobody wants."""

    READ = 0
    WRITE = 1
    FLUSH = 2
    VERIFY = 3


class Status(IntEnum):
    """Bits of the status register."""

    ERR = 0x01
    DRQ = 0x08
    DF = 0x20
    DRDY = 0x40
    BSY = 0x80


class AtaError(IntEnum):
    """Bits of the error register."""

    ABRT = 0x04
    IDNF = 0x10
    UNC = 0x40


STATUS_OK = int(Status.DRDY)
STATUS_ERROR = int(Status.DRDY | Status.ERR)

OP_OF_OPCODE: dict[int, Op] = {
    Opcode.READ_SECTORS: Op.READ,
    Opcode.READ_SECTORS_EXT: Op.READ,
    Opcode.READ_DMA: Op.READ,
    Opcode.READ_DMA_EXT: Op.READ,
    Opcode.WRITE_SECTORS: Op.WRITE,
    Opcode.WRITE_SECTORS_EXT: Op.WRITE,
    Opcode.WRITE_DMA: Op.WRITE,
    Opcode.WRITE_DMA_EXT: Op.WRITE,
    Opcode.READ_VERIFY: Op.VERIFY,
    Opcode.READ_VERIFY_EXT: Op.VERIFY,
    Opcode.FLUSH_CACHE: Op.FLUSH,
    Opcode.FLUSH_CACHE_EXT: Op.FLUSH,
}


def is_transfer(header: Header, head: Buffer) -> bool:
    """Whether a request whose first bytes are `head` is one of the operations on the medium."""
    return (
        header.version == VERSION
        and header.command == Command.ATA
        and len(head) >= ATA_HEADER_BYTES
        and head[HEADER_BYTES + 3] in OP_OF_OPCODE
    )


LBA28 = frozenset(
    {
        Opcode.READ_SECTORS,
        Opcode.READ_DMA,
        Opcode.WRITE_SECTORS,
        Opcode.WRITE_DMA,
        Opcode.READ_VERIFY,
    }
)
POWER_NO_OPS = frozenset(
    {
        Opcode.STANDBY_IMMEDIATE,
        Opcode.IDLE_IMMEDIATE,
        Opcode.STANDBY,
        Opcode.IDLE,
        Opcode.SLEEP,
    }
)
FEATURES_ACCEPTED = frozenset({0x02, 0x82, 0x03, 0xAA, 0x55})
"""SET FEATURES: write cache on and off, transfer mode, read look-ahead on and off."""
POWER_MODE_ACTIVE = 0xFF

LBA28_MASK = 0x0FFFFFFF
"""The top nibble of lba3 holds device/head bits, which Linux and iPXE set."""
LBA28_SECTORS_MAX = 0x0FFFFFFF
LBA48_SECTORS_MAX = 1 << 48


def lba_sector(opcode: int, lba: bytes) -> int:
    """The sector that the six LBA bytes name, in the address width of `opcode`."""
    sector = int.from_bytes(lba, "little")
    return sector & LBA28_MASK if opcode in LBA28 else sector


def error_register(error_number: int, *, is_read: bool) -> int:
    """The ATA error register for a failed transfer: UNC for an unreadable medium, else ABRT."""
    medium = (errno.EIO, errno.EBADMSG, errno.ENODATA, errno.EILSEQ)
    return AtaError.UNC if is_read and error_number in medium else AtaError.ABRT


# --- IDENTIFY DEVICE ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Identity:
    """What IDENTIFY reports beside the capacity; texts are cut to the fields' lengths."""

    serial: str
    model: str
    firmware: str
    write_cache: bool = False
    smart_enabled: bool = True
    physical_sector_bytes: int = SECTOR_BYTES


SERIAL_CHARS = 20
MODEL_CHARS = 40
FIRMWARE_CHARS = 8

_SMART_BIT = 1 << 0
_WRITE_CACHE_BIT = 1 << 5
_LOOK_AHEAD_BIT = 1 << 6
_LBA48_FLUSH_BITS = 0x3400  # LBA48, FLUSH CACHE, FLUSH CACHE EXT


def serial_of(name: str) -> str:
    """A stable serial of at most 20 ASCII characters for a device's name; long names keep
    distinct by a digest, since hosts take another serial for another disk."""
    text = name.encode("ascii", "replace").decode("ascii")
    if text == name and len(text) <= SERIAL_CHARS:
        return text
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{text[: SERIAL_CHARS - 9]}-{digest}"


def _ata_text(text: str, chars: int) -> bytes:
    raw = text.encode("ascii", "replace")[:chars].ljust(chars)
    swapped = bytearray(chars)
    swapped[0::2], swapped[1::2] = raw[1::2], raw[0::2]
    return bytes(swapped)


def identify_page(identity: Identity, size_sectors: int) -> bytes:
    """The 512 bytes of IDENTIFY DEVICE: 256 little-endian words with a checksum in the last."""
    words = [0] * 256
    cylinders = min(size_sectors // (16 * 63), 16383)
    capacity28 = min(size_sectors, LBA28_SECTORS_MAX)
    smart = _SMART_BIT if identity.smart_enabled else 0
    cache = _WRITE_CACHE_BIT if identity.write_cache else 0
    words[0] = 0x0040  # fixed disk
    words[1] = words[54] = cylinders
    words[3] = words[55] = 16
    words[6] = words[56] = 63
    words[47] = 0x8000
    words[49] = 0x0300  # LBA, DMA
    words[50] = 0x4000
    words[53] = 0x0006  # words 64 to 70 and 88 are valid
    words[57], words[58] = capacity28 & 0xFFFF, capacity28 >> 16
    words[60], words[61] = words[57], words[58]
    words[80] = 0x00F0  # ATA-4 to ATA-7
    words[82] = _SMART_BIT | _WRITE_CACHE_BIT | _LOOK_AHEAD_BIT
    words[83] = 0x4000 | _LBA48_FLUSH_BITS
    words[84] = words[87] = 0x4000
    words[85] = smart | cache | _LOOK_AHEAD_BIT
    words[86] = _LBA48_FLUSH_BITS
    words[93] = 0x400B
    for index in range(4):
        words[100 + index] = size_sectors >> 16 * index & 0xFFFF
    exponent = (identity.physical_sector_bytes // SECTOR_BYTES).bit_length() - 1
    words[106] = 0x4000 | (0x2000 | exponent if exponent else 0)
    page = bytearray(struct.pack("<256H", *words))
    page[20:40] = _ata_text(identity.serial, SERIAL_CHARS)
    page[46:54] = _ata_text(identity.firmware, FIRMWARE_CHARS)
    page[54:94] = _ata_text(identity.model, MODEL_CHARS)
    page[510] = 0xA5
    return with_checksum(bytes(page))


def with_checksum(page: bytes) -> bytes:
    """`page` (512 bytes) with its last byte set so that all bytes sum to 0 modulo 256."""
    return page[:511] + bytes([-sum(page[:511]) & 0xFF])


# --- SMART -------------------------------------------------------------------------------------


class Smart(IntEnum):
    """Values of the feature register of SMART that aoeping sends."""

    READ_DATA = 0xD0
    OFFLINE_IMMEDIATE = 0xD4
    READ_LOG = 0xD5
    WRITE_LOG = 0xD6
    ENABLE = 0xD8
    DISABLE = 0xD9
    RETURN_STATUS = 0xDA


SMART_KEY = b"\x4f\xc2"
SMART_KEY_FAILING = b"\xf4\x2c"
SMART_LOG_DIRECTORY = 0x00
SMART_LOG_ERRORS = 0x01
SMART_LOG_SELF_TEST = 0x06
SMART_HOST_LOGS = range(0x80, 0xA0)
"""Log addresses that belong to the host: one sector each, kept with the device's state."""


def smart_data_page() -> bytes:
    """READ DATA: no vendor attributes; says that off-line collection and error logging exist."""
    page = bytearray(SECTOR_BYTES)
    struct.pack_into("<H", page, 0, 0x0010)
    page[367] = 0x01  # off-line immediate is implemented
    struct.pack_into("<H", page, 368, 0x0003)
    page[370] = 0x01  # error logging
    return with_checksum(bytes(page))


def smart_log_page(address: int, host_logs: dict[int, bytes]) -> bytes | None:
    """The sector of log `address`, or None where there is no such log."""
    page = bytearray(SECTOR_BYTES)
    if address in SMART_HOST_LOGS:
        return host_logs.get(address, bytes(page))
    if address == SMART_LOG_DIRECTORY:
        struct.pack_into("<H", page, 0, 1)
        for log in (SMART_LOG_ERRORS, SMART_LOG_SELF_TEST, *SMART_HOST_LOGS):
            page[2 * log] = 1
        return bytes(page)
    if address in (SMART_LOG_ERRORS, SMART_LOG_SELF_TEST):
        page[0] = 0x01
        return with_checksum(bytes(page))
    return None
