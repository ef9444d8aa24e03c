"""Opening files and devices: what is refused and why, what is locked, which part is exported."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from ggaoe.backend.base import Backend
from ggaoe.backend.file import FileSpec, examine, open_file
from ggaoe.errors import BackendError
from unit.backend.conformance import DEADLINE_S, Driver, data_of, flush, pattern, read, write
from unit.backend.stores import (
    MEMORY_DIRECTORY,
    grow_loop_device,
    loop_of_zeros,
    make_swap,
    overlay_file,
    ramfs_file,
    requires_way,
    sparse_file,
)

MIB = 1024 * 1024


@asynccontextmanager
async def opened(spec: FileSpec) -> AsyncIterator[Backend]:
    backend = await open_file(spec)
    try:
        yield backend
    finally:
        await backend.close()


async def refusal(spec: FileSpec) -> str:
    """The text of the BackendError that opening must raise."""
    with pytest.raises(BackendError) as caught:
        await (await open_file(spec)).close()
    return str(caught.value)


def content_of(path: Path) -> bytes:
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.write_bytes(pattern(MIB))
    return path


# --- what is no store ------------------------------------------------------------------------


async def test_missing_file(tmp_path: Path) -> None:
    text = await refusal(FileSpec(tmp_path / "none"))
    assert text.startswith(f"{tmp_path / 'none'}: No such file or directory: ")


async def test_neither_path_nor_uuid() -> None:
    assert "neither path nor uuid" in await refusal(FileSpec())


async def test_other_kinds(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    for path, kind in (
        (tmp_path, "a directory"),
        (Path("/dev/null"), "a character device"),
        (tmp_path / "pipe", "a named pipe"),
        (tmp_path / "socket", "a socket"),
    ):
        assert f"{path}: is {kind}: give a regular file or a block device" == await refusal(
            FileSpec(path)
        )


async def test_uuid_that_is_none() -> None:
    assert "not a UUID" in await refusal(FileSpec(uuid="../../sda"))
    assert "no such device" in await refusal(FileSpec(uuid="ffffffff-0000-4000-8000-00000000dead"))


async def test_device_by_uuid() -> None:
    uuid = str(uuid4())
    with loop_of_zeros(MIB) as (device, _):
        make_swap(device, uuid)
        async with opened(FileSpec(uuid=uuid.upper())) as backend:
            assert backend.size_bytes == MIB
            assert f"{device}: " in await refusal(FileSpec(device))


# --- region and size -------------------------------------------------------------------------


async def test_size_is_rounded_down_to_eight_sectors_if_wanted(path: Path) -> None:
    os.truncate(path, MIB + 4095)
    async with opened(FileSpec(path, exact_size=False)) as backend:
        assert backend.size_bytes == MIB
        assert any("not exported: 4095 bytes at its end" in text for text in backend.warnings)


async def test_every_whole_sector_is_exported(path: Path) -> None:
    os.truncate(path, MIB + 3 * 512 + 100)
    async with opened(FileSpec(path)) as backend:
        assert backend.size_bytes == MIB + 3 * 512
        assert any("not exported: 100 bytes at its end" in text for text in backend.warnings)


async def test_store_of_round_size_has_no_warning(path: Path) -> None:
    async with opened(FileSpec(path, direct_io=False)) as backend:
        assert backend.warnings == ()


async def test_region_beyond_the_end(path: Path) -> None:
    size = "it has 1 MiB (1048576 bytes)"
    assert f"offset {MIB} is at or beyond the end: {size}" in await refusal(
        FileSpec(path, offset_bytes=MIB)
    )
    assert f"offset 4096 + length {MIB} is beyond the end: {size}" in await refusal(
        FileSpec(path, offset_bytes=4096, length_bytes=MIB)
    )


@pytest.mark.parametrize(("size_bytes", "exact"), [(0, False), (4095, False), (511, True)])
async def test_too_small(path: Path, size_bytes: int, exact: bool) -> None:
    os.truncate(path, size_bytes)
    text = await refusal(FileSpec(path, exact_size=exact))
    assert f"too small: {size_bytes} bytes, needs at least" in text


async def test_region_and_descriptor(path: Path) -> None:
    async with opened(FileSpec(path, None, 8192, 65536)) as backend:
        assert backend.size_bytes == 65536
        assert backend.file_access().offset_bytes == 8192
        transfer = read(0, 4096)
        await Driver(backend).run(transfer)
        assert data_of(transfer) == pattern(MIB)[8192 : 8192 + 4096]
        fd = backend.file_access().fd
        assert fd is not None
        assert Path.samefile(path, f"/proc/self/fd/{fd}")


async def test_file_grows_and_shrinks(path: Path) -> None:
    async with opened(FileSpec(path, offset_bytes=4096)) as backend:
        assert backend.size_bytes == MIB - 4096
        os.truncate(path, 2 * MIB + 1000)
        assert await backend.refresh_size_bytes() == 2 * MIB - 4096 + 512
        driver = Driver(backend)
        assert await driver.run(write(2 * MIB - 8192, pattern(4096))) == [4096]
        os.truncate(path, 8192)
        assert await backend.refresh_size_bytes() == backend.size_bytes == 4096
        assert await driver.run(read(0, 8192), read(8192, 4096)) == [4096, 0]
        os.truncate(path, 100)
        assert await backend.refresh_size_bytes() == 0


async def test_length_stays_when_the_file_grows(path: Path) -> None:
    async with opened(FileSpec(path, length_bytes=65536)) as backend:
        os.truncate(path, 2 * MIB)
        assert await backend.refresh_size_bytes() == 65536
        os.truncate(path, 32768)
        assert await backend.refresh_size_bytes() == 32768


async def test_device_grows() -> None:
    with loop_of_zeros(MIB) as (device, file):
        async with opened(FileSpec(device)) as backend:
            grow_loop_device(device, file, 2 * MIB)
            assert await backend.refresh_size_bytes() == 2 * MIB
            assert await Driver(backend).run(write(2 * MIB - 4096, pattern(4096))) == [4096]


# --- exclusive use ---------------------------------------------------------------------------


async def test_file_is_served_once(path: Path) -> None:
    async with opened(FileSpec(path)):
        assert f"{path}: locked by another process, or another device" in await refusal(
            FileSpec(path)
        )
        assert "locked" in await refusal(FileSpec(path, read_only=True))
    async with opened(FileSpec(path)):
        pass


async def test_read_only_exports_share_a_file(path: Path) -> None:
    async with opened(FileSpec(path, read_only=True)):
        async with opened(FileSpec(path, read_only=True)):
            pass
        assert "locked" in await refusal(FileSpec(path))


async def test_parts_of_a_file_are_locked_each(path: Path) -> None:
    async with (
        opened(FileSpec(path, None, 0, 65536)),
        opened(FileSpec(path, offset_bytes=131072)),
    ):
        async with opened(FileSpec(path, None, 65536, 65536)):
            pass
        assert "locked" in await refusal(FileSpec(path, None, 61440, 8192))
        os.truncate(path, 2 * MIB)
        assert "locked" in await refusal(FileSpec(path, None, MIB, MIB))


async def test_a_store_that_closes_while_it_is_asked_leaves_no_lock(path: Path) -> None:
    for _ in range(50):
        backend = await open_file(FileSpec(path=path))
        asking = asyncio.create_task(backend.refresh_size_bytes())
        await asyncio.sleep(0)
        asking.cancel()
        await backend.close()


async def test_failed_opening_leaves_no_lock(path: Path) -> None:
    await refusal(FileSpec(path, offset_bytes=MIB))
    async with opened(FileSpec(path)):
        pass


async def test_cancelled_opening_leaves_no_lock(path: Path) -> None:
    task = asyncio.create_task(open_file(FileSpec(path)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                backend = await open_file(FileSpec(path))
            except BackendError:
                continue
            break
    await backend.close()


async def test_device_in_use() -> None:
    with loop_of_zeros(MIB) as (device, _):
        other = os.open(device, os.O_RDONLY | os.O_EXCL)
        try:
            text = await refusal(FileSpec(device))
        finally:
            os.close(other)
        assert text.startswith(f"{device}: Device or resource busy: the device is in use: mounted")


async def test_parts_of_a_device_share_its_claim() -> None:
    with loop_of_zeros(MIB) as (device, _):
        first = await open_file(FileSpec(device, None, 0, 65536))
        second = await open_file(FileSpec(device, None, 65536, 65536))
        try:
            assert "locked" in await refusal(FileSpec(device, None, 61440, 8192))
            data = pattern(4096)
            assert await Driver(second).run(write(0, data), flush()) == [4096, 0]
            await first.close()
            with pytest.raises(OSError, match="busy"):
                os.open(device, os.O_RDONLY | os.O_EXCL)
        finally:
            await first.close()
            await second.close()
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
        assert content_of(device)[65536 : 65536 + 4096] == data


# --- access ----------------------------------------------------------------------------------


@pytest.mark.parametrize("direct_io", [True, False])
async def test_read_only_file_refuses_writes(path: Path, direct_io: bool) -> None:
    async with opened(FileSpec(path, read_only=True, direct_io=direct_io)) as backend:
        assert backend.read_only
        driver = Driver(backend)
        whole = read(0, MIB)
        results = await driver.run(write(0, bytes(4096)), write(512, bytes(512)))
        assert results == [-errno.EBADF, -errno.EBADF]
        assert await driver.run(whole) == [MIB]
        assert data_of(whole) == content_of(path) == pattern(MIB)


async def test_write_protected_device() -> None:
    with loop_of_zeros(MIB, "--read-only") as (device, _):
        assert "read-only = true" in await refusal(FileSpec(device))
        async with opened(FileSpec(device, read_only=True)) as backend:
            assert await Driver(backend).run(read(0, 4096)) == [4096]


# --- direct or buffered ----------------------------------------------------------------------


async def test_aligned_direct_transfers_need_no_thread() -> None:
    with loop_of_zeros(MIB) as (device, _):
        async with opened(FileSpec(device, name="straight")) as backend:
            requires_way(backend, "direct I/O, Linux AIO")
            driver = Driver(backend)
            writes = [write(at, pattern(4096)) for at in range(0, 65536, 4096)]
            assert await driver.run(*writes) == [4096] * 16
            assert await driver.run(read(0, 1024, 512, 4096)) == [5632]
            assert not [t for t in threading.enumerate() if t.name.startswith("straight/")]


async def test_file_system_without_direct_io() -> None:
    with ramfs_file(MIB) as path:
        async with opened(FileSpec(path)) as backend:
            assert backend.description == "buffered, worker threads"
            assert any("refuses direct I/O: buffered" in text for text in backend.warnings)
            assert await Driver(backend).run(write(512, pattern(512)), flush()) == [512, 0]


async def test_file_system_in_memory() -> None:
    """Direct I/O would only be a detour, and nothing is lost: no warning."""
    with sparse_file(MEMORY_DIRECTORY, MIB) as path:
        async with opened(FileSpec(path)) as backend:
            requires_way(backend, "buffered, worker threads")
            assert backend.warnings == ()
            assert backend.granule_bytes == 512
            assert await Driver(backend).run(write(512, pattern(512)), flush()) == [512, 0]
        assert examine(FileSpec(path)) == ([], "through the page cache")


async def test_no_more_than_sectors_with_a_number_is_exported() -> None:
    with sparse_file(MEMORY_DIRECTORY, 1 << 58) as path:
        async with opened(FileSpec(path)) as backend:
            assert backend.size_bytes == 1 << 57
            assert "only the first 128 PiB of 256 PiB are exported" in backend.warnings[0]
            assert await Driver(backend).run(write((1 << 57) - 512, pattern(512))) == [512]


async def test_part_that_begins_within_a_block_is_buffered() -> None:
    with loop_of_zeros(MIB, "--sector-size=4096") as (device, _):
        async with opened(FileSpec(device, None, 512, 8192)) as backend:
            assert backend.description == "buffered, worker threads"
            assert any("a whole block of 4096 bytes" in text for text in backend.warnings)
            assert await Driver(backend).run(write(0, pattern(512)), flush()) == [512, 0]
        assert content_of(device).rstrip(b"\0") == bytes(512) + pattern(512)


async def test_parts_of_one_block_are_changed_by_two_devices() -> None:
    """Each writes its own half of the block, and the rest of its part directly."""
    with loop_of_zeros(MIB, "--sector-size=4096") as (device, _):
        first, second = FileSpec(device, None, 0, 10240), FileSpec(device, None, 10240, 2048)
        async with opened(first) as one, opened(second) as two:
            assert one.description.startswith("direct")
            one_driver, two_driver = Driver(one), Driver(two)
            for seed in range(20):
                mine, theirs = write(4096, pattern(6144, seed)), write(0, pattern(2048, seed + 50))
                one_driver.submit([mine])
                two_driver.submit([theirs])
                await one_driver.settled([mine])
                await two_driver.settled([theirs])
                assert (mine.result, theirs.result) == (6144, 2048)
            assert await one_driver.run(flush()) == await two_driver.run(flush()) == [0]
        expected = bytes(4096) + pattern(6144, 19) + pattern(2048, 69)
        assert content_of(device)[:12288] == expected


async def test_tail_moves_with_the_end_of_the_file() -> None:
    """What was written within a block is read directly when the block has become whole."""
    with overlay_file(8192 + 1536) as path:
        async with opened(FileSpec(path)) as backend:
            requires_way(backend, "direct I/O, worker threads")
            driver, data = Driver(backend), pattern(4096)
            assert await driver.run(write(8192, data[:1536])) == [1536]
            os.truncate(path, 16384 + 512)
            assert await backend.refresh_size_bytes() == 16384 + 512
            assert await driver.run(write(8192 + 1536, data[1536:])) == [2560]
            assert await driver.run(write(16384, data[:512])) == [512]
            found = read(8192, 4096)
            assert await driver.run(found, read(16384, 512)) == [4096, 512]
            assert data_of(found) == data
            os.truncate(path, 8192 + 512)
            assert await backend.refresh_size_bytes() == 8192 + 512
            assert await driver.run(write(8192, data[:512]), read(8192, 4096)) == [512, 512]
        assert path.stat().st_size == 8192 + 512


async def test_cached_reads_need_no_thread(path: Path) -> None:
    async with opened(FileSpec(path, direct_io=False, name="cached")) as backend:
        content_of(path)  # into the page cache
        transfer = read(4096, 4096)
        assert await Driver(backend).run(transfer) == [4096]
        assert data_of(transfer) == pattern(MIB)[4096:8192]
        if [t for t in threading.enumerate() if t.name.startswith("cached/")]:
            pytest.skip(f"needs RWF_NOWAIT on the file system of {path}")


async def test_closing_under_load_gives_the_file_up(path: Path) -> None:
    backend = await open_file(FileSpec(path))
    driver = Driver(backend)
    writes = [write(at % MIB, bytes(4096)) for at in range(0, 4096 * 600, 4096)]
    driver.submit(writes)
    await backend.close()
    await driver.settled(writes)
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        try:
            await (await open_file(FileSpec(path))).close()
        except BackendError:
            continue
        return
    pytest.fail("the file stays locked")
