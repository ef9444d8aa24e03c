"""The initiator's side on the command line: discover, identify, ping and copy.

Owns arguments, output and exit statuses of these. They need no daemon and no kernel module, only a
packet socket, and work with any AoE target. Exit status: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import stat
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

from ggaoe.client import Found, Initiator, NoAnswerError, RemoteDevice, RemoteIdentity
from ggaoe.errors import GgaoeError
from ggaoe.proto.frame import SECTOR_BYTES
from ggaoe.units import format_mac, format_size, parse_address

OPEN_TIMEOUT_S = 3.0
PING_INTERVAL_S = 1.0
PING_TIMEOUT_S = 1.0
COPY_CHUNK_BYTES = 2 << 20
"""Read ahead by one of these while another is written."""
PROGRESS_INTERVAL_S = 0.2
PROGRESS_LINE_PERCENT = 10
"""How far apart lines are where there is no terminal to draw a bar on."""
BAR_CHARS = 30
JSON_VERSION = 1

_ADDRESS = re.compile(r"e\d+\.\d+")

A = TypeVar("A")
B = TypeVar("B")
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_tool_parsers(subparsers: Subparsers) -> None:
    """Add the four subcommands; each sets `run`, which takes the arguments and returns the exit
    status."""
    discover = _add(subparsers, "discover", _discover, "list the targets that answer")
    discover.add_argument(
        "-t", "--timeout", type=_positive, default=1.0, metavar="SECONDS", help="how long to listen"
    )
    discover.add_argument("--json", action="store_true", help="print JSON")

    identify = _add(subparsers, "identify", _identify, "show what a disk says of itself")
    identify.add_argument("address", type=_address, help="as in e0.1")
    identify.add_argument("--json", action="store_true", help="print JSON")

    ping = _add(subparsers, "ping", _ping, "measure the round trip to a target")
    ping.add_argument("address", type=_address, help="as in e0.1")
    ping.add_argument(
        "-c", "--count", type=_count, default=0, help="stop after so many (default: never)"
    )
    ping.add_argument(
        "--interval",
        type=_positive,
        default=PING_INTERVAL_S,
        metavar="SECONDS",
        help="between two of them",
    )

    copy = _add(subparsers, "copy", _copy, "copy a disk to a file, or a file to a disk")
    copy.add_argument("source", metavar="SRC", help="a file, - or e0.1")
    copy.add_argument("destination", metavar="DST", help="a file, - or e0.1")
    copy.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    copy.add_argument(
        "--multipath",
        action="store_true",
        help="use every interface and MAC that answers for the address",
    )


def _add(
    subparsers: Subparsers,
    name: str,
    body: Callable[[argparse.Namespace], Coroutine[Any, Any, int]],
    summary: str,
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(name, help=summary, description=summary)
    parser.add_argument(
        "-i",
        "--interface",
        action="append",
        metavar="IF",
        help="interface to use; may be repeated (default: every Ethernet interface that is up)",
    )

    def run(arguments: argparse.Namespace) -> int:
        try:
            return asyncio.run(body(arguments))
        except (GgaoeError, OSError) as error:
            print(f"ggaoe {name}: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 128 + signal.SIGINT

    parser.set_defaults(run=run)
    return parser


def _address(text: str) -> tuple[int, int]:
    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count: write 1 or more")
    return int(text)


def _positive(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


# --- discover, identify, ping --------------------------------------------------------------------


async def _discover(arguments: argparse.Namespace) -> int:
    async with Initiator(arguments.interface) as initiator:
        found = await initiator.discover(arguments.timeout)
        if arguments.json:
            _print_json({"targets": [_found_json(one) for one in found]})
        elif found:
            print(f"{'TARGET':<10}  {'INTERFACE':<15}  {'MAC':<17}  {'QUEUE':>5}  SECTORS  CONFIG")
            for one in found:
                print(
                    f"{f'e{one.shelf}.{one.slot}':<10}  {one.interface:<15}  {format_mac(one.mac)}"
                    f"  {one.buffer_count:>5}  {one.sectors:>7}  {_printable(one.config_string)}"
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
        "config": _printable(found.config_string),
        "config_hex": found.config_string.hex(),
    }


def _printable(text: bytes) -> str:
    """A config string is any bytes; what would disturb a terminal is escaped."""
    decoded = text.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in decoded)


async def _identify(arguments: argparse.Namespace) -> int:
    async with _opened(arguments, arguments.address) as device:
        identity = await device.identify()
        if arguments.json:
            _print_json({"shelf": device.shelf, "slot": device.slot, **asdict(identity)})
        else:
            for name, value in _identity_rows(identity):
                print(f"{name:<15} {value}")
    return 0


def _identity_rows(identity: RemoteIdentity) -> list[tuple[str, str]]:
    size = f"{identity.size_sectors} sectors ({format_size(identity.size_bytes)})"
    return [
        ("model", _printable(identity.model.encode())),
        ("serial", _printable(identity.serial.encode())),
        ("firmware", _printable(identity.firmware.encode())),
        ("size", size),
        ("addresses", "48 bits" if identity.lba48 else "28 bits"),
        ("physical sector", f"{identity.physical_sector_bytes} bytes"),
        ("write cache", "on" if identity.write_cache else "off"),
        ("flush", "yes" if identity.flush or identity.flush_ext else "no"),
        ("smart", "yes" if identity.smart else "no"),
    ]


async def _ping(arguments: argparse.Namespace) -> int:
    times_s: list[float] = []
    sent = 0
    async with _opened(arguments, arguments.address) as device:
        try:
            while True:
                sent += 1
                with suppress(NoAnswerError):
                    times_s.append(await device.ping(PING_TIMEOUT_S))
                    print(f"{device.name}: seq={sent} time={times_s[-1] * 1e3:.3f} ms", flush=True)
                if sent == arguments.count:
                    break
                await asyncio.sleep(arguments.interval)
        finally:
            _print_ping_summary(sent, times_s)
    return 0 if times_s else 1


def _print_ping_summary(sent: int, times_s: Sequence[float]) -> None:
    print(f"{sent} sent, {len(times_s)} answered")
    if times_s:
        low, middle, high = min(times_s), statistics.median(times_s), max(times_s)
        print(f"min/median/max {low * 1e3:.3f}/{middle * 1e3:.3f}/{high * 1e3:.3f} ms")


@asynccontextmanager
async def _opened(
    arguments: argparse.Namespace, address: tuple[int, int], *, multipath: bool = False
) -> AsyncIterator[RemoteDevice]:
    async with Initiator(arguments.interface) as initiator:
        yield await initiator.open(*address, OPEN_TIMEOUT_S, multipath=multipath)


def _print_json(value: dict[str, object]) -> None:
    print(json.dumps({"version": JSON_VERSION, **value}, indent=2))


# --- copy ----------------------------------------------------------------------------------------


async def _copy(arguments: argparse.Namespace) -> int:
    is_from = _ADDRESS.fullmatch(arguments.source) is not None
    is_to = _ADDRESS.fullmatch(arguments.destination) is not None
    if is_from == is_to:
        print(
            "ggaoe copy: one of SRC and DST has to be a device such as e0.1, the other a file or -"
            " (a file of such a name: ./e0.1)",
            file=sys.stderr,
        )
        return 2
    address = _address(arguments.source if is_from else arguments.destination)
    async with _opened(arguments, address, multipath=arguments.multipath) as device:
        size_bytes = (await device.identify()).size_bytes
        if is_from:
            await _copy_out(device, size_bytes, arguments.destination, quiet=arguments.quiet)
        else:
            await _copy_in(device, size_bytes, arguments.source, quiet=arguments.quiet)
    return 0


async def _copy_out(device: RemoteDevice, size_bytes: int, name: str, *, quiet: bool) -> None:
    """Disk to file, one chunk being read while the one before is written."""
    with _open_file(name, "wb") as file:
        progress = _Progress(size_bytes, quiet=quiet)

        async def read(at: int) -> bytearray:
            count = min(COPY_CHUNK_BYTES, size_bytes - at) // SECTOR_BYTES
            return await device.read(at // SECTOR_BYTES, count)

        chunk = await read(0)
        at = len(chunk)
        while chunk:
            progress.advance(len(chunk))
            chunk, _ = await _both(read(at), asyncio.to_thread(file.write, chunk))
            at += len(chunk)
        file.flush()
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            await asyncio.to_thread(os.fsync, file.fileno())
        progress.finish()


async def _copy_in(device: RemoteDevice, size_bytes: int, name: str, *, quiet: bool) -> None:
    """File to disk; the last sector is filled with zeros."""
    with _open_file(name, "rb") as file:
        length_bytes = _length_bytes(file)
        if length_bytes is not None and length_bytes > size_bytes:
            raise GgaoeError(
                f"{name} has {length_bytes} bytes, {device.name} only {size_bytes}: nothing written"
            )
        progress = _Progress(length_bytes, quiet=quiet)
        at = 0
        chunk = await asyncio.to_thread(_read_full, file, COPY_CHUNK_BYTES)
        while chunk:
            padding = -len(chunk) % SECTOR_BYTES
            if at + len(chunk) > size_bytes:
                raise GgaoeError(
                    f"{name} is longer than {device.name}: {at} bytes are written, the rest is not"
                )
            written_bytes = len(chunk)
            chunk, _ = await _both(
                asyncio.to_thread(_read_full, file, COPY_CHUNK_BYTES),
                device.write(at // SECTOR_BYTES, chunk + bytes(padding)),
            )
            at += written_bytes
            progress.advance(written_bytes)
        await device.flush()
        progress.finish()


async def _both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Run both at once; when one fails the other is cancelled, and the failure is raised."""
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(first), tasks.create_task(second)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return running[0].result(), running[1].result()


def _open_file(name: str, mode: str) -> IO[bytes]:
    if name == "-":
        standard = sys.stdin if mode == "rb" else sys.stdout
        return os.fdopen(os.dup(standard.fileno()), mode)
    return Path(name).open(mode)


def _length_bytes(file: IO[bytes]) -> int | None:
    """Bytes from here to the end; None for a pipe."""
    if not file.seekable():
        return None
    here = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(here)
    return end - here


def _read_full(file: IO[bytes], size_bytes: int) -> bytes:
    """`size_bytes`, fewer only at the end: a pipe gives less at a time."""
    parts = []
    while size_bytes and (part := file.read(size_bytes)):
        parts.append(part)
        size_bytes -= len(part)
    return b"".join(parts)


class _Progress:
    """How far a copy is, on standard error: a bar on a terminal, otherwise a line now and then."""

    def __init__(self, total_bytes: int | None, *, quiet: bool) -> None:
        self._total_bytes = total_bytes
        self._quiet = quiet
        self._is_terminal = sys.stderr.isatty()
        self._done_bytes = 0
        self._start_s = time.monotonic()
        self._drawn_s = self._start_s
        self._percent_told = 0

    def advance(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        if self._quiet:
            return
        if self._is_terminal:
            if time.monotonic() - self._drawn_s >= PROGRESS_INTERVAL_S:
                self._drawn_s = time.monotonic()
                print(
                    f"\r{self._bar()}{self._figures()}\x1b[K", end="", file=sys.stderr, flush=True
                )
        elif self._percent() >= self._percent_told + PROGRESS_LINE_PERCENT:
            self._percent_told = self._percent()
            print(f"{self._percent():3d}% {self._figures()}", file=sys.stderr)

    def finish(self) -> None:
        if not self._quiet:
            start = f"\r{self._bar()}" if self._is_terminal else "done "
            end = "\x1b[K\n" if self._is_terminal else "\n"
            print(f"{start}{self._figures()}", end=end, file=sys.stderr, flush=True)

    def _percent(self) -> int:
        return 100 * self._done_bytes // self._total_bytes if self._total_bytes else 0

    def _bar(self) -> str:
        if self._total_bytes is None:
            return ""
        percent = self._percent() if self._total_bytes else 100
        full = BAR_CHARS * percent // 100
        return f"[{'#' * full}{'.' * (BAR_CHARS - full)}] {percent:3d}% "

    def _figures(self) -> str:
        elapsed_s = max(time.monotonic() - self._start_s, 1e-6)
        speed = format_size(int(self._done_bytes / elapsed_s))
        return f"{format_size(self._done_bytes)} in {elapsed_s:.1f} s, {speed}/s"
