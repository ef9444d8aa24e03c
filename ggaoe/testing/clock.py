"""Time that passes only when nothing else is left to do: an event loop for simulations.

Owns the clock and the waiting. A simulated hour costs what its events cost, and the same events
come at the same times in every run. Must not know what is simulated.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, TypeVar

from ggaoe.engine.base import Clock

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

T = TypeVar("T")

BEGIN_MONOTONIC_NS = 1_000_000_000_000
BEGIN_WALL_NS = 1_700_000_000_000_000_000


class ManualClock:
    """Two clocks that move together, until somebody sets the wall's."""

    def __init__(self) -> None:
        self.monotonic_ns = BEGIN_MONOTONIC_NS
        self.wall_offset_ns = BEGIN_WALL_NS - BEGIN_MONOTONIC_NS

    @property
    def wall_ns(self) -> int:
        return self.monotonic_ns + self.wall_offset_ns

    def for_engine(self) -> Clock:
        """This clock as engines take it."""
        return Clock(lambda: self.monotonic_ns, lambda: self.wall_ns)


class _Patient(selectors.BaseSelector):
    """Never waits: where nothing is ready, the time of the next timer has come."""

    def __init__(self, clock: ManualClock) -> None:
        self._inner = selectors.EpollSelector()
        self._clock = clock
        self.before_waiting: Callable[[], bool] = bool

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._inner.select(0)
        if ready or (timeout is not None and timeout <= 0) or self.before_waiting():
            return ready
        if timeout is None:
            raise RuntimeError("nothing is left to happen, and it has not ended")
        self._clock.monotonic_ns += max(1, round(timeout * 1e9))
        return []

    def register(
        self, fileobj: FileDescriptorLike, events: int, data: object = None
    ) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(
        self, fileobj: FileDescriptorLike, events: int, data: object = None
    ) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._inner.get_map()

    def close(self) -> None:
        self._inner.close()


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop on `clock`. What a callback raises ends the run, and `run` raises it."""

    def __init__(self, clock: ManualClock) -> None:
        self._patient = _Patient(clock)
        self._manual = clock
        super().__init__(self._patient)
        # Timers are due to the nanosecond, not to what the system's clock can tell apart.
        self._clock_resolution = 1e-9
        self._failure: BaseException | None = None
        self.set_exception_handler(self._fail)

    def time(self) -> float:
        return self._manual.monotonic_ns / 1e9

    def run(self, coroutine: Coroutine[object, object, T], hook: Callable[[], bool]) -> T:
        """What `coroutine` returns or raises, or `hook`, which is called whenever time is about to
        pass, and returns whether it has found something to do instead. Closes the loop."""
        self._patient.before_waiting = lambda: self._is_sound() and hook()
        try:
            return self.run_until_complete(coroutine)
        finally:
            self._patient.before_waiting = bool
            tasks = asyncio.all_tasks(self)
            for task in tasks:
                task.cancel()
            if tasks:
                self.run_until_complete(asyncio.wait(tasks))
            self.close()

    def _fail(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        self._failure = error if isinstance(error, BaseException) else RuntimeError(str(context))

    def _is_sound(self) -> bool:
        if self._failure is not None:
            raise self._failure
        return True
