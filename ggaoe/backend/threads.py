"""Files served by worker threads: what every backend on a file shares, and buffered I/O.

Owns: the region's limits, the life of an open store, and I/O through the page cache. Must not know
how a store is opened (`file`), nor alignment (`direct`).
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress

from ggaoe.backend.base import Backend, FileAccess, Transfer
from ggaoe.backend.store import Store
from ggaoe.backend.workers import Completions, Workers, in_thread
from ggaoe.proto.ata import Op

IOV_MAX = 1024
"""Buffers that the kernel takes in one call; a longer transfer has a short result."""
ASKING_TIMEOUT_S = 1.0
"""So long a store that closes is given to tell its size."""

SCRATCH_BYTES = 1 << 20
"""What VERIFY reads at once, into memory that is dropped."""


class ThreadedBackend(Backend):
    """A store whose transfers run in worker threads; subclasses take some of them away.

    No transfer reaches beyond the region: a neighbour may live in the same file. Reads end where
    the region ends; a write that passes the end fails with ENOSPC as a whole.

    After `close` what has started still completes, and only then the descriptor is closed: its
    number must not be given to another file while a thread or the kernel may use it.
    """

    def __init__(self, store: Store, name: str, warnings: Sequence[str] = ()) -> None:
        self.store = store
        self.origin = store.origin
        self.size_bytes = store.size_bytes()  # raises OSError
        self.read_only = store.read_only
        self.warnings = tuple(warnings)
        self._outstanding = 0
        self._asking: asyncio.Future[int] | None = None
        self._closed = False
        self._completions = Completions(self._deliver)
        # Writes and flushes do not wait for reads that hang, nor flushes for writes.
        self._readers = Workers(f"{name}/read", self._perform, self._completions)
        self._writers = Workers(f"{name}/write", self._perform, self._completions)
        self._flusher = Workers(f"{name}/flush", self._perform, self._completions, threads_max=1)

    def submit(self, transfers: Sequence[Transfer]) -> None:
        self._outstanding += len(transfers)
        inside = []
        for transfer in transfers:
            if transfer.op is Op.WRITE and self._passes_end(transfer):
                self._completions.add(transfer, -errno.ENOSPC)
            else:
                inside.append(transfer)
        self._start(inside)

    async def refresh_size_bytes(self) -> int:
        self._asking = in_thread(self.store.size_bytes)
        self._outstanding += 1
        self._asking.add_done_callback(lambda _: self._finished(1))
        self.size_bytes = await asyncio.shield(self._asking)
        return self.size_bytes

    async def close(self) -> None:
        if self._asking is not None:  # otherwise whoever opens the store next finds it locked
            await asyncio.wait((self._asking,), timeout=ASKING_TIMEOUT_S)
        if self._closed:
            return
        self._closed = True
        self._stop()
        if self._outstanding == 0:
            self._retire()
            await self._released()

    def file_access(self) -> FileAccess | None:
        return FileAccess(self.store.fd, self.store.offset_bytes, False, False)

    def _start(self, transfers: Sequence[Transfer]) -> None:
        for transfer in transfers:
            self._offload(transfer)

    def _offload(self, transfer: Transfer) -> None:
        """Have a worker thread carry out `transfer`."""
        match transfer.op:
            case Op.FLUSH:
                self._flusher.submit(transfer)
            case Op.WRITE:
                self._writers.submit(transfer)
            case _:
                self._readers.submit(transfer)

    def _passes_end(self, transfer: Transfer) -> bool:
        return transfer.offset_bytes + transfer.length_bytes > self.size_bytes

    def _deliver(self, done: Sequence[Transfer]) -> None:
        self.complete(done)
        self._finished(len(done))

    def _finished(self, count: int) -> None:
        self._outstanding -= count
        if self._closed and self._outstanding == 0:
            self._retire()
            self._released()

    def _stop(self) -> None:
        """Closing, in the loop: cancel what has not started."""
        for workers in (self._readers, self._writers, self._flusher):
            workers.stop()

    def _retire(self) -> None:
        """Closing, in the loop, nothing outstanding: leave the loop."""

    def _released(self) -> asyncio.Future[None]:
        try:
            return in_thread(self._release)
        except OSError:  # no thread: to wait here is better than to keep the file's lock
            self._release()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def _release(self) -> None:
        """Closing, at last, in a thread: it may write out and wait."""
        self.store.close()

    def _perform(self, transfer: Transfer) -> int:
        """In a worker thread: the whole of one transfer."""
        try:
            return self._carry_out(transfer)
        except OSError as error:
            self._forget_cached(transfer.op, error.errno)
            raise

    def _forget_cached(self, op: Op, error_number: int | None) -> None:
        """After a failed write-back the page cache still has data that the store has not, in pages
        that count as saved, and reads would show them until these pages are evicted. All of the
        file, because the kernel keeps what a range covers only in part."""
        if op is Op.FLUSH:
            # It also keeps pages that have been written to meanwhile, so save those first: the
            # error that is about to be reported holds for them, too.
            with suppress(OSError):
                os.fdatasync(self.store.fd)
        elif op is not Op.WRITE or error_number != errno.EIO:
            return  # a WRITE fails so where a file system is mounted with `sync`
        with suppress(OSError):
            os.posix_fadvise(self.store.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _carry_out(self, transfer: Transfer) -> int:
        position = self.store.offset_bytes + transfer.offset_bytes
        if transfer.op is Op.FLUSH:
            os.fdatasync(self.store.fd)
            return 0
        if transfer.op is Op.WRITE:
            return self._write(transfer.buffers[:IOV_MAX], position)
        length_bytes = min(transfer.length_bytes, self.size_bytes - transfer.offset_bytes)
        if length_bytes <= 0:
            return 0
        if transfer.op is Op.VERIFY:
            return self._verify(position, length_bytes)
        return self._read(_first(transfer.buffers[:IOV_MAX], length_bytes), position)

    def _read(self, buffers: Sequence[memoryview], position: int) -> int:
        return os.preadv(self.store.fd, buffers, position)

    def _write(self, buffers: Sequence[memoryview], position: int) -> int:
        return os.pwritev(self.store.fd, buffers, position)

    def _verify(self, position: int, length_bytes: int) -> int:
        scratch = memoryview(mmap.mmap(-1, min(length_bytes, SCRATCH_BYTES)))
        done_bytes = 0
        while done_bytes < length_bytes:
            part = scratch[: length_bytes - done_bytes]
            moved_bytes = self._read([part], position + done_bytes)
            if moved_bytes == 0:
                break
            done_bytes += moved_bytes
        return done_bytes


class BufferedBackend(ThreadedBackend):
    """I/O through the page cache. What is cached is read in the loop, without changing threads."""

    description = "buffered, worker threads"

    def __init__(self, store: Store, name: str, warnings: Sequence[str] = ()) -> None:
        super().__init__(store, name, warnings)
        self._tries_cache = True

    def _start(self, transfers: Sequence[Transfer]) -> None:
        for transfer in transfers:
            if not (self._tries_cache and transfer.op is Op.READ and self._read_cached(transfer)):
                self._offload(transfer)

    def _read_cached(self, transfer: Transfer) -> bool:
        """Complete a read if all of it is in the page cache; whatever else is a thread's."""
        if self._passes_end(transfer) or len(transfer.buffers) > IOV_MAX:
            return False
        position = self.store.offset_bytes + transfer.offset_bytes
        try:
            moved_bytes = os.preadv(self.store.fd, transfer.buffers, position, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                self._tries_cache = False
            return False
        if moved_bytes != transfer.length_bytes:
            return False
        self._completions.add(transfer, moved_bytes)
        return True


def _first(buffers: Sequence[memoryview], length_bytes: int) -> list[memoryview]:
    """The leading `length_bytes` of `buffers`, or all there is."""
    leading = []
    for buffer in buffers:
        if length_bytes <= 0:
            break
        leading.append(buffer[:length_bytes])
        length_bytes -= len(buffer)
    return leading
