"""Transfers of any alignment on a descriptor with O_DIRECT, by way of an aligned copy.

Owns: alignment and the read-modify-write of blocks that a transfer covers only in part. Must not
know transfers, threads or the loop: plain blocking calls, which raise OSError.

Read-modify-write is safe because the scheduler lets nobody else touch a block (the backend's
granule) meanwhile, and because the region begins and ends with whole blocks.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Sequence


def read_at(fd: int, buffers: Sequence[memoryview], position: int, block_bytes: int) -> int:
    """Fill `buffers` from `position`; returns the bytes read, fewer at the end of the file."""
    if is_aligned(buffers, position, block_bytes):
        try:
            return os.preadv(fd, buffers, position)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    start, copy = _aligned_copy(buffers, position, block_bytes)
    got_bytes = os.preadv(fd, [copy], start)
    at = position - start
    for buffer in buffers:
        part = copy[at : min(at + len(buffer), got_bytes)]
        buffer[: len(part)] = part
        at += len(buffer)
    return max(0, min(got_bytes, at) - (position - start))


def write_at(fd: int, buffers: Sequence[memoryview], position: int, block_bytes: int) -> int:
    """Write `buffers` at `position`; returns the bytes written."""
    if is_aligned(buffers, position, block_bytes):
        try:
            return os.pwritev(fd, buffers, position)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    start, copy = _aligned_copy(buffers, position, block_bytes)
    end = position + sum(map(len, buffers))
    if position > start:
        _read_block(fd, copy[:block_bytes], start)
    if end < start + len(copy) and (position == start or len(copy) > block_bytes):
        _read_block(fd, copy[-block_bytes:], start + len(copy) - block_bytes)
    at = position - start
    for buffer in buffers:
        copy[at : at + len(buffer)] = buffer
        at += len(buffer)
    return max(0, min(os.pwritev(fd, [copy], start), at) - (position - start))


def is_aligned(buffers: Sequence[memoryview], position: int, block_bytes: int) -> bool:
    """Whether O_DIRECT may take position and lengths. Addresses are left to the kernel, which says
    EINVAL: buffers of the pool are always aligned, and asking for addresses costs more."""
    if position % block_bytes:
        return False
    return all(len(buffer) and not len(buffer) % block_bytes for buffer in buffers)


def _aligned_copy(
    buffers: Sequence[memoryview], position: int, block_bytes: int
) -> tuple[int, memoryview]:
    """Where the blocks that the range touches begin, and page-aligned memory for all of them."""
    start = position // block_bytes * block_bytes
    end = position + sum(map(len, buffers))
    size_bytes = -(-(end - start) // block_bytes) * block_bytes
    return start, memoryview(mmap.mmap(-1, size_bytes))


def _read_block(fd: int, block: memoryview, position: int) -> None:
    # Fewer bytes: the file ended inside the block just now. Zeros must not be invented for it.
    if os.preadv(fd, [block], position) != len(block):
        raise OSError(errno.EIO, "short read of a block to be changed")
