"""Merging: adjacent requests of one direction share one vector; nobody fails for a neighbour.

Owns how a batch of startable requests becomes vectors, and what a vector's result means for each
of its members. A batch is free of conflicts by construction (see `order`), so sorting is safe.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import NamedTuple

from ggaoe.proto.ata import Op
from ggaoe.proto.frame import SECTOR_BYTES
from ggaoe.sched.request import Request

VECTOR_MEMBERS_MAX = 32
VECTOR_BYTES_MAX = 1 << 20


class Vector:
    """Requests of one direction that are adjacent on the medium, in order of address.

    `done_bytes` have been moved by earlier attempts (only a vector of one is continued).
    """

    __slots__ = ("done_bytes", "members")

    def __init__(self, members: list[Request], done_bytes: int = 0) -> None:
        self.members = members
        self.done_bytes = done_bytes

    @property
    def op(self) -> Op:
        return self.members[0].op

    @property
    def offset_bytes(self) -> int:
        return self.members[0].offset_bytes + self.done_bytes

    @property
    def length_bytes(self) -> int:
        return sum(member.length_bytes for member in self.members) - self.done_bytes


class Settled(NamedTuple):
    """Finished members, each with its errno (0: success), and vectors to try again."""

    finished: list[tuple[Request, int]]
    again: list[Vector]


def gather(requests: Sequence[Request], max_delay_ns: int) -> list[Vector]:
    """Vectors of `requests` (given in order of arrival, free of conflicts).

    Requests are put in order of address only among those that arrived within `max_delay_ns` of
    the first of their window; windows keep their order.
    """
    if len(requests) == 1:
        return [Vector([requests[0]])]
    vectors: list[Vector] = []
    length_bytes = end_bytes = 0
    for request in _in_order_of_address(requests, max_delay_ns):
        if (
            vectors
            and request.op is vectors[-1].op
            and request.op in (Op.READ, Op.WRITE)
            and request.offset_bytes == end_bytes
            and len(vectors[-1].members) < VECTOR_MEMBERS_MAX
            and length_bytes + request.length_bytes <= VECTOR_BYTES_MAX
        ):
            vectors[-1].members.append(request)
        else:
            vectors.append(Vector([request]))
            length_bytes = 0
        length_bytes += request.length_bytes
        end_bytes = request.offset_bytes + request.length_bytes
    return vectors


def _in_order_of_address(requests: Sequence[Request], max_delay_ns: int) -> list[Request]:
    if max_delay_ns == 0:
        return list(requests)
    ordered: list[Request] = []
    window: list[Request] = []
    for request in requests:
        if window and request.arrival_ns - window[0].arrival_ns > max_delay_ns:
            ordered += sorted(window, key=lambda member: member.offset_bytes)
            window = []
        window.append(request)
    return ordered + sorted(window, key=lambda member: member.offset_bytes)


def settle(vector: Vector, result: int) -> Settled:
    """What `result` (bytes moved, or a negated errno) of one attempt means for the members.

    A shared vector that failed or fell short is tried again member by member: all of them are
    still active, so nothing that overlaps has run meanwhile. A single request is continued where
    it fell short, as long as each attempt moves at least one sector.
    """
    if result == vector.length_bytes:
        return Settled([(member, 0) for member in vector.members], [])
    if len(vector.members) > 1:
        return Settled([], [Vector([member]) for member in vector.members])
    member = vector.members[0]
    progress_bytes = result // SECTOR_BYTES * SECTOR_BYTES
    if result < 0:
        return Settled([(member, -result)], [])
    if progress_bytes == 0 or result > vector.length_bytes:
        return Settled([(member, errno.EIO)], [])
    return Settled([], [Vector([member], vector.done_bytes + progress_bytes)])
