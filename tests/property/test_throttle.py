"""Whatever arrives whenever: no window sees more than burst and rate allow, and nobody waits for a
limit that has room. Rates are recomputed in fractions, from the times of the starts alone."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from hypothesis import given, note, settings
from hypothesis import strategies as st

from ggaoe.proto.ata import Op
from ggaoe.sched.queue import DeviceQueue, Policy
from ggaoe.sched.request import Request
from ggaoe.sched.throttle import Limits, Rate
from unit.sched.making import MS, A, B, C, make, started

SOURCES = (A, B, C)
S = 1000 * MS

NO_RATE = st.just(Rate())
IOPS = NO_RATE | st.builds(Rate, st.integers(1, 5000), st.integers(1, 20))
BANDWIDTH = NO_RATE | st.builds(Rate, st.integers(100, 10**8), st.integers(1, 20_000))
LIMITS = st.builds(Limits, IOPS, BANDWIDTH, IOPS, BANDWIDTH)
OPS = st.sampled_from((Op.READ, Op.READ, Op.WRITE, Op.FLUSH, Op.VERIFY))
ARRIVE = st.tuples(OPS, st.integers(1, 16), st.sampled_from(SOURCES))
STEP = ARRIVE | st.sampled_from((1, MS // 7, 5 * MS, S)) | st.just("wake")


class Usage:
    """What has started of one device or initiator, and when."""

    def __init__(self, limit: Rate) -> None:
        self.limit = limit
        self.starts: list[tuple[int, int]] = []

    def has_room(self, cost: int, now_ns: int) -> bool:
        per_s, burst = self.limit
        owed, last_ns = Fraction(0), 0
        for at_ns, used in self.starts:
            owed = max(Fraction(0), owed - Fraction((at_ns - last_ns) * per_s, S)) + used
            last_ns = at_ns
        owed = max(Fraction(0), owed - Fraction((now_ns - last_ns) * per_s, S))
        return not per_s or not cost or owed + min(cost, burst) <= burst

    def check(self) -> None:
        per_s, burst = self.limit
        if not per_s:
            return
        burst = max([burst, *(cost for _, cost in self.starts)])
        for first in range(len(self.starts)):
            used = 0
            for at_ns, cost in self.starts[first:]:
                used += cost
                allowed = burst + Fraction((at_ns - self.starts[first][0]) * per_s, S)
                assert used <= allowed


class Books:
    """Of one device with its initiators."""

    def __init__(self, limits: Limits) -> None:
        self.device = (Usage(limits.iops), Usage(limits.bandwidth))
        self.own = {
            source: (Usage(limits.initiator_iops), Usage(limits.initiator_bandwidth))
            for source in SOURCES
        }

    def of(self, request: Request) -> list[tuple[Usage, int]]:
        return [*self.device_of(request), *self.own_of(request)]

    def device_of(self, request: Request) -> list[tuple[Usage, int]]:
        return list(zip(self.device, _costs(request), strict=True))

    def own_of(self, request: Request) -> list[tuple[Usage, int]]:
        return list(zip(self.own[request.source], _costs(request), strict=True))

    def start(self, request: Request, now_ns: int) -> None:
        for usage, cost in self.of(request):
            usage.starts.append((now_ns, cost))


def _costs(request: Request) -> tuple[int, int]:
    return 1, request.length_bytes if request.op is not Op.FLUSH else 0


def has_room(usages: list[tuple[Usage, int]], now_ns: int) -> bool:
    return all(usage.has_room(cost, now_ns) for usage, cost in usages)


@settings(max_examples=300, derandomize=True)
@given(LIMITS, st.lists(STEP, min_size=5, max_size=60), st.sampled_from((2, 64)))
def test_no_more_than_allowed_and_no_later_than_needed(
    limits: Limits, steps: list[object], queue_length: int
) -> None:
    queue = DeviceQueue(Policy(queue_length, max_delay_ns=0, limits=limits))
    books = Books(limits)
    waiting: dict[bytes, list[Request]] = {source: [] for source in SOURCES}
    now_ns, sector = 7 * S, 0

    def take() -> int:
        fresh = started(queue.take(now_ns))
        for request in sorted(fresh, key=lambda request: request.ready_number):
            assert waiting[request.source].pop(0) is request
            assert has_room(books.own_of(request), now_ns)
            books.start(request, now_ns)
        if queue.in_flight < queue_length:
            nobody_waits_in_vain(fresh)
        for request in fresh:
            queue.finish(request)
        return len(fresh)

    def nobody_waits_in_vain(fresh: list[Request]) -> None:
        heads = [requests[0] for requests in waiting.values() if requests]
        could = [head for head in heads if has_room(books.own_of(head), now_ns)]
        # The device's limits keep back the one whose turn it is, and so everybody.
        assert not could or not all(has_room(books.device_of(head), now_ns) for head in could)

    def wake() -> None:
        """Something starts; whose own limits have room may still have to wait for the device's."""
        nonlocal now_ns
        for _ in range(1 + len(SOURCES)):
            wake_ns = queue.wake_ns
            assert wake_ns is not None
            assert now_ns < wake_ns
            assert queue.take(wake_ns - 1) == []
            now_ns = wake_ns
            if take():
                return
        raise AssertionError("woken for nothing")

    for step in steps:
        if step == "wake":
            if queue.wake_ns is not None:
                wake()
        elif isinstance(step, int):
            now_ns += step
            take()
        else:
            op, sectors, source = step  # type: ignore[misc]
            length = 0 if op is Op.FLUSH else sectors
            request = make(op, sector, length, source=source, at=now_ns)
            sector += sectors
            queue.arrive(request, now_ns)
            waiting[source].append(request)
            take()
    while queue.waiting:
        note(f"{now_ns}: {waiting}")
        if queue.wake_ns is None:  # there was no room, and there is now
            take()
        else:
            wake()
    for usage in (*books.device, *(usage for own in books.own.values() for usage in own)):
        usage.check()
        assert all(one <= two for (one, _), (two, _) in pairwise(usage.starts))


def test_a_window_that_is_too_full_is_noticed() -> None:
    """Of the checks above."""
    usage = Usage(Rate(10, 2))
    usage.starts = [(0, 1), (0, 1), (S // 10, 1)]
    usage.check()
    usage.starts.append((S // 10 + 1, 1))
    try:
        usage.check()
    except AssertionError:
        return
    raise AssertionError("four within a tenth of a second")
