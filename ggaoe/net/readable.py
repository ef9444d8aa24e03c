"""Waiting for frames or messages on a descriptor that may have an error to report.

libuv, and so uvloop, stops watching a descriptor for good once epoll shows an error on it, which a
packet socket has after its interface was taken down and a netlink socket after events were lost. An
epoll instance around the descriptor has no errors: it is readable until the error has been read.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


class Readable:
    """Calls `callback` on `loop` while `descriptor` is readable or has an error, until `close()`.

    To be closed before the descriptor is.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        callback: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._events = select.EPOLLIN
        self._epoll = select.epoll()
        self._epoll.register(descriptor, select.EPOLLIN)
        loop.add_reader(self._epoll.fileno(), callback)

    def watch_room(self, wanted: bool) -> None:
        """From now on call `callback` also while the descriptor is writable, or no longer."""
        events = select.EPOLLIN | select.EPOLLOUT if wanted else select.EPOLLIN
        if events != self._events:
            self._events = events
            self._epoll.modify(self._descriptor, events)

    def close(self) -> None:
        """Idempotent."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
