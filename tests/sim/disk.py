"""A disk that is slow, answers in any order, fails, falls short, hangs, and forgets at a power cut.

Owns what is on the medium and what is only in its cache, sector by sector. It is pessimistic: what
was not flushed may be lost or kept, each sector and each version by itself; a flush that fails may
have lost for good what it should have saved, though it can still be read (as Linux' page cache).
Draws its numbers from the simulation's generator only.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ggaoe.backend.base import Backend, Transfer
from ggaoe.proto.ata import Op
from ggaoe.proto.frame import SECTOR_BYTES


@dataclass
class Ills:
    """What a disk suffers from; rates are chances per transfer, times in seconds."""

    short_rate: float = 0.0
    flush_failure_rate: float = 0.0
    slow_rate: float = 0.0
    hang_rate: float = 0.0
    hangs_max: int = 4
    """In all: hosts lose patience with a disk that does nothing else."""
    quick_s: float = 0.0003
    slow_s: float = 0.05
    hang_s: float = 20.0
    bad: set[int] = field(default_factory=set)
    """Sectors that can be neither read nor written (EIO)."""
    full: set[int] = field(default_factory=set)
    """Sectors for which there is no space (ENOSPC)."""


class _Sector:
    """`durable` is on the medium; `versions` were written since, the last is what is read. A clean
    version is one that a failed flush has given up."""

    __slots__ = ("dirty", "durable", "versions")

    def __init__(self) -> None:
        self.durable = bytes(SECTOR_BYTES)
        self.versions: list[bytes] = []
        self.dirty: list[bool] = []

    @property
    def content(self) -> bytes:
        return self.versions[-1] if self.versions else self.durable

    def write(self, content: bytes) -> None:
        self.versions.append(content)
        self.dirty.append(True)

    def flush(self, count: int) -> None:
        """The first `count` versions are safe: the last dirty one of them is on the medium."""
        for index in range(count - 1, -1, -1):
            if self.dirty[index]:
                self.durable = self.versions[index]
                del self.versions[: index + 1], self.dirty[: index + 1]
                return

    def give_up(self) -> None:
        self.dirty = [False] * len(self.dirty)

    def survivors(self) -> list[bytes]:
        kept = [v for v, dirty in zip(self.versions, self.dirty, strict=True) if dirty]
        return [self.durable, *kept]


class SimDisk(Backend):
    """`size_sectors` of zeros. `flush_began` and `flush_ended` are told of each flush: what the one
    returns is given to the other, with whether it succeeded."""

    description = "simulated"

    def __init__(
        self, chance: random.Random, size_sectors: int, granule_bytes: int, ills: Ills
    ) -> None:
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self.ills = ills
        self.size_bytes = size_sectors * SECTOR_BYTES
        self.granule_bytes = granule_bytes
        self.flush_began: Callable[[], int]
        self.flush_ended: Callable[[int, bool], None]
        self._sectors = [_Sector() for _ in range(size_sectors)]
        self._timers: dict[Transfer, asyncio.TimerHandle] = {}
        self._flushes: dict[Transfer, tuple[int, list[int]]] = {}
        """What `flush_began` has returned, and how many versions of each sector are to be saved."""
        self._running: dict[Transfer, None] = {}
        """Without effect so far, in order of submission."""

    def content(self, sector: int) -> bytes:
        """What a read of `sector` finds."""
        return self._sectors[sector].content

    def submit(self, transfers: Sequence[Transfer]) -> None:
        chance, ills = self._chance, self.ills
        for transfer in transfers:
            if transfer.op is Op.FLUSH:
                versions = [len(sector.versions) for sector in self._sectors]
                self._flushes[transfer] = self.flush_began(), versions
            drawn = chance.random()
            if drawn < ills.hang_rate and ills.hangs_max:
                ills.hangs_max -= 1
                delay_s = ills.hang_s * chance.random()
            elif drawn < ills.hang_rate + ills.slow_rate:
                delay_s = ills.slow_s * chance.random()
            else:
                delay_s = ills.quick_s * chance.random()
            before_s = delay_s * chance.random()
            self._running[transfer] = None
            self._timers[transfer] = self._loop.call_later(
                before_s, self._take_effect, transfer, delay_s - before_s
            )

    async def refresh_size_bytes(self) -> int:
        return self.size_bytes

    async def close(self) -> None:
        pass

    def _take_effect(self, transfer: Transfer, after_s: float) -> None:
        transfer.result = self._perform(transfer)
        del self._running[transfer]
        self._timers[transfer] = self._loop.call_later(after_s, self._complete, transfer)

    def _complete(self, transfer: Transfer) -> None:
        del self._timers[transfer]
        if transfer.op is Op.FLUSH:
            transfer.result = self._flush(*self._flushes.pop(transfer))
        self.complete([transfer])

    def _perform(self, transfer: Transfer) -> int:
        first = transfer.offset_bytes // SECTOR_BYTES
        count = transfer.length_bytes // SECTOR_BYTES
        reason, fit = self._obstacle(transfer.op, first, count)
        if fit == count and count > 1 and self._chance.random() < self.ills.short_rate:
            fit = self._chance.randrange(1, count)
        if transfer.op is Op.WRITE:
            data = memoryview(b"".join(transfer.buffers))
            for index in range(fit):
                at = index * SECTOR_BYTES
                self._sectors[first + index].write(bytes(data[at : at + SECTOR_BYTES]))
        elif transfer.op is Op.READ:
            self._read(transfer, first, fit)
        if reason and (fit == 0 or self._chance.random() < 0.5):
            return -reason
        return fit * SECTOR_BYTES

    def _obstacle(self, op: Op, first: int, count: int) -> tuple[int, int]:
        """The errno of the first sector that cannot be had (0: none), and how many come before."""
        for index in range(count):
            if first + index in self.ills.bad:
                return errno.EIO, index
            if op is Op.WRITE and first + index in self.ills.full:
                return errno.ENOSPC, index
        return 0, count

    def _read(self, transfer: Transfer, first: int, count: int) -> None:
        data = b"".join(self.content(first + index) for index in range(count))
        at = 0
        for buffer in transfer.buffers:
            part = data[at : at + len(buffer)]
            buffer[: len(part)] = part
            at += len(buffer)

    def _flush(self, began: int, versions: list[int]) -> int:
        is_good = self._chance.random() >= self.ills.flush_failure_rate
        for sector, count in zip(self._sectors, versions, strict=True):
            if is_good:
                sector.flush(count)  # nothing has left the front: one flush runs at a time
            elif self._chance.random() < 0.5:
                sector.give_up()
        self.flush_ended(began, is_good)
        return 0 if is_good else -errno.EIO

    # --- the end of the machine, or of the process -------------------------------------------

    def stop(self) -> None:
        """The process is gone: what was under way has happened, or not, or in part."""
        for timer in self._timers.values():
            timer.cancel()
        for transfer in self._running:
            if transfer.op is Op.WRITE:
                self._tear(transfer)
        self._timers, self._flushes, self._running = {}, {}, {}

    def _tear(self, transfer: Transfer) -> None:
        data = b"".join(transfer.buffers)
        first = transfer.offset_bytes // SECTOR_BYTES
        for index in range(len(data) // SECTOR_BYTES):
            if self._chance.random() < 0.5 and first + index not in self.ills.bad:
                at = index * SECTOR_BYTES
                self._sectors[first + index].write(data[at : at + SECTOR_BYTES])

    def cut_power(self) -> None:
        """After `stop`: what is on the medium is left, and what chance has saved of the cache."""
        for sector in self._sectors:
            sector.durable = self._chance.choice(sector.survivors())
            sector.versions, sector.dirty = [], []
