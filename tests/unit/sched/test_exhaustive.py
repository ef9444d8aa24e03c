"""Every case of a small world: all kinds of requests, all places, all orders of completion.

The rule is checked in full at each step: a request has started exactly when no older one that it
conflicts with is still there. Nothing else may hold it, and nothing may let it pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import product

import pytest

from ggaoe.proto.ata import Op
from ggaoe.sched.order import OverlapOrder
from ggaoe.sched.queue import Arrival, DeviceQueue, Policy
from ggaoe.sched.request import Request
from unit.sched.lives import every_life
from unit.sched.making import SECTOR, conflict, make
from unit.sched.small_world import (
    Kind,
    cases,
    further_scopes,
    kinds_over,
    overlaps_of,
)

SCOPE_VARIABLE = "GGAOE_TEST_SCOPE"
"""Names further scopes: 5x4 takes a minute, 6x3 two, 6x4 the most of an hour."""


def orders_of_leaving(overlaps: Sequence[int], gone: int = 0) -> Iterator[list[int]]:
    """Every order in which requests that were all there at once can finish."""
    if gone == (1 << len(overlaps)) - 1:
        yield []
    for number, older in enumerate(overlaps):
        if not gone >> number & 1 and not older & ~gone:
            for rest in orders_of_leaving(overlaps, gone | 1 << number):
                yield [number, *rest]


def check_order(kinds: Sequence[Kind], overlaps: Sequence[int], leaving: Sequence[int]) -> None:
    order = OverlapOrder(512)
    requests = [make(*kind) for kind in kinds]
    free = {number for number, request in enumerate(requests) if order.enter(request)}
    assert free == {number for number, older in enumerate(overlaps) if not older}
    gone = 0
    for number in leaving:
        before = gone
        gone |= 1 << number
        expected = [
            later for later, older in enumerate(overlaps) if older & ~before and not older & ~gone
        ]
        assert order.leave(requests[number]) == [requests[later] for later in expected]
    assert order.enter(make(Op.WRITE, 0, 8))


@pytest.mark.parametrize("first", [Op.READ, Op.WRITE])
@pytest.mark.parametrize(("requests", "sectors", "cases_min"), [(4, 3, 20_000), (5, 2, 10_000)])
def test_requests_finish_in_every_order(
    requests: int, sectors: int, cases_min: int, first: Op
) -> None:
    """One of each pair of mirror images: the order knows no left and right."""
    cases = 0
    kinds_all = kinds_over(sectors)
    for kinds in product(kinds_all, repeat=requests):
        if kinds[0][0] is not first:
            continue
        if tuple((op, sectors - at - count, count) for op, at, count in kinds) < kinds:
            continue
        overlaps = overlaps_of(kinds)
        for leaving in orders_of_leaving(overlaps):
            check_order(kinds, overlaps, leaving)
            cases += 1
    assert cases > cases_min


def entered(kinds: Sequence[Kind]) -> tuple[OverlapOrder, list[Request], list[bool]]:
    """An order with these requests, and which of them it lets start at once."""
    order = OverlapOrder(SECTOR)
    requests = [make(*kind) for kind in kinds]
    return order, requests, [order.enter(request) for request in requests]


def knowledge(order: OverlapOrder, requests: Sequence[Request]) -> object:
    """All that `order` knows of these requests, by their numbers."""
    number_of = {request: number for number, request in enumerate(requests)}
    granules = {
        place: (
            granule.writer and number_of[granule.writer],
            [*map(number_of.get, granule.readers)],
        )
        for place, granule in order._granules.items()
    }
    edges = [
        (request.blockers, sorted(number_of[other] for other in request.dependents))
        for request in requests
    ]
    return granules, edges


def check_leaving(kinds: Sequence[Kind]) -> int:
    """Whoever may leave, what is left is as if it had never come; how many may."""
    overlaps = overlaps_of(kinds)
    assert entered(kinds)[2] == [not older for older in overlaps]
    may_leave = [number for number, older in enumerate(overlaps) if not older]
    for number in may_leave:
        order, requests, _ = entered(kinds)
        freed = order.leave(requests[number])
        assert freed == [
            requests[later] for later, older in enumerate(overlaps) if older == 1 << number
        ]
        rest = [other for other in range(len(kinds)) if other != number]
        without = entered([kinds[other] for other in rest])[:2]
        assert knowledge(order, [requests[other] for other in rest]) == knowledge(*without)
    return len(may_leave)


@pytest.mark.parametrize(
    ("requests", "sectors"),
    [*((few, 4) for few in range(1, 5)), (5, 2), *further_scopes(SCOPE_VARIABLE)],
)
@pytest.mark.timeout(7200)
def test_no_trace_is_left_of_who_left(requests: int, sectors: int) -> None:
    """By induction this covers every history of arrivals and departures, however long, in which
    so many requests are there at once: each state is one that arrivals alone lead to."""
    started_s = time.monotonic()
    played = left = 0
    for kinds in cases(requests, sectors):
        left += check_leaving(kinds)
        played += 1
    took_s = time.monotonic() - started_s
    print(
        f"{requests} requests, {sectors} sectors: {played} cases, {left} departures, {took_s:.0f} s"
    )
    assert played >= 2**requests


class _Replay:
    """One life of a queue, told by `path`: at each step which of the possible events happens.

    The events are: the next request arrives, a started request finishes (each), all that is
    unstarted is dropped (once).
    """

    def __init__(self, kinds: Sequence[Kind], queue_length: int) -> None:
        self.queue = DeviceQueue(Policy(queue_length))
        self.queue_length = queue_length
        self.coming = [make(*kind) for kind in kinds]
        self.active: list[Request] = []
        self.running: list[Request] = []
        self.may_drop = True

    def choices(self) -> int:
        waiting = len(self.active) - len(self.running)
        return bool(self.coming) + len(self.running) + bool(self.may_drop and waiting)

    def step(self, choice: int) -> None:
        if self.coming and choice == 0:
            request = self.coming.pop(0)
            is_free = not any(conflict(older, request) for older in self.active)
            self.active.append(request)
            expected = Arrival.READY if is_free else Arrival.BEHIND
            assert self.queue.arrive(request, 0) is expected
        elif choice - bool(self.coming) < len(self.running):
            request = self.running.pop(choice - bool(self.coming))
            self.active.remove(request)
            self.queue.finish(request)
        else:
            self.may_drop = False
            dropped = [request for request in self.active if request not in self.running]
            assert self.queue.drop_unstarted() == dropped
            self.active = [request for request in self.active if request in self.running]
        self.start()

    def start(self) -> None:
        before = list(self.running)
        for vector in self.queue.take(0):
            self.running += vector.members
        free = [
            request
            for at, request in enumerate(self.active)
            if request not in before
            and not any(conflict(older, request) for older in self.active[:at])
        ]
        room = self.queue_length - len(before)
        fresh = self.running[len(before) :]
        assert len(fresh) == min(len(free), room)
        assert all(request in free for request in fresh)
        assert self.queue.in_flight == len(self.running)
        assert self.queue.active == self.active


def lives(kinds: Sequence[Kind], queue_length: int) -> Iterator[_Replay]:
    """Every life; the queue is replayed from its beginning for each."""
    return every_life(lambda: _Replay(kinds, queue_length))


@pytest.mark.parametrize(
    ("requests", "queue_length", "kinds", "lives_min"),
    [
        (3, 64, [*kinds_over(3), (Op.FLUSH, 0, 0)], 20_000),
        (4, 2, [(Op.READ, 0, 1), (Op.READ, 0, 2), (Op.WRITE, 1, 1), (Op.WRITE, 0, 2)], 5_000),
    ],
)
def test_a_queue_lives_through_every_history(
    requests: int, queue_length: int, kinds: list[Kind], lives_min: int
) -> None:
    ended = 0
    for case in product(kinds, repeat=requests):
        for life in lives(case, queue_length):
            assert not life.queue.active
            assert life.queue.in_flight == 0
            ended += 1
    assert ended > lives_min
