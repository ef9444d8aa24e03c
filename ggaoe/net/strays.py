"""Frames that came to a link and to no device: the last one of each host, for whoever asks why it
is not served.

Owns what is kept of them, and of how many hosts. Knows no reason's meaning. The compiled twin is in
engine/native/stray.pxi.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

HOSTS_MAX = 256
"""Per link; the one that was silent longest gives way."""


class Stray(NamedTuple):
    """A frame that was dropped for `reason`, a key of `LinkCounters.drops`, at `time_s` of the
    monotonic clock; `head` has its first 36 bytes, or all where it is shorter."""

    time_s: float
    length_bytes: int
    head: bytes
    reason: str


class Strays:
    """Those of one link, by MAC of 6 bytes."""

    def __init__(self) -> None:
        self._by_mac: dict[bytes, Stray] = {}

    def add(self, stray: Stray) -> None:
        """Keep `stray`, unless a later one of its host is known, or it has no source."""
        mac = bytes(stray.head[6:12])
        if len(mac) < 6:
            return
        known = self._by_mac.pop(mac, None)
        if known is not None and known.time_s > stray.time_s:
            stray = known
        elif known is None and len(self._by_mac) >= HOSTS_MAX:
            del self._by_mac[next(iter(self._by_mac))]
        self._by_mac[mac] = stray

    def merge(self, strays: Iterable[Stray]) -> None:
        """As if each had been added when it came."""
        in_order = sorted([*self._by_mac.values(), *strays])
        self._by_mac.clear()
        for stray in in_order:
            self.add(stray)

    def items(self) -> list[tuple[bytes, Stray]]:
        """Of each host the last one; the host seen last at the end."""
        return list(self._by_mac.items())
