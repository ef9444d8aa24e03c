"""Group commit: one flush of the store makes all writes stable that completed before it.

Owns which requests wait for which flush. At most one flush runs; whatever completes meanwhile
shares the next one. FLUSH commands join in the same way.
"""

from __future__ import annotations

from ggaoe.sched.request import Request


class GroupCommit:
    """Requests enter with `join`, and leave with the flush that was started after they entered."""

    def __init__(self) -> None:
        self._joined: list[Request] = []
        self._covered: list[Request] = []

    def join(self, request: Request) -> None:
        """`request` may be answered once a flush that starts from now on is done."""
        self._joined.append(request)

    def start(self) -> bool:
        """True where a flush is to be submitted now; it covers all that have joined."""
        if self._covered or not self._joined:
            return False
        self._covered, self._joined = self._joined, []
        return True

    def done(self) -> list[Request]:
        """The flush succeeded; returns those whom it made stable."""
        covered, self._covered = self._covered, []
        return covered

    def failed(self) -> list[Request]:
        """The flush failed; returns everybody who is here. Whoever joined while it ran may have
        lost data to it, too: the kernel reports a failed write-back once, so that the next flush
        would succeed (fsync(2))."""
        lost = self._covered + self._joined
        self._covered, self._joined = [], []
        return lost
