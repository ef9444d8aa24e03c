"""`ggaoe sancheck`: what every way to every device carries, and what keeps it from more.

Owns the order of the probing and its table.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from ggaoe.cli.tool import (
    REQUEST_TIMEOUT_S,
    Subparsers,
    add_json,
    add_listen,
    add_tool,
    address,
    print_json,
    print_table,
)
from ggaoe.client import Initiator, PathSizes, RemoteDevice, Timing, probe_path
from ggaoe.errors import ClientError
from ggaoe.proto.frame import SECTOR_BYTES, SHELF_ANY, SLOT_ANY
from ggaoe.units import format_mac

_Result = tuple[tuple[int, int], list[PathSizes], str | None]
"""A device's shelf and slot, its ways, and why there is nothing about them."""


def add_parser(subparsers: Subparsers) -> None:
    parser = add_tool(
        subparsers, "sancheck", _sancheck, "find the largest frames that each way carries"
    )
    text = "as in e0.1 (default: every device that answers)"
    parser.add_argument(
        "address", type=address, nargs="?", default=(SHELF_ANY, SLOT_ANY), help=text
    )
    add_listen(parser, "devices and ways to them")
    add_json(parser)


async def _sancheck(arguments: argparse.Namespace) -> int:
    timing = Timing(deadline_s=REQUEST_TIMEOUT_S)
    async with Initiator(arguments.interface, timing) as initiator:
        found = await initiator.discover(arguments.timeout, *arguments.address)
        where = sorted({(one.shelf, one.slot) for one in found})
        devices = [await _open(initiator, *one) for one in where]
        # Now that the devices are open they learn the ways by which they answer.
        await initiator.discover(arguments.timeout, *arguments.address)
        results = [await _probe(*one) for one in zip(where, devices, strict=True)]
        interfaces = ", ".join(initiator.interfaces)
    if arguments.json:
        print_json({"devices": [_json(result) for result in results]})
    elif results:
        heads = ["DEVICE", "INTERFACE", "MAC", ">MTU", ">OURS", ">TARGET", ">OUT", ">BACK"]
        print_table([*heads, ">PAYLOAD", "LIMIT"], [row for one in results for row in _rows(one)])
    else:
        print(f"no target answers on {interfaces}", file=sys.stderr)
    return 0 if results and all(map(_is_good, results)) else 1


async def _open(initiator: Initiator, shelf: int, slot: int) -> RemoteDevice | ClientError:
    """What has answered once may be silent now, which is no reason to leave out the others."""
    try:
        return await initiator.open(shelf, slot, REQUEST_TIMEOUT_S, multipath=True)
    except ClientError as error:
        return error


async def _probe(where: tuple[int, int], device: RemoteDevice | ClientError) -> _Result:
    if isinstance(device, ClientError):
        return where, [], str(device)
    try:
        await device.identify()  # once, for all its ways
        sizes = await asyncio.gather(*(probe_path(device, path) for path in device.paths))
    except ClientError as error:
        return where, [], str(error)
    return where, sorted(sizes, key=lambda one: (one.interface, one.mac)), None


def _is_good(result: _Result) -> bool:
    _, sizes, failure = result
    return failure is None and all(one.is_good for one in sizes)


def _rows(result: _Result) -> list[tuple[str | int | None, ...]]:
    (shelf, slot), sizes, failure = result
    name = f"e{shelf}.{slot}"
    if failure is not None:
        return [(name, *[None] * 8, failure)]
    return [
        (
            name,
            one.interface,
            format_mac(one.mac),
            one.mtu_bytes,
            one.ours,
            one.announced,
            one.outward,
            one.inward,
            one.usable * SECTOR_BYTES,
            one.limit(),
        )
        for one in sizes
    ]


def _json(result: _Result) -> dict[str, object]:
    (shelf, slot), sizes, failure = result
    return {
        "shelf": shelf,
        "slot": slot,
        "failure": failure,
        "paths": [
            {
                "interface": one.interface,
                "mac": format_mac(one.mac),
                "mtu_bytes": one.mtu_bytes,
                "our_sectors": one.ours,
                "target_sectors": one.announced,
                "outward_sectors": one.outward,
                "inward_sectors": one.inward,
                "payload_bytes": one.usable * SECTOR_BYTES,
                "good": one.is_good,
                "limit": one.limit(),
            }
            for one in sizes
        ],
    }
