"""`ggaoe smart`: a disk's own view of its health, and the logs that it keeps for hosts.

Owns the verbs of aoeping's SMART, and how their answers are shown.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable
from pathlib import Path

from ggaoe.cli.tool import (
    Body,
    Subparsers,
    add_verb,
    add_verbs,
    complain,
    opened,
    print_json,
)
from ggaoe.client import AtaCommandError, AtaReply, RemoteDevice
from ggaoe.errors import ClientError
from ggaoe.proto.ata import SMART_KEY, SMART_KEY_FAILING, AtaError, Smart
from ggaoe.proto.frame import SECTOR_BYTES

DUMP_BYTES_PER_LINE = 16
LOG_MAX = 255


def add_parser(subparsers: Subparsers) -> None:
    verbs = add_verbs(subparsers, "smart", "ask a disk about its health")
    for name, body, summary in (
        ("status", _status, "is the disk about to fail? Exit status 1 if so"),
        ("data", _read(Smart.READ_DATA), "the disk's page of attributes"),
        ("enable", _do(Smart.ENABLE), "switch SMART on"),
        ("disable", _do(Smart.DISABLE), "switch SMART off"),
    ):
        add_verb(verbs, "smart", name, body, summary)
    test = add_verb(verbs, "smart", "offline", _do(Smart.OFFLINE_IMMEDIATE), "begin a self-test")
    test.add_argument("log", type=_log, nargs="?", default=0, metavar="TEST", help="number (0)")
    reading = add_verb(verbs, "smart", "read-log", _read(Smart.READ_LOG), "read a sector of a log")
    writing = add_verb(verbs, "smart", "write-log", _write_log, "write a sector of a host's log")
    for parser in (reading, writing):
        parser.add_argument("log", type=_log, metavar="LOG", help="number: 0x80 to 0x9f are hosts'")
    writing.add_argument("file", type=Path, help="512 bytes at most; the rest is zeros")


def _log(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number <= LOG_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {LOG_MAX}")
    return number


async def _status(arguments: argparse.Namespace) -> int:
    async with opened(arguments, arguments.address) as device:
        reply = await _asked(device.smart(Smart.RETURN_STATUS), device)
        key = reply.lba[1:3]
        state = {SMART_KEY: "healthy", SMART_KEY_FAILING: "failing"}.get(key, "unknown")
        if arguments.json:
            print_json({**_head(device), "status": state})
        else:
            print(f"{device.name}: {state}" + (f" ({key.hex()})" if state == "unknown" else ""))
    return 0 if state == "healthy" else 1


def _do(feature: Smart) -> Body:
    async def body(arguments: argparse.Namespace) -> int:
        async with opened(arguments, arguments.address) as device:
            await _asked(device.smart(feature, getattr(arguments, "log", 0)), device)
            if arguments.json:
                print_json(_head(device))
        return 0

    return body


def _read(feature: Smart) -> Body:
    async def body(arguments: argparse.Namespace) -> int:
        async with opened(arguments, arguments.address) as device:
            log = getattr(arguments, "log", 0)
            asking = device.smart(feature, log, count=1, read_bytes=SECTOR_BYTES)
            reply = await _asked(asking, device)
            if arguments.json:
                print_json({**_head(device), "data_hex": reply.data.hex()})
            else:
                print("\n".join(_dump(reply.data)))
        return 0

    return body


async def _write_log(arguments: argparse.Namespace) -> int:
    with arguments.file.open("rb") as file:
        data = file.read(SECTOR_BYTES + 1)
    if len(data) > SECTOR_BYTES:
        complain("smart write-log", f"{arguments.file} is longer than {SECTOR_BYTES} bytes")
        return 2
    async with opened(arguments, arguments.address) as device:
        sector = data.ljust(SECTOR_BYTES, b"\0")
        asking = device.smart(Smart.WRITE_LOG, arguments.log, count=1, data=sector)
        await _asked(asking, device)
        if arguments.json:
            print_json(_head(device))
    return 0


async def _asked(asking: Awaitable[AtaReply], device: RemoteDevice) -> AtaReply:
    """The reply; where the disk refuses, the likely reason is part of the error."""
    try:
        return await asking
    except AtaCommandError as error:
        if not error.error & AtaError.ABRT:
            raise
        has_smart = (await device.identify()).smart
        why = "it is switched off, or has no such thing" if has_smart else "the disk has no SMART"
        raise ClientError(f"{error}: {why}") from None


def _head(device: RemoteDevice) -> dict[str, object]:
    return {"shelf": device.shelf, "slot": device.slot}


def _dump(data: bytes) -> list[str]:
    """Offset, bytes and text; lines of zeros are left out, as `*` says."""
    lines: list[str] = []
    for at in range(0, len(data), DUMP_BYTES_PER_LINE):
        part = data[at : at + DUMP_BYTES_PER_LINE]
        if any(part):
            text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
            lines.append(f"{at:04x}  {part.hex(' ')}  {text}")
        elif not lines or lines[-1] != "*":
            lines.append("*")
    return lines
