"""Counters of devices and initiators: plain integers that are only ever read from outside.

Names are the ones that `ggaoectl stats --json` prints; `_ns` sums durations from arrival to reply.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ggaoe.engine.histogram import LATENCY_BUCKETS, SIZE_BUCKETS

INITIATORS_MAX = 256
"""Hosts remembered per device; the one that was silent longest gives way."""


@dataclass(slots=True)
class DeviceCounters:
    """One device. `in_flight_sum` over `batches` is the mean queue depth at submission."""

    read_requests: int = 0
    read_bytes: int = 0
    read_ns: int = 0
    write_requests: int = 0
    write_bytes: int = 0
    write_ns: int = 0
    verify_requests: int = 0
    flush_requests: int = 0
    flush_ns: int = 0
    other_requests: int = 0
    merged_requests: int = 0
    vectors: int = 0
    batches: int = 0
    in_flight_sum: int = 0
    waits: int = 0
    """Requests that found the queue full."""
    throttled: int = 0
    """Requests that could have started earlier but for a limit."""
    overlaps: int = 0
    """Requests that waited for an older one on the same sectors."""
    absorbed: int = 0
    commits: int = 0
    retries: int = 0
    """Vectors that were taken apart or continued."""
    ata_errors: int = 0
    aoe_errors: int = 0
    read_latency: list[int] = field(default_factory=lambda: [0] * LATENCY_BUCKETS)
    """Histograms are described in engine/histogram.py."""
    write_latency: list[int] = field(default_factory=lambda: [0] * LATENCY_BUCKETS)
    flush_latency: list[int] = field(default_factory=lambda: [0] * LATENCY_BUCKETS)
    read_sectors: list[int] = field(default_factory=lambda: [0] * SIZE_BUCKETS)
    write_sectors: list[int] = field(default_factory=lambda: [0] * SIZE_BUCKETS)
    drops: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Failures:
    """Requests and flushes that a backend has failed since it was opened."""

    count: int = 0
    last: str | None = None
    """As in `WRITE of sector 8+1 failed: No space left on device (ENOSPC)`."""
    last_s: float = 0.0
    """When that was, on the monotonic clock."""

    def add(self, text: str) -> None:
        """Count one, which `text` describes."""
        self.count += 1
        self.last, self.last_s = text, time.monotonic()

    @property
    def age_s(self) -> float:
        """How long ago the last one was."""
        return max(0.0, time.monotonic() - self.last_s)


@dataclass(slots=True)
class InitiatorCounters:
    """One host at one device; times are seconds of the monotonic clock."""

    interface: str = ""
    first_seen_s: float = 0.0
    last_seen_s: float = 0.0
    read_requests: int = 0
    read_bytes: int = 0
    write_requests: int = 0
    write_bytes: int = 0
    other_requests: int = 0
    errors: int = 0
    absorbed: int = 0
    waits: int = 0
    throttled: int = 0
    in_flight: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    """Errors that were for the host rather than for what it asked."""


class Initiators:
    """The hosts of one device by MAC, the one seen last at the end. `greet` is called with the MAC
    and the interface of each that was not known, and the time."""

    def __init__(self, greet: Callable[[bytes, str, float], None]) -> None:
        self._greet = greet
        self._by_mac: dict[bytes, InitiatorCounters] = {}

    def seen(self, mac: bytes, interface: str, now_s: float) -> InitiatorCounters:
        """The counters of `mac`, which sent something by `interface` at `now_s`. Who is told late
        of it, after something newer, only gets the counters."""
        counters = self._by_mac.get(mac)
        if counters is None:
            if len(self._by_mac) >= INITIATORS_MAX:
                del self._by_mac[next(iter(self._by_mac))]
            counters = InitiatorCounters(first_seen_s=now_s)
            self._greet(mac, interface, now_s)
        elif now_s < counters.last_seen_s:
            return counters
        else:
            del self._by_mac[mac]
        self._by_mac[mac] = counters
        counters.last_seen_s = now_s
        counters.interface = interface
        return counters

    def items(self) -> list[tuple[bytes, InitiatorCounters]]:
        return list(self._by_mac.items())

    def clear(self) -> None:
        """Forget who has been seen; a request in flight counts on in its own reference."""
        self._by_mac.clear()
