"""`ggaoe copy`: a remote disk to a file, or a file to a remote disk.

Owns the order of reads and writes, so that both sides are busy, and how far it has come.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import stat
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import IO, Any, TypeVar

from ggaoe.cli.tool import OPEN_TIMEOUT_S, Subparsers, add_json, add_tool, opened, print_json
from ggaoe.client import RemoteDevice
from ggaoe.errors import GgaoeError
from ggaoe.proto.frame import SECTOR_BYTES
from ggaoe.units import format_size, parse_address

CHUNK_BYTES = 2 << 20
"""Read ahead by one of these while another is written."""
PROGRESS_INTERVAL_S = 0.2
PROGRESS_LINE_PERCENT = 10
"""How far apart lines are where there is no terminal to draw a bar on."""
BAR_CHARS = 30

_ADDRESS = re.compile(r"e\d+\.\d+")

A = TypeVar("A")
B = TypeVar("B")


def add_parser(subparsers: Subparsers) -> None:
    copy = add_tool(subparsers, "copy", _copy, "copy a disk to a file, or a file to a disk")
    copy.add_argument("source", metavar="SRC", help="a file, - or e0.1")
    copy.add_argument("destination", metavar="DST", help="a file, - or e0.1")
    copy.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    copy.add_argument(
        "--multipath",
        action="store_true",
        help="use every interface and MAC that answers for the address",
    )
    add_json(copy)


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
    if arguments.json and arguments.destination == "-":
        print("ggaoe copy: - and --json both are for standard output: leave one", file=sys.stderr)
        return 2
    try:
        address = parse_address(arguments.source if is_from else arguments.destination)
    except ValueError as error:
        print(f"ggaoe copy: {error}", file=sys.stderr)
        return 2
    async with opened(arguments, address, OPEN_TIMEOUT_S, multipath=arguments.multipath) as device:
        size_bytes = (await device.identify()).size_bytes
        progress = _Progress(quiet=arguments.quiet)
        if is_from:
            await _copy_out(device, size_bytes, arguments.destination, progress)
        else:
            await _copy_in(device, size_bytes, arguments.source, progress)
        progress.finish()
    if arguments.json:
        print_json({"shelf": device.shelf, "slot": device.slot, "write": is_to, **progress.facts()})
    return 0


async def _copy_out(device: RemoteDevice, size_bytes: int, name: str, progress: _Progress) -> None:
    """Disk to file, one chunk being read while the one before is written."""
    with _open_file(name, "wb") as file:
        progress.begin(size_bytes)

        async def read(at: int) -> bytearray:
            count = min(CHUNK_BYTES, size_bytes - at) // SECTOR_BYTES
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


async def _copy_in(device: RemoteDevice, size_bytes: int, name: str, progress: _Progress) -> None:
    """File to disk; the last sector is filled with zeros."""
    with _open_file(name, "rb") as file:
        length_bytes = _length_bytes(file)
        if length_bytes is not None and length_bytes > size_bytes:
            raise GgaoeError(
                f"{name} has {length_bytes} bytes, {device.name} only {size_bytes}: nothing written"
            )
        progress.begin(length_bytes)
        at = 0
        chunk = await asyncio.to_thread(_read_full, file, CHUNK_BYTES)
        while chunk:
            padding = -len(chunk) % SECTOR_BYTES
            if at + len(chunk) > size_bytes:
                raise GgaoeError(
                    f"{name} is longer than {device.name}: {at} bytes are written, the rest is not"
                )
            written_bytes = len(chunk)
            chunk, _ = await _both(
                asyncio.to_thread(_read_full, file, CHUNK_BYTES),
                device.write(at // SECTOR_BYTES, chunk + bytes(padding)),
            )
            at += written_bytes
            progress.advance(written_bytes)
        await device.flush()


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

    def __init__(self, *, quiet: bool) -> None:
        self._total_bytes: int | None = None
        self._quiet = quiet
        self._is_terminal = sys.stderr.isatty()
        self._done_bytes = 0
        self._start_s = self._drawn_s = self._end_s = 0.0
        self._percent_told = 0

    def begin(self, total_bytes: int | None) -> None:
        """From now on it takes time; None where nobody knows how much there is."""
        self._total_bytes = total_bytes
        self._start_s = self._drawn_s = time.monotonic()

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
        self._end_s = time.monotonic()
        if not self._quiet:
            start = f"\r{self._bar()}" if self._is_terminal else "done "
            end = "\x1b[K\n" if self._is_terminal else "\n"
            print(f"{start}{self._figures()}", end=end, file=sys.stderr, flush=True)

    def facts(self) -> dict[str, object]:
        """Of a copy that has been finished."""
        elapsed_s = max(self._end_s - self._start_s, 1e-6)
        return {
            "bytes": self._done_bytes,
            "elapsed_s": round(elapsed_s, 6),
            "bytes_per_s": round(self._done_bytes / elapsed_s, 3),
        }

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
