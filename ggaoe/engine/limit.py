"""How many answers hosts can have of what is not reading or writing: token buckets, so that nobody
makes of us an amplifier against somebody else by a false source address.

Owns the rates. Knows neither frames nor devices.
"""

from __future__ import annotations

from ggaoe.sched.throttle import Rate

SOURCE_RATE_PER_S = 1000
SOURCE_BURST = 2000
"""Answers to one source by one device. A Linux host asks twice a minute; whoever tries a disk out
by hand, or writes to one that refuses it, asks some hundred times."""
LINK_RATE_PER_S = 20_000
LINK_BURST = 100_000
"""Answers by one link, to all sources together: a source can be varied, and every host's address
can be somebody else's. When power returns, 250 hosts find 200 devices by two requests each."""
WILDCARD_RATE = Rate(1000, 2000)
"""Transfers of one link to devices by wildcard: one frame asks every device for data."""
REFUSED_RATE = Rate(2000, 2000)
"""Refused requests of one link that the native engine leaves to Python, which answers them."""
SOURCES_MAX = 256
"""Sources that have a bucket of their own, per device; beyond, all newcomers share one."""
LOG_PAUSE_S = 60.0
NEWS_RATE_PER_S = 1
NEWS_BURST = 300
"""Log lines of one device about hosts that were not known, or are refused."""


class Bucket:
    """`burst` at once, and `rate_per_s` on average, by any clock that does not go back."""

    __slots__ = ("_burst", "_rate_per_s", "_since_s", "_tokens")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._since_s = float("-inf")

    def take(self, now_s: float, count: int = 1) -> bool:
        """Whether so many more are within the rate."""
        gained = (now_s - self._since_s) * self._rate_per_s
        self._tokens = min(self._burst, self._tokens + gained)
        self._since_s = now_s
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    def is_full(self, now_s: float) -> bool:
        """Whether it is as good as a new one by now."""
        return self._tokens + (now_s - self._since_s) * self._rate_per_s >= self._burst


class SourceLimit:
    """A bucket for each source of one device, the one that was silent longest first. Only a full
    one is forgotten: otherwise whoever uses enough addresses in turn would never find one empty."""

    def __init__(self) -> None:
        self._buckets: dict[bytes, Bucket] = {}
        self._newcomers = Bucket(SOURCE_RATE_PER_S, SOURCE_BURST)

    def __contains__(self, source: bytes) -> bool:
        """Whether `source` has a bucket of its own."""
        return source in self._buckets

    def take(self, source: bytes, now_s: float) -> bool:
        """Whether `source` may have one more answer now."""
        bucket = self._buckets.pop(source, None)
        if bucket is None:
            if len(self._buckets) >= SOURCES_MAX:
                oldest = next(iter(self._buckets))
                if not self._buckets[oldest].is_full(now_s):
                    return self._newcomers.take(now_s)
                del self._buckets[oldest]
            bucket = Bucket(SOURCE_RATE_PER_S, SOURCE_BURST)
        self._buckets[source] = bucket
        return bucket.take(now_s)
