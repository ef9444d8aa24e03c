"""Exceptions that callbacks of the event loop raise: each is logged, and if they last, the process
ends, so that its supervisor starts it again.

A callback that fails loses what it was about to do, and the loop calls the next one. So the service
manager's watchdog, which watches the loop, never notices that every callback fails.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from ggaoe.engine.limit import Bucket
from ggaoe.errors import limit_reached

LASTING_S = 30.0
"""How long failures may go on."""
PAUSE_S = 5.0
"""Failures further apart are not one row of them."""
FAILURES_MIN = 10
"""So many in such a row end the process, and no fewer."""
LOGGED_PER_S = 0.2
LOGGED_BURST = 10
EXIT_STATUS = 70
"""EX_SOFTWARE of sysexits.h."""

_log = logging.getLogger("ggaoe.loop")


def _exit() -> None:
    """At once: what was acknowledged is safe, and the interpreter may be what fails."""
    logging.shutdown()
    os._exit(EXIT_STATUS)


class Failures:
    """The exception handler of one event loop; `end` is called when failures have lasted."""

    def __init__(
        self,
        end: Callable[[], None] = _exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._end = end
        self._clock = clock
        self._logged = Bucket(LOGGED_PER_S, LOGGED_BURST)
        self._count = 0
        self._since_s = self._last_s = float("-inf")

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Handle the exceptions of `loop` from now on."""
        loop.set_exception_handler(self.handle)

    def handle(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception has escaped, as `loop.call_exception_handler` tells it."""
        now_s = self._clock()
        if (why := _not_accepted(context)) is not None:
            if self._logged.take(now_s):
                _log.error("a connection waits: %s", why)
            return
        if now_s - self._last_s > PAUSE_S:
            self._since_s, self._count = now_s, 0
        self._last_s = now_s
        self._count += 1
        if self._logged.take(now_s):
            error = context.get("exception")
            _log.error("internal error: %s", context.get("message", ""), exc_info=error)
        if self._count >= FAILURES_MIN and now_s - self._since_s >= LASTING_S:
            _log.critical("internal errors do not end: the process ends, to be started again")
            self._end()


def _not_accepted(context: dict[str, Any]) -> str | None:
    """Why a loop could not accept a connection for now, which it tries again by itself: nothing has
    failed, and a new process would not get more descriptors or memory. None for anything else."""
    error = context.get("exception")
    if not isinstance(error, OSError) or "socket" not in context:
        return None
    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
        return None
    return limit_reached(error) or error.strerror
