"""Requests for tests of `ggaoe.sched`, and the conflict rule written out by hand.

Uses none of the arithmetic under test: AoE sectors have 512 bytes, granules are given in sectors.
"""

from __future__ import annotations

import itertools

from ggaoe.proto.ata import Op
from ggaoe.sched.merge import Vector
from ggaoe.sched.request import Request

SECTOR = 512
MS = 1_000_000
A, B, C, D, E = (bytes([2, 0, 0, 0, 0, last]) for last in (0xA, 0xB, 0xC, 0xD, 0xE))

_tags = itertools.count()


def make(
    op: Op,
    sector: int = 0,
    sectors: int = 1,
    *,
    source: bytes = A,
    key: object = None,
    at: int = 0,
    size: int = 1,
) -> Request:
    """A request with a key of its own unless `key` is given."""
    return Request(op, sector, sectors, source, key or ("tag", next(_tags)), at, size)


def read(sector: int = 0, sectors: int = 1, **how: object) -> Request:
    return make(Op.READ, sector, sectors, **how)  # type: ignore[arg-type]


def write(sector: int = 0, sectors: int = 1, **how: object) -> Request:
    return make(Op.WRITE, sector, sectors, **how)  # type: ignore[arg-type]


def verify(sector: int = 0, sectors: int = 1, **how: object) -> Request:
    return make(Op.VERIFY, sector, sectors, **how)  # type: ignore[arg-type]


def flush(**how: object) -> Request:
    return make(Op.FLUSH, 0, 0, **how)  # type: ignore[arg-type]


def members(vectors: list[Vector]) -> list[list[Request]]:
    return [vector.members for vector in vectors]


def started(vectors: list[Vector]) -> list[Request]:
    return [request for vector in vectors for request in vector.members]


def touched(request: Request, granule_sectors: int = 1, origin_sectors: int = 0) -> set[int]:
    """The granules that `request` touches, by walking its sectors one by one."""
    first = request.offset_bytes // SECTOR + origin_sectors
    count = request.length_bytes // SECTOR
    return {sector // granule_sectors for sector in range(first, first + count)}


def conflict(one: Request, two: Request, granule_sectors: int = 1, origin_sectors: int = 0) -> bool:
    """Whether these two must keep their order of arrival."""
    return Op.WRITE in (one.op, two.op) and not touched(
        one, granule_sectors, origin_sectors
    ).isdisjoint(touched(two, granule_sectors, origin_sectors))
