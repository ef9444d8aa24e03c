"""What a client has written where, what it was promised, and whether a disk keeps to it.

Every sector of every write says which write it is of and where it belongs, so that any content of
a disk can be judged: by the newest write to each sector that had been acknowledged, nothing older
may be there. Owns the record of the writes, the verified load that makes it, and the verdict. Must
not know: what happens to the target meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ggaoe.client import RemoteDevice
from ggaoe.proto.frame import SECTOR_BYTES
from integration.scene import DEADLINE_S

WORKERS = 32
WRITE_SECTORS_MAX = 24
"""More than a frame has room for."""
HOT_SECTORS = 128
HOT_CHANCE = 0.1
"""Some writes go where many overlap. Not too many: those that overlap wait for each other, and the
medium's cache would never hold much."""
POLL_INTERVAL_S = 0.005
FINDINGS_MAX = 5
"""As many as a failed test shows."""

_MARK = struct.Struct("<QQ")
_REPEATED = SECTOR_BYTES // _MARK.size
_NEVER = 1 << 62


@dataclass(slots=True)
class Write:
    """One write; the times are the load's clock, by default `_NEVER`."""

    sector: int
    count: int
    acknowledged_at: int = _NEVER
    flushed_at: int = _NEVER
    """When a FLUSH was answered that had been sent after the acknowledgement."""


@dataclass(frozen=True)
class Finding:
    """A sector that holds what it must not."""

    at: int
    sector: int
    found: int
    """The number of the write that is there, -1 for bytes that nobody has written."""
    promised: int

    def __str__(self) -> str:
        what = f"write {self.found}" if self.found >= 0 else "nothing that was written"
        return f"at {self.at}: sector {self.sector} holds {what}, write {self.promised} is promised"


def content(number: int, sector: int, count: int) -> bytes:
    """The data of write `number`; number 0 is the empty disk."""
    if number == 0:
        return bytes(count * SECTOR_BYTES)
    return b"".join(_MARK.pack(number, at) * _REPEATED for at in range(sector, sector + count))


class Ledger:
    """All writes to a disk of `sectors` sectors, numbered from 1 in the order of their sending."""

    def __init__(self, sectors: int) -> None:
        self.sectors = sectors
        self.writes = [Write(0, sectors, 0, 0)]
        self.floor = [0] * sectors
        """By sector: the newest write that has been acknowledged by now."""

    def begin(self, sector: int, count: int) -> int:
        """A write is about to be sent; its number."""
        self.writes.append(Write(sector, count))
        return len(self.writes) - 1

    def acknowledged(self, number: int, at: int) -> None:
        write = self.writes[number]
        write.acknowledged_at = at
        for sector in range(write.sector, write.sector + write.count):
            self.floor[sector] = max(self.floor[sector], number)

    def check(
        self, data: bytes | bytearray, floor: list[int], sector: int = 0, at: int = 0
    ) -> list[Finding]:
        """What is wrong with `data` found from `sector` on, where `floor` was promised."""
        findings = []
        for index, promised in enumerate(floor, sector):
            start = (index - sector) * SECTOR_BYTES
            found, place = _MARK.unpack_from(data, start)
            is_known = found < len(self.writes) and self._covers(found, index)
            is_whole = (
                data[start : start + SECTOR_BYTES] == data[start : start + _MARK.size] * _REPEATED
            )
            if not (is_known and is_whole and place == (index if found else 0)):
                findings.append(Finding(at, index, -1, promised))
            elif found < promised:
                findings.append(Finding(at, index, found, promised))
        return findings

    def _covers(self, number: int, sector: int) -> bool:
        write = self.writes[number]
        return write.sector <= sector < write.sector + write.count

    def judge(
        self, images: Iterable[tuple[int, bytearray]], promised_at: Callable[[Write], int]
    ) -> Iterable[tuple[int, list[Finding]]]:
        """(point, findings) of each image, for ascending points; a write has to be there once
        the time `promised_at` says has come."""
        order = sorted(range(len(self.writes)), key=lambda number: promised_at(self.writes[number]))
        due = iter(order)
        number = next(due, None)
        floor = [0] * self.sectors
        for at, image in images:
            while number is not None and promised_at(self.writes[number]) <= at:
                write = self.writes[number]
                for sector in range(write.sector, write.sector + write.count):
                    floor[sector] = max(floor[sector], number)
                number = next(due, None)
            yield at, self.check(image, floor, at=at)

    def begin_anew(self) -> None:
        """Whatever is promised by now is promised from time 0 on: the clock starts again."""
        for write in self.writes:
            if write.acknowledged_at != _NEVER:
                write.acknowledged_at = 0
            if write.flushed_at != _NEVER:
                write.flushed_at = 0


class Load:
    """Workers that write and read anywhere on `remote`, and check what they read.

    `clock` says what time it is. Writes that `overlap` are sent at once now and then: only where
    no frame is sent twice, since a copy of the older one may arrive after the newer one.
    """

    def __init__(
        self,
        remote: RemoteDevice,
        ledger: Ledger,
        rng: random.Random,
        clock: Callable[[], int] = lambda: 0,
        *,
        overlap: bool = False,
    ) -> None:
        self.writes = 0
        self.reads = 0
        self._remote = remote
        self._ledger = ledger
        self._rng = rng
        self._clock = clock
        self._overlap = overlap
        self._busy: set[int] = set()
        self._is_stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """The load, going on meanwhile; every worker comes to its end."""
        self._is_stopping = False
        # Otherwise the first writes would each ask for it, and be sent in the order of the answers.
        await self._remote.identify()
        self._tasks = [asyncio.create_task(self._work()) for _ in range(WORKERS)]
        try:
            yield self
            self._is_stopping = True
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def more(self, writes: int) -> None:
        """Wait for so many further acknowledgements."""
        wanted = self.writes + writes
        async with asyncio.timeout(DEADLINE_S):
            while self.writes < wanted:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(POLL_INTERVAL_S)

    async def flush(self) -> None:
        """FLUSH CACHE: what has been acknowledged before is promised from its answer on."""
        ledger = self._ledger
        waiting = [
            write
            for write in ledger.writes
            if write.acknowledged_at != _NEVER and write.flushed_at == _NEVER
        ]
        await self._remote.flush()
        for write in waiting:
            write.flushed_at = self._clock()

    async def read_all(self) -> None:
        """The whole disk, as the target shows it."""
        await self._read(0, self._ledger.sectors)

    async def _work(self) -> None:
        while not self._is_stopping:
            sector, count = self._choose()
            if self._rng.random() < 0.25:
                await self._read(sector, count)
                self.reads += 1
                continue
            sectors = set(range(sector, sector + count))
            if not self._overlap:
                if sectors & self._busy:
                    await asyncio.sleep(0)
                    continue
                self._busy |= sectors
            number = self._ledger.begin(sector, count)
            await self._remote.write(sector, content(number, sector, count))
            self._ledger.acknowledged(number, self._clock())
            self._busy -= sectors
            self.writes += 1

    def _choose(self) -> tuple[int, int]:
        within = HOT_SECTORS if self._rng.random() < HOT_CHANCE else self._ledger.sectors
        count = self._rng.randint(1, min(WRITE_SECTORS_MAX, within))
        return self._rng.randrange(within - count + 1), count

    async def _read(self, sector: int, count: int) -> None:
        floor = self._ledger.floor[sector : sector + count]
        data = await self._remote.read(sector, count)
        findings = self._ledger.check(data, floor, sector)
        assert not findings, "\n".join(map(str, findings[:FINDINGS_MAX]))
