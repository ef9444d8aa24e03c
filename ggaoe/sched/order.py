"""Overlap order: requests that touch the same bytes, one of them writing, run in arrival order.

Owns the hazards among active requests (waiting or in flight) of one device, over all its
interfaces. A late copy of an old write can so never overtake a newer one (AoE has no sequence
numbers; hosts resend with new tags by other paths). Requests that do not overlap are free.

For each granule (a logical block of the store) the last writer and the readers since are known.
A writer waits for those readers, or for that writer; a reader waits for that writer. They wait
for everything older already, so the number of edges is linear in the number of requests.
"""

from __future__ import annotations

from ggaoe.proto.ata import Op
from ggaoe.sched.request import Request


class _Granule:
    __slots__ = ("readers", "writer")

    def __init__(self) -> None:
        self.writer: Request | None = None
        self.readers: dict[Request, None] = {}


class OverlapOrder:
    """`granule_bytes`: the unit that must not be shared with a writer; `origin_bytes`: where the
    device's byte 0 lies in the grid of granules."""

    def __init__(self, granule_bytes: int, origin_bytes: int = 0) -> None:
        self._granule_bytes = granule_bytes
        self._origin_bytes = origin_bytes
        self._granules: dict[int, _Granule] = {}

    def _span(self, request: Request) -> range:
        begin = request.offset_bytes + self._origin_bytes
        end = begin + request.length_bytes
        return range(begin // self._granule_bytes, -(-end // self._granule_bytes))

    def enter(self, request: Request) -> bool:
        """Take in the newest request; True where it may start at once.

        A FLUSH overlaps with nothing: it covers the writes that were acknowledged before it.
        """
        if request.op is Op.FLUSH:
            return True
        blockers: set[Request] = set()
        is_write = request.op is Op.WRITE
        granules = self._granules
        for number in self._span(request):
            granule = granules.get(number)
            if granule is None:
                granule = granules[number] = _Granule()
            elif is_write and granule.readers:
                blockers.update(granule.readers)
            elif granule.writer is not None:
                blockers.add(granule.writer)
            if is_write:
                granule.writer = request
                granule.readers = {}
            else:
                granule.readers[request] = None
        request.blockers = len(blockers)
        for blocker in blockers:
            blocker.dependents.append(request)
        return not blockers

    def leave(self, request: Request) -> list[Request]:
        """Take out a finished request; returns those that may start now, oldest first."""
        if request.op is Op.FLUSH:
            return []
        for number in self._span(request):
            granule = self._granules.get(number)
            if granule is None:
                continue
            if granule.writer is request:
                granule.writer = None
            else:
                granule.readers.pop(request, None)
            if granule.writer is None and not granule.readers:
                del self._granules[number]
        free = []
        for dependent in request.dependents:
            dependent.blockers -= 1
            if dependent.blockers == 0:
                free.append(dependent)
        request.dependents = []
        return free

    def clear(self) -> None:
        """Forget every request."""
        self._granules.clear()
