"""The cases of a small world: every sequence of READs and WRITEs on a store of a few sectors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import product

from ggaoe.proto.ata import Op

Kind = tuple[Op, int, int]


def further_scopes(variable: str) -> list[tuple[int, int]]:
    """(requests, sectors) of what an environment variable asks for beyond what every run plays; it
    is written as in `6x3 5x4`."""
    words = os.environ.get(variable, "").split()
    return [
        (int(requests), int(sectors)) for requests, _, sectors in (w.partition("x") for w in words)
    ]


def kinds_over(sectors: int) -> list[Kind]:
    """Every READ and WRITE of a store of so many sectors."""
    return [(op, at, end - at) for op in (Op.READ, Op.WRITE) for at, end in places_over(sectors)]


def places_over(sectors: int) -> list[tuple[int, int]]:
    """Every (first sector, sector behind the last one)."""
    return [(at, end) for at in range(sectors) for end in range(at + 1, sectors + 1)]


def overlaps_of(kinds: Sequence[Kind]) -> list[int]:
    """For each request the older ones that it must not overtake, as a bit mask."""
    found = []
    for new, (op, at, count) in enumerate(kinds):
        touched = ((1 << count) - 1) << at
        older = 0
        for old, (old_op, old_at, old_count) in enumerate(kinds[:new]):
            shares = touched & ((1 << old_count) - 1) << old_at
            if shares and Op.WRITE in (op, old_op):
                older |= 1 << old
        found.append(older)
    return found


def cases(requests: int, sectors: int) -> Iterator[list[Kind]]:
    """Every sequence of so many requests, but one only of those that are the same up to which
    sector is which: sectors that nobody writes, and copies of a sector, do not count either."""
    seen: set[int] = set()
    placed: dict[tuple[int, ...], tuple[tuple[int, int], ...]] = {}
    for places in product(places_over(sectors), repeat=requests):
        users = [0] * sectors
        for number, (at, end) in enumerate(places):
            for sector in range(at, end):
                users[sector] |= 1 << number
        placed.setdefault(tuple(sorted(set(users))), places)
    for users_of, places in placed.items():
        for writers in range(1 << requests):
            key = writers
            for users_here in users_of:
                if users_here & writers:
                    key = key << requests | users_here
            if key not in seen:
                seen.add(key)
                yield [
                    (Op.WRITE if writers >> number & 1 else Op.READ, at, end - at)
                    for number, (at, end) in enumerate(places)
                ]
