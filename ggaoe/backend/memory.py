"""A store in memory: for tests, and the example of a backend that is no file descriptor.

Owns: the bytes, and nothing else. Everything is done within `submit`, and completes one turn of
the loop later. What is written is gone with the object: a FLUSH has nothing to do.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from ggaoe.backend.base import Backend, Transfer
from ggaoe.backend.workers import Completions
from ggaoe.proto.ata import Op


class MemoryBackend(Backend):
    """`size_bytes` zero bytes, in `data`; a longer or shorter `data` is a resized store."""

    description = "memory"

    def __init__(self, size_bytes: int, read_only: bool = False) -> None:
        self.data = bytearray(size_bytes)
        self.size_bytes = size_bytes
        self.read_only = read_only
        self._completions = Completions(self._deliver)

    def submit(self, transfers: Sequence[Transfer]) -> None:
        for transfer in transfers:
            self._completions.add(transfer, self._perform(transfer))

    async def refresh_size_bytes(self) -> int:
        self.size_bytes = len(self.data)
        return self.size_bytes

    async def close(self) -> None:
        pass

    def _deliver(self, done: Sequence[Transfer]) -> None:
        self.complete(done)

    def _perform(self, transfer: Transfer) -> int:
        if transfer.op is Op.FLUSH:
            return 0
        if transfer.op is Op.WRITE:
            return self._write(transfer)
        left_bytes = max(0, min(self.size_bytes, len(self.data)) - transfer.offset_bytes)
        length_bytes = min(transfer.length_bytes, left_bytes)
        if transfer.op is Op.READ:
            at = transfer.offset_bytes
            end = at + length_bytes
            for buffer in transfer.buffers:
                part = self.data[at : min(end, at + len(buffer))]
                buffer[: len(part)] = part
                at += len(part)
        return length_bytes

    def _write(self, transfer: Transfer) -> int:
        if self.read_only:
            return -errno.EROFS
        if transfer.offset_bytes + transfer.length_bytes > min(self.size_bytes, len(self.data)):
            return -errno.ENOSPC
        at = transfer.offset_bytes
        for buffer in transfer.buffers:
            self.data[at : at + len(buffer)] = buffer
            at += len(buffer)
        return transfer.length_bytes
