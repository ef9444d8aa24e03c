"""Reads that no reply can carry, because the MTU was lowered while they were under way.

Their initiators learn of smaller frames and ask for less from then on, but what was under way they
send again as it was, until they give the whole device up (Linux: after `aoe_deadsecs`). So such a
read is dropped at first, because the MTU may be raised again and another interface may carry it,
and rejected where it still comes after that.

Owns which reads those are, and since when. Time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

DROPPED_S = 1.0
"""A read is only dropped for so long after it came for the first time."""
FAILOVER_S = 15.0
"""The same where another interface serves the device and has room for the reply: Linux takes
another path once one has been silent for 10 s."""
FORGOTTEN_S = 60.0
"""Longer than Linux waits before it sends a request again."""
INITIATORS_MAX = 64
READS_MAX = 256
"""Remembered of one device, and of one initiator; beyond that the oldest gives way."""

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(slots=True)
class _Reads:
    """Those of one initiator."""

    last_s: float
    first_s: dict[bytes, float] = field(default_factory=dict)
    """When each came for the first time, by its task file: it may have another tag each time."""
    is_counted: bool = False


class UnfitReads:
    """Those of one device."""

    def __init__(self) -> None:
        self._by_mac: dict[bytes, _Reads] = {}

    def is_hopeless(
        self, mac: bytes, taskfile: bytes, now_s: float, *, fits_elsewhere: bool
    ) -> bool:
        """Whether a read that has come from `mac` and does not fit is to be rejected by now."""
        reads = self._by_mac.get(mac)
        if reads is None or now_s - reads.last_s > FORGOTTEN_S:
            reads = _Reads(now_s)
            _put(self._by_mac, mac, reads, INITIATORS_MAX)
        reads.last_s = now_s
        if taskfile not in reads.first_s:
            _put(reads.first_s, taskfile, now_s, READS_MAX)
        dropped_s = FAILOVER_S if fits_elsewhere else DROPPED_S
        return now_s - reads.first_s[taskfile] >= dropped_s

    def count_once(self, mac: bytes) -> int:
        """How many reads of `mac` do not fit; 0 where that has been asked before."""
        reads = self._by_mac[mac]
        if reads.is_counted:
            return 0
        reads.is_counted = True
        return len(reads.first_s)


def _put(entries: dict[_K, _V], key: _K, value: _V, entries_max: int) -> None:
    """The newest at the end, and the oldest out where there are too many."""
    entries.pop(key, None)
    if len(entries) >= entries_max:
        del entries[next(iter(entries))]
    entries[key] = value
