"""A link in memory: frames in and out as bytes, at the times and in the amounts that a test says.

Owns what has arrived and what was sent. Draws no number, reads the clock only where no arrival time
is given, and must not know any command's meaning.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress

from ggaoe.net.buffers import BufferPool
from ggaoe.net.link import HEAD_BYTES, Frame, Interface, Link, LinkCounters, LinkSettings
from ggaoe.net.strays import Strays
from ggaoe.proto.frame import ETHERNET_BYTES


class MemoryLink(Link):
    """What `deliver` is given, `receive` returns; what `send` takes is in `sent`, oldest first.

    `room_frames` is how many more frames the transmit queue takes (None: any number): raise it, and
    held replies follow when their sender tries again.
    """

    def __init__(self, interface: Interface, settings: LinkSettings | None = None) -> None:
        settings = settings or LinkSettings()
        self.name = interface.name
        self.index = interface.index
        self.mac = interface.mac
        self.is_loopback = interface.is_loopback
        self.mtu_bytes = min(interface.mtu_bytes, settings.mtu_bytes or interface.mtu_bytes)
        self.counters = LinkCounters()
        self.strays = Strays()
        self.sent: list[bytes] = []
        self.room_frames: int | None = None
        self.is_open = True
        self.narrowed_to: tuple[set[tuple[int, int]], set[bytes]] | None = None
        """The hint that is in force; what is delivered arrives all the same."""
        self._frame_bytes_max = interface.mtu_bytes + ETHERNET_BYTES
        self._pool = BufferPool(self._frame_bytes_max - HEAD_BYTES)
        self._arrived: deque[tuple[bytes, int]] = deque()
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @property
    def backlog_frames(self) -> int:
        """Frames that have been delivered and not received."""
        return len(self._arrived)

    def deliver(self, frame: bytes, arrival_ns: int | None = None) -> None:
        """`frame` arrives behind those that wait, stamped `arrival_ns` of the wall clock, or now;
        a closed link loses it, and any link one that is longer than its interface carries."""
        if not self.is_open:
            return
        if len(frame) > self._frame_bytes_max:
            self.counters.drops["truncated"] += 1
            return
        self._arrived.append((frame, time.time_ns() if arrival_ns is None else arrival_ns))
        os.eventfd_write(self._eventfd, 1)

    def fileno(self) -> int:
        return self._eventfd

    def receive(self, frames_max: int) -> list[Frame]:
        count = min(frames_max, len(self._arrived))
        frames = [self._frame(*self._arrived.popleft()) for _ in range(count)]
        if not self._arrived:
            with suppress(BlockingIOError):
                os.eventfd_read(self._eventfd)
        if frames:
            self.counters.rx_batches += 1
            self.counters.rx_frames += count
            self.counters.rx_bytes += sum(map(len, frames))
        return frames

    def _frame(self, content: bytes, arrival_ns: int) -> Frame:
        head, rest = content[:HEAD_BYTES], content[HEAD_BYTES:]
        if not rest:
            return Frame(head, memoryview(b""), arrival_ns)
        lease = self._pool.borrow()
        lease.view[: len(rest)] = rest
        return Frame(head, lease.view[: len(rest)], arrival_ns, lease)

    def send(self, frames: Sequence[Sequence[bytes | memoryview]]) -> int:
        taken = refused = 0
        for parts in frames:
            if self.room_frames == 0:
                self.counters.tx_held += 1
                break
            taken += 1
            frame = b"".join(parts)
            if len(frame) > self.mtu_bytes + ETHERNET_BYTES:
                refused += 1
                continue
            if self.room_frames is not None:
                self.room_frames -= 1
            self.sent.append(frame)
            self.counters.tx_bytes += len(frame)
        if taken > refused:
            self.counters.tx_batches += 1
            self.counters.tx_frames += taken - refused
        self.counters.drops["tx_refused"] += refused
        return taken

    def narrow(self, addresses: Collection[tuple[int, int]], shed: Collection[bytes]) -> None:
        self.counters.narrowed += 1
        self.narrowed_to = set(addresses), set(shed)

    def widen(self) -> None:
        self.narrowed_to = None

    def forget_backlog(self) -> None:
        """What was delivered and not received has never arrived."""
        self._arrived.clear()
        with suppress(BlockingIOError):
            os.eventfd_read(self._eventfd)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._arrived.clear()
            os.close(self._eventfd)
