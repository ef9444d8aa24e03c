"""Worker threads, and the way of results back into the event loop.

Owns: a few threads per backend, so that a store that hangs hurts no other, and the batching of
completions: however many transfers finish before the loop looks, it is woken once. Must not know
files, or what a transfer does.

The threads are daemon threads and not a `ThreadPoolExecutor`, whose threads the interpreter waits
for at exit: a store that never answers must not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

from ggaoe.backend.base import Transfer

T = TypeVar("T")

THREADS_MAX = 8
"""Threads of one backend for reads, and as many for writes, so how many of each run at once."""


def in_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """`call()` in a thread of its own: one that hangs neither takes a thread that others wait for
    nor keeps the process from ending. Who stops waiting for it does not stop it. OSError where the
    system has no more threads."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(done: Callable[[], None]) -> None:
        if not outcome.done():
            done()

    def run() -> None:
        try:
            done = partial(outcome.set_result, call())
        except BaseException as error:
            done = partial(outcome.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody is left
            loop.call_soon_threadsafe(settle, done)

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, "no thread for it") from None
    return outcome


class Completions:
    """Collects results and hands them to `deliver` in the loop's thread, never from within `add`.

    Belongs to the loop that runs when it is made.
    """

    def __init__(self, deliver: Callable[[Sequence[Transfer]], None]) -> None:
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._done: list[Transfer] = []

    def add(self, transfer: Transfer, result: int) -> None:
        """Report from the loop's thread: bytes moved or a negated errno."""
        if self._append(transfer, result):
            self._loop.call_soon(self._wake)

    def add_from_thread(self, transfer: Transfer, result: int) -> None:
        """Report from any other thread; lost when the loop is closed, for nobody is left."""
        if self._append(transfer, result):
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    def _append(self, transfer: Transfer, result: int) -> bool:
        transfer.result = result
        with self._lock:
            self._done.append(transfer)
            return len(self._done) == 1

    def _wake(self) -> None:
        with self._lock:
            done, self._done = self._done, []
        self._deliver(done)


class Workers:
    """Runs `perform(transfer)`, which returns a result or raises OSError, in threads of its own.

    The queue is as long as the caller makes it: the scheduler bounds what is in flight.
    """

    def __init__(
        self,
        name: str,
        perform: Callable[[Transfer], int],
        completions: Completions,
        threads_max: int = THREADS_MAX,
    ) -> None:
        self._name = name
        self._perform = perform
        self._completions = completions
        self._threads_max = threads_max
        self._jobs: SimpleQueue[Transfer | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished = 0
        self._threads = 0

    def submit(self, transfer: Transfer) -> None:
        """Queue one transfer; starts another thread if every one may be busy."""
        with self._lock:
            self._unfinished += 1
            short = self._threads < min(self._unfinished, self._threads_max)
        if short:
            self._start_thread()
        if self._threads:
            self._jobs.put(transfer)
        else:
            self._finished(1)
            self._completions.add(transfer, -errno.EAGAIN)

    def stop(self) -> None:
        """End the threads: what has started runs to its end, what has not is cancelled."""
        with suppress(Empty):
            while (transfer := self._jobs.get_nowait()) is not None:
                self._finished(1)
                self._completions.add(transfer, -errno.ECANCELED)
        for _ in range(self._threads):
            self._jobs.put(None)

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=self._run, name=f"{self._name}/{self._threads}", daemon=True
        )
        # Without memory or process slots for another thread, those that exist do the work.
        with suppress(RuntimeError):
            thread.start()
            self._threads += 1

    def _finished(self, count: int) -> None:
        with self._lock:
            self._unfinished -= count

    def _run(self) -> None:
        while (transfer := self._jobs.get()) is not None:
            try:
                result = self._perform(transfer)
            except OSError as error:
                result = -(error.errno or errno.EIO)
            self._finished(1)
            self._completions.add_from_thread(transfer, result)
            del transfer  # an idle thread must not keep the buffers
