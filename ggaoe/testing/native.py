"""The native engine in memory: its core has no threads, and takes its turns in the event loop.

Importing it raises ImportError where the core was not built. Must not know: any test.
"""

from __future__ import annotations

import asyncio
import time

from ggaoe.engine import limit
from ggaoe.engine.base import SYSTEM_CLOCK, Clock, Hooks, Port
from ggaoe.engine.native import NativeEngine
from ggaoe.engine.native.core import CoreLink
from ggaoe.net.link import HEAD_BYTES, Interface, Link, LinkCounters, LinkSettings
from ggaoe.proto.frame import ETHERNET_BYTES, sectors_that_fit
from ggaoe.testing.link import MemoryLink


class NativeMemoryLink(MemoryLink):
    """A link in memory whose frames the core has; `core` is set once the port is open."""

    core: CoreLink | None = None

    def __init__(self, interface: Interface, settings: LinkSettings | None = None) -> None:
        self._counters = LinkCounters()
        self._sent: list[bytes] = []
        super().__init__(interface, settings)

    @property
    def counters(self) -> LinkCounters:
        if self.core is not None:
            values, drops = self.core.counters()
            for name, value in values.items():
                setattr(self._counters, name, getattr(self._counters, name) + value)
            for reason, count in drops.items():
                self._counters.drops[reason] += count
        return self._counters

    @counters.setter
    def counters(self, counters: LinkCounters) -> None:
        self._counters = counters

    @property
    def sent(self) -> list[bytes]:
        if self.core is not None:
            self._sent += self.core.sent()
        return self._sent

    @sent.setter
    def sent(self, sent: list[bytes]) -> None:
        self._sent = sent

    @property
    def room_frames(self) -> int | None:
        if self.core is None:
            return None
        room_frames = self.core.room_frames
        return room_frames if room_frames >= 0 else None

    @room_frames.setter
    def room_frames(self, room_frames: int | None) -> None:
        if self.core is not None:
            self.core.room_frames = -1 if room_frames is None else room_frames

    @property
    def backlog_frames(self) -> int:
        return self.core.backlog_frames if self.core is not None else 0

    def deliver(self, frame: bytes, arrival_ns: int | None = None) -> None:
        if self.core is not None:
            self.core.deliver(frame, time.time_ns() if arrival_ns is None else arrival_ns)

    def forget_backlog(self) -> None:
        if self.core is not None:
            self.core.forget_delivered()

    def let_go(self) -> None:
        """The core is about to close it: keep what it knows."""
        _ = self.counters, self.strays.items(), self.sent
        self.core = None


class NativeOnMemory(NativeEngine):
    """The native engine on links in memory."""

    def __init__(self, hooks: Hooks, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(hooks, clock)
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._core.event_fd, self._turn)

    def start(self) -> None:
        """Without threads."""

    def _turn(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wait_ns = self._core.turn(self._clock.monotonic_ns(), self._clock.wall_ns())
        if wait_ns >= 0:
            self._timer = self._loop.call_later(wait_ns / 1e9, self._turn)

    def _open_link(self, interface: Interface, settings: LinkSettings) -> Link:
        return NativeMemoryLink(interface, settings)

    def _open_core_link(self, link: Link) -> CoreLink:
        assert isinstance(link, NativeMemoryLink)
        link.core = self._core.open_link(
            -1,
            link.index,
            link.mac,
            sectors_that_fit(link.mtu_bytes),
            link.mtu_bytes + ETHERNET_BYTES - HEAD_BYTES,
            None,
            limit.WILDCARD_RATE,
            limit.REFUSED_RATE,
        )
        return link.core

    def _port_closed(self, port: Port) -> None:
        assert isinstance(port.link, NativeMemoryLink)
        port.link.let_go()
        super()._port_closed(port)

    def close(self) -> None:
        self._loop.remove_reader(self._core.event_fd)
        if self._timer is not None:
            self._timer.cancel()
        super().close()
