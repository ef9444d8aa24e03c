"""The queue of one device: bounds, fairness, tag tracking, delays, giving up."""

from __future__ import annotations

import pytest

from ggaoe.sched.queue import (
    WAITING_BYTES_MAX,
    WAITING_BYTES_PER_SOURCE_MAX,
    Arrival,
    DeviceQueue,
    Policy,
)
from unit.sched.making import MS, A, B, C, E, flush, members, read, started, write

READY, BEHIND = Arrival.READY, Arrival.BEHIND
ABSORBED, REFUSED = Arrival.ABSORBED, Arrival.REFUSED
HALF = WAITING_BYTES_PER_SOURCE_MAX // 2


# --- bounds and fairness -------------------------------------------------------------------


def test_an_empty_queue_has_nothing_to_say() -> None:
    queue = DeviceQueue(Policy())
    assert queue.take(0) == []
    assert (queue.waiting, queue.in_flight, queue.active, queue.wake_ns) == (0, 0, [], None)
    assert queue.drop_unstarted() == []


def test_what_arrives_starts() -> None:
    queue = DeviceQueue(Policy())
    request = read()
    assert queue.arrive(request, 0) is READY
    assert (queue.waiting, queue.in_flight, queue.active) == (1, 0, [request])
    assert members(queue.take(0)) == [[request]]
    assert (queue.waiting, queue.in_flight, queue.active) == (0, 1, [request])
    assert queue.take(0) == []
    queue.finish(request)
    assert (queue.waiting, queue.in_flight, queue.active) == (0, 0, [])


def test_no_more_than_queue_length_are_in_flight() -> None:
    queue = DeviceQueue(Policy(queue_length=3))
    requests = [read(2 * sector) for sector in range(8)]
    for request in requests:
        assert queue.arrive(request, 0) is READY
    assert started(queue.take(0)) == requests[:3]
    assert queue.take(0) == []
    assert (queue.in_flight, queue.waiting) == (3, 5)
    queue.finish(requests[1])
    assert started(queue.take(0)) == requests[3:4]
    queue.finish(requests[0])
    queue.finish(requests[2])
    assert started(queue.take(0)) == requests[4:6]
    assert queue.in_flight == 3


def test_members_of_a_vector_count_each() -> None:
    queue = DeviceQueue(Policy(queue_length=3))
    for sector in range(5):
        queue.arrive(read(sector), 0)
    (vector,) = queue.take(0)
    assert len(vector.members) == queue.in_flight == 3


def test_a_shorter_queue_length_holds_until_there_is_room() -> None:
    queue = DeviceQueue(Policy(queue_length=4))
    requests = [read(2 * sector) for sector in range(6)]
    for request in requests:
        queue.arrive(request, 0)
    queue.take(0)
    queue.policy = Policy(queue_length=2)
    for request in requests[:2]:
        queue.finish(request)
        assert queue.take(0) == []
    queue.finish(requests[2])
    assert started(queue.take(0)) == requests[4:5]


def test_sources_take_turns() -> None:
    queue = DeviceQueue(Policy(queue_length=2, max_delay_ns=0))
    flood = [read(2 * n, source=A, at=n) for n in range(6)]
    lone = [read(100, source=B, at=10), read(102, source=B, at=11)]
    other = read(200, source=C, at=12)
    for request in [*flood, *lone, other]:
        queue.arrive(request, 0)
    turns = []
    while batch := started(queue.take(0)):
        turns.append(batch)
        for request in batch:
            queue.finish(request)
    assert turns == [
        [flood[0], lone[0]],
        [flood[1], other],
        [flood[2], lone[1]],
        [flood[3], flood[4]],
        [flood[5]],
    ]


def test_a_source_that_comes_back_takes_its_place_at_the_end() -> None:
    queue = DeviceQueue(Policy(queue_length=2, max_delay_ns=0))
    first, again = read(0, source=A, at=0), read(2, source=A, at=5)
    others = [read(4, source=B, at=1), read(6, source=B, at=2), read(8, source=C, at=4)]
    for request in [first, *others]:
        queue.arrive(request, 0)
    assert started(queue.take(0)) == [first, others[0]]
    queue.arrive(again, 0)
    queue.finish(first)
    queue.finish(others[0])
    assert started(queue.take(0)) == [others[1], others[2]]
    queue.finish(others[1])
    assert started(queue.take(0)) == [again]


def test_a_batch_is_handed_over_in_order_of_arrival() -> None:
    """Turns are a matter of who starts, not of the order within what starts together."""
    queue = DeviceQueue(Policy(max_delay_ns=0))
    requests = [read(2 * n, source=A if n < 4 else B, at=n) for n in range(8)]
    for request in requests:
        queue.arrive(request, 0)
    assert started(queue.take(0)) == requests


# --- order ---------------------------------------------------------------------------------


def test_what_waits_for_an_older_one_starts_after_it() -> None:
    queue = DeviceQueue(Policy())
    older, newer, free = write(0, source=A), write(0, source=B), write(9, source=B)
    assert [queue.arrive(request, 0) for request in (older, newer, free)] == [READY, BEHIND, READY]
    assert started(queue.take(0)) == [older, free]
    assert queue.waiting == 1
    queue.finish(free)
    assert queue.take(0) == []
    queue.finish(older)
    assert started(queue.take(0)) == [newer]


def test_one_that_waits_for_room_still_holds_those_behind_it() -> None:
    queue = DeviceQueue(Policy(queue_length=2))
    busy = [read(10), read(20)]
    for request in busy:
        queue.arrive(request, 0)
    queue.take(0)
    older, newer = write(0), read(0, source=B)
    assert queue.arrive(older, 0) is READY
    assert queue.arrive(newer, 0) is BEHIND
    for request in busy:
        queue.finish(request)
    assert started(queue.take(0)) == [older]


def test_the_granule_is_the_backends() -> None:
    queue = DeviceQueue(Policy(), 4096, 512)
    assert queue.arrive(write(0), 0) is READY
    assert queue.arrive(write(6), 0) is BEHIND
    assert queue.arrive(write(7), 0) is READY


# --- tag tracking --------------------------------------------------------------------------


def test_a_twin_is_absorbed_while_waiting_and_in_flight_and_not_after() -> None:
    queue = DeviceQueue(Policy())
    request = write(key="tag 1")
    assert queue.arrive(request, 0) is READY
    assert queue.arrive(write(key="tag 1"), 0) is ABSORBED
    assert started(queue.take(0)) == [request]
    assert queue.arrive(write(key="tag 1"), 0) is ABSORBED
    assert (queue.waiting, queue.in_flight) == (0, 1)
    queue.finish(request)
    late = write(key="tag 1")
    assert queue.arrive(late, 0) is READY
    assert started(queue.take(0)) == [late]


def test_a_twin_of_one_that_waits_behind_another_is_absorbed() -> None:
    queue = DeviceQueue(Policy())
    queue.arrive(write(), 0)
    assert queue.arrive(write(key="tag 1"), 0) is BEHIND
    assert queue.arrive(write(key="tag 1"), 0) is ABSORBED


def test_the_same_write_with_a_new_tag_waits_its_turn() -> None:
    queue = DeviceQueue(Policy())
    assert queue.arrive(write(key="tag 1"), 0) is READY
    assert queue.arrive(write(key="tag 2"), 0) is BEHIND


def test_a_twin_is_absorbed_where_a_new_request_would_be_refused() -> None:
    queue = DeviceQueue(Policy())
    assert queue.arrive(write(0, key="tag 1", size=2 * HALF), 0) is READY
    assert queue.arrive(write(0, key="tag 1", size=2 * HALF), 0) is ABSORBED
    assert queue.arrive(write(0, key="tag 2", size=2 * HALF), 0) is REFUSED


# --- budget --------------------------------------------------------------------------------


def test_beyond_a_sources_budget_the_newest_is_refused() -> None:
    queue = DeviceQueue(Policy())
    kept = [write(0, size=HALF), write(1, size=HALF)]
    assert [queue.arrive(request, 0) for request in kept] == [READY, READY]
    refused = write(2, size=1)
    assert queue.arrive(refused, 0) is REFUSED
    assert queue.arrive(write(3, source=B, size=HALF), 0) is READY
    assert refused not in queue.active
    assert started(queue.take(0))[:2] == kept
    assert queue.arrive(refused, 0) is READY


def test_beyond_the_whole_budget_everybody_is_refused() -> None:
    queue = DeviceQueue(Policy())
    hosts = WAITING_BYTES_MAX // WAITING_BYTES_PER_SOURCE_MAX
    for number in range(hosts):
        source = bytes([2, 0, 0, 0, 1, number])
        assert queue.arrive(write(number, source=source, size=2 * HALF), 0) is READY
    assert queue.arrive(write(90, source=E, size=1), 0) is REFUSED
    assert len(started(queue.take(0))) == hosts
    assert queue.arrive(write(90, source=E, size=1), 0) is READY


def test_what_is_refused_leaves_no_trace() -> None:
    queue = DeviceQueue(Policy())
    queue.arrive(write(0, size=2 * HALF), 0)
    assert queue.arrive(write(5, key="tag 1"), 0) is REFUSED
    assert queue.arrive(write(5, source=B), 0) is READY
    queue.take(0)
    assert queue.arrive(write(7, key="tag 1"), 0) is READY


def test_what_waits_behind_another_counts_in_the_budget() -> None:
    queue = DeviceQueue(Policy())
    first = write(0, size=HALF)
    queue.arrive(first, 0)
    queue.take(0)
    assert queue.arrive(write(0, size=HALF), 0) is BEHIND
    assert queue.arrive(write(0, size=HALF), 0) is BEHIND
    assert queue.arrive(write(9, size=1), 0) is REFUSED
    queue.finish(first)
    queue.take(0)
    assert queue.arrive(write(9, size=HALF), 0) is READY
    assert queue.arrive(write(10, size=1), 0) is REFUSED


def test_requests_that_hold_nothing_are_as_good_as_others() -> None:
    queue = DeviceQueue(Policy())
    requests = [read(2 * n, size=size) for n, size in enumerate((0, 0, 5, 0))]
    for request in requests:
        assert queue.arrive(request, 0) is READY
    assert started(queue.take(0)) == requests


# --- merge delay ---------------------------------------------------------------------------


def delayed(queue_length: int = 64) -> DeviceQueue:
    return DeviceQueue(Policy(queue_length, merge_delay_ns=10 * MS))


def test_without_a_delay_there_is_nothing_to_wake_for() -> None:
    queue = DeviceQueue(Policy(queue_length=2))
    for sector in range(3):
        queue.arrive(read(sector), 5)
        assert queue.wake_ns is None
    queue.take(5)
    assert queue.wake_ns is None


def test_the_first_one_starts_the_delay_and_all_start_together() -> None:
    queue = delayed()
    first, second = read(1), read(0)
    queue.arrive(first, 5)
    assert queue.wake_ns == 5 + 10 * MS
    queue.arrive(second, 5 + 4 * MS)
    assert queue.wake_ns == 5 + 10 * MS
    assert queue.take(5 + 10 * MS - 1) == []
    assert members(queue.take(5 + 10 * MS)) == [[second, first]]
    assert queue.wake_ns is None


def test_a_new_delay_begins_after_each_batch() -> None:
    queue = delayed()
    queue.arrive(read(0), 0)
    queue.take(10 * MS)
    queue.arrive(read(1), 11 * MS)
    assert queue.wake_ns == 21 * MS
    assert queue.take(20 * MS) == []
    assert len(queue.take(21 * MS)) == 1


def test_a_completion_ends_the_delay() -> None:
    queue = delayed()
    first, second = read(0), read(1)
    queue.arrive(first, 0)
    queue.take(10 * MS)
    queue.arrive(second, 11 * MS)
    assert queue.take(12 * MS) == []
    queue.finish(first)
    assert started(queue.take(12 * MS, after_completion=True)) == [second]


def test_one_that_waited_for_another_is_not_delayed_again() -> None:
    queue = delayed()
    older, newer = write(0), write(0)
    queue.arrive(older, 0)
    queue.take(10 * MS)
    queue.arrive(newer, 11 * MS)
    assert queue.wake_ns is None
    queue.finish(older)
    assert started(queue.take(12 * MS)) == [newer]


def test_a_full_queue_asks_for_no_wake() -> None:
    """Nothing can start before a completion, and that brings its own `take`; a time in the past
    would have the caller's timer spin."""
    queue = delayed(queue_length=2)
    requests = [read(2 * n) for n in range(3)]
    for request in requests:
        queue.arrive(request, 0)
    assert started(queue.take(10 * MS)) == requests[:2]
    assert queue.waiting == 1
    assert queue.wake_ns is None
    queue.finish(requests[0])
    assert started(queue.take(10 * MS)) == requests[2:]


def test_a_delay_that_is_turned_off_holds_nobody() -> None:
    queue = delayed()
    request = read(0)
    queue.arrive(request, 0)
    queue.policy = Policy()
    assert queue.wake_ns is None
    assert started(queue.take(0)) == [request]


# --- giving up -----------------------------------------------------------------------------


def test_only_what_has_not_started_is_dropped() -> None:
    queue = DeviceQueue(Policy(queue_length=2))
    running = [write(0), read(9)]
    waiting = [write(20, source=B), write(0), read(0, source=B), flush(source=C)]
    for request in running:
        queue.arrive(request, 0)
    queue.take(0)
    for request in waiting:
        queue.arrive(request, 0)
    assert queue.drop_unstarted() == waiting
    assert (queue.active, queue.waiting, queue.in_flight) == (running, 0, 2)
    assert queue.take(0) == []
    for request in running:
        queue.finish(request)
    assert queue.take(0) == []
    assert queue.active == []


@pytest.mark.parametrize("older_op", ["read", "write"])
def test_a_started_one_holds_later_arrivals_after_a_drop(older_op: str) -> None:
    queue = DeviceQueue(Policy())
    older = write(0, 2) if older_op == "write" else read(0, 2)
    queue.arrive(older, 0)
    queue.take(0)
    queue.arrive(write(0), 0)
    queue.arrive(read(1), 0)
    queue.drop_unstarted()
    late, free = write(1), write(2)
    assert queue.arrive(late, 0) is BEHIND
    assert queue.arrive(free, 0) is READY
    assert started(queue.take(0)) == [free]
    queue.finish(older)
    assert started(queue.take(0)) == [late]


def test_dropped_ones_hold_nobody_and_are_known_no_more() -> None:
    queue = DeviceQueue(Policy(queue_length=2))
    busy = [read(10), read(12)]
    for request in busy:
        queue.arrive(request, 0)
    queue.take(0)
    assert queue.arrive(write(0, key="tag 1", size=2 * HALF), 0) is READY
    assert len(queue.drop_unstarted()) == 1
    resent = write(0, key="tag 1", size=2 * HALF)
    assert queue.arrive(resent, 0) is READY
    for request in busy:
        queue.finish(request)
    assert started(queue.take(0)) == [resent]


def test_a_drop_ends_a_delay() -> None:
    queue = delayed()
    queue.arrive(read(0), 0)
    queue.drop_unstarted()
    assert queue.wake_ns is None
    queue.arrive(read(0), 7 * MS)
    assert queue.wake_ns == 17 * MS
