"""Verified I/O that runs while something happens to the daemon.

Each of many workers writes random data to sectors of its own, reads them back and compares, again
and again. Must not know: what happens meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from ggaoe.client import NoAnswerError, RefusedError, RemoteDevice
from ggaoe.proto.frame import SECTOR_BYTES, Error
from integration.scene import DEADLINE_S

WORKERS = 64
"""As many requests as our client has in flight to one device."""
SECTORS = 4
POLL_INTERVAL_S = 0.005
RETRY_INTERVAL_S = 0.02

T = TypeVar("T")


class Load:
    """Verified I/O to `remote`, from sector `base` on; `disk` is its file."""

    def __init__(
        self,
        remote: RemoteDevice,
        disk: Path,
        base: int = 0,
        seed: int | None = None,
        *,
        asks_anew: bool = False,
        workers: int = WORKERS,
    ) -> None:
        if seed is None:
            seed = random.randrange(1 << 32)
        print(f"seed {seed}")
        self._rng = random.Random(seed)
        self.remote = remote
        self.rounds = 0
        self.unavailable = 0
        """How often the target answered that it cannot serve just now; then one asks again."""
        self.unanswered = 0
        """How often nobody has answered at all; with `asks_anew` one then asks by new requests, as
        large as paths have meanwhile become."""
        self._asks_anew = asks_anew
        self._disk = disk
        self._base = base
        self._written: list[set[bytes]] = [{bytes(SECTORS * SECTOR_BYTES)} for _ in range(workers)]
        self._is_stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._work(index)) for index in range(len(self._written))
        ]

    async def more(self, rounds: int = 2 * WORKERS) -> None:
        """Wait until so many further rounds have been verified."""
        wanted = self.rounds + rounds
        async with asyncio.timeout(DEADLINE_S):
            while self.rounds < wanted:
                self._raise()
                await asyncio.sleep(POLL_INTERVAL_S)

    async def finish(self) -> None:
        """Every worker ends its round; raises what any of them has met."""
        self._is_stopping = True
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*self._tasks)

    async def abandon(self) -> None:
        """Nobody waits any more for what is under way."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if outcome is not None and not isinstance(outcome, asyncio.CancelledError):
                raise outcome

    def cancel(self) -> None:
        """The test has failed; whatever these have met is not the reason."""
        for task in self._tasks:
            task.cancel()

    def check_file(self) -> None:
        """The file holds what was acknowledged last, or what was being written after that."""
        with self._disk.open("rb") as file:
            for index, possible in enumerate(self._written):
                file.seek(self._sector(index) * SECTOR_BYTES)
                found = file.read(SECTORS * SECTOR_BYTES)
                # One write may be several frames, each of which may have come to its end or not.
                assert any(found == one for one in possible) or _is_mixture(found, possible), index

    def _sector(self, index: int) -> int:
        return self._base + index * SECTORS

    def _raise(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _work(self, index: int) -> None:
        sector = self._sector(index)
        while not self._is_stopping:
            data = self._rng.randbytes(SECTORS * SECTOR_BYTES)
            self._written[index].add(data)
            await self._insist(lambda data=data: self.remote.write(sector, data))
            self._written[index] = {data}
            found = await self._insist(lambda: self.remote.read(sector, SECTORS))
            assert found == data, f"sector {sector}"
            self.rounds += 1

    async def _insist(self, request: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await request()
            except RefusedError as error:
                if error.code != Error.UNAVAILABLE:
                    raise
                self.unavailable += 1
                await asyncio.sleep(RETRY_INTERVAL_S)
            except NoAnswerError:
                if not self._asks_anew:
                    raise
                self.unanswered += 1


def _is_mixture(found: bytes, possible: set[bytes]) -> bool:
    return all(
        any(found[at : at + SECTOR_BYTES] == one[at : at + SECTOR_BYTES] for one in possible)
        for at in range(0, len(found), SECTOR_BYTES)
    )


@asynccontextmanager
async def running(*loads: Load) -> AsyncIterator[None]:
    """Loads that run meanwhile; each has gone on after the block, and verified to the end."""
    try:
        for load in loads:
            load.start()
        for load in loads:
            await load.more()
        yield
        for load in loads:
            await load.more()
        for load in loads:
            await load.finish()
            load.check_file()
    except BaseException:
        for load in loads:
            load.cancel()
        raise
