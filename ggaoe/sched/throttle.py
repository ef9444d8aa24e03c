"""Limits that a user sets: when a device, and each of its initiators, may start one more request.

Owns the arithmetic of rates, exact in integers, and what has been used of them. Time is an
argument. Knows neither queues nor what is done with a request that has to wait.
"""

from __future__ import annotations

from typing import NamedTuple

from ggaoe.sched.request import Request

NANO = 1_000_000_000
BURST_MS = 100
"""What a limit lets through at once, in time of its rate, unless told: more would be felt by those
whom the limit is to protect, less would slow down who comes in small batches."""
DELAY_MS = 100
"""How long a host that makes use of all that is announced waits for a limit: the resolution in
which a Linux initiator measures its time-outs."""
ANNOUNCED_MIN = 2
"""A Linux initiator never brings up a device that announces one buffer."""
TYPICAL_BYTES = 8192
"""Of a request by jumbo frames. Smaller ones wait the less."""
INITIATORS_MAX = 256
"""Initiators remembered; the one that started nothing for the longest time gives way."""


class Rate(NamedTuple):
    """So many requests or bytes per second, and so many at once; 0 per second: any number."""

    per_s: int = 0
    burst: int = 0


def rate(per_s: int, burst: int = 0) -> Rate:
    """A rate with the usual burst, if none is given; of 0 per second, none of either."""
    return Rate(per_s, burst or max(1, per_s * BURST_MS // 1000)) if per_s else Rate()


class Limits(NamedTuple):
    """Of a device, and of each of its initiators by itself: requests, and bytes that are moved."""

    iops: Rate = Rate()
    bandwidth: Rate = Rate()
    initiator_iops: Rate = Rate()
    initiator_bandwidth: Rate = Rate()

    def announced(self, queue_length: int) -> int:
        """How many requests to announce to hosts. Within `DELAY_MS` no more can start anyway: what
        a host had in the queue beyond that would only wait, until it is sent again in vain."""
        counts = [queue_length]
        for limit, cost in zip(self, (1, TYPICAL_BYTES) * 2, strict=True):
            if limit.per_s:
                counts.append(limit.per_s * DELAY_MS // (1000 * cost))
        return max(ANNOUNCED_MIN, min(counts))


NO_LIMITS = Limits()


class Meter:
    """What has been used of one rate and not been made good by time; both in billionths."""

    __slots__ = ("_burst", "_owed", "_per_s", "_since_ns")

    def __init__(self, limit: Rate) -> None:
        self._per_s = limit.per_s
        self._burst = limit.burst * NANO
        self._owed = 0
        self._since_ns = 0

    def free_ns(self, cost: int, now_ns: int) -> int:
        """When `cost` more may be used; `now_ns`: at once. What is larger than the burst may be
        used where nothing is owed, and is made good afterwards."""
        self._owed = max(0, self._owed - (now_ns - self._since_ns) * self._per_s)
        self._since_ns = now_ns
        over = self._owed + min(cost * NANO, self._burst) - self._burst
        return now_ns + max(0, -(-over // self._per_s))

    def use(self, cost: int) -> None:
        self._owed += cost * NANO


class _Meters:
    """Those of one device, or of one initiator."""

    __slots__ = ("_bytes", "_requests")

    def __init__(self, iops: Rate, bandwidth: Rate) -> None:
        self._requests = Meter(iops) if iops.per_s else None
        self._bytes = Meter(bandwidth) if bandwidth.per_s else None

    def free_ns(self, moved_bytes: int, now_ns: int) -> int:
        free_ns = now_ns
        if self._requests is not None:
            free_ns = self._requests.free_ns(1, now_ns)
        if self._bytes is not None and moved_bytes:
            free_ns = max(free_ns, self._bytes.free_ns(moved_bytes, now_ns))
        return free_ns

    def use(self, moved_bytes: int) -> None:
        if self._requests is not None:
            self._requests.use(1)
        if self._bytes is not None:
            self._bytes.use(moved_bytes)


class Throttle:
    """Limits in force, of which nothing has been used yet."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._device = _Meters(limits.iops, limits.bandwidth)
        self._initiators: dict[bytes, _Meters] = {}

    def device_ns(self, request: Request, now_ns: int) -> int:
        """When the device's limits let `request` start; `now_ns`: at once."""
        return self._device.free_ns(_moved_bytes(request), now_ns)

    def initiator_ns(self, request: Request, now_ns: int) -> int:
        """The same of its initiator's."""
        meters = self._initiators.get(request.source)
        if meters is None:
            if len(self._initiators) >= INITIATORS_MAX:
                del self._initiators[next(iter(self._initiators))]
            meters = _Meters(self._limits.initiator_iops, self._limits.initiator_bandwidth)
            self._initiators[request.source] = meters
        return meters.free_ns(_moved_bytes(request), now_ns)

    def use(self, request: Request) -> None:
        """`request` starts, as it was found that it may."""
        moved_bytes = _moved_bytes(request)
        self._device.use(moved_bytes)
        meters = self._initiators.pop(request.source)
        meters.use(moved_bytes)
        self._initiators[request.source] = meters


def _moved_bytes(request: Request) -> int:
    """To and from the store, which a VERIFY is read from, too. A FLUSH has none."""
    return request.length_bytes
