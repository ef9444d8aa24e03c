"""Floods of one kind each: every opcode and command that the target knows, and what it refuses.

Owns what each frame asks for. Must not know who sends it, how fast, or what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ggaoe.proto import access
from ggaoe.proto.ata import FEATURES_ACCEPTED, SMART_KEY, Opcode, Smart
from ggaoe.proto.frame import (
    SECTOR_BYTES,
    SHELF_ANY,
    SLOT_ANY,
    Command,
    pack_advertisement,
    pack_taskfile,
    padded,
)
from ggaoe.proto.query import Ccmd, pack_config
from integration.scene import Wire

FRAMES = 64
"""Of each kind; they differ, so that none is taken for a duplicate of another in flight."""
SECTOR = 4096
"""The first one that is asked for."""
SECTORS_MAX = 255
EXTENDED = 0x40
UNKNOWN_OPCODE = 0x00
UNKNOWN_COMMAND = 9
VENDOR_COMMAND = 0xF0


def kinds(wire: Wire, target: bytes, shelf: int, slot: int) -> dict[str, list[bytes]]:
    """Frames by kind, from `wire` to the MAC `target` for the device shelf.slot."""

    def sent(
        command: int, argument: Callable[[int], bytes], where: tuple[int, int] = (shelf, slot)
    ) -> list[bytes]:
        return [
            wire.request(
                command, argument(number), number, shelf=where[0], slot=where[1], destination=target
            )
            for number in range(FRAMES)
        ]

    return {
        **{name: sent(Command.ATA, argument) for name, argument in _ata()},
        **{name: sent(command, argument) for name, command, argument in _others()},
        **{
            f"{name}, by wildcard": sent(Command.ATA, argument, (SHELF_ANY, SLOT_ANY))
            for name, argument in _ata()
            if name in ("READ", "WRITE", "VERIFY of 255", "FLUSH", "IDENTIFY")
        },
        "CONFIG, by wildcard": sent(
            Command.CONFIG, lambda _: pack_config(Ccmd.READ), (SHELF_ANY, SLOT_ANY)
        ),
        "another address": sent(Command.ATA, _taskfile(Opcode.READ_SECTORS_EXT), (shelf, slot + 9)),
        "another version": [
            frame[:14] + b"\x20" + frame[15:]
            for frame in sent(Command.ATA, _taskfile(Opcode.READ_SECTORS_EXT))
        ],
        "cut off": [frame[:30] for frame in sent(Command.ATA, _taskfile(Opcode.READ_SECTORS_EXT))],
        "responses": [
            padded(pack_advertisement(target, wire.mac, shelf, slot) + pack_config(Ccmd.READ))
        ],
    }


def _taskfile(
    opcode: int,
    sectors: int = 1,
    data_bytes: int = 0,
    *,
    at: int = SECTOR,
    feature: int = 0,
    lba: bytes | None = None,
) -> Callable[[int], bytes]:
    """The argument of the frame with a number."""
    return lambda number: (
        pack_taskfile(
            EXTENDED,
            feature,
            sectors,
            opcode,
            (at + number).to_bytes(6, "little") if lba is None else lba,
        )
        + bytes(data_bytes)
    )


def _ata() -> Iterator[tuple[str, Callable[[int], bytes]]]:
    smart = bytes([0]) + SMART_KEY + bytes(3)
    yield "READ", _taskfile(Opcode.READ_SECTORS_EXT)
    yield "READ with 28 bits", _taskfile(Opcode.READ_SECTORS, 2)
    yield "WRITE", _taskfile(Opcode.WRITE_SECTORS_EXT, 1, SECTOR_BYTES)
    yield "VERIFY", _taskfile(Opcode.READ_VERIFY)
    yield "VERIFY of 255", _taskfile(Opcode.READ_VERIFY_EXT, SECTORS_MAX)
    yield "FLUSH", _taskfile(Opcode.FLUSH_CACHE_EXT, 0)
    yield "IDENTIFY", _taskfile(Opcode.IDENTIFY_DEVICE)
    yield "CHECK POWER MODE", _taskfile(Opcode.CHECK_POWER_MODE)
    yield "SET FEATURES", _taskfile(Opcode.SET_FEATURES, feature=min(FEATURES_ACCEPTED))
    yield "SMART", _taskfile(Opcode.SMART, feature=Smart.READ_DATA, lba=smart)
    yield "unknown opcode", _taskfile(UNKNOWN_OPCODE)
    yield "READ beyond the end", _taskfile(Opcode.READ_SECTORS_EXT, at=1 << 40)
    yield "READ of no sectors", _taskfile(Opcode.READ_SECTORS_EXT, 0)
    yield "WRITE without data", _taskfile(Opcode.WRITE_SECTORS_EXT, 2)


def _others() -> Iterator[tuple[str, int, Callable[[int], bytes]]]:
    nothing = access.Directive(access.Dcmd.NOTHING, bytes(6))
    yield "CONFIG", Command.CONFIG, lambda _: pack_config(Ccmd.READ)
    yield (
        "CONFIG set by force",
        Command.CONFIG,
        lambda number: pack_config(Ccmd.FORCE, b"%d" % (number % 2)),
    )
    yield "MASK", Command.MASK, lambda _: access.pack_mask(access.Mcmd.READ)
    yield "MASK edit", Command.MASK, lambda _: access.pack_mask(access.Mcmd.EDIT, (nothing,))
    yield "RESERVE", Command.RESERVE, lambda _: access.pack_reserve(access.Rcmd.READ)
    yield "RESERVE by force", Command.RESERVE, lambda _: access.pack_reserve(access.Rcmd.FORCE)
    yield "unknown command", UNKNOWN_COMMAND, lambda _: bytes(20)
    yield "vendor's command", VENDOR_COMMAND, lambda _: bytes(20)
