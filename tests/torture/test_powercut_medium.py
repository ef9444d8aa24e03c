"""What the judges take for granted: which contents a power cut may leave."""

from __future__ import annotations

import random

import pytest

from torture.ledger import Finding, Ledger, content
from torture.recorder import SECTOR_BYTES, Event, Medium, Step, power_cuts

pytestmark = pytest.mark.one_engine

CUTS = 200


def states(record: list[Event], sectors: int = 2) -> set[bytes]:
    """Every content seen after many power cuts at the end of `record`: a letter per sector."""
    medium, rng = Medium(b"-" * sectors * SECTOR_BYTES), random.Random(1)
    medium.follow(record)
    images = (medium.after_power_cut(rng) for _ in range(CUTS))
    return {bytes(image[::SECTOR_BYTES]) for image in images}


def write(request: int, letters: bytes, sector: int = 0) -> list[Event]:
    data = b"".join(bytes([letter]) * SECTOR_BYTES for letter in letters)
    return [
        Event(Step.WRITE, request, sector * SECTOR_BYTES, data),
        Event(Step.WRITTEN, request),
    ]


def flush(request: int) -> list[Event]:
    return [Event(Step.FLUSH, request), Event(Step.FLUSHED, request)]


def test_what_was_not_flushed_is_there_or_not_by_sector() -> None:
    assert states(write(1, b"ab")) == {b"--", b"a-", b"-b", b"ab"}


def test_a_flush_makes_durable_what_was_written_before_it_began() -> None:
    assert states(write(1, b"ab") + flush(2)) == {b"ab"}
    assert states(write(1, b"a") + flush(2) + write(3, b"b", 1)) == {b"a-", b"ab"}


def test_a_flush_covers_nothing_that_was_written_while_it_ran() -> None:
    begin, end = flush(2)
    assert states([begin, *write(1, b"a"), end]) == {b"--", b"a-"}
    started, written = write(1, b"a")
    assert states([started, begin, written, end]) == {b"--", b"a-"}
    assert states([*write(1, b"a"), begin]) == {b"--", b"a-"}


def test_of_several_writes_any_may_be_the_last_on_the_medium() -> None:
    record = write(1, b"a") + flush(2) + write(3, b"b") + write(4, b"c")
    assert states(record) == {b"a-", b"b-", b"c-"}


def test_flushes_that_end_in_another_order_bring_nothing_old_back() -> None:
    first, second = flush(2), flush(4)
    record = [*write(1, b"a"), first[0], *write(3, b"b"), *second, first[1]]
    assert states(record) == {b"b-"}


def test_writes_under_way_to_the_same_sector_are_races() -> None:
    medium = Medium(bytes(4 * SECTOR_BYTES))
    one, other = write(1, b"ab"), write(2, b"c", 1)
    medium.follow([*one, *other])
    assert medium.races == 0
    medium.follow([one[0], other[0], one[1], other[1]])
    assert medium.races == 1


def test_the_judge_wants_what_was_acknowledged_by_then() -> None:
    ledger = Ledger(2)
    for sector, at in ((0, 2), (0, 5)):
        ledger.acknowledged(ledger.begin(sector, 2), at)
    old, new = (bytearray(content(number, 0, 2)) for number in (1, 2))
    mixed = bytearray(old[:SECTOR_BYTES] + new[SECTOR_BYTES:])
    torn = bytearray(old)
    torn[SECTOR_BYTES - 1] ^= 1
    images = [(1, bytearray(len(old))), (2, bytearray(len(old))), (4, old), (4, torn), (5, mixed)]
    verdicts = [found for _, found in ledger.judge(images, lambda write: write.acknowledged_at)]
    assert verdicts == [
        [],
        [Finding(2, 0, 0, 1), Finding(2, 1, 0, 1)],
        [],
        [Finding(4, 0, -1, 1)],
        [Finding(5, 0, 1, 2)],
    ]


def test_cuts_follow_the_record() -> None:
    record = write(1, b"a") + flush(2)
    cuts = power_cuts(Medium(b"-" * SECTOR_BYTES), record, [0, len(record)], random.Random(1))
    assert [(point, bytes(image[:1])) for point, image in cuts] == [(0, b"-"), (len(record), b"a")]
