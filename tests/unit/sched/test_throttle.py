"""Limits: how much starts when, who waits for it, and what hosts are told."""

from __future__ import annotations

import pytest

from ggaoe.sched.queue import Arrival, DeviceQueue, Policy
from ggaoe.sched.request import Request
from ggaoe.sched.throttle import (
    INITIATORS_MAX,
    NO_LIMITS,
    Limits,
    Rate,
    Throttle,
    rate,
)
from unit.sched.making import MS, A, B, C, flush, read, started, verify, write

S = 1000 * MS
NOW = 77 * S
"""Some time after the clock began."""


def queue_with(limits: Limits, **policy: int) -> DeviceQueue:
    return DeviceQueue(Policy(max_delay_ns=0, limits=limits, **policy))


def arrived(queue: DeviceQueue, *requests: Request, at: int = NOW) -> list[Request]:
    for request in requests:
        assert queue.arrive(request, at) is Arrival.READY
    return list(requests)


def some(count: int, **how: object) -> list[Request]:
    return [read(2 * number, **how) for number in range(count)]


# --- how much ------------------------------------------------------------------------------


def test_a_burst_starts_at_once_and_the_rest_at_the_rate() -> None:
    queue = queue_with(Limits(iops=Rate(100, 3)))
    requests = arrived(queue, *some(6))
    assert started(queue.take(NOW)) == requests[:3]
    for number, request in enumerate(requests[3:], start=1):
        due_ns = NOW + number * 10 * MS
        assert queue.wake_ns == due_ns
        assert queue.take(due_ns - 1) == []
        assert started(queue.take(due_ns)) == [request]
    assert queue.wake_ns is None


def test_what_is_not_used_is_not_saved_beyond_the_burst() -> None:
    queue = queue_with(Limits(iops=Rate(100, 2)))
    arrived(queue, *some(2))
    queue.take(NOW)
    late = NOW + 3600 * S
    requests = arrived(queue, *some(5), at=late)
    assert started(queue.take(late)) == requests[:2]


def test_bytes_count_and_not_requests() -> None:
    queue = queue_with(Limits(bandwidth=Rate(512_000, 2048)))
    requests = arrived(queue, read(0, 1), write(10, 2), read(20, 2))
    assert started(queue.take(NOW)) == requests[:2]
    assert queue.wake_ns == NOW + MS  # half a KiB is left, half a KiB is missing
    assert queue.take(NOW + MS - 1) == []
    assert started(queue.take(NOW + MS)) == requests[2:]


def test_a_request_larger_than_the_burst_starts_and_is_made_good() -> None:
    queue = queue_with(Limits(bandwidth=Rate(512_000, 512)))
    large, small = arrived(queue, read(0, 16), read(20))
    assert started(queue.take(NOW)) == [large]
    assert queue.wake_ns == NOW + 16 * MS
    assert started(queue.take(NOW + 16 * MS)) == [small]


def test_a_flush_has_no_bytes_and_a_verify_those_that_it_reads() -> None:
    queue = queue_with(Limits(bandwidth=Rate(512_000, 512)))
    requests = arrived(queue, flush(), verify(100, 255), flush(), read(0))
    assert started(queue.take(NOW)) == requests[:3]
    assert queue.wake_ns == NOW + 255 * MS
    queue = queue_with(Limits(iops=Rate(10, 1)))
    requests = arrived(queue, flush(), verify(0), read(9))
    assert started(queue.take(NOW)) == requests[:1]
    assert started(queue.take(NOW + 100 * MS)) == requests[1:2]


def test_the_stricter_of_two_limits_holds() -> None:
    queue = queue_with(Limits(iops=Rate(1000, 10), bandwidth=Rate(51_200, 1024)))
    requests = arrived(queue, *some(4))
    assert started(queue.take(NOW)) == requests[:2]
    assert queue.wake_ns == NOW + 10 * MS


def test_slow_rates_are_exact() -> None:
    """A third of a request per step, without a rounding that adds up."""
    queue = queue_with(Limits(iops=Rate(3, 1)))
    requests = arrived(queue, *some(31))
    times = []
    now_ns = NOW
    for _ in requests:
        assert len(started(queue.take(now_ns))) == 1
        times.append(now_ns)
        now_ns = queue.wake_ns or now_ns
    assert 10 * S <= times[-1] - times[0] <= 10 * S + len(times)


# --- who -----------------------------------------------------------------------------------


def test_initiators_take_turns_under_the_devices_limit() -> None:
    queue = queue_with(Limits(iops=Rate(1000, 1)))
    many, few = some(5, source=A), [read(100, source=B), read(200, source=B)]
    arrived(queue, *many, *few)
    order = []
    for step in range(7):
        order += started(queue.take(NOW + step * MS))
    assert order == [many[0], few[0], many[1], few[1], *many[2:]]


def test_small_requests_do_not_overtake_a_large_one_for_ever() -> None:
    queue = queue_with(Limits(bandwidth=Rate(512_000, 4096)))
    first = arrived(queue, read(0, 8, source=A))
    assert started(queue.take(NOW)) == first
    large, *small = arrived(queue, read(100, 8, source=A), *some(8, source=B))
    assert queue.take(NOW + MS) == []  # though there is room for a small one
    assert queue.wake_ns == NOW + 8 * MS
    assert started(queue.take(NOW + 8 * MS)) == [large]
    assert started(queue.take(NOW + 9 * MS)) == small[:1]


def test_an_initiators_limit_is_its_own() -> None:
    queue = queue_with(Limits(initiator_iops=Rate(100, 1)))
    greedy = arrived(queue, *some(3, source=A))
    modest = arrived(queue, read(100, source=B))
    assert started(queue.take(NOW)) == [greedy[0], *modest]
    assert queue.wake_ns == NOW + 10 * MS
    late = arrived(queue, read(200, source=C), at=NOW + MS)
    assert started(queue.take(NOW + MS)) == late
    assert started(queue.take(NOW + 10 * MS)) == [greedy[1]]


def test_whoever_comes_back_is_behind_those_who_were_there() -> None:
    limits = Limits(iops=Rate(1000, 2), initiator_iops=Rate(100, 1))
    queue = queue_with(limits)
    one = arrived(queue, *some(2, source=A))
    assert started(queue.take(NOW)) == one[:1]
    assert queue.wake_ns == NOW + 10 * MS
    at = NOW + 10 * MS
    two = arrived(queue, *some(3, source=B), *some(3, source=C), at=at)
    assert started(queue.take(at)) == [two[0], two[3]]
    assert started(queue.take(at + MS)) == [one[1]]


def test_merge_delay_comes_first() -> None:
    queue = queue_with(Limits(iops=Rate(100, 1)), merge_delay_ns=2 * MS)
    requests = arrived(queue, *some(2))
    assert queue.wake_ns == NOW + 2 * MS
    assert queue.take(NOW) == []
    assert started(queue.take(NOW + 2 * MS)) == requests[:1]
    assert queue.wake_ns == NOW + 12 * MS
    assert queue.take(NOW + 3 * MS, after_completion=True) == []
    assert started(queue.take(NOW + 12 * MS)) == requests[1:]


def test_a_full_queue_is_not_the_limits_fault() -> None:
    queue = queue_with(Limits(iops=Rate(100, 3)), queue_length=2)
    requests = arrived(queue, *some(4))
    assert started(queue.take(NOW)) == requests[:2]
    assert queue.wake_ns is None
    for request in requests[:2]:
        queue.finish(request)
    assert started(queue.take(NOW)) == requests[2:3]
    assert not requests[2].throttled
    assert queue.wake_ns == NOW + 10 * MS
    queue.take(NOW + 10 * MS)
    assert requests[3].throttled


def test_all_that_waited_for_a_limit_are_told_apart() -> None:
    queue = queue_with(Limits(iops=Rate(1000, 3)))
    requests = arrived(queue, *some(6))
    queue.take(NOW)
    more = arrived(queue, *some(1), at=NOW + 2 * S)
    queue.take(NOW + 2 * S)
    assert [request.throttled for request in requests] == [False] * 3 + [True] * 3
    queue.take(NOW + 4 * S)
    assert more[0].started
    assert more[0].throttled
    late = arrived(queue, *some(1), at=NOW + 6 * S)
    queue.take(NOW + 6 * S)
    assert not late[0].throttled


# --- order, twins, giving up ----------------------------------------------------------------


def test_what_waits_keeps_its_order_and_absorbs_its_twin() -> None:
    queue = queue_with(Limits(iops=Rate(100, 1)))
    first = arrived(queue, read(50))
    queue.take(NOW)
    older = arrived(queue, write(0, key="twice"))
    newer = read(0)
    assert queue.arrive(newer, NOW) is Arrival.BEHIND
    assert queue.arrive(write(0, key="twice"), NOW) is Arrival.ABSORBED
    queue.finish(first[0])
    assert started(queue.take(NOW + 20 * MS)) == older
    queue.finish(older[0])
    assert queue.take(NOW + 20 * MS) == []
    assert queue.wake_ns == NOW + 30 * MS
    assert started(queue.take(NOW + 30 * MS)) == [newer]


@pytest.mark.parametrize("own", [False, True])
def test_what_a_limit_keeps_back_is_dropped_with_the_rest(own: bool) -> None:
    limit = Rate(100, 1)
    queue = queue_with(Limits(initiator_iops=limit) if own else Limits(iops=limit))
    running, *waiting = arrived(queue, *some(4))
    queue.take(NOW)
    assert queue.drop_unstarted() == waiting
    assert queue.wake_ns is None
    assert queue.take(NOW + S) == []
    queue.finish(running)
    assert (queue.waiting, queue.in_flight) == (0, 0)
    assert started(queue.take(NOW + S)) == []
    fresh = arrived(queue, read(0), at=NOW + S)
    assert started(queue.take(NOW + S)) == fresh


# --- changes -------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
def test_a_limit_that_is_taken_away_keeps_nobody_back(own: bool) -> None:
    limit = Rate(1, 1)
    queue = queue_with(Limits(initiator_iops=limit) if own else Limits(iops=limit))
    requests = arrived(queue, *some(5))
    queue.take(NOW)
    queue.policy = Policy()
    assert queue.wake_ns is None
    assert started(queue.take(NOW)) == requests[1:]
    assert all(request.throttled for request in requests[1:])


def test_a_limit_that_comes_holds_from_then_on() -> None:
    queue = queue_with(NO_LIMITS)
    arrived(queue, *some(100))
    assert len(started(queue.take(NOW))) == 64
    queue.policy = Policy(queue_length=1000, limits=Limits(iops=Rate(1000, 5)))
    assert len(started(queue.take(NOW))) == 5
    assert queue.wake_ns == NOW + MS


def test_other_options_forgive_nothing() -> None:
    limits = Limits(iops=Rate(100, 5))
    queue = queue_with(limits)
    arrived(queue, *some(10))
    assert len(started(queue.take(NOW))) == 5
    queue.policy = Policy(queue_length=500, limits=limits)
    assert queue.take(NOW) == []
    assert queue.wake_ns == NOW + 10 * MS


def test_initiators_are_forgotten_in_order_of_their_last_start() -> None:
    throttle = Throttle(Limits(initiator_iops=Rate(1, 1)))

    def start(number: int) -> bool:
        request = read(0, source=bytes([2, 0, 0, 0, *number.to_bytes(2, "big")]))
        if throttle.initiator_ns(request, NOW) > NOW:
            return False
        throttle.use(request)
        return True

    assert all(start(number) for number in range(INITIATORS_MAX))
    assert not start(0)
    assert start(INITIATORS_MAX)
    assert not start(INITIATORS_MAX - 1)
    assert start(0)


# --- what hosts are told --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        (NO_LIMITS, 64),
        (Limits(iops=rate(10_000)), 64),
        (Limits(iops=rate(200)), 20),
        (Limits(initiator_iops=rate(200)), 20),
        (Limits(iops=rate(1)), 2),
        (Limits(bandwidth=rate(10 << 20)), 64),
        (Limits(bandwidth=rate(1 << 20)), 12),
        (Limits(iops=rate(300), initiator_bandwidth=rate(1 << 20)), 12),
    ],
)
def test_no_more_is_announced_than_starts_soon(limits: Limits, count: int) -> None:
    assert limits.announced(64) == count


def test_the_usual_burst_is_a_tenth_of_a_second() -> None:
    assert rate(1000) == Rate(1000, 100)
    assert rate(3) == Rate(3, 1)
    assert rate(1000, 7) == Rate(1000, 7)
