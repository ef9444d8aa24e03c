"""`ggaoe config`, `mask`, `reserve` and `release`: what a target keeps at the request of hosts.

Owns the verbs, and the care that a host does not lock itself out by mistake.
"""

from __future__ import annotations

import argparse
import os
import sys

from ggaoe.cli.tool import (
    Body,
    Subparsers,
    add_address,
    add_json,
    add_timeout,
    add_tool,
    add_verb,
    add_verbs,
    address,
    mac,
    opened,
    print_json,
    print_table,
    shown,
)
from ggaoe.client import Initiator, RefusedError, RemoteDevice, Timing
from ggaoe.errors import ClientError
from ggaoe.proto.access import LIST_ENTRIES_MAX, Dcmd, MacList
from ggaoe.proto.frame import SHELF_ANY, SLOT_ANY, Error
from ggaoe.proto.query import CONFIG_STRING_BYTES_MAX, Ccmd
from ggaoe.units import format_mac

LISTEN_S = 1.0
ANY = "any"


def add_parser(subparsers: Subparsers) -> None:
    _add_config(add_verbs(subparsers, "config", "read, find and set config strings"))
    _add_mask(add_verbs(subparsers, "mask", "who may talk to a device: its MAC mask list"))
    reserve = add_tool(subparsers, "reserve", _reserve, "reserve a device for some hosts")
    release = add_tool(subparsers, "release", _release, "end a device's reservation")
    for parser in (reserve, release):
        add_address(parser)
        add_timeout(parser)
        add_json(parser)
        parser.add_argument("--force", action="store_true", help="even where others hold it")
    reserve.add_argument(
        "macs", type=mac, nargs="*", metavar="MAC", help="the holders (default: this host's)"
    )
    reserve.add_argument(
        "--list", action="store_true", help="change nothing, only show who holds it"
    )


# --- config string -------------------------------------------------------------------------------


def _add_config(verbs: Subparsers) -> None:
    for name, ccmd, summary in (
        ("read", Ccmd.READ, "show config strings"),
        ("test", Ccmd.TEST, "who has exactly this string? Exit status 1 if nobody"),
        ("prefix", Ccmd.PREFIX, "whose string begins so? Exit status 1 if nobody's"),
        ("set", Ccmd.SET, "set the string of a device that has none, or this one"),
        ("force-set", Ccmd.FORCE, "set the string, whatever it was; an empty one removes it"),
    ):
        asks = ccmd in (Ccmd.READ, Ccmd.TEST, Ccmd.PREFIX)
        body = _finder(ccmd) if asks else _setter(ccmd)
        if asks:
            parser = add_tool(verbs, name, body, summary, title=f"config {name}")
            text = f"as in e0.1, or {ANY} for every device that answers"
            parser.add_argument("address", type=_address_or_any, help=text)
            add_timeout(parser, LISTEN_S)
            add_json(parser)
        else:
            parser = add_verb(verbs, "config", name, body, summary)
        if ccmd is not Ccmd.READ:
            parser.add_argument("string", type=os.fsencode, help="the config string")
            parser.add_argument("--hex", action="store_true", help="it is written in hexadecimal")


def _address_or_any(text: str) -> tuple[int, int]:
    return (SHELF_ANY, SLOT_ANY) if text == ANY else address(text)


def _finder(ccmd: Ccmd) -> Body:
    async def body(arguments: argparse.Namespace) -> int:
        text = b"" if ccmd is Ccmd.READ else _string(arguments)
        where = arguments.address
        if where == (SHELF_ANY, SLOT_ANY):
            async with Initiator(arguments.interface) as initiator:
                found = await initiator.discover(arguments.timeout, ccmd=ccmd, text=text)
            strings = {(one.shelf, one.slot): one.config_string for one in found}
        else:
            async with opened(arguments, where) as device:
                answer = await device.query(ccmd, text, silence_s=arguments.timeout)
            strings = {} if answer is None else {where: answer.text}
        if arguments.json:
            print_json({"devices": [_config_json(*one) for one in strings.items()]})
        elif not strings:
            what = "answers" if ccmd is Ccmd.READ else "has such a config string"
            print(f"no target {what}", file=sys.stderr)
        elif where in strings:
            print(shown(strings[where]))
        else:
            rows = [(f"e{shelf}.{slot}", shown(one)) for (shelf, slot), one in strings.items()]
            print_table(["DEVICE", "CONFIG"], rows)
        return 0 if strings else 1

    return body


def _config_json(where: tuple[int, int], text: bytes) -> dict[str, object]:
    shelf, slot = where
    return {"shelf": shelf, "slot": slot, "config": shown(text), "config_hex": text.hex()}


def _setter(ccmd: Ccmd) -> Body:
    async def body(arguments: argparse.Namespace) -> int:
        text = _string(arguments)
        async with opened(arguments, arguments.address) as device:
            try:
                await device.query(ccmd, text)
            except RefusedError as error:
                if error.code != Error.CONFIG_PRESENT:
                    raise
                raise ClientError(f"{error}: force-set replaces it") from None
            if arguments.json:
                print_json(_config_json(arguments.address, text))
        return 0

    return body


def _string(arguments: argparse.Namespace) -> bytes:
    text: bytes = arguments.string
    if arguments.hex:
        try:
            text = bytes.fromhex(text.decode())
        except ValueError:
            raise ClientError(f"{shown(text)!r} is not hexadecimal: write it as 72 6f 6f") from None
    if len(text) > CONFIG_STRING_BYTES_MAX:
        raise ClientError(
            f"a config string has at most {CONFIG_STRING_BYTES_MAX} bytes, not {len(text)}"
        )
    return text


# --- mask list -----------------------------------------------------------------------------------


def _add_mask(verbs: Subparsers) -> None:
    add_verb(verbs, "mask", "list", _mask_list, "show who may talk to it; empty: everybody")
    for name, dcmd, summary in (
        ("add", Dcmd.ADD, "let hosts in; the first one shuts out everybody else"),
        ("remove", Dcmd.DELETE, "take hosts off the list; without any, everybody may"),
    ):
        parser = add_verb(verbs, "mask", name, _mask_editor(dcmd), summary)
        parser.add_argument("macs", type=mac, nargs="+", metavar="MAC")
        parser.add_argument(
            "--force", action="store_true", help="even where this host would be shut out"
        )


async def _mask_list(arguments: argparse.Namespace) -> int:
    async with opened(arguments, arguments.address) as device:
        _show_macs(arguments, device, "mask", await device.read_mask(), "everybody")
    return 0


def _mask_editor(dcmd: Dcmd) -> Body:
    async def body(arguments: argparse.Namespace) -> int:
        async with opened(arguments, arguments.address) as device:
            if not arguments.force:
                _refuse_lockout(device, dcmd, await device.read_mask(), arguments.macs)
            macs = await device.edit_mask([(dcmd, one) for one in arguments.macs])
            _show_macs(arguments, device, "mask", macs, "everybody")
        return 0

    return body


def _refuse_lockout(device: RemoteDevice, dcmd: Dcmd, macs: MacList, edits: MacList) -> None:
    """ClientError where the edited list would have others, but not us: we could not undo it."""
    ours = {path.port.link.mac for path in device.paths}
    after = {*macs, *edits} if dcmd is Dcmd.ADD else set(macs) - set(edits)
    if after and not ours & after:
        raise ClientError(
            f"this host ({', '.join(map(format_mac, sorted(ours)))}) would be shut out of "
            f"{device.name}, and could not undo it: add it, too, or use --force"
        )


# --- reservation ---------------------------------------------------------------------------------


async def _reserve(arguments: argparse.Namespace) -> int:
    timing = Timing(deadline_s=arguments.timeout)
    async with Initiator(arguments.interface, timing) as initiator:
        device = await initiator.open(*arguments.address, multipath=True)
        if arguments.list:
            macs = await device.read_reservation()
        else:
            wanted = arguments.macs
            if not wanted:
                # All our ways to it: one that is left out would be refused.
                await initiator.discover(LISTEN_S, *arguments.address)
                wanted = sorted({path.port.link.mac for path in device.paths})
            if len(wanted) > LIST_ENTRIES_MAX:
                raise ClientError(f"at most {LIST_ENTRIES_MAX} hosts can hold a reservation")
            macs = await _set_reservation(device, wanted, force=arguments.force)
        _show_macs(arguments, device, "reserved", macs, "nobody")
    return 0


async def _release(arguments: argparse.Namespace) -> int:
    async with opened(arguments, arguments.address) as device:
        macs = await _set_reservation(device, (), force=arguments.force)
        _show_macs(arguments, device, "reserved", macs, "nobody")
    return 0


async def _set_reservation(device: RemoteDevice, macs: MacList, *, force: bool) -> MacList:
    try:
        return await device.reserve(macs, force=force)
    except RefusedError as error:
        if error.code != Error.RESERVED:
            raise
        holders = ", ".join(map(format_mac, await device.read_reservation()))
        raise ClientError(f"{error}: {holders} hold it; --force takes it from them") from None


def _show_macs(
    arguments: argparse.Namespace, device: RemoteDevice, key: str, macs: MacList, nobody: str
) -> None:
    if arguments.json:
        print_json({**_head(device), key: [format_mac(one) for one in macs]})
    else:
        print("\n".join(map(format_mac, macs)) or nobody)


def _head(device: RemoteDevice) -> dict[str, object]:
    return {"shelf": device.shelf, "slot": device.slot}
