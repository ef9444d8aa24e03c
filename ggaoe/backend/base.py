"""The backend contract: one object per served device, batches of transfers in, completions out.

A backend need not be a file descriptor: it moves bytes between caller-owned buffers and wherever
they live, and reports each transfer's result. It knows no frames, no initiators and no order:
the scheduler never lets two transfers run at once that touch the same granule and write it.

Rules of the contract, which `tests/unit/backend/conformance.py` checks for every implementation:

- Everything is called in the event loop's thread, and completions are delivered there.
- `submit` never blocks, never raises and takes any number of transfers; a backend that can start
  only some keeps the rest in order and starts them later.
- Each submitted transfer completes exactly once, through one call of `complete` for as many
  transfers as are known to be done; never from within `submit`.
- `result` is the number of bytes moved (short results are allowed and are continued by the
  caller), 0 for a flush, or a negated errno. A read at or past the end of the store moves 0 bytes.
- A completed WRITE may still be volatile; a completed FLUSH makes every write that completed
  before it was submitted stable, or reports an error.
- Buffers belong to the backend from `submit` to completion, and to the caller otherwise.
- `close` is called when no transfer is outstanding, or after the caller gave up on the ones that
  are: the backend then keeps what the kernel may still write to until it is done with it.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ggaoe.backend.origin import Origin
from ggaoe.proto.ata import Op


class Transfer:
    """One contiguous range of a device, gathered from or scattered to `buffers` in order.

    `offset_bytes` counts from the start of the exported region; `length_bytes` is the sum of the
    buffers' lengths (0 for FLUSH); both are multiples of 512. `owner` is the caller's.
    """

    __slots__ = ("buffers", "length_bytes", "offset_bytes", "op", "owner", "result")

    def __init__(
        self, op: Op, offset_bytes: int, buffers: list[memoryview], owner: object = None
    ) -> None:
        self.op = op
        self.offset_bytes = offset_bytes
        self.buffers = buffers
        self.length_bytes = sum(map(len, buffers))
        self.owner = owner
        self.result = 0


@dataclass(frozen=True, slots=True)
class FileAccess:
    """An open file whose bytes are the region's, from `offset_bytes` on; it stays the backend's."""

    fd: int
    offset_bytes: int
    is_direct: bool
    """O_DIRECT: transfers in whole granules, by way of page-aligned buffers."""
    knows_nowait: bool
    """The store takes RWF_NOWAIT, so that Linux AIO need not block."""


Complete = Callable[[Sequence[Transfer]], None]


class Backend(ABC):
    """One open store. Implementations are created by an `async` opener that raises BackendError."""

    size_bytes: int
    """Bytes of the exported region now."""
    granule_bytes: int = 512
    """Unit that two transfers must not share while one of them writes (a logical block)."""
    granule_origin_bytes: int = 0
    """Where byte 0 of the region lies in the grid of granules."""
    read_only: bool = False
    description: str = ""
    """How the store is accessed, for people: 'direct I/O, Linux AIO', 'buffered, threads'."""
    warnings: tuple[str, ...] = ()
    """What the administrator should know about how it was opened."""

    origin: Origin | None = None
    """Where it was opened; None where it has no path."""

    complete: Complete
    """Set before the first `submit`, by the engine or by `flush`; must not raise."""

    @abstractmethod
    def submit(self, transfers: Sequence[Transfer]) -> None:
        """Start every transfer of `transfers`; see the module's rules."""

    @abstractmethod
    async def refresh_size_bytes(self) -> int:
        """Look at the store's size again, set and return `size_bytes`; raises OSError. A store that
        does not answer holds up nobody but the caller."""

    @abstractmethod
    async def close(self) -> None:
        """Release the store; idempotent."""

    async def flush(self) -> None:
        """Make everything that was written stable; raises OSError. For when no engine has it."""
        flushed: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def complete(transfers: Sequence[Transfer]) -> None:
            if not flushed.done():
                flushed.set_result(transfers[0].result)

        self.complete = complete
        self.submit([Transfer(Op.FLUSH, 0, [])])
        result = await flushed
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    def file_access(self) -> FileAccess | None:
        """For engines that do file I/O themselves; None where the store is no plain file."""
        return None
