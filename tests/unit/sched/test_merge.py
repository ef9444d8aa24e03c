"""Merging and what one attempt's result means for each member."""

from __future__ import annotations

import errno
import random

import pytest

from ggaoe.proto.ata import Op
from ggaoe.sched.merge import (
    VECTOR_BYTES_MAX,
    VECTOR_MEMBERS_MAX,
    Settled,
    Vector,
    gather,
    settle,
)
from ggaoe.sched.request import Request
from unit.sched.making import MS, flush, make, members, read, verify, write


def again(settled: Settled) -> list[tuple[list[Request], int]]:
    assert settled.finished == []
    return [(vector.members, vector.done_bytes) for vector in settled.again]


# --- gather --------------------------------------------------------------------------------


def test_nothing_gives_nothing() -> None:
    assert gather([], MS) == []


def test_one_alone_is_a_vector() -> None:
    request = read(3, 2)
    (vector,) = gather([request], MS)
    assert vector.members == [request]
    assert (vector.op, vector.offset_bytes, vector.length_bytes) == (Op.READ, 1536, 1024)


@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
def test_adjacent_requests_share_a_vector(op: Op) -> None:
    requests = [make(op, 8, 2), make(op, 10, 1), make(op, 11, 4)]
    (vector,) = gather(requests, MS)
    assert vector.members == requests
    assert (vector.op, vector.offset_bytes, vector.length_bytes) == (op, 8 * 512, 7 * 512)


def test_a_gap_parts() -> None:
    requests = [read(0, 2), read(3, 2)]
    assert members(gather(requests, MS)) == [[requests[0]], [requests[1]]]


def test_reads_of_the_same_place_do_not_merge() -> None:
    requests = [read(0, 2), read(0, 2), read(1, 2)]
    assert members(gather(requests, MS)) == [[request] for request in requests]


def test_a_change_of_direction_parts() -> None:
    requests = [read(0), read(1), write(2), write(3), read(4)]
    assert members(gather(requests, MS)) == [requests[:2], requests[2:4], requests[4:]]


@pytest.mark.parametrize("op", [Op.VERIFY, Op.FLUSH])
def test_what_has_no_data_stays_alone(op: Op) -> None:
    requests = [make(op, 0, 2), make(op, 2, 2)]
    assert members(gather(requests, 0)) == [[requests[0]], [requests[1]]]


def test_a_verify_is_no_neighbour_of_a_read() -> None:
    requests = [read(0), verify(1), read(2)]
    assert members(gather(requests, MS)) == [[request] for request in requests]


def test_members_are_bounded() -> None:
    requests = [read(sector) for sector in range(2 * VECTOR_MEMBERS_MAX + 1)]
    sizes = [len(vector.members) for vector in gather(requests, MS)]
    assert sizes == [VECTOR_MEMBERS_MAX, VECTOR_MEMBERS_MAX, 1]


def test_bytes_are_bounded_and_a_full_vector_is_allowed() -> None:
    sectors = VECTOR_BYTES_MAX // 512 // 8
    requests = [write(at * sectors, sectors) for at in range(17)]
    lengths = [vector.length_bytes for vector in gather(requests, MS)]
    assert lengths == [VECTOR_BYTES_MAX, VECTOR_BYTES_MAX, sectors * 512]
    largest = [write(at * 255, 255) for at in range(10)]
    assert all(vector.length_bytes <= VECTOR_BYTES_MAX for vector in gather(largest, MS))


def test_a_window_is_put_in_order_of_address() -> None:
    shuffled = [read(sector) for sector in range(20)]
    random.Random(7).shuffle(shuffled)
    (vector,) = gather(shuffled, MS)
    assert [member.offset_bytes // 512 for member in vector.members] == list(range(20))


def test_a_window_ends_by_the_age_of_its_first() -> None:
    """Each is within the delay of the one before it, but not of the first: no endless window."""
    requests = [read(9, at=0), read(8, at=MS), read(7, at=2 * MS), read(6, at=3 * MS)]
    # 9 and 8 are one window, 7 and 6 the next; 8-9 is one vector and 6-7 another
    assert members(gather(requests, MS)) == [requests[1::-1], requests[:1:-1]]


def test_windows_keep_their_order_and_still_merge_across_a_border() -> None:
    requests = [read(5, at=0), read(4, at=0), read(6, at=2 * MS), read(0, at=4 * MS)]
    merged = members(gather(requests, MS))
    assert merged == [[requests[1], requests[0], requests[2]], [requests[3]]]


def test_no_delay_means_order_of_arrival_and_neighbours_still_merge() -> None:
    requests = [read(4), read(5), read(9), read(0), read(1)]
    assert members(gather(requests, 0)) == [requests[:2], requests[2:3], requests[3:]]


def test_no_delay_keeps_the_order_of_equal_times() -> None:
    requests = [read(9, at=5), read(8, at=5)]
    assert members(gather(requests, 0)) == [[requests[0]], [requests[1]]]


def test_gathering_loses_and_repeats_nobody() -> None:
    chance = random.Random(11)
    ops = [Op.READ, Op.WRITE, Op.VERIFY, Op.FLUSH]
    for _ in range(300):
        at = 0
        requests = []
        for _ in range(chance.randrange(40)):
            at += chance.randrange(MS)
            requests.append(make(chance.choice(ops), chance.randrange(30), 2, at=at))
        vectors = gather(requests, chance.choice([0, MS, 100 * MS]))
        found = [member for vector in vectors for member in vector.members]
        assert len(found) == len(requests)
        assert set(found) == set(requests)
        for vector in vectors:
            ends = [m.offset_bytes + m.length_bytes for m in vector.members]
            assert ends[:-1] == [m.offset_bytes for m in vector.members[1:]]


# --- settle --------------------------------------------------------------------------------


def test_a_full_transfer_finishes_every_member() -> None:
    requests = [write(0, 2), write(2, 1)]
    assert settle(Vector(requests), 3 * 512) == ([(requests[0], 0), (requests[1], 0)], [])


@pytest.mark.parametrize("result", [-errno.EIO, -errno.ENOSPC, 0, 1, 512, 1024, 1535, 5000])
def test_a_shared_vector_that_failed_is_taken_apart(result: int) -> None:
    requests = [read(0), read(1), read(2)]
    assert again(settle(Vector(requests), result)) == [([request], 0) for request in requests]


def test_a_single_failure_keeps_its_reason() -> None:
    request = write(0, 4)
    assert settle(Vector([request]), -errno.ENOSPC) == ([(request, errno.ENOSPC)], [])
    assert settle(Vector([request], 1024), -errno.EIO) == ([(request, errno.EIO)], [])


def test_a_short_single_is_continued_where_it_ended() -> None:
    request = read(10, 4)
    ((vector),) = settle(Vector([request]), 512).again
    assert (vector.offset_bytes, vector.length_bytes) == (11 * 512, 3 * 512)
    ((vector),) = settle(vector, 1024).again
    assert (vector.offset_bytes, vector.length_bytes) == (13 * 512, 512)
    assert settle(vector, 512) == ([(request, 0)], [])


def test_a_continued_one_is_not_done_at_the_length_of_the_whole() -> None:
    request = read(0, 4)
    assert again(settle(Vector([request], 512), 1024)) == [([request], 1536)]


@pytest.mark.parametrize("result", [513, 1023])
def test_part_of_a_sector_counts_for_nothing(result: int) -> None:
    request = write(0, 4)
    assert again(settle(Vector([request]), result)) == [([request], 512)]


@pytest.mark.parametrize("result", [0, 1, 511])
def test_no_progress_is_an_error(result: int) -> None:
    request = read(0, 4)
    assert settle(Vector([request]), result) == ([(request, errno.EIO)], [])
    assert settle(Vector([request], 1536), result) == ([(request, errno.EIO)], [])


@pytest.mark.parametrize("excess", [1, 512])
def test_more_than_was_asked_for_is_an_error(excess: int) -> None:
    request = read(0, 4)
    assert settle(Vector([request]), 2048 + excess) == ([(request, errno.EIO)], [])
    assert settle(Vector([request], 1024), 1024 + excess) == ([(request, errno.EIO)], [])


def test_a_request_is_continued_at_most_once_for_each_sector() -> None:
    vector = Vector([read(0, 255)])
    attempts = 0
    while retries := settle(vector, min(513, vector.length_bytes)).again:
        (vector,) = retries
        attempts += 1
    assert attempts == 254


def test_a_flush_is_full_with_nothing_moved() -> None:
    request = flush()
    assert settle(Vector([request]), 0) == ([(request, 0)], [])
