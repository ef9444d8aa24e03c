"""The last frames from and to one device, for somebody who watches: a ring that exists only while
it is watched, so that it costs nothing otherwise.

Owns the ring. Knows no frame's meaning. The compiled twin is in engine/native/trace.pxi.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

SNAP_BYTES = 60
"""So much of each frame is kept: everything but data."""
RECORDS_MAX = 4096


class Traced(NamedTuple):
    """A frame that came or left at `time_ns` of the wall; `frame` has its first SNAP_BYTES."""

    time_ns: int
    interface: str
    length_bytes: int
    frame: bytes


class Trace:
    """Records that nobody has taken yet; beyond RECORDS_MAX new ones are lost, and counted."""

    def __init__(self) -> None:
        self._records: deque[Traced] = deque()
        self._lost = 0

    def add(self, time_ns: int, interface: str, length_bytes: int, frame: bytes) -> None:
        if len(self._records) < RECORDS_MAX:
            self._records.append(Traced(time_ns, interface, length_bytes, frame[:SNAP_BYTES]))
        else:
            self._lost += 1

    def take(self) -> tuple[list[Traced], int]:
        """(what was added since the last call, how many more were lost)."""
        taken, lost = list(self._records), self._lost
        self._records.clear()
        self._lost = 0
        return taken, lost
