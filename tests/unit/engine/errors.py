"""Every kind of error reply, as an engine sends it: AoE errors by command, and ATA errors."""

from __future__ import annotations

import errno

from ggaoe.backend.faults import Fail
from ggaoe.engine.base import Engine
from ggaoe.proto.target import TargetState
from unit.engine.rig import Host, Rig
from unit.proto.host import (
    FLUSH,
    MAC_A,
    MAC_B,
    READ,
    VERIFY,
    WRITE,
    ata_argument,
    config_argument,
    mask_argument,
    reserve_argument,
)

ATA, CONFIG, MASK, RESERVE, UNKNOWN = range(5)
LABEL = b"label" * 100
MACS = tuple(bytes([2, 0, 0, 0, 1, index]) for index in range(20))
DIRECTIVES = tuple((1, mac) for mac in MACS)
SMART = 0xB0

WHOLE = {
    ATA: ata_argument(READ, 5, 255)[:10] + b"\xff\xff",
    CONFIG: config_argument(3, b"other" * 50),
    MASK: mask_argument(1, *DIRECTIVES),
    RESERVE: reserve_argument(1, *MACS),
    UNKNOWN: bytes(40),
}
"""An argument of each command, with more behind it than the shortest frame has room for."""
BROKEN = {
    "ccmd": (CONFIG, config_argument(15, b"x" * 200)),
    "config string beyond the frame": (CONFIG, config_argument(3, b"abc", 1000)),
    "config string too long": (CONFIG, config_argument(4, b"x" * 1025)),
    "mcmd": (MASK, mask_argument(9, *DIRECTIVES)),
    "directives beyond the frame": (MASK, bytes([7, 1, 3, 200])),
    "rcmd": (RESERVE, reserve_argument(9, *MACS)),
    "addresses beyond the frame": (RESERVE, bytes([1, 200])),
}
REFUSED_ATA = {
    "no sectors": ata_argument(READ, 0, 0),
    "too many sectors": ata_argument(READ, 0, 9),
    "beyond the end": ata_argument(READ, 0x0FFF_FFFF),
    "short data": ata_argument(WRITE, 0, 2),
    "opcode": ata_argument(0x99, 0, 3),
    "SMART": ata_argument(SMART, 0, 1),
}


async def error_replies(engine_class: type[Engine]) -> dict[str, bytes]:
    """By what is wrong."""
    rig = Rig(engine_class)
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    target = disk.device.target
    found = {}

    async def note(name: str, tag: int) -> None:
        found[name] = (await host.answer(tag)).frame

    for command, argument in WHOLE.items():
        await note(f"version, {command}", host.send(command, argument, version_flags=0x20))
        if command == UNKNOWN:
            await note("command", host.send(command, argument))
        else:
            await note(f"no argument, {command}", host.send(command))
    target.state = TargetState(config_string=LABEL)
    rig.engine.refresh(disk.device)
    for name, (command, argument) in BROKEN.items():
        await note(name, host.send(command, argument))
    await note("directive", host.send(MASK, mask_argument(1, (9, MAC_B), *DIRECTIVES)))
    await note("config string present", host.send(CONFIG, WHOLE[CONFIG]))
    for name, argument in REFUSED_ATA.items():
        await note(f"ATA, {name}", host.send(ATA, argument))
    disk.strike(Fail(errno.EIO))
    data = {WRITE: bytes(1024)}
    for name, opcode in (("READ", READ), ("VERIFY", VERIFY), ("WRITE", WRITE), ("FLUSH", FLUSH)):
        await note(f"ATA, {name} fails", host.ata(opcode, 4, 2, data.get(opcode, b"")))
    disk.heal()
    target.state = TargetState(reserved=(MAC_B,))
    rig.engine.refresh(disk.device)
    await note("reserved, ATA", host.send(ATA, WHOLE[ATA]))
    await note("reserved, RESERVE", host.send(RESERVE, WHOLE[RESERVE]))
    target.state = TargetState()
    await rig.engine.detach(disk.device, None)
    for name, opcode in (("READ", READ), ("WRITE", WRITE)):
        await note(f"away, {name}", host.ata(opcode, 4, 2, data.get(opcode, b"")))
    await rig.close()
    return found
