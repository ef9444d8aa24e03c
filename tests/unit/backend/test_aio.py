"""The AIO queue where the kernel does not take everything at once."""

from __future__ import annotations

import errno
import sys
from typing import Any

import pytest

from ggaoe.backend.file import FileSpec, open_file
from unit.backend.conformance import Driver, data_of, pattern, read, write
from unit.backend.stores import DISK_DIRECTORY, requires_way, sparse_file

libaio = pytest.importorskip("libaio")
IN_FLIGHT_MAX = pytest.importorskip("ggaoe.backend.aio").IN_FLIGHT_MAX

AIO = "direct I/O, Linux AIO"


class FullContext(libaio.AIOContext):  # type: ignore[misc]
    """A kernel that has no room at first, and then takes one transfer at a time."""

    refusals = 3

    def submit(self, blocks: list[Any]) -> int:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError(errno.EAGAIN, "io_submit")
        taken: int = super().submit(blocks[:1])
        return taken


async def test_kernel_without_room_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libaio, "AIOContext", FullContext)
    with sparse_file(DISK_DIRECTORY, 65536) as path:
        path.write_bytes(pattern(65536))
        backend = await open_file(FileSpec(path))
        try:
            requires_way(backend, AIO)
            reads = [read(at, 4096) for at in range(0, 65536, 4096)]
            assert await Driver(backend).run(*reads) == [4096] * 16
            assert b"".join(map(data_of, reads)) == pattern(65536)
        finally:
            await backend.close()


async def test_waiting_transfers_are_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FullContext, "refusals", 1_000_000)
    monkeypatch.setattr(libaio, "AIOContext", FullContext)
    with sparse_file(DISK_DIRECTORY, 65536) as path:
        backend = await open_file(FileSpec(path))
        driver = Driver(backend)
        requires_way(backend, AIO)
        writes = [write(at, pattern(4096)) for at in range(0, 65536, 4096)]
        driver.submit(writes)
        await backend.close()
        await driver.settled(writes)
        assert {transfer.result for transfer in writes} == {-errno.ECANCELED}
        assert not path.read_bytes().strip(b"\0")


async def test_system_without_room_for_aio(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_events: int) -> None:
        raise BlockingIOError(errno.EAGAIN, "io_queue_init")

    monkeypatch.setattr(libaio, "AIOContext", refuse)
    with sparse_file(DISK_DIRECTORY, 65536) as path:
        backend = await open_file(FileSpec(path))
        try:
            requires_way(backend, AIO)
            assert not caplog.records, "an engine with a queue of its own needs no second one"
            assert await Driver(backend).run(write(0, pattern(4096))) == [4096]
            assert backend.description == "direct I/O, worker threads"
            assert "raise fs.aio-max-nr" in caplog.text
        finally:
            await backend.close()


async def test_more_than_the_kernel_has_room_for() -> None:
    size_bytes = 4096 * (IN_FLIGHT_MAX * 3 + 1)
    with sparse_file(DISK_DIRECTORY, size_bytes) as path:
        path.write_bytes(pattern(size_bytes))
        backend = await open_file(FileSpec(path))
        try:
            requires_way(backend, AIO)
            reads = [read(at, 4096) for at in range(0, size_bytes, 4096)]
            assert await Driver(backend).run(*reads) == [4096] * len(reads)
            assert b"".join(map(data_of, reads)) == pattern(size_bytes)
        finally:
            await backend.close()


async def test_without_the_library_the_store_still_knows_nowait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with sparse_file(DISK_DIRECTORY, 65536) as path:
        backend = await open_file(FileSpec(path))
        try:
            requires_way(backend, AIO)
        finally:
            await backend.close()
        monkeypatch.setitem(sys.modules, "ggaoe.backend.aio", None)
        backend = await open_file(FileSpec(path))
        try:
            assert await Driver(backend).run(write(0, pattern(4096))) == [4096]
            assert backend.description == "direct I/O, worker threads"
            access = backend.file_access()
            assert access is not None
            assert access.knows_nowait  # the native engine calls the kernel itself
        finally:
            await backend.close()
