"""The last frames that hosts have sent to one device, and what became of each.

Owns what is kept, and of how many hosts. Knows no frame's meaning. What reads, writes, flushes or
verifies is kept apart, one request of each host, by the engine that carries it out: it must cost
next to nothing, and would leave nothing of what else a host has asked for.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

HOSTS_MAX = 64
"""Per device; the one that was silent longest gives way."""
FRAMES_PER_HOST_MAX = 4
"""That differ."""


class Fate(StrEnum):
    """What became of a frame; the values are part of the control protocol."""

    UNDER_WAY = "under way"
    ANSWERED = "answered"
    REFUSED = "refused"
    """By an error reply."""
    DROPPED = "dropped"
    """Without an answer."""


@dataclass(slots=True)
class Sighting:
    """A frame that came at `time_s` of the monotonic clock; `head` has its first 36 bytes, or all
    where it is shorter."""

    time_s: float
    interface: str
    length_bytes: int
    head: bytes
    fate: Fate = Fate.UNDER_WAY
    cause: str = ""
    """The value of a Refusal or of a drop's reason; of a failure of the store, its words."""
    times: int = 1
    """How many there were, one after the other, that differ in nothing but time and tag."""

    @property
    def tag(self) -> int:
        return int.from_bytes(self.head[20:24], "big")

    def is_like(self, other: Sighting) -> bool:
        return (
            (self.interface, self.length_bytes, self.fate, self.cause)
            == (other.interface, other.length_bytes, other.fate, other.cause)
            and self.head[14:20] == other.head[14:20]
            and self.head[24:] == other.head[24:]
        )


class Sightings:
    """Those of one device, by MAC of 6 bytes."""

    def __init__(self) -> None:
        self._by_mac: dict[bytes, deque[Sighting]] = {}

    def add(self, mac: bytes, sighting: Sighting) -> None:
        """The last frame of `mac` until now."""
        known = self._by_mac.pop(mac, None)
        if known is None:
            if len(self._by_mac) >= HOSTS_MAX:
                del self._by_mac[next(iter(self._by_mac))]
            known = deque(maxlen=FRAMES_PER_HOST_MAX)
        self._by_mac[mac] = known
        if known and known[-1].is_like(sighting):
            sighting.times += known.pop().times
        known.append(sighting)

    def settle(self, mac: bytes, tag: int, fate: Fate, cause: str) -> None:
        """What became of a frame that was under way, if it is still remembered."""
        for sighting in self._by_mac.get(mac, ()):
            if sighting.tag == tag and sighting.fate is Fate.UNDER_WAY:
                sighting.fate, sighting.cause = fate, cause

    def of(self, mac: bytes) -> list[Sighting]:
        """Oldest first."""
        return list(self._by_mac.get(mac, ()))
