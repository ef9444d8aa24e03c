"""How many answers hosts can have of what is not reading or writing: token buckets, so that nobody
makes of us an amplifier against somebody else by a false source address.

Owns the rates. Knows neither frames nor devices.
"""

from __future__ import annotations

SOURCE_RATE_PER_S = 1000
SOURCE_BURST = 2000
"""Answers to one source by one device. A Linux host asks twice a minute; whoever tries a disk out
by hand, or writes to one that refuses it, asks some hundred times."""
LINK_RATE_PER_S = 20_000
LINK_BURST = 100_000
"""Answers by one link, to all sources together: a source can be varied, and every host's address
can be somebody else's. When power returns, 250 hosts find 200 devices by two requests each."""
SOURCES_MAX = 256
"""Sources remembered per device; the one that was silent longest gives way."""
LOG_PAUSE_S = 60.0


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


class SourceLimit:
    """A bucket for each source of one device."""

    def __init__(self) -> None:
        self._buckets: dict[bytes, Bucket] = {}

    def take(self, source: bytes, now_s: float) -> bool:
        """Whether `source` may have one more answer now."""
        bucket = self._buckets.pop(source, None)
        if bucket is None:
            if len(self._buckets) >= SOURCES_MAX:
                del self._buckets[next(iter(self._buckets))]
            bucket = Bucket(SOURCE_RATE_PER_S, SOURCE_BURST)
        self._buckets[source] = bucket
        return bucket.take(now_s)
