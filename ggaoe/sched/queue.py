"""The queue of one device: limits, tag tracking, fair waiting, and what may start now.

Owns every active request between admission and reply. Time is an argument. At most `queue_length`
requests are in flight; the rest wait, each initiator in turn, and within one in the order in which
they became free to start. What waits is bounded, for an initiator, for a device and for all of
them: beyond a bound the newest request is refused, so nothing old is delayed.

Limits decide when the next request may start, not whose: an initiator that has used up its own
leaves the round until there is room again, and comes back to the end of it; where the device's is
used up, everybody waits for the one whose turn it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ggaoe.sched.merge import Vector, gather
from ggaoe.sched.order import OverlapOrder
from ggaoe.sched.request import Request
from ggaoe.sched.throttle import NO_LIMITS, Limits, Throttle

WAITING_BYTES_MAX = 64 << 20
"""Of one device. A write counts with the buffer that it holds, other requests with the data that
they are about to move."""
WAITING_BYTES_PER_SOURCE_MAX = 8 << 20
"""Of one initiator, so that its flood leaves room for the others."""
WAITING_BYTES_TOTAL_MAX = 256 << 20
"""Of all devices of an engine."""
WAITING_BYTES_PER_DEVICE_MIN = 1 << 20
"""Of one device, however much waits for the others."""
WAITING_PER_BUFFER = 4
"""Requests of one initiator that may wait, by the number of buffers that are announced to it. One
that respects the announcement has no more outstanding, with what it has sent again."""
WAITING_PER_SOURCE_MIN = 256
"""Requests of one initiator that may wait however few buffers are announced."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the administrator decides of a device's queue."""

    queue_length: int = 64
    max_delay_ns: int = 1_000_000
    merge_delay_ns: int = 0
    limits: Limits = NO_LIMITS


class Arrival(Enum):
    """What became of a request that arrived."""

    READY = "ready"
    BEHIND = "behind"
    """It waits for an older request that it overlaps."""
    ABSORBED = "absorbed"
    """Its identical twin is active; one reply answers both."""
    REFUSED = "refused"
    """The budget is used up."""


@dataclass(slots=True)
class Waiting:
    """What waits: of one initiator, of a device, or of all devices together."""

    requests: int = 0
    bytes: int = 0

    def add(self, request: Request) -> None:
        self.requests += 1
        self.bytes += request.waiting_bytes

    def remove(self, request: Request) -> None:
        self.requests -= 1
        self.bytes -= request.waiting_bytes


_NOTHING = Waiting()


class DeviceQueue:
    """See the module. `granule_bytes` and `origin_bytes` are the backend's; `total` is what waits
    for all devices of the engine."""

    def __init__(
        self,
        policy: Policy,
        granule_bytes: int = 512,
        origin_bytes: int = 0,
        total: Waiting | None = None,
    ) -> None:
        self.in_flight = 0
        self._throttle: Throttle | None = None
        """None: there is no limit."""
        self._parked: dict[bytes, int] = {}
        """When initiators that have used up their own limits come back into the round."""
        self._limited_until_ns: int | None = None
        """Before that nothing that is ready may start; None: not because of limits."""
        self._ready_number = 0
        self._throttled_number = 0
        """Whoever became ready with this number or a lower one has been delayed by limits."""
        self._order = OverlapOrder(granule_bytes, origin_bytes)
        self._active: dict[object, Request] = {}
        self._turns: deque[bytes] = deque()
        self._ready: dict[bytes, deque[Request]] = {}
        self._ready_count = 0
        self._total = total or Waiting()
        self._load = Waiting()
        self._load_of: dict[bytes, Waiting] = {}
        self._hold_until_ns = 0
        self._policy = Policy()
        self.policy = policy

    @property
    def policy(self) -> Policy:
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        """New limits begin with nothing used of them."""
        if policy.limits != self._policy.limits:
            self._throttle = Throttle(policy.limits) if policy.limits != NO_LIMITS else None
            self._turns.extend(self._parked)
            self._parked.clear()
            self._limited_until_ns = None
        self._policy = policy

    @property
    def waiting(self) -> int:
        """Requests that have arrived and not started."""
        return len(self._active) - self.in_flight

    @property
    def active(self) -> list[Request]:
        """Every request between arrival and finish, in order of arrival."""
        return list(self._active.values())

    @property
    def wake_ns(self) -> int | None:
        """When `take` should be asked again because of `merge_delay_ns` or a limit; None: no need,
        since nothing is held, or only a completion makes room."""
        policy = self.policy
        if not self._ready_count or self.in_flight >= policy.queue_length:
            return None
        if self._limited_until_ns is not None:
            return self._limited_until_ns
        return self._hold_until_ns if policy.merge_delay_ns else None

    def arrive(self, request: Request, now_ns: int) -> Arrival:
        """Take in `request`, unless its twin is active or the budget is used up."""
        if request.key in self._active:
            return Arrival.ABSORBED
        if not self._has_room(request):
            return Arrival.REFUSED
        was_idle = self._ready_count == 0
        if not self._wait(request):
            return Arrival.BEHIND
        if was_idle:
            self._hold_until_ns = now_ns + self.policy.merge_delay_ns
        return Arrival.READY

    def _has_room(self, request: Request) -> bool:
        size_bytes = request.waiting_bytes
        device_bytes = self._load.bytes + size_bytes
        source = self._load_of.get(request.source, _NOTHING)
        return (
            source.requests
            < max(WAITING_PER_SOURCE_MIN, WAITING_PER_BUFFER * self.policy.queue_length)
            and source.bytes + size_bytes <= WAITING_BYTES_PER_SOURCE_MAX
            and device_bytes <= WAITING_BYTES_MAX
            and (
                device_bytes <= WAITING_BYTES_PER_DEVICE_MIN
                or self._total.bytes + size_bytes <= WAITING_BYTES_TOTAL_MAX
            )
        )

    def _book(self, request: Request) -> None:
        for load in (self._total, self._load, self._load_of.setdefault(request.source, Waiting())):
            load.add(request)

    def _unbook(self, request: Request) -> None:
        source = self._load_of[request.source]
        for load in (self._total, self._load, source):
            load.remove(request)
        if not source.requests:
            del self._load_of[request.source]

    def _wait(self, request: Request) -> bool:
        """Take in the newest request; whether it is ready."""
        self._book(request)
        self._active[request.key] = request
        is_ready = self._order.enter(request)
        if is_ready:
            self._make_ready(request)
        return is_ready

    def _make_ready(self, request: Request) -> None:
        waiting = self._ready.get(request.source)
        if waiting is None:
            waiting = self._ready[request.source] = deque()
            self._turns.append(request.source)
        waiting.append(request)
        self._ready_count += 1
        self._ready_number += 1
        request.ready_number = self._ready_number

    def take(self, now_ns: int, *, after_completion: bool = False) -> list[Vector]:
        """What is to be started now, merged. A completion ends a `merge_delay_ns` early, so that
        the delay is an upper bound and an idle device never waits for it twice."""
        if not self._ready_count or self.in_flight >= self.policy.queue_length:
            return []
        self._limited_until_ns = None
        held = self.policy.merge_delay_ns and now_ns < self._hold_until_ns
        if held and not after_completion:
            return []
        if self._parked:
            self._unpark(now_ns)
        started: list[Request] = []
        while self._turns and self.in_flight < self.policy.queue_length:
            if self._throttle is not None and not self._find_turn(self._throttle, now_ns):
                break
            started.append(self._start(self._turns.popleft()))
        if self._ready_count and self.in_flight < self.policy.queue_length:
            self._throttled_number = self._ready_number
            if self._limited_until_ns is None:
                self._limited_until_ns = min(self._parked.values())
        if len(started) > 1:
            started.sort(key=lambda request: request.arrival_ns)
        return gather(started, self.policy.max_delay_ns)

    def _start(self, source: bytes) -> Request:
        """The oldest that is ready of `source`, whose turn it was."""
        waiting = self._ready[source]
        request = waiting.popleft()
        if waiting:
            self._turns.append(source)
        else:
            del self._ready[source]
        self._ready_count -= 1
        self._unbook(request)
        request.started = True
        request.throttled = request.ready_number <= self._throttled_number
        self.in_flight += 1
        return request

    def _find_turn(self, throttle: Throttle, now_ns: int) -> bool:
        """Whether limits let anybody start; then that is the first in the round."""
        while self._turns:
            source = self._turns[0]
            request = self._ready[source][0]
            until_ns = throttle.initiator_ns(request, now_ns)
            if until_ns > now_ns:
                self._parked[source] = until_ns
                self._turns.popleft()
                continue
            until_ns = throttle.device_ns(request, now_ns)
            if until_ns > now_ns:
                self._limited_until_ns = until_ns
                return False
            throttle.use(request)
            return True
        return False

    def _unpark(self, now_ns: int) -> None:
        """Those whose own limits have room again join the round."""
        for source in [source for source, ns in self._parked.items() if ns <= now_ns]:
            del self._parked[source]
            self._turns.append(source)

    def finish(self, request: Request) -> None:
        """`request` was started and is answered, or given up: what waited for it may start."""
        assert request.started
        del self._active[request.key]
        self.in_flight -= 1
        for freed in self._order.leave(request):
            self._make_ready(freed)

    def drop_unstarted(self, of: Callable[[bytes], bool] = lambda _: True) -> list[Request]:
        """Give up everything `of` initiators that has not started and return it: executing late is
        never safe, dropping always is."""
        active = self.active
        dropped = [request for request in active if not request.started and of(request.source)]
        if dropped:
            gone = set(dropped)
            self._take_in_again([request for request in active if request not in gone])
        return dropped

    def set_granule(self, granule_bytes: int, origin_bytes: int) -> None:
        """Another backend takes the place of the one before; nothing has started, and what waits
        is ordered by the granules of the new one."""
        assert not self.in_flight
        self._order = OverlapOrder(granule_bytes, origin_bytes)
        self._take_in_again(self.active)

    def _take_in_again(self, requests: list[Request]) -> None:
        """Have exactly these active, in order of arrival."""
        for request in self._active.values():
            if not request.started:
                self._unbook(request)
        self._active.clear()
        self._turns.clear()
        self._parked.clear()
        self._limited_until_ns = None
        self._ready.clear()
        self._ready_count = 0
        self._order.clear()
        for request in requests:
            request.dependents = []
            if request.started:
                self._active[request.key] = request
                self._order.enter(request)
            else:
                self._wait(request)
