"""A path is looked at again: is what was opened there still what is to be found?"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ggaoe.backend.origin import Origin, Place, origin_of


def opened(path: Path) -> Origin:
    return origin_of(path, path.stat())


def test_a_file_is_replaced_moved_away_and_back(tmp_path: Path) -> None:
    disk, away = tmp_path / "disk", tmp_path / "away"
    disk.write_bytes(b"old")
    origin = opened(disk)
    assert origin.look() is Place.SAME
    disk.write_bytes(b"other content")
    assert origin.look() is Place.SAME
    disk.rename(away)
    assert origin.look() is Place.NOTHING
    disk.write_bytes(b"old")
    assert origin.look() is Place.ANOTHER
    away.replace(disk)
    assert origin.look() is Place.SAME


def test_a_link_that_points_elsewhere(tmp_path: Path) -> None:
    link = tmp_path / "link"
    for name in ("one", "two"):
        (tmp_path / name).touch()
    link.symlink_to("one")
    origin = opened(link)
    assert origin.look() is Place.SAME
    link.unlink()
    link.symlink_to("two")
    assert origin.look() is Place.ANOTHER
    link.unlink()
    link.symlink_to("three")
    assert origin.look() is Place.NOTHING


def test_what_cannot_be_seen_counts_as_the_same(tmp_path: Path) -> None:
    path = tmp_path / "directory" / "disk"
    path.parent.mkdir()
    path.touch()
    origin = opened(path)
    path.unlink()
    path.symlink_to(path)  # too many levels of links
    assert origin.look() is Place.SAME
    path.unlink()
    path.parent.rmdir()
    assert origin.look() is Place.NOTHING
    path.parent.touch()
    assert origin.look() is Place.NOTHING


def test_a_block_device_is_known_by_its_number(tmp_path: Path) -> None:
    node = tmp_path / "node"

    def make(number: int, kind: int = stat.S_IFBLK) -> None:
        node.unlink(missing_ok=True)
        try:
            os.mknod(node, kind | 0o600, os.makedev(7, number))
        except PermissionError:
            pytest.skip("needs the right to make device nodes")

    make(250)
    origin = opened(node)
    make(250)
    assert origin.look() is Place.SAME
    make(251)
    assert origin.look() is Place.ANOTHER
    make(250, stat.S_IFCHR)
    assert origin.look() is Place.ANOTHER
