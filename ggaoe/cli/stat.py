"""`ggaoe stat`: a table of the devices that answer, with size, ways, and whether they can be used.

Owns what a device's state is called.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import asdict, dataclass
from itertools import groupby

from ggaoe.cli.tool import (
    REQUEST_TIMEOUT_S,
    Subparsers,
    add_json,
    add_listen,
    add_tool,
    print_json,
    print_table,
    shown,
)
from ggaoe.client import (
    AtaCommandError,
    Found,
    Initiator,
    NoAnswerError,
    RefusedError,
    RemoteIdentity,
    Timing,
)
from ggaoe.errors import ClientError
from ggaoe.units import format_mac, format_size

DEVICES_AT_ONCE_MAX = 32
"""A segment may have thousands; each is asked two questions."""


@dataclass(frozen=True)
class _Row:
    """A device: how it was found, on every way, and what it has answered."""

    found: list[Found]
    state: str
    reason: str | None = None
    identity: RemoteIdentity | None = None
    reserved: tuple[bytes, ...] = ()


def add_parser(subparsers: Subparsers) -> None:
    parser = add_tool(subparsers, "stat", _stat, "list devices with size, interfaces and state")
    add_listen(parser, "devices")
    add_json(parser)


async def _stat(arguments: argparse.Namespace) -> int:
    timing = Timing(deadline_s=REQUEST_TIMEOUT_S)
    async with Initiator(arguments.interface, timing) as initiator:
        found = await initiator.discover(arguments.timeout)
        few = asyncio.Semaphore(DEVICES_AT_ONCE_MAX)
        rows = await asyncio.gather(
            *(
                _ask(initiator, list(ways), few)
                for _, ways in groupby(found, key=lambda one: (one.shelf, one.slot))
            )
        )
        where = ", ".join(initiator.interfaces)
    if arguments.json:
        print_json({"devices": [_json(row) for row in rows]})
    elif rows:
        heads = ["DEVICE", ">SIZE", "STATE", "INTERFACES", ">MACS", ">BUFFERS", ">SECTORS"]
        print_table([*heads, ">FIRMWARE", "REASON"], map(_cells, rows))
    else:
        print(f"no target answers on {where}", file=sys.stderr)
    return 0 if rows and all(row.reason is None for row in rows) else 1


async def _ask(initiator: Initiator, found: list[Found], few: asyncio.Semaphore) -> _Row:
    async with few:
        try:
            device = await initiator.open(found[0].shelf, found[0].slot, REQUEST_TIMEOUT_S)
            identity = await device.identify()
        except NoAnswerError as error:
            return _Row(found, "silent", str(error))
        except (RefusedError, AtaCommandError) as error:
            return _Row(found, "refuses", str(error))
        try:
            reserved = await device.read_reservation()
        except ClientError:
            reserved = ()  # many targets do not know the command
        return _Row(found, "reserved" if reserved else "up", None, identity, reserved)


def _cells(row: _Row) -> tuple[str | int | None, ...]:
    first = row.found[0]
    return (
        f"e{first.shelf}.{first.slot}",
        format_size(row.identity.size_bytes) if row.identity else None,
        row.state,
        ", ".join(sorted({one.interface for one in row.found})),
        len({one.mac for one in row.found}),
        min(one.buffer_count for one in row.found),
        min(one.sectors for one in row.found),
        f"{first.firmware:#06x}",
        row.reason or "",
    )


def _json(row: _Row) -> dict[str, object]:
    first = row.found[0]
    return {
        "shelf": first.shelf,
        "slot": first.slot,
        "state": row.state,
        "reason": row.reason,
        "size_bytes": row.identity.size_bytes if row.identity else None,
        "identity": asdict(row.identity) if row.identity else None,
        "reserved": [format_mac(mac) for mac in row.reserved],
        "config": shown(first.config_string),
        "paths": [
            {
                "interface": one.interface,
                "mac": format_mac(one.mac),
                "buffer_count": one.buffer_count,
                "sectors": one.sectors,
                "firmware": one.firmware,
            }
            for one in row.found
        ],
    }
