"""Replies to the user-space initiator: any frames, on two interfaces, while it asks for everything.

Invariant: nothing that a peer sends raises out of the receiving path. Every request ends with a
result of its own form or a ClientError, a read has the bytes that were asked for, and a closed
initiator has no request left.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from fuzz.loop import run
from ggaoe.client import Initiator, RemoteDevice
from ggaoe.client.port import Port
from ggaoe.errors import ClientError
from ggaoe.net.link import Interface
from ggaoe.proto.ata import Smart
from ggaoe.testing.link import MemoryLink

CORPUS = "client"
MAX_BYTES = 8192
FRAMES_MAX = 48
SHELF, SLOT = 1, 2
MACS = (bytes.fromhex("0200000000fe"), bytes.fromhex("0200000000fd"))
TURNS = 4
PADDING_BYTES = (0, 60, 36 + 512, 36 + 2 * 512)
SECTORS = 5

Call = Callable[[RemoteDevice], Awaitable[Any]]
CALLS: tuple[Call, ...] = (
    lambda device: device.identify(),
    lambda device: device.read(8, SECTORS),
    lambda device: device.write(0, bytes(1024)),
    lambda device: device.verify(0, 300),
    lambda device: device.flush(),
    lambda device: device.check_power_mode(),
    lambda device: device.smart(Smart.READ_DATA, count=1, read_bytes=512),
    lambda device: device.query(),
    lambda device: device.query(1, b"label"),
    lambda device: device.ping(),
    lambda device: device.read_mask(),
    lambda device: device.edit_mask([(1, MACS[0])]),
    lambda device: device.read_reservation(),
    lambda device: device.reserve([MACS[0]]),
)


def one_input(data: bytes) -> None:
    run(_play(data))


async def _play(data: bytes) -> None:
    """A record is a control byte, which request it answers, a length and so many bytes: a frame, or
    what follows the header of an answer."""
    initiator = Initiator([])
    links = [
        MemoryLink(Interface(number + 1, f"eth{number}", mac, 1500, is_up=True))
        for number, mac in enumerate(MACS)
    ]
    initiator._ports += [Port(link, initiator._on_frame) for link in links]
    tasks: list[asyncio.Task[Any]] = []
    async with initiator:
        opening = asyncio.create_task(initiator.open(SHELF, SLOT, multipath=data[:1] == b"\1"))
        finding = asyncio.create_task(initiator.discover())
        await _turn()
        at = 1
        for _ in range(FRAMES_MAX):
            if at + 4 > len(data):
                break
            control, which, length = struct.unpack_from("<BBH", data, at)
            body = data[at + 4 : at + 4 + length]
            at += 4 + length
            asked = [frame for link in links for frame in link.sent]
            frame = _frame(control, body, asked[which % len(asked)])
            links[control & 1].deliver(frame)
            await _turn()
            if opening.done() and not tasks and opening.exception() is None:
                tasks = [asyncio.ensure_future(call(opening.result())) for call in CALLS]
                await _turn()
    opening.cancel()
    finding.cancel()
    for task in (opening, finding):
        await asyncio.wait([task])
    await _check(tasks)


def _frame(control: int, body: bytes, request: bytes) -> bytes:
    if control & 2:
        return body[: 1500 + 14]
    flags = 0x1C if control & 4 else 0x18
    address = struct.pack(">HB", SHELF, SLOT)
    mac = MACS[control >> 3 & 1]
    head = request[6:12] + mac + b"\x88\xa2" + bytes([flags, control >> 4 & 3]) + address
    frame = head + request[19:24] + body
    return frame.ljust(PADDING_BYTES[control >> 6], b"\0")[: 1500 + 14]


async def _turn() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def _check(tasks: list[asyncio.Task[Any]]) -> None:
    if not tasks:
        return
    done, pending = await asyncio.wait(tasks, timeout=30)
    assert not pending
    for task in done:
        error = task.exception()
        if error is not None and not isinstance(error, ClientError):
            raise error
    if tasks[1].exception() is None:
        assert len(tasks[1].result()) == SECTORS * 512
