"""Opens a regular file or block device as a backend: which one, which part, and by which way.

Owns: every check of what the administrator asked for against what the store is, and the choice
between direct and buffered I/O. Must not know the configuration (`FileSpec` is all of it), nor how
transfers are done.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from ggaoe.backend.base import Backend
from ggaoe.backend.direct import DirectBackend
from ggaoe.backend.store import ADDRESSABLE_BYTES, Store, explain
from ggaoe.backend.threads import BufferedBackend
from ggaoe.backend.uuid import find_by_uuid
from ggaoe.backend.workers import in_thread
from ggaoe.errors import BackendError
from ggaoe.proto.frame import SECTOR_BYTES
from ggaoe.units import counted, format_size

PAGE_BYTES = 4096
"""Sizes that are not exact are rounded down to this. It is also the least unit that is exported
partly by direct I/O and partly through the page cache, because the cache writes whole pages."""


@dataclass(frozen=True)
class FileSpec:
    """What to open: `path`, or the device with `uuid`; `length_bytes` None is up to the end."""

    path: Path | None = None
    uuid: str | None = None
    offset_bytes: int = 0
    length_bytes: int | None = None
    read_only: bool = False
    direct_io: bool = True
    exact_size: bool = True
    """Export every whole sector; otherwise the size is rounded down to whole pages."""
    name: str = "file"
    """For the names of threads."""


@dataclass
class _Opened:
    """An open store, and how to do I/O on it: directly if `block_bytes` is not 0."""

    store: Store
    block_bytes: int = 0
    nowait: bool = False
    warnings: list[str] = field(default_factory=list)


async def open_file(spec: FileSpec, *, is_exclusive: bool = True) -> Backend:
    """Open and lock what `spec` says, without blocking the loop; raises BackendError. What is not
    exclusive is not locked either: for a second look at a store that is served."""
    opening = in_thread(lambda: _open(spec, is_exclusive=is_exclusive))
    try:
        opened = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise
    store, warnings = opened.store, opened.warnings
    try:
        if opened.block_bytes:
            return DirectBackend(store, spec.name, opened.block_bytes, opened.nowait, warnings)
        return BufferedBackend(store, spec.name, warnings)
    except OSError as error:
        store.close()
        raise explain(store.path, error) from error


class Examined(NamedTuple):
    """Result of examining a backing store without serving it."""

    warnings: list[str]
    way: str
    """How the file would be read and written, for people."""


def examine(spec: FileSpec) -> Examined:
    """Find out without claiming, locking or writing: what others use is not noticed. Raises
    BackendError where it cannot be opened for reading; blocks."""
    opened = _open(replace(spec, read_only=True), is_exclusive=False)
    try:
        return Examined(opened.warnings, _way(opened, spec.read_only))
    finally:
        opened.store.close()


def _way(opened: _Opened, read_only: bool) -> str:
    if not opened.block_bytes:
        return "through the page cache"
    if read_only or opened.store.vouches_for_direct:
        return "direct I/O works"
    return (
        "direct reads work; the file system does not say whether direct writes do, and where they "
        "do not, the first write switches to buffered I/O"
    )


def _close_unwanted(opening: asyncio.Future[_Opened]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().store.close()


def _open(spec: FileSpec, *, is_exclusive: bool = True) -> _Opened:
    if spec.uuid is not None:
        path = find_by_uuid(spec.uuid)
    elif spec.path is not None:
        path = spec.path
    else:
        raise BackendError("neither path nor uuid: give one of them")
    store = Store(
        path,
        spec.offset_bytes,
        spec.length_bytes,
        spec.read_only,
        spec.direct_io,
        is_exclusive=is_exclusive,
    )
    opened = _Opened(store)
    try:
        if not spec.exact_size:
            store.unit_bytes = PAGE_BYTES
        opened.warnings.extend(_check_region(store))
        if is_exclusive:
            if not store.lock():
                text = "the file system has no locks: make sure that nobody else writes to it"
                opened.warnings.append(f"{path}: {text}")
            store.refuse_shared()
        if spec.direct_io:
            _choose_direct(opened)
    except OSError as error:
        store.close()
        raise explain(path, error) from error
    except BackendError:
        store.close()
        raise
    return opened


def _check_region(store: Store) -> Iterator[str]:
    """Yields warnings; raises BackendError for a region that does not exist."""
    file_bytes = store.file_size_bytes()
    has = f"it has {format_size(file_bytes)} ({counted(file_bytes, 'byte')})"
    if store.offset_bytes >= file_bytes > 0:
        raise BackendError(
            f"{store.path}: offset {store.offset_bytes} is at or beyond the end: {has}"
        )
    if store.length_bytes is not None and store.offset_bytes + store.length_bytes > file_bytes:
        raise BackendError(
            f"{store.path}: offset {store.offset_bytes} + length {store.length_bytes} is "
            f"beyond the end: {has}"
        )
    region_bytes, size_bytes = store.region_bytes(), store.size_bytes()
    if size_bytes == 0:
        raise BackendError(
            f"{store.path}: too small: {counted(region_bytes, 'byte')}, "
            f"needs at least {store.unit_bytes}"
        )
    if region_bytes > ADDRESSABLE_BYTES:
        yield (
            f"{store.path}: only the first {format_size(size_bytes)} of"
            f" {format_size(region_bytes)} are exported: sector numbers have 48 bits"
        )
    elif size_bytes < region_bytes:
        yield (
            f"{store.path}: not exported: {counted(region_bytes - size_bytes, 'byte')} at its end: "
            f"sizes are rounded down to a multiple of {store.unit_bytes} bytes"
        )


def _choose_direct(opened: _Opened) -> None:
    """Settle on direct I/O where it can work, otherwise say why not; raises OSError."""
    store = opened.store
    if store.is_direct and store.is_in_memory:
        store.stop_direct()
        return
    block_bytes = store.direct_block_bytes()
    if block_bytes > SECTOR_BYTES:
        block_bytes = max(block_bytes, PAGE_BYTES)
    refusal = _why_not_direct(store, block_bytes)
    if refusal is not None:
        opened.warnings.append(f"{store.path}: {refusal}: buffered I/O is used")
        if store.is_direct:
            store.stop_direct()
        return
    opened.block_bytes = block_bytes
    opened.nowait = _knows_nowait(store, block_bytes)
    if block_bytes > SECTOR_BYTES:  # the region may end within a block, now or when it has grown
        store.open_cached()


def _why_not_direct(store: Store, block_bytes: int) -> str | None:
    if not store.is_direct or block_bytes == 0:
        return "the file system refuses direct I/O"
    if store.offset_bytes % block_bytes:
        return (
            f"the exported part does not begin with a whole block of {block_bytes} bytes, as "
            "direct I/O needs"
        )
    try:
        os.preadv(store.fd, [mmap.mmap(-1, block_bytes)], store.offset_bytes)
    except OSError as error:
        # Any other error is the disk's, and belongs to those who read that block.
        if error.errno == errno.EINVAL:
            return "the file system refuses direct reads"
    return None


def _knows_nowait(store: Store, block_bytes: int) -> bool:
    try:
        os.preadv(store.fd, [mmap.mmap(-1, block_bytes)], store.offset_bytes, os.RWF_NOWAIT)
    except OSError as error:
        return error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
    return True
