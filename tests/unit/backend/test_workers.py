"""Worker threads: a store that hangs, and what happens to what waits behind it."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Sequence

from ggaoe.backend.base import Transfer
from ggaoe.backend.workers import THREADS_MAX, Completions, Workers
from unit.backend.conformance import DEADLINE_S, read


class Results:
    """What has been delivered, in batches."""

    def __init__(self) -> None:
        self.batches: list[list[Transfer]] = []
        self._changed = asyncio.Event()

    def deliver(self, done: Sequence[Transfer]) -> None:
        self.batches.append(list(done))
        self._changed.set()

    async def count(self, transfers: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while sum(map(len, self.batches)) < transfers:
                self._changed.clear()
                await self._changed.wait()


async def test_stop_cancels_only_what_has_not_started() -> None:
    results = Results()
    answer = threading.Event()
    started = threading.Semaphore(0)

    def hang(transfer: Transfer) -> int:
        started.release()
        answer.wait()
        return transfer.length_bytes

    workers = Workers("hang", hang, Completions(results.deliver))
    transfers = [read(0, 512) for _ in range(THREADS_MAX + 5)]
    try:
        for transfer in transfers:
            workers.submit(transfer)
        for _ in range(THREADS_MAX):
            assert await asyncio.to_thread(started.acquire, timeout=DEADLINE_S)
        workers.stop()
        await results.count(5)
        assert results.batches == [transfers[THREADS_MAX:]]
        assert {transfer.result for transfer in transfers[THREADS_MAX:]} == {-errno.ECANCELED}
    finally:
        answer.set()
    await results.count(len(transfers))
    assert {transfer.result for transfer in transfers[:THREADS_MAX]} == {512}


async def test_error_of_a_thread_is_the_result() -> None:
    results = Results()

    def fail(_transfer: Transfer) -> int:
        raise OSError(errno.ENOSPC, "full")

    workers = Workers("fail", fail, Completions(results.deliver))
    transfer = read(0, 512)
    workers.submit(transfer)
    await results.count(1)
    assert transfer.result == -errno.ENOSPC
    workers.stop()


async def test_results_known_together_are_delivered_together() -> None:
    results = Results()
    completions = Completions(results.deliver)
    transfers = [read(0, 512) for _ in range(3)]
    for transfer in transfers:
        completions.add(transfer, 512)
    assert results.batches == []
    await results.count(3)
    assert results.batches == [transfers]


async def test_one_transfer_at_a_time_needs_one_thread() -> None:
    results = Results()
    workers = Workers(
        "single", lambda transfer: transfer.length_bytes, Completions(results.deliver)
    )
    for done in range(1, 20):
        workers.submit(read(0, 512))
        await results.count(done)
    assert [t.name for t in threading.enumerate() if t.name.startswith("single/")] == ["single/0"]
    workers.stop()
