"""Every backend, and every way of a file, against the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from ggaoe.backend.base import Backend
from ggaoe.backend.faults import FaultBackend
from ggaoe.backend.file import FileSpec, open_file
from ggaoe.backend.memory import MemoryBackend
from unit.backend.conformance import REGION_BYTES, SECTOR_BYTES, Conformance
from unit.backend.stores import (
    DISK_DIRECTORY,
    loop_of_zeros,
    overlay_file,
    requires_way,
    sparse_file,
)

AIO = "direct I/O, Linux AIO"
DIRECT_THREADS = "direct I/O, worker threads"
BUFFERED = "buffered, worker threads"
FRAME_BYTES = 64 * 1024
"""What lies before and behind a region in a larger store."""


@asynccontextmanager
async def opened(spec: FileSpec, description: str) -> AsyncIterator[Backend]:
    backend = await open_file(spec)
    try:
        requires_way(backend, description)
        yield backend
    finally:
        await backend.close()


class TestMemory(Conformance):
    @pytest.fixture
    async def backend(self) -> Backend:
        return MemoryBackend(REGION_BYTES)


class TestFaultsWithoutPlan(Conformance):
    @pytest.fixture
    async def backend(self) -> Backend:
        return FaultBackend(MemoryBackend(REGION_BYTES))


class TestBufferedFile(Conformance):
    @pytest.fixture
    async def backend(self, tmp_path: Path) -> AsyncIterator[Backend]:
        path = tmp_path / "store"
        path.write_bytes(bytes(REGION_BYTES))
        async with opened(FileSpec(path, direct_io=False), BUFFERED) as backend:
            yield backend


class TestBufferedRegion(Conformance):
    """A part that begins and ends anywhere; what surrounds it stays as it is."""

    @pytest.fixture
    async def backend(self, tmp_path: Path) -> AsyncIterator[Backend]:
        path = tmp_path / "store"
        before, behind = b"a" * 1000, b"z" * 5000
        path.write_bytes(before + bytes(REGION_BYTES) + behind)
        spec = FileSpec(path, None, len(before), REGION_BYTES, direct_io=False)
        async with opened(spec, BUFFERED) as backend:
            yield backend
        content = path.read_bytes()
        assert content[:1000] == before
        assert content[1000 + REGION_BYTES :] == behind


class TestDirectFile(Conformance):
    """A sparse file: the first write of each block goes through a worker thread."""

    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        with sparse_file(DISK_DIRECTORY, REGION_BYTES) as path:
            async with opened(FileSpec(path), AIO) as backend:
                yield backend


class TestDirectFileWithoutNowait(Conformance):
    """overlayfs takes O_DIRECT and no RWF_NOWAIT, and on tmpfs says nothing of alignment."""

    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        with overlay_file(REGION_BYTES) as path:
            async with opened(FileSpec(path), DIRECT_THREADS) as backend:
                yield backend


class TailConformance(Conformance):
    """Blocks of 4096 bytes, and a region that ends in the middle of one."""

    region_bytes = REGION_BYTES + 3 * SECTOR_BYTES


class TestTailOfFile(TailConformance):
    """The last block reaches beyond the end of the file, which stays as long as it is."""

    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        with overlay_file(self.region_bytes + 100) as path:
            async with opened(FileSpec(path), DIRECT_THREADS) as backend:
                assert backend.granule_bytes == 4096
                yield backend
            assert path.stat().st_size == self.region_bytes + 100


class TestTailOfRegion(TailConformance):
    """The rest of the last block is a neighbor's, which stays as it is."""

    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        size_bytes = REGION_BYTES + FRAME_BYTES
        with loop_of_zeros(size_bytes, "--sector-size=4096") as (device, _):
            behind = b"z" * (size_bytes - self.region_bytes)
            device.write_bytes(bytes(self.region_bytes) + behind)
            async with opened(FileSpec(device, None, 0, self.region_bytes), AIO) as backend:
                assert backend.granule_bytes == 4096
                yield backend
            assert device.read_bytes()[self.region_bytes :] == behind


class LoopConformance(Conformance):
    sector_bytes = 512
    description = AIO

    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        with ExitStack() as stack:
            device, _ = stack.enter_context(
                loop_of_zeros(REGION_BYTES, f"--sector-size={self.sector_bytes}")
            )
            spec = FileSpec(device, direct_io=self.description != BUFFERED)
            async with opened(spec, self.description) as backend:
                if spec.direct_io:
                    assert backend.granule_bytes == self.sector_bytes
                yield backend


class TestLoop512(LoopConformance):
    pass


class TestLoop4096(LoopConformance):
    sector_bytes = 4096


class TestLoop4096Buffered(LoopConformance):
    sector_bytes = 4096
    description = BUFFERED


class TestLoop4096Region(Conformance):
    """Blocks of which a transfer covers a part are read and changed; neighbours stay."""

    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        with loop_of_zeros(REGION_BYTES + 2 * FRAME_BYTES, "--sector-size=4096") as (device, _):
            frame = b"f" * FRAME_BYTES
            device.write_bytes(frame + bytes(REGION_BYTES) + frame)
            spec = FileSpec(device, None, FRAME_BYTES, REGION_BYTES)
            async with opened(spec, AIO) as backend:
                yield backend
            content = device.read_bytes()
            assert content[:FRAME_BYTES] == content[-FRAME_BYTES:] == frame
