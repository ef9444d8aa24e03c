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

_Result = tuple[RemoteDevice, list[PathSizes], str | None]
"""A device, its ways, and why there is nothing about them."""


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
        devices = [await initiator.open(*one, REQUEST_TIMEOUT_S, multipath=True) for one in where]
        # Now that the devices are open they learn the ways by which they answer.
        await initiator.discover(arguments.timeout, *arguments.address)
        results = [await _probe(device) for device in devices]
        interfaces = ", ".join(initiator.interfaces)
    if arguments.json:
        print_json({"devices": [_json(result) for result in results]})
    elif results:
        heads = ["DEVICE", "INTERFACE", "MAC", ">MTU", ">OURS", ">TARGET", ">OUT", ">BACK"]
        print_table([*heads, ">PAYLOAD", "LIMIT"], [row for one in results for row in _rows(one)])
    else:
        print(f"no target answers on {interfaces}", file=sys.stderr)
    return 0 if results and all(map(_is_good, results)) else 1


async def _probe(device: RemoteDevice) -> _Result:
    try:
        await device.identify()  # once, for all its ways
        sizes = await asyncio.gather(*(probe_path(device, path) for path in device.paths))
    except ClientError as error:
        return device, [], str(error)
    return device, sorted(sizes, key=lambda one: (one.interface, one.mac)), None


def _is_good(result: _Result) -> bool:
    _, sizes, failure = result
    return failure is None and all(one.is_good for one in sizes)


def _rows(result: _Result) -> list[tuple[str | int | None, ...]]:
    device, sizes, failure = result
    if failure is not None:
        return [(device.name, *[None] * 8, failure)]
    return [
        (
            device.name,
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
    device, sizes, failure = result
    return {
        "shelf": device.shelf,
        "slot": device.slot,
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
