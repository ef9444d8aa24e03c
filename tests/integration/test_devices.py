"""What a device is made of: files, block devices, parts of them, and what is not there yet."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import re
import shutil
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from ggaoe.client import AtaCommandError, RefusedError
from ggaoe.engine.select import live_engine
from ggaoe.proto.ata import AtaError, Opcode
from ggaoe.proto.frame import SECTOR_BYTES, Error
from ggaoe.units import counted
from helpers.loop import loop_device
from helpers.needs import requires_program
from helpers.netns import wait_until
from integration.scene import (
    DEADLINE_S,
    DISK_BYTES,
    DISK_SECTORS,
    MIB,
    Scene,
    device,
    leased,
    round_trip,
)

DISK = device()
SECTOR = b"ggaoe---" * (SECTOR_BYTES // 8)


# --- waiting -----------------------------------------------------------------------------------


async def test_a_store_that_does_not_answer_is_told(scene: Scene) -> None:
    """It is waited for, and hosts hear that it is not there yet."""
    disk, other = scene.disk(), scene.disk("other")
    with scene.serving(device("other", 2)) as daemon:
        with leased(disk):
            daemon.reconfigure(device(), device("other", 2))
            row = daemon.listed("disk")
            assert (row["state"], row["reason"]) == ("waiting", "the store does not answer")
            assert "disk: waiting: the store does not answer" in daemon.log_text()
            async with scene.initiator() as initiator:
                await round_trip(initiator, other, slot=2)
                with pytest.raises(RefusedError) as refusal:
                    await (await initiator.open(0, 1)).read(0, 1)
                assert refusal.value.code == Error.UNAVAILABLE
        await asyncio.to_thread(daemon.wait_for_state, "disk", "serving")
        async with scene.initiator() as initiator:
            await round_trip(initiator, disk)


@pytest.mark.one_engine
async def test_a_missing_file_is_waited_for(scene: Scene) -> None:
    """The others serve meanwhile; when it comes it serves and is advertised."""
    scene.disk("there")
    with (
        scene.wire() as wire,
        scene.serving(device("late", 2), device("there", 1)) as daemon,
    ):
        row = daemon.listed("late")
        assert row["state"] == "waiting"
        assert f"{scene.directory}/late" in row["reason"]
        assert "No such file" in row["reason"]
        assert row["reason"] in daemon.ctl("list").stdout
        assert daemon.listed("there")["state"] == "serving"
        async with scene.initiator() as initiator:
            await (await initiator.open(0, 1)).read(0, 1)
            late = await initiator.open(0, 2)
            with pytest.raises(RefusedError) as refusal:
                await late.read(0, 1)
            assert refusal.value.code == Error.UNAVAILABLE
            assert not [
                one for one in wire.pending() if one.is_advertisement and one.address == (0, 2)
            ]
            disk = scene.disk("late")
            wire.wait_for(lambda got: got.is_advertisement and got.address == (0, 2))
            daemon.wait_for_state("late", "serving")
            await round_trip(initiator, disk, 0, 2)


@pytest.mark.parametrize(
    ("direct_io", "io_engine"), [(False, "auto"), (True, "aio"), (True, "uring"), (True, "threads")]
)
async def test_a_disk_that_hangs_disturbs_nobody_else(
    scene: Scene, direct_io: bool, io_engine: str
) -> None:
    """More writes than anybody has threads for wait for the disk, of two devices."""
    if direct_io and live_engine() == "portable":
        pytest.skip("io_submit blocks the portable engine while a file system is frozen")
    scene.disk("quick")
    names = {"slow": 1, "sluggish": 2}
    with scene.slow_disk() as slow, scene.wire() as wire:
        shutil.copy(slow.path, slow.path.with_name("sluggish"))
        with scene.serving(
            f"[defaults]\nio-engine = {io_engine}\n",
            device("slow", 1, path="slow/disk", direct_io=direct_io),
            device("sluggish", 2, path="slow/sluggish", direct_io=direct_io),
            device("quick", 3, direct_io=False),
        ) as daemon:
            slow.hold()
            for slot in names.values():
                wire.send(
                    *(
                        wire.write(8 * number, SECTOR, slot=slot, tag=100 * slot + number)
                        for number in range(40)
                    )
                )
            for name in names:
                held = partial(daemon.counters, name)
                wait_until(lambda held=held: held()["in_flight"] == 40, DEADLINE_S, "held writes")
            async with scene.initiator() as initiator:
                await round_trip(initiator, scene.directory / "quick", 0, 3)
            assert daemon.listed("slow")["state"] == "serving"
            assert wire.pending()  # or there would be no room for the replies
            slow.release()
            tags = [100 * slot + number for slot in names.values() for number in range(40)]
            got: list[int] = []

            def all_are_answered() -> bool:
                got.extend(one.header.tag for one in wire.pending() if not one.is_advertisement)
                return sorted(set(got) & set(tags)) == tags

            wait_until(all_are_answered, DEADLINE_S, "replies to all writes")
        assert slow.path.read_bytes() == (SECTOR + bytes(7 * SECTOR_BYTES)) * 40 + bytes(
            DISK_BYTES - 40 * 8 * SECTOR_BYTES
        )


@pytest.mark.one_engine
def test_a_damaged_state_file_is_not_an_empty_state(scene: Scene) -> None:
    """A reservation in it may lock somebody out: the device is not served until it is mended."""
    scene.disk()
    damaged = scene.directory / "state" / "disk.json"
    daemon = scene.daemon(DISK)
    damaged.write_text('{"format": "ggaoe-state", "version": 1, "reser')
    daemon.start()
    row = daemon.listed("disk")
    assert row["state"] == "waiting"
    assert str(damaged) in row["reason"]
    assert row["interfaces"] == []
    refused = daemon.ctl("clear-reserve", "disk")
    assert refused.status == 1
    assert "state" in refused.stderr
    damaged.unlink()
    daemon.wait_for_state("disk", "serving")
    assert daemon.listed("disk")["interfaces"] == ["far0"]
    assert daemon.stop() == 0


@pytest.mark.one_engine
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"offset": DISK_BYTES}, "beyond the end"),
        ({"length": DISK_BYTES + SECTOR_BYTES}, "beyond the end"),
        ({"path": "/dev/null"}, "character device"),
        ({"path": "."}, "directory"),
        ({"path": None, "uuid": "0a3407de-014b-458b-b5c1-848e92a327a3"}, "0a3407de"),
    ],
)
def test_what_cannot_be_served_says_why(
    scene: Scene, options: dict[str, object], reason: str
) -> None:
    scene.disk()
    with scene.serving(device(**options)) as daemon:
        row = daemon.listed("disk")
        assert row["state"] == "waiting"
        assert reason in row["reason"]


@pytest.mark.one_engine
def test_two_daemons_cannot_serve_one_file(scene: Scene) -> None:
    scene.disk()
    (scene.directory / "state2").mkdir()
    with scene.serving(DISK) as first:
        second = scene.daemon(
            "[defaults]\npid-file = pid2\ncontrol-socket = ctl2\nstate-directory = state2\n",
            device(slot=2, read_only=True),
            name="second",
        )
        second.start()
        row = second.listed("disk")
        assert row["state"] == "waiting"
        assert "locked by another process" in row["reason"]
        assert first.stop() == 0
        second.wait_for_state("disk", "serving")
        assert second.stop() == 0


# --- options -----------------------------------------------------------------------------------


async def test_a_read_only_device_refuses_writes(scene: Scene) -> None:
    disk = scene.disk()
    disk.chmod(0o444)
    with scene.serving(device(read_only=True)) as daemon:
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            assert await remote.read(0, 4) == bytes(4 * SECTOR_BYTES)
            with pytest.raises(AtaCommandError) as refusal:
                await remote.write(0, SECTOR)
        assert refusal.value.error == AtaError.ABRT
        assert daemon.listed("disk")["read_only"]
    assert disk.read_bytes() == bytes(DISK_BYTES)


@pytest.mark.parametrize("direct_io", [True, False])
async def test_a_part_of_a_file(scene: Scene, direct_io: bool) -> None:
    disk = scene.disk()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    original = random.Random(seed).randbytes(DISK_BYTES)
    disk.write_bytes(original)
    begin, size = MIB, 2 * MIB
    sections = [
        device(offset=begin, length="2MiB", direct_io=direct_io),
        device("rest", 2, path="disk", offset=begin + size, direct_io=direct_io),
    ]
    with scene.serving(*sections) as daemon:
        assert ("direct" in daemon.ask("show", "disk")["devices"][0]["backend"]) == direct_io
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            assert (await remote.identify()).size_sectors == size // SECTOR_BYTES
            assert await remote.read(0, 8) == original[begin : begin + 8 * SECTOR_BYTES]
            await round_trip(initiator, disk, base_bytes=begin)
            with pytest.raises(AtaCommandError) as refusal:
                await remote.read(size // SECTOR_BYTES, 1)
            assert refusal.value.error == AtaError.IDNF
            rest = await initiator.open(0, 2)
            assert await rest.read(0, 8) == original[begin + size :][: 8 * SECTOR_BYTES]
    found = disk.read_bytes()
    assert found[:begin] == original[:begin]
    assert found[begin + size :] == original[begin + size :]


async def test_a_store_that_fails_is_told(scene: Scene) -> None:
    """Here a sparse file on a file system that is full; it serves all the same."""
    full = scene.directory / "full"
    full.mkdir()
    scene.target.run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full)
    scene.target.run("truncate", "--size", str(DISK_BYTES), full / "disk")
    with scene.serving(device(path="full/disk")) as daemon:
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            await remote.write(0, SECTOR)
            assert daemon.listed("disk")["reason"] is None
            for sector in range(0, 1024, 8):
                with suppress(AtaCommandError):
                    await remote.write(sector, SECTOR)
        row = daemon.listed("disk")
        count, last = row["failures"]["count"], row["failures"]["last"]
        assert count == daemon.counters()["ata_errors"] > 0
        assert last == "WRITE of sector 1016+1 failed: No space left on device (ENOSPC)"
        assert row["state"] == "serving"
        assert re.fullmatch(
            rf"{counted(count, 'I/O error')}, the last \d+ s ago: {re.escape(last)}", row["reason"]
        )
        found = daemon.ctl("metrics").stdout
        assert f'ggaoe_device_backend_errors_total{{device="disk"}} {count}.0\n' in found
        assert 'ggaoe_device_backend_error_age_seconds{device="disk"} ' in found
        assert daemon.ctl("clear-stats").status == 0
        assert daemon.listed("disk")["reason"] is None


async def test_buffered_and_direct_devices_give_the_same(scene: Scene) -> None:
    direct, buffered = scene.disk("direct"), scene.disk("buffered")
    with scene.serving(device("direct", 1), device("buffered", 2, direct_io=False)) as daemon:
        details = {row["name"]: row["backend"] for row in daemon.ask("show", "*")["devices"]}
        assert "direct" in details["direct"]
        assert "direct" not in details["buffered"]
        async with scene.initiator() as initiator:
            await round_trip(initiator, direct, 0, 1)
            await round_trip(initiator, buffered, 0, 2)


async def test_sizes_are_exact_unless_they_are_to_be_rounded(scene: Scene) -> None:
    """A last page that exists only in part is served where a block of direct I/O is a sector, and
    where it is a page, as on overlayfs in memory; the files do not grow."""
    size_bytes = DISK_BYTES + 3 * SECTOR_BYTES
    files = [scene.disk(name, size_bytes) for name in ("exact", "rounded")]
    memory = scene.directory / "memory"
    memory.mkdir()
    scene.target.run("mount", "-t", "tmpfs", "tmpfs", memory)
    scene.target.run("mkdir", *(memory / name for name in ("lower", "upper", "work", "all")))
    layers = ",".join(f"{name}dir={memory / name}" for name in ("lower", "upper", "work"))
    try:
        scene.target.run("mount", "-t", "overlay", "-o", layers, "overlay", memory / "all")
    except subprocess.CalledProcessError:
        pytest.skip("needs overlayfs")
    tail = memory / "all" / "tail"
    scene.target.run("truncate", "--size", str(size_bytes), tail)
    files.append(Path(f"/proc/{scene.target.pid}/root{tail}"))
    options = {"exact": {}, "rounded": {"exact_size": False}, "tail": {"path": str(tail)}}
    with scene.serving(
        *(device(name, slot, **each) for slot, (name, each) in enumerate(options.items()))
    ) as daemon:
        async with scene.initiator() as initiator:
            exact, rounded, last = [await initiator.open(0, slot) for slot in range(3)]
            assert (await rounded.identify()).size_sectors == DISK_SECTORS
            for remote in (exact, last):
                assert (await remote.identify()).size_sectors == DISK_SECTORS + 3
                await remote.write(DISK_SECTORS - 1, SECTOR + SECTOR)
                await remote.write(DISK_SECTORS + 2, SECTOR)
                await remote.flush()
                with pytest.raises(AtaCommandError):
                    await remote.write(DISK_SECTORS + 2, SECTOR + SECTOR)
                assert await remote.read(DISK_SECTORS + 2, 1) == SECTOR
        text = f"not exported: {3 * SECTOR_BYTES} bytes at its end"
        told = [line for line in daemon.log_text().splitlines() if "not exported" in line]
        assert ["rounded" in line and text in line for line in told] == [True]
        for file in files:
            assert file.stat().st_size == size_bytes
        assert files[0].read_bytes() == files[2].read_bytes()
        assert files[0].read_bytes()[-SECTOR_BYTES:] == SECTOR


@pytest.mark.parametrize("write_cache", [False, True])
async def test_the_write_cache_is_told_and_flushed(scene: Scene, write_cache: bool) -> None:
    disk = scene.disk()
    with scene.serving(device(write_cache=write_cache)) as daemon:
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            page = (await remote.ata(Opcode.IDENTIFY_DEVICE, count=1, read_bytes=512)).data
            assert bool(page[2 * 85] & 0x20) == write_cache
            await remote.write(5, SECTOR)
            committed = daemon.counters()["commits"]
            assert bool(committed) != write_cache
            await remote.flush()
            await remote.ata(Opcode.FLUSH_CACHE)
        counters = daemon.counters()
        assert counters["flush_requests"] == 2
        assert counters["commits"] == committed + 2
    assert disk.read_bytes()[5 * SECTOR_BYTES :][:SECTOR_BYTES] == SECTOR


async def test_28_bit_commands(scene: Scene) -> None:
    """Whatever stands in the device register's bits, as in Linux's requests."""
    disk = scene.disk()
    head = 0xE0 << 24
    with scene.serving(DISK):
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            for sector, opcodes in (
                (0, (Opcode.WRITE_SECTORS, Opcode.READ_SECTORS)),
                (DISK_SECTORS - 1, (Opcode.WRITE_DMA, Opcode.READ_DMA)),
            ):
                writing, reading = opcodes
                await remote.ata(writing, head | sector, 1, data=SECTOR)
                reply = await remote.ata(reading, head | sector, 1, read_bytes=SECTOR_BYTES)
                assert reply.data == SECTOR
            with pytest.raises(AtaCommandError) as refusal:
                await remote.ata(Opcode.READ_SECTORS, head | DISK_SECTORS, 1, read_bytes=512)
            assert refusal.value.error == AtaError.IDNF
    content = disk.read_bytes()
    assert content == SECTOR + bytes(DISK_BYTES - 2 * SECTOR_BYTES) + SECTOR


# --- block devices -----------------------------------------------------------------------------


@pytest.mark.one_engine
async def test_a_block_device_is_claimed(scene: Scene) -> None:
    disk = scene.disk("backing")
    with loop_device(disk) as path, scene.serving(device(path=path)) as daemon:
        async with scene.initiator() as initiator:
            await round_trip(initiator, path)
        with pytest.raises(OSError) as refusal:
            os.close(os.open(path, os.O_RDWR | os.O_EXCL))
        assert refusal.value.errno == errno.EBUSY
        daemon.configure()
        assert daemon.ctl("reload", "--force").status == 0
        wait_until(lambda: not daemon.ask("list")["devices"], DEADLINE_S, "no devices")
        os.close(os.open(path, os.O_RDWR | os.O_EXCL))


def make_filesystem(disk: Path, uuid: str) -> None:
    for program in ("mkfs.ext4", "blkid"):
        requires_program(program)
    subprocess.run(["mkfs.ext4", "-q", "-U", uuid, disk], check=True)


@pytest.mark.one_engine
async def test_a_filesystem_is_found_by_its_uuid(scene: Scene) -> None:
    """Which device that is, is told; where several have it, they are named."""
    disk, uuid = scene.disk("backing", 8 * MIB), str(uuid4())
    make_filesystem(disk, uuid)
    copy = Path(shutil.copy(disk, scene.directory / "copy"))
    by_uuid = device(path=None, uuid=uuid)
    with loop_device(disk) as loop, scene.serving(by_uuid) as daemon:
        daemon.wait_for_state("disk", "serving")
        row = daemon.listed("disk")
        assert (row["path"], row["uuid"]) == (str(loop), uuid)
        assert f"disk (e0.1): opened {loop} (UUID {uuid}), " in daemon.log_text()
        for words in (["list"], ["show", "disk"]):
            assert f"{loop} (UUID={uuid})" in daemon.ctl(*words).stdout
        with loop_device(copy) as other:
            daemon.reconfigure(by_uuid, device("again", 2, path=None, uuid=uuid))
            row = daemon.listed("again")
            assert (row["state"], row["path"]) == ("waiting", f"UUID={uuid}")
            names = " and ".join(sorted(map(str, (loop, other))))
            assert row["reason"].startswith(f"uuid {uuid}: 2 devices have it, {names}: ")
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            assert (await remote.identify()).size_sectors * SECTOR_BYTES == 8 * MIB
            superblock = await remote.read(2, 2)
            assert superblock[0x38:0x3A] == b"\x53\xef"
