"""The queue of one device: limits, tag tracking, fair waiting, and what may start now.

Owns every active request between admission and reply. Time is an argument. At most `queue_length`
requests are in flight; the rest wait, each initiator in turn, and within one in the order in which
they became free to start. What waits is bounded: beyond the budget the newest request is refused,
so nothing old is delayed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from ggaoe.sched.merge import Vector, gather
from ggaoe.sched.order import OverlapOrder
from ggaoe.sched.request import Request

WAITING_BYTES_MAX = 64 << 20
WAITING_BYTES_PER_SOURCE_MAX = 8 << 20
"""So that one host's flood leaves room for the others."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the administrator decides of a device's queue."""

    queue_length: int = 64
    max_delay_ns: int = 1_000_000
    merge_delay_ns: int = 0


class Arrival(Enum):
    """What became of a request that arrived."""

    READY = "ready"
    BEHIND = "behind"
    """It waits for an older request that it overlaps."""
    ABSORBED = "absorbed"
    """Its identical twin is active; one reply answers both."""
    REFUSED = "refused"
    """The budget is used up."""


class DeviceQueue:
    """See the module. `granule_bytes` and `origin_bytes` are the backend's."""

    def __init__(self, policy: Policy, granule_bytes: int = 512, origin_bytes: int = 0) -> None:
        self.policy = policy
        self.in_flight = 0
        self._order = OverlapOrder(granule_bytes, origin_bytes)
        self._active: dict[object, Request] = {}
        self._turns: deque[bytes] = deque()
        self._ready: dict[bytes, deque[Request]] = {}
        self._ready_count = 0
        self._waiting_bytes = 0
        self._waiting_bytes_of: dict[bytes, int] = {}
        self._hold_until_ns = 0

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
        """When `take` should be asked again because of `merge_delay_ns`; None: no need, since
        nothing is held, or only a completion makes room."""
        policy = self.policy
        if policy.merge_delay_ns and self._ready_count and self.in_flight < policy.queue_length:
            return self._hold_until_ns
        return None

    def arrive(self, request: Request, now_ns: int) -> Arrival:
        """Take in `request`, unless its twin is active or the budget is used up."""
        if request.key in self._active:
            return Arrival.ABSORBED
        source_bytes = self._waiting_bytes_of.get(request.source, 0) + request.waiting_bytes
        if (
            self._waiting_bytes + request.waiting_bytes > WAITING_BYTES_MAX
            or source_bytes > WAITING_BYTES_PER_SOURCE_MAX
        ):
            return Arrival.REFUSED
        self._waiting_bytes += request.waiting_bytes
        self._waiting_bytes_of[request.source] = source_bytes
        self._active[request.key] = request
        if not self._order.enter(request):
            return Arrival.BEHIND
        if self._ready_count == 0:
            self._hold_until_ns = now_ns + self.policy.merge_delay_ns
        self._make_ready(request)
        return Arrival.READY

    def _make_ready(self, request: Request) -> None:
        waiting = self._ready.get(request.source)
        if waiting is None:
            waiting = self._ready[request.source] = deque()
            self._turns.append(request.source)
        waiting.append(request)
        self._ready_count += 1

    def take(self, now_ns: int, *, after_completion: bool = False) -> list[Vector]:
        """What is to be started now, merged. A completion ends a `merge_delay_ns` early, so that
        the delay is an upper bound and an idle device never waits for it twice."""
        if not self._ready_count or self.in_flight >= self.policy.queue_length:
            return []
        held = self.policy.merge_delay_ns and now_ns < self._hold_until_ns
        if held and not after_completion:
            return []
        started: list[Request] = []
        while self._ready_count and self.in_flight < self.policy.queue_length:
            source = self._turns.popleft()
            waiting = self._ready[source]
            request = waiting.popleft()
            if waiting:
                self._turns.append(source)
            else:
                del self._ready[source]
            self._ready_count -= 1
            self._unbook(request)
            request.started = True
            self.in_flight += 1
            started.append(request)
        if len(started) > 1:
            started.sort(key=lambda request: request.arrival_ns)
        return gather(started, self.policy.max_delay_ns)

    def _unbook(self, request: Request) -> None:
        self._waiting_bytes -= request.waiting_bytes
        source_bytes = self._waiting_bytes_of.pop(request.source, 0) - request.waiting_bytes
        if source_bytes:
            self._waiting_bytes_of[request.source] = source_bytes

    def finish(self, request: Request) -> None:
        """`request` was started and is answered, or given up: what waited for it may start."""
        assert request.started
        del self._active[request.key]
        self.in_flight -= 1
        for freed in self._order.leave(request):
            self._make_ready(freed)

    def drop_unstarted(self) -> list[Request]:
        """Give up everything that has not started and return it: executing late is never safe,
        dropping always is."""
        dropped = [request for request in self._active.values() if not request.started]
        if not dropped:
            return dropped
        started = [request for request in self._active.values() if request.started]
        self._active = {request.key: request for request in started}
        self._turns.clear()
        self._ready.clear()
        self._ready_count = 0
        self._waiting_bytes = 0
        self._waiting_bytes_of.clear()
        self._order.clear()
        for request in started:
            request.dependents = []
            self._order.enter(request)
        return dropped
