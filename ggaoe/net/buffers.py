"""A pool of page-aligned buffers, so that frames' payloads can be disk I/O's buffers."""

from __future__ import annotations

import mmap

PAGE_BYTES = mmap.PAGESIZE


class Lease:
    """One buffer on loan: `view` is its memory, page-aligned."""

    __slots__ = ("_pool", "view")

    def __init__(self, pool: BufferPool, view: memoryview) -> None:
        self._pool = pool
        self.view = view

    def release(self) -> None:
        """Give the buffer back; whoever calls it must not use `view` again."""
        self._pool.give_back(self)


class BufferPool:
    """Buffers of one size, made on demand, up to `buffers_kept_max` kept for reuse.

    The number on loan is bounded by those who borrow (queue budgets), not here.
    """

    def __init__(self, buffer_bytes: int, buffers_kept_max: int = 1024) -> None:
        self.buffer_bytes = -(-buffer_bytes // PAGE_BYTES) * PAGE_BYTES
        self._kept_max = buffers_kept_max
        self._free: list[Lease] = []

    def borrow(self) -> Lease:
        """A buffer of `buffer_bytes` (rounded up to whole pages), its contents arbitrary."""
        if self._free:
            return self._free.pop()
        return Lease(self, memoryview(mmap.mmap(-1, self.buffer_bytes)))

    def give_back(self, lease: Lease) -> None:
        if len(self._free) < self._kept_max:
            self._free.append(lease)
