"""When a link receives more for nothing than we can look at, the kernel throws such frames away.

Owns when, and for how long; what is for nothing is its caller's to say. Frames that the kernel
throws away are neither received nor counted, so it does so only while there are too many of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from ggaoe.engine.limit import LOG_PAUSE_S, Bucket
from ggaoe.net.link import Link

USELESS_RATE_PER_S = 2000
USELESS_BURST = 1000
"""Frames of one link that lead to nothing, until the kernel is asked: a few milliseconds' work."""
NARROW_S = 3.0
SHED_MAX = 8
"""Hosts that are shed at a time."""

_log = logging.getLogger("ggaoe.engine")


class FloodGuard:
    """Of one link; `addresses` tells which shelf.slot it serves now."""

    def __init__(self, link: Link, addresses: Callable[[], Collection[tuple[int, int]]]) -> None:
        self._link = link
        self._addresses = addresses
        self._bucket = Bucket(USELESS_RATE_PER_S, USELESS_BURST)
        self._shed: set[bytes] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._logged_s = -LOG_PAUSE_S

    def useless(self, now_s: float, frames: int = 1, source: bytes | None = None) -> None:
        """`frames` were received for nothing; with `source`, because that host asks for too much
        of what is neither reading nor writing."""
        if self._bucket.take(now_s, frames):
            return
        before = len(self._shed)
        if source is not None and before < SHED_MAX:
            self._shed.add(source)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(NARROW_S, self.widen)
        elif len(self._shed) == before:
            return
        self._link.narrow(self._addresses(), self._shed)
        if now_s - self._logged_s >= LOG_PAUSE_S:
            self._logged_s = now_s
            _log.warning(
                "%s: flooded with frames that lead to nothing: while that lasts, the kernel throws "
                "most of them away, and they are not counted",
                self._link.name,
            )

    def widen(self) -> None:
        """Receive everything again, for now: the flood is over, or other addresses are served."""
        if self._timer is not None:
            self._timer.cancel()
            # Should the kernel refuse, or anything else fail, it is tried again.
            self._timer = asyncio.get_running_loop().call_later(NARROW_S, self.widen)
            self._link.widen()
            self._timer.cancel()
            self._timer = None
            self._shed.clear()

    def close(self) -> None:
        """The link is about to be closed."""
        if self._timer is not None:
            self._timer.cancel()
