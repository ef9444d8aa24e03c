"""Overlap order: what waits for what, and for nothing else."""

from __future__ import annotations

import pytest

from ggaoe.proto.ata import Op
from ggaoe.sched.order import OverlapOrder
from unit.sched.making import flush, make, read, verify, write

GRANULE = 4096


@pytest.mark.parametrize("older", [Op.READ, Op.WRITE, Op.VERIFY])
@pytest.mark.parametrize("newer", [Op.READ, Op.WRITE, Op.VERIFY])
def test_only_a_write_makes_a_conflict(older: Op, newer: Op) -> None:
    order = OverlapOrder(512)
    first, second = make(older, 4, 4), make(newer, 7, 4)
    assert order.enter(first)
    assert order.enter(second) is (Op.WRITE not in (older, newer))
    assert order.leave(first) == ([second] if Op.WRITE in (older, newer) else [])


@pytest.mark.parametrize("sector", [0, 8])
def test_neighbours_are_free(sector: int) -> None:
    order = OverlapOrder(512)
    assert order.enter(write(4, 4))
    assert order.enter(write(sector, 4))


def test_one_shared_sector_at_either_end_is_an_overlap() -> None:
    for sector in (1, 7):
        order = OverlapOrder(512)
        assert order.enter(write(4, 4))
        assert not order.enter(write(sector, 4))


def test_a_flush_waits_for_nobody_and_nobody_for_it() -> None:
    order = OverlapOrder(512)
    older, barrier, newer = write(), flush(), write(1)
    assert order.enter(older)
    assert order.enter(barrier)
    assert order.enter(newer)
    assert order.leave(barrier) == []


def test_a_chain_of_three_writes_runs_one_by_one() -> None:
    order = OverlapOrder(512)
    first, second, third = write(), write(), write()
    assert [order.enter(request) for request in (first, second, third)] == [True, False, False]
    assert order.leave(first) == [second]
    assert order.leave(second) == [third]
    assert order.leave(third) == []


def test_a_write_waits_for_all_readers_before_it() -> None:
    order = OverlapOrder(512)
    readers = [read(), verify(), read(0, 2)]
    last = write(0, 2)
    assert all(order.enter(reader) for reader in readers)
    assert not order.enter(last)
    assert order.leave(readers[2]) == []
    assert order.leave(readers[0]) == []
    assert order.leave(readers[1]) == [last]


def test_readers_behind_a_write_are_released_together_oldest_first() -> None:
    order = OverlapOrder(512)
    first = write(0, 4)
    dependents = [read(3), read(0), write(2), verify(1)]
    assert order.enter(first)
    assert not any(order.enter(request) for request in dependents)
    assert order.leave(first) == dependents


def test_a_reader_does_not_pass_a_waiting_write() -> None:
    order = OverlapOrder(512)
    reader, writer, late = read(), write(), read()
    assert order.enter(reader)
    assert not order.enter(writer)
    assert not order.enter(late)
    assert order.leave(reader) == [writer]
    assert order.leave(writer) == [late]


def test_a_write_over_two_waits_for_both() -> None:
    order = OverlapOrder(512)
    low, high, over = write(0), write(1), write(0, 2)
    assert order.enter(low)
    assert order.enter(high)
    assert not order.enter(over)
    assert order.leave(high) == []
    assert order.leave(low) == [over]


def test_one_that_overlaps_in_many_sectors_is_waited_for_once() -> None:
    order = OverlapOrder(512)
    first, second = write(0, 255), write(0, 255)
    assert order.enter(first)
    assert not order.enter(second)
    assert order.leave(first) == [second]


def test_the_last_one_out_leaves_the_place_free() -> None:
    order = OverlapOrder(512)
    for _ in range(3):
        request = write(0, 8)
        assert order.enter(request)
        assert order.leave(request) == []


@pytest.mark.parametrize(
    ("origin_bytes", "sector", "is_free"),
    [
        (0, 7, False),  # sectors 0 to 7 are one block
        (0, 8, True),
        (512, 6, False),  # the device begins at the block's second sector: 0 to 6 are in it
        (512, 7, True),
        (GRANULE - 512, 1, True),  # the device begins at the last sector of a block
        (GRANULE, 7, False),
    ],
)
def test_granules_lie_in_the_grid_of_the_store(
    origin_bytes: int, sector: int, is_free: bool
) -> None:
    order = OverlapOrder(GRANULE, origin_bytes)
    assert order.enter(write(0))
    assert order.enter(write(sector)) is is_free


def test_reads_share_a_granule_and_a_write_elsewhere_in_it_waits() -> None:
    order = OverlapOrder(GRANULE)
    readers = [read(0), read(5)]
    writer = write(7)
    assert all(order.enter(reader) for reader in readers)
    assert not order.enter(writer)
    assert order.leave(readers[0]) == []
    assert order.leave(readers[1]) == [writer]


def test_clear_forgets_everybody() -> None:
    order = OverlapOrder(512)
    order.enter(write(0, 8))
    order.clear()
    assert order.enter(write(0, 8))
