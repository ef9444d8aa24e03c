"""The events of this daemon: remembered for a while, and told to whoever follows them.

Owns the followers and their bounds. Must not know what any event means.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator

from ggaoe.events import FIELDS

REMEMBERED_MAX = 256
BEHIND_MAX = 1024
"""Events that one follower has not taken yet; later ones are lost, and counted."""

Json = dict[str, object]


class Events(logging.Handler):
    """Collects the records that are events, from any thread, until `close`."""

    def __init__(self, logger: str = "ggaoe") -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._logger = logging.getLogger(logger)
        self._recent: deque[Json] = deque(maxlen=REMEMBERED_MAX)
        self._followers: set[_Follower] = set()
        self._logger.addHandler(self)

    def close(self) -> None:
        """Collect no more."""
        self._logger.removeHandler(self)
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        kind = getattr(record, "event", None)
        if kind is None:
            return
        about = {field: getattr(record, field, "") for field in FIELDS}
        event: Json = {
            "time_s": record.created,
            "event": kind,
            "level": record.levelname.lower(),
            **{field: value for field, value in about.items() if value},
            "text": record.getMessage(),
        }
        self._loop.call_soon_threadsafe(self._publish, event)

    def _publish(self, event: Json) -> None:
        self._recent.append(event)
        for follower in self._followers:
            follower.put(event)

    def recent(self) -> list[Json]:
        """What is remembered, oldest first."""
        return list(self._recent)

    async def follow(self) -> AsyncGenerator[Json, None]:
        """What is remembered, then what happens, without end. Where events came faster than they
        were taken there is {"event": "lost", "count": …} in their place."""
        follower = _Follower(self._recent)
        self._followers.add(follower)
        try:
            while True:
                yield await follower.get()
        finally:
            self._followers.discard(follower)


class _Follower:
    def __init__(self, recent: deque[Json]) -> None:
        self._waiting = deque(recent)
        self._lost = 0
        self._news = asyncio.Event()
        self._news.set()

    def put(self, event: Json) -> None:
        if len(self._waiting) >= BEHIND_MAX:
            self._lost += 1
        else:
            if self._lost:
                self._waiting.append({"event": "lost", "count": self._lost})
                self._lost = 0
            self._waiting.append(event)
        self._news.set()

    async def get(self) -> Json:
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()
