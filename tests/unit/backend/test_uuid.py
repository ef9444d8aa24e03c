"""Devices by UUID: the one that has it, never one of several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from ggaoe.backend import uuid
from ggaoe.backend.uuid import find_by_uuid
from ggaoe.errors import BackendError
from helpers.loop import loop_device
from unit.backend.stores import DISK_DIRECTORY, make_swap, sparse_file

MIB = 1 << 20


@pytest.fixture
def identity() -> str:
    """A UUID of this test only: others on the machine make devices with UUIDs, too, and a loop
    device that somebody is just looking at stays for a moment."""
    return str(uuid4())


@pytest.fixture
def copies(identity: str) -> Iterator[list[Path]]:
    """Two files with the same content and so the same UUID, one cloned from the other."""
    with ExitStack() as stack:
        files = [stack.enter_context(sparse_file(DISK_DIRECTORY, MIB)) for _ in range(2)]
        for file in files:
            make_swap(file, identity)
        yield files


def link_to(device: Path, link: Path) -> None:
    """What udev makes for the device that it has seen last."""
    link.unlink(missing_ok=True)
    link.symlink_to(device)


@pytest.fixture(params=["udev", "libblkid"])
def way(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the database that udev has of loop devices, or without udev; the directory of links."""
    links, database = tmp_path / "by-uuid", tmp_path / "data"
    links.mkdir()
    if request.param == "udev":
        database.mkdir()
        for number in range(16):
            (database / f"b7:{number}").write_bytes(b"")
    monkeypatch.setattr(uuid, "_LINK_DIRECTORIES", (links,))
    monkeypatch.setattr(uuid, "UDEV", database)
    return links


def told_to_udev(identity: str, *devices: Path) -> None:
    if uuid.UDEV.is_dir():
        for device in devices:
            number = device.stat().st_rdev
            file = uuid.UDEV / f"b{os.major(number)}:{os.minor(number)}"
            file.write_text(
                f"S:disk/by-uuid/{identity}\nE:ID_FS_UUID={identity}\nE:ID_FS_TYPE=swap\n"
            )


def test_one_of_two_is_never_chosen(copies: list[Path], way: Path, identity: str) -> None:
    with loop_device(copies[0]) as one:
        told_to_udev(identity, one)
        link_to(one, way / identity)
        assert find_by_uuid(identity) == find_by_uuid(identity.upper()) == one
        with loop_device(copies[1]) as other:
            told_to_udev(identity, other)
            for device in (one, other):
                link_to(device, way / identity)
                with pytest.raises(BackendError) as refusal:
                    find_by_uuid(identity)
                names = " and ".join(sorted(map(str, (one, other))))
                assert str(refusal.value).startswith(
                    f"uuid {identity}: 2 devices have it, {names}: "
                )


def test_device_that_lies_on_the_other_is_chosen(
    copies: list[Path], way: Path, identity: str
) -> None:
    """As a multipath device on its paths: both have what is on the disk."""
    with loop_device(copies[0]) as lower, loop_device(lower) as upper:
        told_to_udev(identity, lower, upper)
        link_to(lower, way / identity)
        assert find_by_uuid(identity) == upper


def test_link_to_a_device_that_is_gone(way: Path, identity: str) -> None:
    link_to(Path("/dev/nothing"), way / identity)
    with pytest.raises(BackendError, match=f"uuid {identity}: no such device"):
        find_by_uuid(identity)
