"""The initiator's side on the command line: what finds targets, and what looks at one of them.

Owns the list of the tools, and the small ones. They need no daemon and no kernel module, only a
packet socket, and work with any AoE target.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

from ggaoe.cli import bench, copy, sancheck, settings, smart, stat
from ggaoe.cli.tool import (
    OPEN_TIMEOUT_S,
    Subparsers,
    add_address,
    add_json,
    add_listen,
    add_tool,
    count,
    opened,
    positive,
    print_json,
    print_table,
    shown,
)
from ggaoe.client import Found, Initiator, NoAnswerError, RemoteIdentity
from ggaoe.units import counted, format_mac, format_size, printable

PING_INTERVAL_S = 1.0
PING_TIMEOUT_S = 1.0


def add_tool_parsers(subparsers: Subparsers) -> None:
    """Add the subcommands; each sets `run`, which takes the arguments and returns the exit
    status."""
    discover = add_tool(subparsers, "discover", _discover, "list the targets that answer")
    add_listen(discover, "answers")
    add_json(discover)
    stat.add_parser(subparsers)

    identify = add_tool(subparsers, "identify", _identify, "show what a disk says of itself")
    add_address(identify)
    add_json(identify)

    ping = add_tool(subparsers, "ping", _ping, "measure the round trip to a target")
    add_address(ping)
    ping.add_argument(
        "-c", "--count", type=count, default=0, help="stop after so many (default: never)"
    )
    ping.add_argument(
        "--interval",
        type=positive,
        default=PING_INTERVAL_S,
        metavar="SECONDS",
        help="between two of them",
    )
    add_json(ping)

    for module in (smart, settings, sancheck, bench, copy):
        module.add_parser(subparsers)


async def _discover(arguments: argparse.Namespace) -> int:
    async with Initiator(arguments.interface) as initiator:
        found = await initiator.discover(arguments.timeout)
        if arguments.json:
            print_json({"targets": [_found_json(one) for one in found]})
        elif found:
            print_table(
                ["TARGET", "INTERFACE", "MAC", ">QUEUE", ">SECTORS", "CONFIG"],
                [
                    (
                        f"e{one.shelf}.{one.slot}",
                        one.interface,
                        format_mac(one.mac),
                        one.buffer_count,
                        one.sectors,
                        shown(one.config_string),
                    )
                    for one in found
                ],
            )
        else:
            print(f"no target answers on {', '.join(initiator.interfaces)}", file=sys.stderr)
    return 0 if found else 1


def _found_json(found: Found) -> dict[str, object]:
    return {
        "shelf": found.shelf,
        "slot": found.slot,
        "interface": found.interface,
        "mac": format_mac(found.mac),
        "buffer_count": found.buffer_count,
        "sectors": found.sectors,
        "firmware": found.firmware,
        "config": shown(found.config_string),
        "config_hex": found.config_string.hex(),
    }


async def _identify(arguments: argparse.Namespace) -> int:
    async with opened(arguments, arguments.address, OPEN_TIMEOUT_S) as device:
        identity = await device.identify()
        if arguments.json:
            print_json({"shelf": device.shelf, "slot": device.slot, **asdict(identity)})
        else:
            for name, value in _identity_rows(identity):
                print(f"{name:<15} {value}")
    return 0


def _identity_rows(identity: RemoteIdentity) -> list[tuple[str, str]]:
    size = f"{counted(identity.size_sectors, 'sector')} ({format_size(identity.size_bytes)})"
    return [
        ("model", printable(identity.model)),
        ("serial", printable(identity.serial)),
        ("firmware", printable(identity.firmware)),
        ("size", size),
        ("addresses", "48 bits" if identity.lba48 else "28 bits"),
        ("physical sector", f"{identity.physical_sector_bytes} bytes"),
        ("write cache", "on" if identity.write_cache else "off"),
        ("flush", "yes" if identity.flush or identity.flush_ext else "no"),
        ("smart", "yes" if identity.smart else "no"),
    ]


async def _ping(arguments: argparse.Namespace) -> int:
    times_s: list[float | None] = []
    async with opened(arguments, arguments.address, OPEN_TIMEOUT_S) as device:
        try:
            while True:
                times_s.append(None)
                with suppress(NoAnswerError):
                    times_s[-1] = time_s = await device.ping(PING_TIMEOUT_S)
                    if not arguments.json:
                        took = f"time={time_s * 1e3:.3f} ms"
                        print(f"{device.name}: seq={len(times_s)} {took}", flush=True)
                if len(times_s) == arguments.count:
                    break
                await asyncio.sleep(arguments.interval)
        finally:
            if arguments.json:
                print_json({"shelf": device.shelf, "slot": device.slot, **_ping_json(times_s)})
            else:
                _print_ping_summary(times_s)
    return 1 if set(times_s) == {None} else 0


def _print_ping_summary(times_s: Sequence[float | None]) -> None:
    answered_s = [time_s for time_s in times_s if time_s is not None]
    print(f"{len(times_s)} sent, {len(answered_s)} answered")
    if answered_s:
        low, middle, high = _extent(answered_s)
        print(f"min/median/max {low * 1e3:.3f}/{middle * 1e3:.3f}/{high * 1e3:.3f} ms")


def _ping_json(times_s: Sequence[float | None]) -> dict[str, object]:
    times_us = [None if time_s is None else round(time_s * 1e6, 1) for time_s in times_s]
    answered_us = [time_us for time_us in times_us if time_us is not None]
    names = ("min", "median", "max")
    return {
        "sent": len(times_us),
        "answered": len(answered_us),
        "times_us": times_us,
        "time_us": dict(zip(names, _extent(answered_us), strict=True)) if answered_us else None,
    }


def _extent(times: Sequence[float]) -> tuple[float, float, float]:
    return min(times), statistics.median(times), max(times)
