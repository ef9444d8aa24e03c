"""The backend contract as tests: a class for each implementation inherits them.

A subclass gives the fixture `backend`: freshly opened, of `region_bytes`, closed by the fixture.
The tests know nothing of the implementation but its `granule_bytes`.
"""

from __future__ import annotations

import asyncio
import mmap
import random
import threading
from collections.abc import Callable, Iterable, Sequence

import pytest

from ggaoe.backend.base import Backend, Transfer
from ggaoe.proto.ata import Op

REGION_BYTES = 256 * 1024
DEADLINE_S = 30.0
SECTOR_BYTES = 512


def aligned_buffer(length_bytes: int) -> memoryview:
    """Zeros that begin on a page, like the buffers of the pool."""
    return memoryview(mmap.mmap(-1, length_bytes))


def read(offset_bytes: int, *lengths_bytes: int) -> Transfer:
    return Transfer(Op.READ, offset_bytes, [aligned_buffer(length) for length in lengths_bytes])


def write(offset_bytes: int, *parts: bytes) -> Transfer:
    buffers = [aligned_buffer(len(part)) for part in parts]
    for buffer, part in zip(buffers, parts, strict=True):
        buffer[:] = part
    return Transfer(Op.WRITE, offset_bytes, buffers)


def verify(offset_bytes: int, length_bytes: int) -> Transfer:
    transfer = Transfer(Op.VERIFY, offset_bytes, [])
    transfer.length_bytes = length_bytes
    return transfer


def flush() -> Transfer:
    return Transfer(Op.FLUSH, 0, [])


def data_of(transfer: Transfer) -> bytes:
    return b"".join(transfer.buffers)


def pattern(length_bytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length_bytes)


class Driver:
    """Submits to a backend, and checks on every completion what the contract promises of it."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.completed: list[Transfer] = []
        self._pending: set[Transfer] = set()
        self._changed = asyncio.Event()
        self._thread = threading.get_ident()
        self._submitting = False
        self.faults: list[str] = []
        backend.complete = self._complete

    def submit(self, transfers: Sequence[Transfer]) -> None:
        self._pending.update(transfers)
        self._submitting = True
        self.backend.submit(transfers)
        self._submitting = False

    async def settled(self, transfers: Iterable[Transfer]) -> None:
        """Wait until all of `transfers` have completed."""
        awaited = set(transfers)
        await self.until(lambda: self._pending.isdisjoint(awaited))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for completions until `condition` holds."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()
        assert not self.faults

    async def run(self, *transfers: Transfer) -> list[int]:
        """Submit all at once; their results."""
        self.submit(transfers)
        await self.settled(transfers)
        return [transfer.result for transfer in transfers]

    def _complete(self, transfers: Sequence[Transfer]) -> None:
        if self._submitting:
            self.faults.append("completed within submit")
        if threading.get_ident() != self._thread:
            self.faults.append("completed in another thread")
        for transfer in transfers:
            if transfer not in self._pending:
                self.faults.append(f"completed twice, or never submitted: {transfer.op.name}")
            self._pending.discard(transfer)
        self.completed += transfers
        self._changed.set()


class Conformance:
    """Inherit, and give the fixture `backend`."""

    region_bytes = REGION_BYTES

    @pytest.fixture
    async def driver(self, backend: Backend) -> Driver:
        assert backend.size_bytes == self.region_bytes
        return Driver(backend)

    async def test_reads_what_was_written(self, driver: Driver) -> None:
        data = pattern(8192)
        assert await driver.run(write(4096, data)) == [8192]
        whole = read(0, self.region_bytes)
        assert await driver.run(whole) == [self.region_bytes]
        assert data_of(whole) == bytes(4096) + data + bytes(self.region_bytes - 12288)

    async def test_gathers_and_scatters_in_order(self, driver: Driver) -> None:
        parts = [pattern(length, length) for length in (1024, 512, 2048, 512, 4096)]
        assert await driver.run(write(16384, *parts)) == [8192]
        scattered = read(16384, 4096, 512, 1024, 2560)
        assert await driver.run(scattered) == [8192]
        assert data_of(scattered) == b"".join(parts)

    async def test_completes_each_of_many_exactly_once(self, driver: Driver) -> None:
        data = pattern(self.region_bytes)
        await driver.run(write(0, data))
        reads = [read(at % REGION_BYTES, 4096) for at in range(0, 4096 * 1000, 4096)]
        assert await driver.run(*reads) == [4096] * 1000
        assert len(driver.completed) == 1001
        for transfer in reads:
            at = transfer.offset_bytes
            assert data_of(transfer) == data[at : at + 4096]

    async def test_takes_an_empty_batch(self, driver: Driver) -> None:
        driver.submit([])
        assert await driver.run(flush()) == [0]
        assert len(driver.completed) == 1

    async def test_flush_follows_writes(self, driver: Driver) -> None:
        assert await driver.run(write(0, pattern(4096))) == [4096]
        assert await driver.run(flush()) == [0]

    async def test_read_ends_where_the_region_ends(self, driver: Driver) -> None:
        data = pattern(4096)
        await driver.run(write(self.region_bytes - 4096, data))
        across = read(self.region_bytes - 4096, 2048, 6144)
        results = await driver.run(
            across,
            read(self.region_bytes, 4096),
            read(self.region_bytes + 4096, 4096),
            verify(self.region_bytes, 512),
            verify(self.region_bytes - 512, 1024),
        )
        assert results == [4096, 0, 0, 0, 512]
        assert data_of(across)[:4096] == data

    async def test_write_never_passes_the_end(self, driver: Driver) -> None:
        results = await driver.run(
            write(self.region_bytes - 4096, pattern(8192)), write(self.region_bytes, pattern(4096))
        )
        assert all(result < 0 for result in results)
        last = read(self.region_bytes - 4096, 4096)
        await driver.run(last)
        assert data_of(last) == bytes(4096)
        assert await driver.backend.refresh_size_bytes() == self.region_bytes

    async def test_verify_reads_and_touches_no_buffer(self, driver: Driver) -> None:
        await driver.run(write(0, pattern(8192)))
        checked = Transfer(Op.VERIFY, 0, [memoryview(bytearray(b"\x5a" * 8192))])
        assert await driver.run(checked, verify(512, 512), verify(0, self.region_bytes)) == [
            8192,
            512,
            self.region_bytes,
        ]
        assert data_of(checked) == b"\x5a" * 8192

    async def test_writes_from_constant_buffers(self, driver: Driver) -> None:
        data = pattern(4096)
        constant = Transfer(Op.WRITE, 8192, [memoryview(data)])
        again = read(8192, 4096)
        assert await driver.run(constant) == [4096]
        assert await driver.run(again) == [4096]
        assert data_of(again) == data

    async def test_takes_buffers_at_odd_addresses(self, driver: Driver) -> None:
        data = pattern(4096)
        odd = aligned_buffer(8192)[1:4097]
        odd[:] = data
        again = Transfer(Op.READ, 12288, [aligned_buffer(8192)[3:4099]])
        assert await driver.run(Transfer(Op.WRITE, 12288, [odd])) == [4096]
        assert await driver.run(again) == [4096]
        assert data_of(again) == data

    async def test_more_buffers_than_the_kernel_takes_are_continued(self, driver: Driver) -> None:
        sectors = self.region_bytes // SECTOR_BYTES * 3
        memory = aligned_buffer(SECTOR_BYTES * sectors)
        buffers = [memory[at : at + SECTOR_BYTES] for at in range(0, len(memory), SECTOR_BYTES)]
        (result,) = await driver.run(Transfer(Op.READ, 0, buffers))
        assert 0 < result <= self.region_bytes
        assert result % SECTOR_BYTES == 0

    async def test_submits_from_within_a_completion(self, driver: Driver) -> None:
        chain = [read(at * 4096, 4096) for at in range(8)]
        deliver = driver.backend.complete
        rest = iter(chain)

        def complete(done: Sequence[Transfer]) -> None:
            deliver(done)
            for _, following in zip(done, rest, strict=False):
                driver.submit([following])

        driver.backend.complete = complete
        driver.submit([next(rest)])
        await driver.until(lambda: len(driver.completed) == len(chain))
        assert [transfer.result for transfer in chain] == [4096] * 8

    async def test_size_stays(self, driver: Driver) -> None:
        assert await driver.backend.refresh_size_bytes() == self.region_bytes
        assert driver.backend.size_bytes == self.region_bytes

    async def test_close_leaves_no_transfer_without_completion(self, driver: Driver) -> None:
        writes = [write(at % REGION_BYTES, bytes(4096)) for at in range(0, 4096 * 500, 4096)]
        driver.submit(writes)
        await driver.backend.close()
        await driver.backend.close()
        await driver.settled(writes)
        assert len(driver.completed) == 500

    @pytest.mark.parametrize("seed", range(4))
    async def test_random_transfers_agree_with_a_model(self, driver: Driver, seed: int) -> None:
        print("seed", seed)
        chance = random.Random(seed)
        model = bytearray(self.region_bytes)
        for _ in range(40):
            batch = _random_batch(chance, driver.backend)
            results = await driver.run(*batch)
            assert results == [transfer.length_bytes for transfer in batch]
            for transfer in batch:
                at, end = transfer.offset_bytes, transfer.offset_bytes + transfer.length_bytes
                if transfer.op is Op.WRITE:
                    model[at:end] = data_of(transfer)
                elif transfer.op is Op.READ:
                    assert data_of(transfer) == model[at:end]
        whole = read(0, self.region_bytes)
        await driver.run(whole)
        assert data_of(whole) == model


def _random_batch(chance: random.Random, backend: Backend) -> list[Transfer]:
    """Transfers of which no two touch one granule, of any length in sectors, as the scheduler
    would submit at once."""
    granule_bytes = backend.granule_bytes
    origin_bytes = backend.granule_origin_bytes
    taken: set[int] = set()
    batch = []
    for _ in range(chance.randrange(1, 12)):
        sectors = chance.choice((1, 1, 2, 7, 8, 16, chance.randrange(1, 40)))
        sector = chance.randrange(backend.size_bytes // SECTOR_BYTES - sectors)
        if chance.random() < 0.3:
            sector, sectors = sector // 8 * 8, -(-sectors // 8) * 8
        at, end = sector * SECTOR_BYTES, (sector + sectors) * SECTOR_BYTES
        if end > backend.size_bytes:
            continue
        granules = set(
            range(
                (at + origin_bytes) // granule_bytes, (end - 1 + origin_bytes) // granule_bytes + 1
            )
        )
        if granules & taken:
            continue
        taken |= granules
        lengths = _random_split(chance, sectors)
        op = chance.choice((Op.READ, Op.WRITE, Op.WRITE, Op.VERIFY))
        if op is Op.READ:
            batch.append(read(at, *lengths))
        elif op is Op.WRITE:
            batch.append(write(at, *(chance.randbytes(length) for length in lengths)))
        else:
            batch.append(verify(at, end - at))
    return batch


def _random_split(chance: random.Random, sectors: int) -> list[int]:
    lengths = []
    while sectors:
        part = chance.randrange(1, sectors + 1)
        lengths.append(part * SECTOR_BYTES)
        sectors -= part
    return lengths
