"""What is used by way of other block devices is not exported: real loop devices and partitions, and
volumes as /sys shows them, since few machines let a test make these."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ggaoe.backend import stacking
from ggaoe.backend.file import FileSpec
from ggaoe.backend.origin import Origin
from ggaoe.proto.frame import SECTOR_BYTES
from helpers.loop import loop_device
from helpers.needs import requires_program, requires_root
from helpers.netns import wait_until
from unit.backend.conformance import DEADLINE_S
from unit.backend.stores import DISK_DIRECTORY, sparse_file
from unit.backend.test_file import MIB, opened, refusal

PARTITION_SECTORS, BESIDE_SECTORS = 1024, 512


@pytest.fixture
def file() -> Iterator[Path]:
    with sparse_file(DISK_DIRECTORY, MIB) as path:
        yield path


@contextmanager
def mounted(device: Path, place: Path) -> Iterator[None]:
    """A file system on `device`, mounted where the tests run."""
    requires_program("mkfs.ext4")
    place.mkdir()
    subprocess.run(["mkfs.ext4", "-q", device], check=True, capture_output=True)
    subprocess.run(["mount", device, place], check=True)
    try:
        yield
    finally:
        unmount(place)


def unmount(place: Path) -> None:
    """At once, even if another program on the machine is just looking at its loop device."""
    subprocess.run(["umount", "--lazy", place], check=True)


@contextmanager
def bind_mounted(file: Path, place: Path) -> Iterator[None]:
    """`file` at another place."""
    requires_root()
    place.touch()
    subprocess.run(["mount", "--bind", file, place], check=True)
    try:
        yield
    finally:
        unmount(place)


@contextmanager
def partition(file: Path) -> Iterator[tuple[Path, Path]]:
    """A loop device on `file`, and the first of its two partitions, which partx adds where the
    kernel does not know the format of the table."""
    requires_program("partx")
    places = ((PARTITION_SECTORS, 1000), (BESIDE_SECTORS, 256))
    entries = [struct.pack("<B3sB3sII", 0, b"", 0x83, b"", *place) for place in places]
    with file.open("r+b") as image:
        image.seek(446)
        image.write(b"".join(entries) + bytes(32) + b"\x55\xaa")
    with loop_device(file, "--partscan") as loop:
        part = Path(f"{loop}p1")
        if not part.exists():
            subprocess.run(["partx", "--add", loop], check=True, capture_output=True)
        wait_until(part.exists, DEADLINE_S, "no partition")
        yield loop, part


@pytest.mark.parametrize("read_only", [False, True])
async def test_file_with_a_loop_device(file: Path, read_only: bool) -> None:
    with loop_device(file) as loop:
        text = await refusal(FileSpec(file, read_only=read_only))
        assert text.startswith(f"{file} is attached as {loop}: ")
        assert text.endswith(f"detach it (losetup -d {loop})")
    async with opened(FileSpec(file, read_only=read_only)):
        pass


async def test_another_name_of_the_file(file: Path, tmp_path: Path) -> None:
    """Of files it is the inode that counts, of whatever names and mounts."""
    link, bound = tmp_path / "link", tmp_path / "bound"
    hard = file.with_name(f"{file.name}-hard")
    link.symlink_to(file)
    hard.hardlink_to(file)
    with bind_mounted(file, bound), loop_device(bound) as loop:
        for name in (file, link, hard, bound):
            assert f"{name} is attached as {loop}" in await refusal(FileSpec(name))
    with loop_device(hard) as loop:
        hard.unlink()
        assert f"{file} is attached as {loop}" in await refusal(FileSpec(file))


async def test_readers_only(file: Path) -> None:
    with loop_device(file, "--read-only") as loop:
        reading = [FileSpec(path, read_only=True) for path in (file, loop)]
        async with opened(reading[0]), opened(reading[1]):
            pass
        assert f"attached as {loop}" in await refusal(FileSpec(file))


async def test_disjoint_parts(file: Path) -> None:
    with loop_device(file, "--offset=65536", "--sizelimit=65536") as loop:
        for offset_bytes, length_bytes in ((0, 65536), (131072, None), (131072, 4096)):
            async with (
                opened(FileSpec(file, None, offset_bytes, length_bytes)),
                opened(FileSpec(loop)),
            ):
                pass
        for offset_bytes, length_bytes in ((0, 65537 // 512 * 512 + 512), (131072 - 512, None)):
            text = await refusal(FileSpec(file, None, offset_bytes, length_bytes))
            assert f"attached as {loop}" in text


async def test_file_and_its_loop_device_in_any_order(file: Path) -> None:
    """A loop device that is attached after the file was exported is not exported."""
    async with opened(FileSpec(file)):
        with loop_device(file) as loop:
            text = await refusal(FileSpec(loop))
            assert text.startswith(f"{loop} is attached to {file}, which another device exports")
    with loop_device(file) as loop:
        async with opened(FileSpec(loop)):
            assert f"{file} is attached as {loop}" in await refusal(FileSpec(file))


async def test_loop_device_on_a_loop_device(file: Path) -> None:
    with loop_device(file) as lower, loop_device(lower) as upper:
        assert f"{lower} is attached as {upper}" in await refusal(FileSpec(lower))
        assert f"{file} is attached as {lower}" in await refusal(FileSpec(file))
        async with opened(FileSpec(upper)):
            pass
        with loop_device(file) as beside:
            assert f"{file} is attached as {beside}" in await refusal(FileSpec(upper))


async def test_partition(file: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    with partition(file) as (loop, part):
        with mounted(part, place):
            use = f"has the partition {part}, which is mounted at {place}"
            expected = f"{file} is attached as {loop}, which {use}: unmount it, then detach it"
            assert (await refusal(FileSpec(file))).startswith(expected)
            assert await refusal(FileSpec(loop)) == f"{loop}: in use: it {use}"
            assert await refusal(FileSpec(part)) == f"{part}: in use: it is mounted at {place}"
            # What is beside it, and what is in it, is free.
            inside = place / "inside"
            inside.write_bytes(bytes(SECTOR_BYTES))
            for free in (Path(f"{loop}p2"), inside):
                async with opened(FileSpec(free)):
                    pass
        async with opened(FileSpec(part)):
            assert f"{file} is attached as {loop}" in await refusal(FileSpec(file))
    async with opened(FileSpec(file)):
        with partition(file) as (loop, part):
            assert f"{loop} is attached to {file}, which" in await refusal(FileSpec(part))


async def test_block_device_that_is_mounted_by_way_of_another(file: Path, tmp_path: Path) -> None:
    place = tmp_path / "a blank"
    with loop_device(file) as lower, loop_device(lower) as upper, mounted(upper, place):
        use = f"which is mounted at {place}: unmount it, then detach it"
        assert f"{lower} is attached as {upper}, {use}" in await refusal(FileSpec(lower))


# --- RAID and volumes ----------------------------------------------------------------------------


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Origin:
    """A volume, dm-0, on a partition of a disk to which a loop device is attached."""
    sys, numbers = tmp_path / "sys", {"sdx": "250:0", "sdx1": "250:1", "dm-0": "251:0"}
    places = {
        "sdx": sys / "sdx",
        "sdx1": sys / "sdx" / "sdx1",
        "dm-0": sys / "block" / "dm-0",
        "loop99": sys / "block" / "loop99",
    }
    for name, number in {**numbers, "loop99": "7:99"}.items():
        (places[name] / "holders").mkdir(parents=True)
        (places[name] / "slaves").mkdir()
        (places[name] / "dev").write_text(f"{number}\n")
        (sys / number).symlink_to(places[name])
    (places["sdx1"] / "partition").write_text("1\n")
    (places["sdx1"] / "holders" / "dm-0").symlink_to(places["dm-0"])
    (places["dm-0"] / "slaves" / "sdx1").symlink_to(places["sdx1"])
    (places["loop99"] / "loop").mkdir()
    (places["loop99"] / "loop" / "backing_file").write_text("/dev/sdx\n")
    monkeypatch.setattr(stacking, "VIRTUAL_DEVICES", sys)
    monkeypatch.setattr(stacking, "_BLOCK", sys)
    disk = Origin(Path("/dev/sdx"), True, (os.makedev(250, 0), 0))
    monkeypatch.setattr(stacking, "_looked_up", {Path("/dev/sdx"): disk}.get)
    return Origin(Path("/dev/dm-0"), True, (os.makedev(251, 0), 0))


def test_volume_on_a_disk_that_is_used_otherwise(volume: Origin) -> None:
    text = stacking.conflict(volume, stacking.Region(), read_only=False)
    assert text is not None
    assert text.startswith("/dev/sdx is attached as /dev/loop99")


def test_user_of_a_partition(volume: Origin) -> None:
    part = Origin(Path("/dev/sdx1"), True, (os.makedev(250, 1), 0))
    disk = Origin(Path("/dev/sdx"), True, (os.makedev(250, 0), 0))
    assert stacking.user_of(part) == "is part of /dev/dm-0"
    assert stacking.user_of(disk) == "has the partition /dev/sdx1, which is part of /dev/dm-0"
    assert stacking.user_of(volume) is None
