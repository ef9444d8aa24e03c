"""Linux AIO by python-libaio: a queue of direct transfers on one descriptor, in the event loop.

Owns: the AIO context, its eventfd, reused blocks, and what the kernel has no room for yet. Must not
know alignment rules or worker threads: what the kernel does not take, `fallback` gets.

io_submit blocks on much besides a full device (block allocation, metadata, cached pages to be
written out), so every transfer carries RWF_NOWAIT and comes back with EAGAIN instead; a worker
thread then does it. A descriptor that does not know RWF_NOWAIT must not be given to this queue.

What python-libaio needs from its user: completion callbacks that cannot raise, or events are
lost; an eventfd kept alive by the user, whose number alone is given to the blocks.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import libaio

from ggaoe.backend.base import Transfer
from ggaoe.proto.ata import Op

IN_FLIGHT_MAX = 128
"""Transfers of one descriptor in the kernel; the system's limit for all is fs.aio-max-nr."""

BATCH_MAX = 32
"""Transfers prepared for one io_submit: the cost of a refused batch is bounded by it."""

RETRY_S = 0.01
"""After how long to ask again a kernel that refused while nothing of ours was in flight."""

# Refusals of one transfer that say nothing about the store, but how it was asked.
_REDO = (-errno.EAGAIN, -errno.EINVAL, -errno.EOPNOTSUPP)


def _ignore(_block: object, _result: int, _result2: int) -> None:
    """Completion callback: results are taken from the list that getEvents returns."""


class AioQueue:
    """Moves aligned READs and WRITEs; `deliver` gets the finished ones in the loop's thread, never
    within `submit`; `fallback` gets, at any time, each one that must be done in another way.

    Raises OSError when made: EAGAIN if the system's AIO limit is used up.
    """

    def __init__(
        self,
        fd: int,
        offset_bytes: int,
        deliver: Callable[[Sequence[Transfer]], None],
        fallback: Callable[[Transfer], None],
    ) -> None:
        self._fd = fd
        self._offset_bytes = offset_bytes
        self._deliver = deliver
        self._fallback = fallback
        self._context = libaio.AIOContext(IN_FLIGHT_MAX)
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._free: list[Any] = [self._new_block() for _ in range(IN_FLIGHT_MAX)]
        self._waiting: deque[Transfer] = deque()
        self._in_flight: dict[Any, Transfer] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._eventfd, self._reap)

    def submit(self, transfers: Sequence[Transfer]) -> None:
        """Give to the kernel what it takes, keep the rest in order."""
        self._waiting.extend(transfers)
        self._pump()

    def cancel_waiting(self) -> list[Transfer]:
        """Forget what the kernel has not been given, and return it."""
        cancelled = list(self._waiting)
        self._waiting.clear()
        if self._retry is not None:
            self._retry.cancel()
        return cancelled

    def leave_loop(self) -> None:
        """Stop watching; nothing is in flight."""
        self._loop.remove_reader(self._eventfd)

    def close(self) -> None:
        """After `leave_loop`; waits for the kernel, so from another thread."""
        self._context.close()
        os.close(self._eventfd)

    def _new_block(self) -> Any:
        return libaio.AIOBlock(
            libaio.AIOBLOCK_MODE_READ,
            self._fd,
            [],
            0,
            self._eventfd,
            _ignore,
            os.RWF_NOWAIT,
        )

    def _pump(self) -> None:
        while self._waiting and self._free:
            count = min(len(self._waiting), len(self._free), BATCH_MAX)
            blocks = [self._prepare(self._waiting[at]) for at in range(count)]
            try:
                taken = self._context.submit(blocks)
            except OSError as error:
                self._put_back(blocks)
                if error.errno == errno.EAGAIN:
                    self._wait_for_room()
                    return
                # The kernel names the first one as unacceptable; nothing is known of the others.
                self._fallback(self._waiting.popleft())
                continue
            for block in blocks[:taken]:
                self._in_flight[block] = self._waiting.popleft()
            self._put_back(blocks[taken:])

    def _prepare(self, transfer: Transfer) -> Any:
        block = self._free.pop()
        block.mode = (
            libaio.AIOBLOCK_MODE_WRITE if transfer.op is Op.WRITE else libaio.AIOBLOCK_MODE_READ
        )
        block.offset = self._offset_bytes + transfer.offset_bytes
        block.buffer_list = transfer.buffers
        return block

    def _put_back(self, blocks: Sequence[Any]) -> None:
        for block in blocks:
            block.buffer_list = ()  # the buffers are the caller's again
        self._free.extend(blocks)

    def _wait_for_room(self) -> None:
        # A completion makes room and pumps again; without one to come, only time does.
        if not self._in_flight and self._retry is None:
            self._retry = self._loop.call_later(RETRY_S, self._ask_again)

    def _ask_again(self) -> None:
        self._retry = None
        self._pump()

    def _reap(self) -> None:
        # The counter may already be zero: events are what counts.
        with suppress(BlockingIOError):
            os.eventfd_read(self._eventfd)
        events = self._context.getEvents(min_nr=0, nr=IN_FLIGHT_MAX, timeout=0)
        done = []
        for block, result, _ in events:
            transfer = self._in_flight.pop(block)
            if result in _REDO:
                self._fallback(transfer)
            else:
                transfer.result = result
                done.append(transfer)
        self._put_back([block for block, _, _ in events])
        self._pump()
        if done:
            self._deliver(done)
