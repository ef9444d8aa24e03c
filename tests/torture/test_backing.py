"""What is below a device fails: its hosts are told the truth, nobody else notices, and when it has
been mended, service goes on without a restart."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ggaoe.backend.file import FileSpec, open_file
from ggaoe.backend.workers import THREADS_MAX
from ggaoe.client import AtaCommandError, NoAnswerError, RemoteDevice, Timing
from ggaoe.errors import BackendError
from ggaoe.proto.ata import STATUS_ERROR, AtaError
from ggaoe.proto.frame import SECTOR_BYTES
from helpers.loop import loop_device, losetup
from helpers.needs import requires_program
from helpers.netns import wait_until
from integration.load import Load, running
from integration.scene import DEADLINE_S, DISK_BYTES, DISK_SECTORS, MIB, Daemon, Scene, device
from integration.test_doctor import Clinic
from torture.budget import OVERHEAD_S, seeded, torture_s
from torture.faulty import FLUSH, READ, STATUS, WRITE, FaultyDisk, fill

SECONDS = 1.0
pytestmark = pytest.mark.timeout(torture_s(SECONDS) + OVERHEAD_S)

STEADY = device("steady", 9)
PAGE_SECTORS = 8
BAD = range(64, 72)
"""The sectors that fail where only some do."""
WORKERS = 24
IMPATIENT = Timing(deadline_s=0.5)
DIRECT = "--direct-io=on"
"""A loop device that passes it on as such."""

WAYS = [
    ("file", False, "auto"),
    ("file", True, "threads"),
    ("loop", False, "auto"),
    ("loop", True, "aio"),
    ("loop", True, "uring"),
]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way)))
Way = tuple[str, bool, str]


@dataclass
class Broken:
    """A daemon with two devices: `faulty`, e0.1, and `steady`, which must not notice."""

    daemon: Daemon
    disk: FaultyDisk
    remote: RemoteDevice
    impatient: RemoteDevice


@contextmanager
def faulty_device(scene: Scene, way: Way) -> Iterator[tuple[FaultyDisk, str]]:
    """A disk that can fail, and the sections of a daemon that serves it in that way."""
    kind, direct_io, io_engine = way
    with ExitStack() as stack:
        disk = stack.enter_context(FaultyDisk(scene.target, scene.directory / "faulty", DISK_BYTES))
        path = disk.path
        if kind == "loop":
            path = stack.enter_context(loop_device(disk.path, DIRECT, namespace=scene.target))
            stack.callback(disk.release)
        stack.callback(disk.heal)
        options = f"[defaults]\nio-engine = {io_engine}\n"
        yield disk, options + device("faulty", path=path, direct_io=direct_io)


@asynccontextmanager
async def undisturbed(scene: Scene, *sections: str) -> AsyncIterator[Daemon]:
    """A daemon with `sections`, and one more device with verified load that must not notice
    anything."""
    disk = scene.disk("steady")
    with scene.serving(*sections, STEADY) as daemon:
        async with scene.initiator() as patient:
            load = Load(await patient.open(0, 9), disk)
            async with running(load):
                yield daemon
            assert load.remote.counters.resent == 0
            assert load.unavailable == 0


@asynccontextmanager
async def broken(scene: Scene, way: Way) -> AsyncIterator[Broken]:
    with faulty_device(scene, way) as (disk, section):
        async with (
            undisturbed(scene, section) as daemon,
            scene.initiator() as initiator,
            scene.initiator(timing=IMPATIENT) as impatient,
        ):
            remote = await initiator.open(0, 1)
            yield Broken(daemon, disk, remote, await impatient.open(0, 1))


async def fails(request: AsyncIterator[object] | object, error: int) -> None:
    """The request ends with that error register."""
    with pytest.raises(AtaCommandError) as refusal:
        await request  # type: ignore[misc]
    assert (refusal.value.status, refusal.value.error) == (STATUS_ERROR, error)


def content(fill: int, sectors: int = PAGE_SECTORS) -> bytes:
    return bytes([fill]) * (sectors * SECTOR_BYTES)


async def until_served(remote: RemoteDevice, sector: int = 0) -> None:
    """Wait until a write is taken and read back."""
    data = random.randbytes(SECTOR_BYTES)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await remote.write(sector, data)
                break
            except AtaCommandError:
                await asyncio.sleep(0.01)
    assert await remote.read(sector, 1) == data


# --- errors ------------------------------------------------------------------------------------


@ways
async def test_errors_are_told_to_whom_they_concern(scene: Scene, way: Way) -> None:
    """UNC for what cannot be read, ABRT for what cannot be written; the rest is as before."""
    async with broken(scene, way) as stage:
        disk, remote = stage.disk, stage.remote
        disk.fail(READ, errno.EIO, BAD)
        disk.fail(WRITE, errno.EIO, BAD)
        await asyncio.gather(
            fails(remote.read(BAD.start, 1), AtaError.UNC),
            fails(remote.verify(BAD.start, 2), AtaError.UNC),
            *(remote.write(sector, content(2)) for sector in (0, 56, 72)),
        )
        # One frame, by itself: through the page cache, a flush fails for all who wait for it.
        await fails(remote.write(BAD.start, content(1, 2)), AtaError.ABRT)
        for sector in (0, 56, 72):
            assert await remote.read(sector, PAGE_SECTORS) == content(2)
        counters = await asyncio.to_thread(stage.daemon.counters, "faulty")
        assert counters["ata_errors"] >= 3
        log = stage.daemon.log_text()
        assert "faulty: READ of sector 64+" in log
        assert "Input/output error (EIO)" in log
        disk.heal()
        await remote.write(BAD.start, content(3))
        assert await remote.read(BAD.start, PAGE_SECTORS) == content(3)

        disk.fail(WRITE, errno.ENOSPC, BAD)
        await fails(remote.write(BAD.start, content(4, 2)), AtaError.ABRT)
        await remote.write(0, content(4))
        disk.heal()
        await remote.write(BAD.start, content(5))
        assert await remote.read(BAD.start, PAGE_SECTORS) == content(5)

        # What was written may have landed or not: its host knows that it cannot rely on it.
        disk.fail(FLUSH)
        await fails(remote.write(0, content(6, 2)), AtaError.ABRT)
        await fails(remote.flush(), AtaError.ABRT)
        await remote.read(128, 1)
        disk.heal()
        await remote.write(0, content(7, 2))
        await remote.flush()
        assert await remote.read(0, 2) == content(7, 2)


@contextmanager
def file_on_ext4(scene: Scene, disk: Path, options: str) -> Iterator[Path]:
    """A file of zeros that all have blocks on `disk`, in a new file system there."""
    requires_program("mkfs.ext4")
    mounted = scene.directory / "mounted"
    mounted.mkdir()
    scene.target.run("mkfs.ext4", "-q", disk)
    scene.target.run("mount", "-o", options, disk, mounted)
    try:
        with Path(f"/proc/{scene.target.pid}/root{mounted}/disk").open("wb") as file:
            file.write(bytes(MIB))
            os.fsync(file)
        yield mounted / "disk"
    finally:
        scene.target.run("umount", "--lazy", mounted)


@asynccontextmanager
async def failing_write_back(
    scene: Scene, kind: str, *, write_cache: bool
) -> AsyncIterator[tuple[FaultyDisk, RemoteDevice]]:
    """A buffered device, on a disk or a file system. Its first 16 sectors hold `content(1)`, and
    the disk fails to write anything else to them."""
    with ExitStack() as stack:
        disk = stack.enter_context(FaultyDisk(scene.target, scene.directory / "faulty", DISK_BYTES))
        path = stack.enter_context(loop_device(disk.path, DIRECT, namespace=scene.target))
        if kind != "disk":
            path = stack.enter_context(file_on_ext4(scene, path, kind))
        stack.callback(disk.heal)
        stack.callback(disk.release)
        section = device("faulty", path=path, direct_io=False, write_cache=write_cache)
        stack.enter_context(scene.serving(section))
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            await remote.write(0, content(1, 16))
            await remote.flush()
            disk.fail(WRITE, errno.EIO, disk.find(content(1, 16)))
            yield disk, remote


@pytest.mark.parametrize("kind", ["disk", "async", "sync"])
async def test_what_a_failed_write_has_lost_is_not_read(scene: Scene, kind: str) -> None:
    """From the error on, reads show what is on the disk, not what the page cache still held."""
    async with failing_write_back(scene, kind, write_cache=kind == "sync") as (disk, remote):
        await fails(remote.write(0, content(2, 2)), AtaError.ABRT)
        assert await remote.read(0, 16) == content(1, 16)
        disk.heal()
        await remote.write(0, content(3))
        assert await remote.read(0, 16) == content(3) + content(1)


@pytest.mark.parametrize("kind", ["disk", "async"])
async def test_what_a_failed_flush_has_lost_is_not_read(scene: Scene, kind: str) -> None:
    """The same of writes that were acknowledged from the page cache, with those that went to it
    while the flush ran."""
    async with failing_write_back(scene, kind, write_cache=True) as (disk, remote):
        disk.hold(WRITE)
        await remote.write(0, content(2))
        flush = asyncio.create_task(remote.flush())
        await asyncio.to_thread(wait_until, lambda: disk.holds > 0, DEADLINE_S, "write-back")
        await remote.write(8, content(2))
        assert await remote.read(0, 16) == content(2, 16)
        disk.release()
        await fails(flush, AtaError.ABRT)
        assert await remote.read(0, 16) == content(1, 16)
        disk.heal()
        await remote.write(0, content(3))
        await fails(remote.flush(), AtaError.ABRT)  # it is reported again, in case a reply was lost
        assert disk.find(content(3))
        assert await remote.read(0, 16) == content(3) + content(1)


@dataclass
class Tally:
    """What the workers of a storm have met."""

    good: int = 0
    unc: int = 0
    abrt: int = 0
    faults: int = 0

    def count(self, error: AtaCommandError, expected: int) -> None:
        assert (error.status, error.error) == (STATUS_ERROR, expected)
        self.unc += expected == AtaError.UNC
        self.abrt += expected == AtaError.ABRT


async def _work(remote: RemoteDevice, index: int, rng: random.Random, tally: Tally) -> None:
    """Write and read some sectors of our own until cancelled or everything has been mended.

    Sectors stand for themselves: of a request that failed, each may have been written or not."""
    at = 2 * PAGE_SECTORS * index
    possible = [{bytes(SECTOR_BYTES)} for _ in range(PAGE_SECTORS)]
    while True:
        data = [rng.randbytes(SECTOR_BYTES) for _ in range(PAGE_SECTORS)]
        for old, new in zip(possible, data, strict=True):
            old.add(new)
        try:
            await remote.write(at, b"".join(data))
            possible = [{new} for new in data]
            tally.good += 1
        except AtaCommandError as error:
            tally.count(error, AtaError.ABRT)
        try:
            found = await remote.read(at, PAGE_SECTORS)
        except AtaCommandError as error:
            tally.count(error, AtaError.UNC)
            continue
        for number, choices in enumerate(possible):
            part = bytes(found[number * SECTOR_BYTES :][:SECTOR_BYTES])
            assert part in choices, f"sector {at + number}"


async def _break_and_mend(disk: FaultyDisk, rng: random.Random, tally: Tally) -> None:
    """Until time is up: another fault every few milliseconds, and none at the end."""
    end_s = time.monotonic() + torture_s(SECONDS)
    while time.monotonic() < end_s:
        first = rng.randrange(2 * PAGE_SECTORS * WORKERS)
        sectors = range(first, first + rng.choice((1, 8, 64, DISK_SECTORS)))
        match rng.randrange(6):
            case 0:
                disk.hold(*rng.sample((READ, WRITE, FLUSH), rng.randint(1, 3)))
            case 1:
                disk.fail(FLUSH, errno.EIO)
            case 2:
                disk.fail(READ, rng.choice((errno.EIO, errno.EILSEQ)), sectors)
            case 3 | 4:
                disk.fail(WRITE, rng.choice((errno.EIO, errno.ENOSPC, errno.EDQUOT)), sectors)
            case _:
                disk.heal()
        tally.faults += 1
        await asyncio.sleep(rng.uniform(0, 0.02))
        if rng.random() < 0.5:
            disk.release()
    disk.heal()
    disk.release()


@pytest.mark.parametrize("way", [WAYS[0], WAYS[1], WAYS[3]], ids=["buffered", "file", "loop"])
async def test_a_storm_of_faults(scene: Scene, way: Way) -> None:
    """Whatever fails or hangs whenever: each answer is right, and at the end all is well."""
    rng, tally = seeded(), Tally()
    async with broken(scene, way) as stage:
        tasks = [
            asyncio.create_task(_work(stage.remote, index, random.Random(rng.random()), tally))
            for index in range(WORKERS)
        ]
        await _break_and_mend(stage.disk, rng, tally)
        before = tally.good + 2 * WORKERS
        async with asyncio.timeout(DEADLINE_S):
            while tally.good < before and not any(task.done() for task in tasks):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError):
                raise outcome or AssertionError
        print(tally, f"{stage.disk.failures} requests failed by the disk")
        assert tally.abrt
    assert stage.remote.counters.resent == 0


async def doctored(clinic: Clinic, daemon: Daemon, severity: str) -> str:
    """What `ggaoe doctor` says of the faulty disk."""
    found = await asyncio.to_thread(clinic.examine, daemon)
    rows = [row for row in found if (row["where"], row["severity"]) == ("faulty", severity)]
    return "; ".join(row["what"] for row in rows)


async def test_a_file_system_that_refuses_direct_writes(scene: Scene) -> None:
    """As mergerfs: direct reads work. Nothing that a host sends fails; the administrator is told,
    and the file stays locked."""
    async with broken(scene, ("file", True, "auto")) as stage:
        disk, remote, daemon = stage.disk, stage.remote, stage.daemon
        disk.refuses_direct_writes = True
        clinic = Clinic(scene)
        before, after = content(1), content(2)
        disk.put(64, before)
        assert await remote.read(64, PAGE_SECTORS) == before
        assert "does not say whether direct writes do" in await doctored(clinic, daemon, "ok")
        spec = FileSpec(Path(f"/proc/{scene.target.pid}/root{disk.path}"))
        with pytest.raises(BackendError, match="locked by another process"):
            await open_file(spec)
        await asyncio.gather(
            *(remote.write(sector, after) for sector in range(128, 512, PAGE_SECTORS)),
            remote.write(1, content(3, 1)),  # a part of a block
        )
        await remote.flush()
        assert await remote.read(0, 2) == bytes(SECTOR_BYTES) + content(3, 1)
        assert await remote.read(64, PAGE_SECTORS) == before
        assert await remote.read(128, 384) == after * 48
        await asyncio.to_thread(
            daemon.wait_for_log, "the file system refuses direct writes: buffered I/O is used"
        )
        shown = await asyncio.to_thread(daemon.ask, "show", "faulty")
        assert "refuses direct writes" in str(shown["devices"][0]["warnings"])
        assert "refuses direct writes" in await doctored(clinic, daemon, "warning")
        assert shown["devices"][0]["backend"] == "buffered, worker threads"
        assert (await asyncio.to_thread(daemon.counters, "faulty"))["ata_errors"] == 0
        with pytest.raises(BackendError, match="locked by another process"):
            await open_file(spec)


# --- silence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [WAYS[0], WAYS[3], WAYS[4]], ids=["buffered", "aio", "uring"])
async def test_a_disk_that_hangs_longer_than_patience_lasts(scene: Scene, way: Way) -> None:
    """Its hosts give up, and find it as it should be when it has come back."""
    async with broken(scene, way) as stage:
        disk, remote, impatient = stage.disk, stage.remote, stage.impatient
        await remote.write(0, content(1))
        for kind in (READ, WRITE, FLUSH):
            disk.hold(kind)
            # Reads go elsewhere each time, as what has been read may be in the page cache.
            at = 1024 + 64 * int(kind)
            request = impatient.read(at, 1) if kind == READ else impatient.write(0, content(2))
            with pytest.raises(NoAnswerError):
                await request
            assert await impatient.query() is not None
            assert disk.holds
            disk.release()
            async with asyncio.timeout(DEADLINE_S):
                await remote.write(0, content(3))
            assert await impatient.read(0, PAGE_SECTORS) == content(3)


async def test_reads_go_on_while_one_hangs(scene: Scene) -> None:
    """Where the kernel cannot say what it has in memory, as on every network file system: a read
    that hangs keeps back no other, of its own device or another."""
    far = range(2048, 2048 + PAGE_SECTORS)
    async with broken(scene, ("file", False, "auto")) as stage:
        disk, remote, impatient = stage.disk, stage.remote, stage.impatient
        for sector in range(0, far.stop, PAGE_SECTORS):
            disk.put(sector, content(sector // PAGE_SECTORS % 251))
        disk.hold(READ, sectors=far)
        hanging = asyncio.create_task(remote.read(far.start, PAGE_SECTORS))
        await asyncio.to_thread(wait_until, lambda: disk.holds > 0, DEADLINE_S, "a read hangs")
        for _ in range(2):  # from the disk, and from memory
            for sector in range(0, 512, PAGE_SECTORS):
                wanted = content(sector // PAGE_SECTORS % 251)
                assert await impatient.read(sector, PAGE_SECTORS) == wanted
        assert disk.holds
        assert not hanging.done()
        disk.release()
        assert await hanging == content(far.start // PAGE_SECTORS % 251)


@pytest.mark.parametrize("way", [WAYS[0], ("loop", True, "threads")], ids=["buffered", "direct"])
async def test_writes_are_made_stable_beside_reads_that_hang(scene: Scene, way: Way) -> None:
    """Neither a write nor a flush waits for reads, even if these occupy all their threads."""
    async with broken(scene, way) as stage:
        disk, remote = stage.disk, stage.remote
        await remote.write(0, content(1))
        disk.hold(READ)
        spots = range(1024, 1024 + 2 * THREADS_MAX * 128, 128)  # too far apart to be read ahead
        reads = [asyncio.create_task(remote.read(sector, 1)) for sector in spots]
        await asyncio.to_thread(
            wait_until, lambda: disk.holds >= THREADS_MAX, DEADLINE_S, "a read in each thread"
        )
        await remote.write(0, content(2))
        await remote.flush()
        disk.release()
        assert set(map(bytes, await asyncio.gather(*reads))) == {bytes(SECTOR_BYTES)}


async def test_a_question_for_the_size_that_hangs_disturbs_nobody(scene: Scene) -> None:
    """As on a network file system whose server is away."""
    async with broken(scene, ("file", True, "auto")) as stage:
        stage.disk.hold(STATUS, READ, WRITE)
        await asyncio.to_thread(
            wait_until, lambda: stage.disk.holds > 0, DEADLINE_S, "a question for the size"
        )
        for _ in range(3):
            assert (await asyncio.to_thread(stage.daemon.listed, "steady"))["state"] == "serving"
        with pytest.raises(NoAnswerError):
            await stage.impatient.read(128, 1)
        stage.disk.release()
        await stage.remote.write(0, content(3))


# --- a full file system ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "direct_io", "write_cache"),
    [
        ("ext4", True, False),
        ("ext4", False, True),
        ("tmpfs", True, True),
        ("tmpfs", False, False),
    ],
)
async def test_a_sparse_file_on_a_full_file_system(
    scene: Scene, kind: str, direct_io: bool, write_cache: bool
) -> None:
    """What has space goes on; when there is space again, all of it does."""
    mounted = scene.directory / "small"
    mounted.mkdir()
    try:
        if kind == "ext4":
            requires_program("mkfs.ext4")
            scene.target.run("mkfs.ext4", "-q", scene.disk("image", 8 * MIB))
            scene.target.run("mount", "-o", "loop", scene.directory / "image", mounted)
        else:
            scene.target.run("mount", "-t", "tmpfs", "-o", "size=8m", "none", mounted)
    except subprocess.CalledProcessError:
        pytest.skip(f"needs {kind} and loop devices")
    inside = Path(f"/proc/{scene.target.pid}/root{mounted}")
    with (inside / "disk").open("wb") as file:
        file.truncate(64 * MIB)
    section = device("disk", path="small/disk", direct_io=direct_io, write_cache=write_cache)
    async with undisturbed(scene, section), scene.initiator() as initiator:
        remote = await initiator.open(0, 1)
        await remote.write(0, content(1))
        await remote.flush()
        fill(inside / "filler")
        for sector in range(4096, 8192, 1024):
            await fails(remote.write(sector, content(2)), AtaError.ABRT)
        await remote.write(0, content(3))
        assert await remote.read(0, PAGE_SECTORS) == content(3)
        assert set(await remote.read(4096, PAGE_SECTORS)) <= {0, 2}
        (inside / "filler").unlink()
        await remote.flush()
        await until_served(remote, 4096)
        await remote.flush()


# --- another file, another size ----------------------------------------------------------------


async def test_files_truncated_underneath(scene: Scene) -> None:
    """Requests beyond the end fail from the first moment on; what is left is served on."""
    disks = {slot: scene.disk(name) for slot, name in ((1, "direct"), (2, "buffered"))}
    sections = (device("direct", 1), device("buffered", 2, direct_io=False))
    async with (
        undisturbed(scene, *sections) as daemon,
        scene.initiator() as initiator,
    ):
        remotes = {slot: await initiator.open(0, slot) for slot in disks}
        for slot, remote in remotes.items():
            await remote.write(0, content(1))
            await remote.write(DISK_SECTORS - PAGE_SECTORS, content(1))
            os.truncate(disks[slot], MIB)
            with pytest.raises(AtaCommandError) as refusal:
                await remote.read(DISK_SECTORS - PAGE_SECTORS, 1)
            assert refusal.value.error in (AtaError.UNC, AtaError.IDNF)
            assert await remote.read(0, PAGE_SECTORS) == content(1)
        for slot, remote in remotes.items():
            name = disks[slot].name
            await asyncio.to_thread(daemon.wait_for_log, f"{name}: size changed from 4 MiB")
            assert (await remote.identify()).size_sectors * SECTOR_BYTES == MIB
            await fails(remote.read(MIB // SECTOR_BYTES, 1), AtaError.IDNF)
            await fails(remote.write(MIB // SECTOR_BYTES, content(2)), AtaError.IDNF)
            await remote.write(0, content(3))
            os.truncate(disks[slot], DISK_BYTES)
        for slot, remote in remotes.items():
            name = disks[slot].name
            await asyncio.to_thread(daemon.wait_for_log, f"{name}: size changed from 1 MiB")
            await remote.write(DISK_SECTORS - PAGE_SECTORS, content(4))
            assert await remote.read(0, PAGE_SECTORS) == content(3)


async def told(daemon: Daemon, text: str) -> None:
    """The administrator hears of it, in the log and from `ggaoectl list`, while it is served."""
    await asyncio.to_thread(daemon.wait_for_log, f"error: disk: {daemon.directory}/disk {text}")
    row = await asyncio.to_thread(daemon.listed, "disk")
    assert row["state"] == "serving"
    assert text in row["reason"]


@pytest.mark.parametrize("how", ["replaced", "deleted"])
async def test_a_file_that_is_another_one_now(scene: Scene, how: str) -> None:
    """Hosts keep the disk that they know, never a mixture of two, and it is told; a reload brings
    the other, and none takes away the only one there is."""
    disk, section = scene.disk(), device()
    old = content(1) + content(2)
    async with (
        undisturbed(scene, section) as daemon,
        scene.initiator() as initiator,
    ):
        remote = await initiator.open(0, 1)
        await remote.write(0, content(1))
        if how == "replaced":
            scene.disk("new", 2 * MIB).replace(disk)
        else:
            disk.unlink()
        await remote.write(8, content(2))
        await remote.flush()
        assert await remote.read(0, 2 * PAGE_SECTORS) == old
        if how == "deleted":
            await told(daemon, "is gone")
            assert (await asyncio.to_thread(daemon.ask, "reload"))["changes"] == []
            assert await remote.read(0, 2 * PAGE_SECTORS) == old
            scene.disk(size_bytes=2 * MIB)
        await told(daemon, "is not what is served any more")
        plan = (await asyncio.to_thread(daemon.ask, "reload", "--dry-run"))["changes"]
        assert plan == [f"reopen disk (e0.1): path {disk} → what is there now"]
        assert await remote.read(0, 2 * PAGE_SECTORS) == old
        await asyncio.to_thread(daemon.hang_up)
        assert (await asyncio.to_thread(daemon.listed, "disk"))["reason"] is None
        assert (await remote.identify()).size_sectors * SECTOR_BYTES == 2 * MIB
        assert await remote.read(0, 2 * PAGE_SECTORS) == bytes(2 * PAGE_SECTORS * SECTOR_BYTES)
        await remote.write(0, content(3))
        assert disk.read_bytes()[: PAGE_SECTORS * SECTOR_BYTES] == content(3)


async def test_a_reload_need_not_wait_for_the_notice(scene: Scene) -> None:
    """Who replaces a file and reloads at once gets the new one."""
    disk = scene.disk()
    async with (
        undisturbed(scene, device()) as daemon,
        scene.initiator() as initiator,
    ):
        remote = await initiator.open(0, 1)
        for fill_byte in range(1, 4):
            new = scene.disk("new")
            new.write_bytes(content(fill_byte) + bytes(DISK_BYTES - len(content(0))))
            new.replace(disk)
            await asyncio.to_thread(daemon.hang_up)
            assert await remote.read(0, PAGE_SECTORS) == content(fill_byte)


async def test_a_file_that_is_moved_away_and_back(scene: Scene) -> None:
    disk = scene.disk()
    async with (
        undisturbed(scene, device()) as daemon,
        scene.initiator() as initiator,
    ):
        remote = await initiator.open(0, 1)
        disk.rename(disk.with_name("away"))
        await told(daemon, "is gone")
        await remote.write(0, content(1))
        disk.with_name("away").rename(disk)
        await asyncio.to_thread(daemon.wait_for_log, "disk is what is served again")
        assert (await asyncio.to_thread(daemon.listed, "disk"))["reason"] is None
        assert disk.read_bytes()[: PAGE_SECTORS * SECTOR_BYTES] == content(1)


async def test_a_loop_device_shrinks_and_grows(scene: Scene) -> None:
    backing = scene.disk("backing")
    with loop_device(backing, DIRECT, namespace=scene.target) as path:
        async with (
            undisturbed(scene, device(path=path)) as daemon,
            scene.initiator() as initiator,
        ):
            remote = await initiator.open(0, 1)
            await remote.write(0, content(1))
            for size_bytes in (MIB, DISK_BYTES):
                with backing.open("r+b") as file:
                    file.truncate(size_bytes)
                losetup("--set-capacity", path, namespace=scene.target)
                await asyncio.to_thread(daemon.wait_for_log, f" to {size_bytes // MIB} MiB;")
                assert (await remote.identify()).size_sectors * SECTOR_BYTES == size_bytes
                await fails(remote.read(size_bytes // SECTOR_BYTES, 1), AtaError.IDNF)
                await remote.write(size_bytes // SECTOR_BYTES - PAGE_SECTORS, content(2))
                assert await remote.read(0, PAGE_SECTORS) == content(1)


async def test_a_loop_device_goes_away_and_returns(scene: Scene) -> None:
    """The kernel takes it away from whoever has it open only when all have closed it."""
    backing = scene.disk("backing")
    with loop_device(backing, DIRECT, namespace=scene.target) as path:
        section = device("disk", path=path)
        async with (
            undisturbed(scene, section) as daemon,
            scene.initiator() as initiator,
        ):
            remote = await initiator.open(0, 1)
            await remote.write(0, content(1))
            losetup("--detach", path, namespace=scene.target)
            await remote.write(8, content(2))
            await asyncio.to_thread(daemon.reconfigure, device(path=path, direct_io=False), STEADY)
            row = await asyncio.to_thread(daemon.listed, "disk")
            assert row["state"] == "waiting"
            assert str(path) in row["reason"]
            losetup(path, backing, namespace=scene.target)
            await asyncio.to_thread(daemon.wait_for_state, "disk", "serving")
            assert await remote.read(0, PAGE_SECTORS) == content(1)
            assert await remote.read(8, PAGE_SECTORS) == content(2)
            await remote.write(0, content(3))
    assert backing.read_bytes()[: PAGE_SECTORS * SECTOR_BYTES] == content(3)
