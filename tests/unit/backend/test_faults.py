"""Faults happen to the transfers that a plan names, and to no others."""

from __future__ import annotations

import errno

import pytest

from ggaoe.backend.faults import Fail, FaultBackend, Hold, Rule, Short, seeded
from ggaoe.backend.memory import MemoryBackend
from ggaoe.proto.ata import Op
from unit.backend.conformance import Driver, data_of, flush, pattern, read, verify, write

SIZE_BYTES = 65536


@pytest.fixture
async def backend() -> FaultBackend:
    inner = MemoryBackend(SIZE_BYTES)
    inner.data[:] = pattern(SIZE_BYTES)
    return FaultBackend(inner)


async def test_fails_by_operation_range_and_number(backend: FaultBackend) -> None:
    driver = Driver(backend)
    backend.plans = [Rule(Fail(errno.EIO), (Op.READ,), 4096, 8192, times=2)]
    for expected in (-errno.EIO, -errno.EIO, 4096):
        assert await driver.run(
            read(0, 4096), read(4096, 4096), read(8192, 512), write(4096, b"x" * 512), flush()
        ) == [4096, expected, 512, 512, 0]
    backend.plans = [Rule(Fail(errno.ENOSPC), (Op.FLUSH,), 4096, 8192)]
    assert await driver.run(flush(), read(4096, 512)) == [-errno.ENOSPC, 512]


async def test_failed_write_changes_nothing(backend: FaultBackend) -> None:
    backend.plans = [Rule(Fail(errno.EIO))]
    assert await Driver(backend).run(write(0, bytes(4096))) == [-errno.EIO]
    assert isinstance(backend.inner, MemoryBackend)
    assert backend.inner.data == pattern(SIZE_BYTES)


async def test_short_transfers_move_their_beginning(backend: FaultBackend) -> None:
    backend.plans = [Rule(Short(1536))]
    reading, writing = read(0, 1024, 1024), write(8192, b"x" * 1024, b"y" * 1024)
    assert await Driver(backend).run(reading, writing, verify(0, 4096), flush()) == [
        1536,
        1536,
        1536,
        0,
    ]
    assert data_of(reading) == pattern(SIZE_BYTES)[:1536] + bytes(512)
    assert isinstance(backend.inner, MemoryBackend)
    data = backend.inner.data
    assert data[8192:10240] == b"x" * 1024 + b"y" * 512 + pattern(SIZE_BYTES)[9728:10240]


async def test_held_transfers_wait_for_their_release(backend: FaultBackend) -> None:
    driver = Driver(backend)
    backend.plans = [Rule(Hold(), times=3)]
    held = [read(at, 512) for at in (0, 512, 1024)]
    driver.submit(held)
    assert await driver.run(read(2048, 512)) == [512]
    assert backend.held == held
    backend.release(1)
    await driver.settled(held[:1])
    assert backend.held == held[1:]
    backend.release()
    await driver.settled(held)
    assert [transfer.result for transfer in held] == [512] * 3


async def test_seed_decides_alike(backend: FaultBackend) -> None:
    driver = Driver(backend)

    async def results(seed: int) -> list[int]:
        backend.plans = [seeded(seed, fail_rate=0.2, short_rate=0.2, errno=errno.EIO)]
        return await driver.run(*(read(0, 4096) for _ in range(200)))

    first = await results(1)
    assert first == await results(1)
    assert first != await results(2)
    assert {-errno.EIO, 4096} < set(first)
    assert any(0 < result < 4096 for result in first)
