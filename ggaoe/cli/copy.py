"""`ggaoe copy`: a remote disk to a file, or a file to a remote disk.

Owns the order of reads and writes, so that both sides are busy, and what is overwritten only with
--force. Must not know: how an image is written (`image.py`), how progress is shown (`progress.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shlex
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

from ggaoe.cli.image import OutputFile
from ggaoe.cli.progress import Progress
from ggaoe.cli.tool import (
    OPEN_TIMEOUT_S,
    Subparsers,
    add_json,
    add_tool,
    complain,
    opened,
    print_json,
)
from ggaoe.client import RemoteDevice
from ggaoe.errors import GgaoeError
from ggaoe.proto.frame import SECTOR_BYTES
from ggaoe.units import counted, format_size, parse_address

CHUNK_BYTES = 2 << 20
"""Read ahead by one of these while another is written."""

_ADDRESS = re.compile(r"e\d+\.\d+")

A = TypeVar("A")
B = TypeVar("B")


def add_parser(subparsers: Subparsers) -> None:
    copy = add_tool(subparsers, "copy", _copy, "copy a disk to a file, or a file to a disk")
    copy.add_argument("source", metavar="SRC", help="a file, - or e0.1")
    copy.add_argument("destination", metavar="DST", help="a file, - or e0.1")
    copy.add_argument(
        "--force", action="store_true", help="overwrite DST: a disk, or a file that exists"
    )
    copy.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted copy: at the end of DST.partial or, where DST is a disk,"
        " without writing what it has already",
    )
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
        complain(
            "copy",
            "one of SRC and DST has to be a device such as e0.1, the other a file or -"
            " (a file of such a name: ./e0.1)",
        )
        return 2
    if arguments.json and arguments.destination == "-":
        complain("copy", "- and --json both are for standard output: leave one")
        return 2
    try:
        address = parse_address(arguments.source if is_from else arguments.destination)
    except ValueError as error:
        complain("copy", str(error))
        return 2
    progress = Progress(quiet=arguments.quiet)
    async with opened(arguments, address, OPEN_TIMEOUT_S, multipath=arguments.multipath) as device:
        size_bytes = (await device.identify()).size_bytes
        if is_from:
            await _copy_out(device, size_bytes, arguments, progress)
        else:
            await _copy_in(device, size_bytes, arguments, progress)
    elapsed_s = progress.elapsed_s
    progress.end_bar()
    if not arguments.quiet:
        print(
            f"copied {format_size(progress.done_bytes)} from {arguments.source} to"
            f" {arguments.destination} in {elapsed_s:.1f} s,"
            f" {format_size(int(progress.bytes_per_s))}/s",
            file=sys.stderr,
        )
    if arguments.json:
        facts = {
            "bytes": progress.done_bytes,
            "elapsed_s": round(elapsed_s, 6),
            "bytes_per_s": round(progress.bytes_per_s, 3),
        }
        print_json({"shelf": device.shelf, "slot": device.slot, "write": is_to, **facts})
    return 0


async def _copy_out(
    device: RemoteDevice, size_bytes: int, arguments: argparse.Namespace, progress: Progress
) -> None:
    """Disk to file, one chunk being read while the one before is written."""
    output = OutputFile(arguments.destination, force=arguments.force, resume=arguments.resume)
    try:
        room_bytes = output.room_bytes
        if room_bytes is not None and room_bytes < size_bytes:
            raise GgaoeError(
                f"{device.name} has {counted(size_bytes, 'byte')}, {output.name} only {room_bytes}:"
                " nothing was written"
            )
        at = await _resume_at(device, size_bytes, output)
        progress.begin(size_bytes, at)

        async def read() -> bytearray:
            count = min(CHUNK_BYTES, size_bytes - at) // SECTOR_BYTES
            return await device.read(at // SECTOR_BYTES, count)

        # The thread has come to an end before the file is closed.
        with ThreadPoolExecutor(1) as worker:
            chunk = await read()
            while chunk:
                at += len(chunk)
                written_bytes = len(chunk)
                chunk, _ = await _both(read(), _in(worker, output.write, chunk))
                progress.advance(written_bytes)
            await _in(worker, output.finish)
    except BaseException:
        progress.end_bar()
        output.discard_empty()
        if progress.done_bytes and output.partial_name is not None:
            _say_how_to_continue(
                arguments,
                f"{output.partial_name} has {format_size(progress.done_bytes)} of"
                f" {format_size(size_bytes)}",
            )
        raise
    finally:
        output.close()


async def _resume_at(device: RemoteDevice, size_bytes: int, output: OutputFile) -> int:
    """Where to continue an image. Its first and its last chunk are compared with the disk, since
    the disk may be another one; GgaoeError where they differ."""
    length_bytes = output.length_bytes // SECTOR_BYTES * SECTOR_BYTES
    if not length_bytes:
        return 0
    is_same = length_bytes <= size_bytes
    for at in (0, max(0, length_bytes - CHUNK_BYTES)):
        count_bytes = min(CHUNK_BYTES, length_bytes)
        if is_same:
            there = await device.read(at // SECTOR_BYTES, count_bytes // SECTOR_BYTES)
            is_same = there == output.read(at, count_bytes)
    if not is_same:
        raise GgaoeError(
            f"{output.partial_name} is not the beginning of {device.name}: the disk has changed, or"
            " it is another disk. Remove the file to start again"
        )
    output.cut(length_bytes)
    return length_bytes


async def _copy_in(
    device: RemoteDevice, size_bytes: int, arguments: argparse.Namespace, progress: Progress
) -> None:
    """File to disk; the last sector is filled with zeros."""
    name = arguments.source
    with _open_source(name) as file:
        length_bytes = _length_bytes(file)
        if length_bytes is not None and length_bytes > size_bytes:
            raise GgaoeError(
                f"{name} has {counted(length_bytes, 'byte')}, {device.name} only {size_bytes}:"
                " nothing was written"
            )
        if not arguments.force:
            raise GgaoeError(
                f"{device.name} ({format_size(size_bytes)}) would be overwritten: add --force"
            )
        progress.begin(length_bytes)
        try:
            await _write_all(device, size_bytes, file, arguments, progress)
        except BaseException:
            progress.end_bar()
            if progress.done_bytes:
                done = format_size(progress.done_bytes)
                _say_how_to_continue(arguments, f"the first {done} of {name} are on {device.name}")
            raise


async def _write_all(
    device: RemoteDevice,
    size_bytes: int,
    file: IO[bytes],
    arguments: argparse.Namespace,
    progress: Progress,
) -> None:
    chunk = await asyncio.to_thread(_read_full, file, CHUNK_BYTES)
    while chunk:
        at = progress.done_bytes
        if at + len(chunk) > size_bytes:
            raise GgaoeError(
                f"{arguments.source} is longer than {device.name}: {at} bytes are written, the rest"
                " is not"
            )
        padded = chunk + bytes(-len(chunk) % SECTOR_BYTES)
        written_bytes = len(chunk)
        chunk, _ = await _both(
            asyncio.to_thread(_read_full, file, CHUNK_BYTES),
            _write(device, at // SECTOR_BYTES, padded, only_changes=arguments.resume),
        )
        progress.advance(written_bytes)
    await device.flush()


async def _write(device: RemoteDevice, sector: int, data: bytes, *, only_changes: bool) -> None:
    if only_changes and await device.read(sector, len(data) // SECTOR_BYTES) == data:
        return
    await device.write(sector, data)


def _say_how_to_continue(arguments: argparse.Namespace, state: str) -> None:
    if "-" in (arguments.source, arguments.destination):
        complain("copy", f"not finished: {state}")
        return
    words = ["--force"] if arguments.force else []
    for interface in arguments.interface or ():
        words += ["-i", interface]
    command = shlex.join([*words, arguments.source, arguments.destination])
    complain("copy", f"not finished: {state}. hint: ggaoe copy --resume {command}")


async def _in(worker: ThreadPoolExecutor, call: Callable[..., A], *values: object) -> A:
    return await asyncio.get_running_loop().run_in_executor(worker, call, *values)


async def _both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Run both at once; when one fails the other is cancelled, and the failure is raised."""
    try:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(first), tasks.create_task(second)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return running[0].result(), running[1].result()


def _open_source(name: str) -> IO[bytes]:
    return os.fdopen(os.dup(sys.stdin.fileno()), "rb") if name == "-" else Path(name).open("rb")


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
