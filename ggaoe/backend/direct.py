"""Direct I/O: transfers between the caller's buffers and the device, past the page cache.

Owns: the choice of the way for each transfer. Aligned ones go to the kernel's AIO without a copy;
those that AIO cannot or would not take at once, and flushes, go to worker threads, which copy
where alignment demands it, and use the page cache for a block that the region has only a part of.
Must not know python-libaio (`aio`), nor how copies are made (`bounce`).

Where the store does not know RWF_NOWAIT, or AIO is not to be had, threads do everything: they are
slower than AIO, but io_submit from the loop could stop every device, and io_submit from one
thread would still stop all transfers of this one behind the first that blocks.

Opening has tried a direct read, and nothing else can be tried without changing data. Where the
first direct write shows that the file system refuses those (mergerfs does), that write is done
again through the page cache, and so is everything after it.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ggaoe.backend import bounce
from ggaoe.backend.base import FileAccess, Transfer
from ggaoe.backend.store import Store
from ggaoe.backend.threads import IOV_MAX, ThreadedBackend
from ggaoe.proto.ata import Op

if TYPE_CHECKING:
    from ggaoe.backend.aio import AioQueue

_log = logging.getLogger("ggaoe.device")


class DirectBackend(ThreadedBackend):
    """Transfers on a descriptor with O_DIRECT, whose region begins with a whole block.

    Where it ends within a block, the rest of that block is a neighbor's, or beyond the end of the
    file. Direct I/O would change the neighbor's bytes or make the file grow; the page cache changes
    a part of a block and nothing else. So that part, the tail, is never accessed directly, and the
    rest of the region only directly. After a change of size the kernel writes out a page that was
    the tail before it reads or writes it directly.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        block_bytes: int,
        nowait: bool,
        warnings: Sequence[str] = (),
    ) -> None:
        super().__init__(store, name, warnings)
        self.granule_bytes = block_bytes
        self._name = name
        self._fallback_lock = threading.Lock()
        self._has_reported_fallback = False
        self._knows_nowait = nowait
        self._wants_queue = nowait
        self._queue: AioQueue | None = None
        self.description = f"direct I/O, {'Linux AIO' if nowait else 'worker threads'}"

    def _open_queue(self) -> AioQueue | None:
        """The queue, at the first transfer: an engine with a queue of its own never asks for one,
        and the kernel has a limited number (fs.aio-max-nr)."""
        try:
            from ggaoe.backend.aio import AioQueue
        except (ImportError, OSError):  # the daemon has said so, where it matters
            return None
        try:
            return AioQueue(self.store.fd, self.store.offset_bytes, self._deliver, self._offload)
        except OSError as error:
            what = "raise fs.aio-max-nr" if isinstance(error, BlockingIOError) else error
            _log.warning("%s: no Linux AIO, worker threads do all I/O: %s", self.store.path, what)
            return None

    def file_access(self) -> FileAccess | None:
        return FileAccess(self.store.fd, self.store.offset_bytes, True, self._knows_nowait)

    def _start(self, transfers: Sequence[Transfer]) -> None:
        if self._wants_queue:
            self._wants_queue = False
            self._queue = self._open_queue()
            if self._queue is None:
                self.description = "direct I/O, worker threads"
        if self._queue is None or not self.store.is_direct:
            super()._start(transfers)
            return
        aligned = []
        for transfer in transfers:
            if self._suits_aio(transfer):
                aligned.append(transfer)
            else:
                self._offload(transfer)
        self._queue.submit(aligned)

    def _suits_aio(self, transfer: Transfer) -> bool:
        if transfer.op not in (Op.READ, Op.WRITE):
            return False
        if transfer.offset_bytes + transfer.length_bytes > self._whole_bytes():
            return False
        buffers = transfer.buffers
        return (
            len(buffers) <= IOV_MAX
            and bounce.is_aligned(buffers, transfer.offset_bytes, self.granule_bytes)
            and not any(buffer.readonly for buffer in buffers)  # ctypes takes no address of these
        )

    def _whole_bytes(self) -> int:
        """Where the tail begins: the length of the region in whole blocks."""
        return self.size_bytes // self.granule_bytes * self.granule_bytes

    def _read(self, buffers: Sequence[memoryview], position: int) -> int:
        if not self.store.is_direct:
            return super()._read(buffers, position)
        return self._move(bounce.read_at, os.preadv, buffers, position)

    def _write(self, buffers: Sequence[memoryview], position: int) -> int:
        if self.store.is_direct:
            try:
                return self._move(bounce.write_at, os.pwritev, buffers, position)
            except OSError as error:
                if error.errno != errno.EINVAL or self.store.vouches_for_direct:
                    raise
                self._fall_back()
        return super()._write(buffers, position)

    def _move(
        self,
        direct: Callable[[int, Sequence[memoryview], int, int], int],
        cached: Callable[[int, Sequence[memoryview], int], int],
        buffers: Sequence[memoryview],
        position: int,
    ) -> int:
        """Move whole blocks directly, and the tail by the page cache."""
        whole, tail = _split(buffers, self.store.offset_bytes + self._whole_bytes() - position)
        moved_bytes = 0
        if whole:
            moved_bytes = direct(self.store.fd, whole, position, self.granule_bytes)
            if moved_bytes < sum(map(len, whole)):
                return moved_bytes
        if tail:
            moved_bytes += cached(self.store.cached_fd, tail, position + moved_bytes)
        return moved_bytes

    def _fall_back(self) -> None:
        """In a worker thread: use the page cache from now on; raises OSError."""
        with self._fallback_lock:
            if self.store.is_direct:
                self.store.stop_direct()

    def _deliver(self, done: Sequence[Transfer]) -> None:
        if not self.store.is_direct and not self._has_reported_fallback:
            self._has_reported_fallback = True
            self.description = "buffered, worker threads"
            warning = (
                f"{self.store.path}: the file system refuses direct writes: buffered I/O is used"
            )
            self.warnings += (warning,)
            _log.warning("%s: %s", self._name, warning)
        super()._deliver(done)

    def _stop(self) -> None:
        if self._queue is not None:
            for transfer in self._queue.cancel_waiting():
                self._completions.add(transfer, -errno.ECANCELED)
        super()._stop()

    def _retire(self) -> None:
        if self._queue is not None:
            self._queue.leave_loop()

    def _release(self) -> None:
        if self._queue is not None:
            self._queue.close()
        super()._release()


def _split(
    buffers: Sequence[memoryview], first_bytes: int
) -> tuple[list[memoryview], list[memoryview]]:
    """The first `first_bytes` of `buffers`, none if that is negative, and the rest."""
    first, rest = [], []
    for buffer in buffers:
        cut = max(0, min(first_bytes, len(buffer)))
        first_bytes -= len(buffer)
        if cut:
            first.append(buffer[:cut])
        if cut < len(buffer):
            rest.append(buffer[cut:])
    return first, rest
