"""Write the seed corpus `corpus/frames/*.bin`: frames as initiators send them, and broken ones.

Deterministic, and byte for byte by hand: it uses none of the code that the corpus is thrown at.
Run it after an edit: `python tests/fuzz/make_corpus.py`.
"""

from __future__ import annotations

import struct
from pathlib import Path

DIRECTORY = Path(__file__).parent / "corpus" / "frames"

TARGET = bytes.fromhex("0200000000fe")
BROADCAST = b"\xff" * 6
HOST = bytes.fromhex("02000000000a")
OTHER = bytes.fromhex("02000000000b")
SHELF, SLOT = 1, 2
ANY = (0xFFFF, 0xFF)
SMART_KEY = 0xC24F00


def frame(
    command: int,
    argument: bytes,
    tag: int = 0x0001_0000,
    address: tuple[int, int] = (SHELF, SLOT),
    *,
    flags: int = 0x10,
    destination: bytes = TARGET,
    source: bytes = HOST,
    ethertype: int = 0x88A2,
) -> bytes:
    head = struct.pack(">HBBHBBI", ethertype, flags, 0, *address, command, tag)
    return destination + source + head + argument


def ata(
    opcode: int,
    lba: int = 0,
    sectors: int = 1,
    feature: int = 0,
    aflags: int = 0,
    data: bytes = b"",
) -> bytes:
    taskfile = bytes([aflags, feature, sectors, opcode])
    return taskfile + lba.to_bytes(6, "little") + bytes(2) + data


def config(ccmd: int, text: bytes = b"", text_bytes: int | None = None) -> bytes:
    length = len(text) if text_bytes is None else text_bytes
    return struct.pack(">HHBBH", 0, 0, 0, ccmd, length) + text


def mask(mcmd: int, *directives: tuple[int, bytes], count: int | None = None) -> bytes:
    body = b"".join(bytes([0, dcmd]) + mac for dcmd, mac in directives)
    return bytes([0, mcmd, 0, len(directives) if count is None else count]) + body


def reserve(rcmd: int, *macs: bytes, count: int | None = None) -> bytes:
    return bytes([rcmd, len(macs) if count is None else count]) + b"".join(macs)


def pattern(length: int) -> bytes:
    return bytes(index * 31 % 251 for index in range(length))


def as_initiators_send() -> dict[str, bytes]:
    user_tag = 0x8000_1234
    return {
        "linux-config-broadcast": frame(1, config(0), 0, ANY, destination=BROADCAST),
        "linux-identify": frame(0, ata(0xEC, 0xA0_000000)),
        "linux-read-lba28": frame(0, ata(0x20, 0xE0_000010, 2)),
        "linux-read-lba48": frame(0, ata(0x24, 0x10, 2, aflags=0x40)),
        "linux-write-lba48": frame(0, ata(0x34, 0x10, 2, aflags=0x41, data=pattern(1024))),
        "linux-taint-probe": frame(0, ata(0x24, 0, 2, aflags=0x40, data=bytes(1024))),
        "aoeping-config": frame(1, config(0, b"\xed" * 1024), user_tag),
        "aoeping-identify": frame(0, ata(0xEC, data=b"\xed" * 1024), user_tag),
        "aoeping-smart-read-data": frame(0, ata(0xB0, SMART_KEY, 1, 0xD0), user_tag),
        "aoeping-smart-status": frame(0, ata(0xB0, SMART_KEY, 0, 0xDA), user_tag),
        "aoeping-smart-disable": frame(0, ata(0xB0, SMART_KEY, 0, 0xD9), user_tag),
        "aoeping-smart-write-log": frame(
            0, ata(0xB0, SMART_KEY | 0x80, 1, 0xD6, data=pattern(512)), user_tag, flags=0x11
        ),
        "aoecfg-read": frame(1, config(0) + bytes(1024), user_tag, ANY, destination=BROADCAST),
        "aoecfg-set": frame(1, config(3, b"label") + bytes(1019), user_tag),
        "sancheck-identify": frame(0, ata(0xEC, data=bytes(8964)), user_tag),
        "ipxe-read": frame(0, ata(0x24, 0x3F, 2, aflags=0x50), 0x18AE_0001),
        "winaoe-identify": frame(0, ata(0xEC, aflags=0x40), 0x0100_0000, ANY),
        "plan9-config-tag-0": frame(1, config(0), 0, ANY, destination=BROADCAST),
        "config-prefix": frame(1, config(2, b"")),
        "config-test-other": frame(1, config(1, b"other")),
        "config-force": frame(1, config(4, b"x" * 1024)),
        "mask-read": frame(2, mask(0)),
        "mask-add-two": frame(2, mask(1, (1, HOST), (1, OTHER))),
        "reserve-read": frame(3, reserve(0)),
        "reserve-set": frame(3, reserve(1, HOST)),
        "reserve-force-release": frame(3, reserve(2)),
        "flush-ext": frame(0, ata(0xEA, sectors=0)),
        "check-power-mode": frame(0, ata(0xE5, sectors=0)),
        "set-features": frame(0, ata(0xEF, feature=0x02)),
    }


def malformed() -> dict[str, bytes]:
    return {
        "bad-empty": b"",
        "bad-cut-in-header": frame(1, b"")[:23],
        "bad-ethertype": frame(1, config(0), ethertype=0x0800),
        "bad-response": frame(1, config(0), flags=0x18),
        "bad-version": frame(1, config(0), flags=0x20),
        "bad-address": frame(1, config(0), address=(SHELF + 1, SLOT)),
        "bad-command-4": frame(4, bytes(36)),
        "bad-command-f0": frame(0xF0, b"\xff" * 100),
        "bad-ata-cut": frame(0, ata(0x24)[:11]),
        "bad-ata-opcode": frame(0, ata(0x06, feature=1, data=pattern(512))),
        "bad-read-count-0": frame(0, ata(0x24, 0x10, 0)),
        "bad-read-count-255": frame(0, ata(0x24, 0x10, 255)),
        "bad-read-past-end": frame(0, ata(0x24, (1 << 48) - 1, 1)),
        "bad-write-no-data": frame(0, ata(0x34, 0x10, 2, data=pattern(1023))),
        "bad-write-broadcast": frame(0, ata(0x34, 0, 1, data=bytes(512)), address=ANY),
        "bad-smart-key": frame(0, ata(0xB0, 0, 1, 0xD0)),
        "bad-config-cut": frame(1, config(0)[:7]),
        "bad-config-length": frame(1, config(4, b"abc", 4)),
        "bad-config-long": frame(1, config(4, b"x" * 1025)),
        "bad-config-ccmd": frame(1, config(15)),
        "bad-mask-count": frame(2, mask(1, (1, HOST), count=255)),
        "bad-mask-directive": frame(2, mask(1, (1, HOST), (9, OTHER))),
        "bad-mask-mcmd": frame(2, mask(7)),
        "bad-reserve-count": frame(3, reserve(1, HOST, count=255)),
        "bad-reserve-rcmd": frame(3, reserve(9)),
    }


def corpus() -> dict[str, bytes]:
    """Every frame by the name of its file."""
    return as_initiators_send() | malformed()


def main() -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, content in corpus().items():
        (DIRECTORY / f"{name}.bin").write_bytes(content)


if __name__ == "__main__":
    main()
