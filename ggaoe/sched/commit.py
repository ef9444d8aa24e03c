"""Group commit: one flush of the store makes all writes stable that completed before it.

Owns which requests wait for which flush, and whose writes a failed one has lost. At most one flush
runs; whatever completes meanwhile shares the next one. FLUSH commands join in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

from ggaoe.sched.request import Request

HOSTS_MAX = 256
"""Initiators remembered of one device; beyond that the first is forgotten. From then on each
unknown initiator counts as one that has written, because it may be the forgotten one."""
TOLD_S = 30
"""So long each FLUSH of a host fails after the first that told it of a loss: an answer may get
lost, and what is sent again cannot be told from a new FLUSH."""


@dataclass(slots=True)
class _Host:
    """Whose writes are answered from the cache."""

    error: int = 0
    """The errno of a flush that should have saved such a write; 0: of none."""
    told_ns: int | None = None


class GroupCommit:
    """Requests enter with `join`, and leave with the flush that was started after they entered."""

    def __init__(self) -> None:
        self._joined: list[Request] = []
        self._covered: list[Request] = []
        self._begun = 1
        self._wrote = 0
        """How many flushes had begun when a write was answered last from the cache."""
        self._stable = 1
        """Of what was answered before so many had begun it is known whether it is saved."""
        self._hosts: dict[bytes, _Host] = {}
        self._forgotten: _Host | None = None
        """What holds for initiators that were forgotten, and so for each unknown one."""

    def join(self, request: Request) -> None:
        """`request` may be answered once a flush that starts from now on is done."""
        self._joined.append(request)

    def start(self) -> bool:
        """True where a flush is to be submitted now; it covers all that have joined."""
        if self._covered or not self._joined:
            return False
        self._covered, self._joined = self._joined, []
        self._begun += 1
        return True

    def done(self) -> list[Request]:
        """The flush succeeded; returns those whom it made stable."""
        covered, self._covered = self._covered, []
        self._stable = self._begun
        return covered

    def failed(self, error: int) -> list[Request]:
        """The flush failed with that errno; returns those whom it covered. Whoever joined while it
        ran, or has been answered from the cache, may have lost data to it, too: the kernel reports
        a failed write-back once, so that the next flush would succeed (fsync(2)). Those who joined
        are to be answered with the error, after the next flush: then it is certain what the store
        has."""
        lost, self._covered = self._covered, []
        if self._wrote >= self._stable:
            # All of them: who has several addresses may write by one and flush by another.
            for host in self._hosts.values():
                host.error, host.told_ns = error, None
            if self._forgotten is not None:
                self._forgotten.error = error
        self._begun += 1
        self._stable = self._begun
        return lost

    def answered(self, mac: bytes) -> None:
        """A write of this host was answered from the cache: no flush has saved it."""
        self._wrote = self._begun
        if mac not in self._hosts:
            self._remember(mac)

    def _remember(self, mac: bytes) -> _Host:
        if len(self._hosts) >= HOSTS_MAX:
            first = self._hosts.pop(next(iter(self._hosts)))
            error = self._forgotten.error if self._forgotten is not None else 0
            self._forgotten = _Host(first.error or error)
        host = _Host(self._forgotten.error if self._forgotten is not None else 0)
        self._hosts[mac] = host
        return host

    def error_of(self, mac: bytes, now_ns: int) -> int:
        """The errno with which a FLUSH of this host is answered, whatever its own flush has given:
        a failed one has lost what was answered before. 0 where nothing was lost."""
        host = self._hosts.get(mac)
        if host is None and self._forgotten is not None:
            host = self._remember(mac)
        if host is None or not host.error:
            return 0
        if host.told_ns is None:
            host.told_ns = now_ns
        elif now_ns - host.told_ns > TOLD_S * 1_000_000_000:
            host.error = 0
        return host.error
