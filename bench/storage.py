"""Files that the targets serve: written in full, every sector beginning with its own number.

Owns: the files, and keeping those of cached cases in memory. Must not know: targets, cases.
"""

from __future__ import annotations

import mmap
import os
from array import array
from pathlib import Path

from cases import SECTOR_BYTES

MAP_LOCKED = 0x2000  # linux/mman.h; Python has no name for it
PAGE_SECTORS = mmap.PAGESIZE // SECTOR_BYTES


class Files:
    """Makes files of `size_bytes` in all in `directory`, each kind when it is first asked for."""

    def __init__(self, directory: Path, size_bytes: int) -> None:
        self._directory = directory
        self._size_bytes = size_bytes
        self._made: dict[tuple[bool, int], list[Path]] = {}
        self._locked: list[mmap.mmap] = []

    def exported(self, count: int, *, cached: bool) -> list[Path]:
        """`count` files of equal size; cached ones stay in the page cache, others are on the disk
        only."""
        if (cached, count) not in self._made:
            name = "cached" if cached else "disk"
            paths = [self._directory / f"{name}-{count}-{index}" for index in range(count)]
            for path in paths:
                self._make(path, self._size_bytes // count, cached)
            self._made[cached, count] = paths
        return self._made[cached, count]

    def bare(self) -> Path:
        """A file for fio, which writes what it likes."""
        path = self._directory / "bare"
        if not path.exists():
            self._make(path, self._size_bytes, False)
        return path

    def _make(self, path: Path, size_bytes: int, cached: bool) -> None:
        write_numbered(path, size_bytes)
        with path.open("r+b") as file:
            os.fsync(file.fileno())
            if cached:
                # The machine may take page cache away at any time, unless it is locked.
                flags = mmap.MAP_SHARED | MAP_LOCKED
                self._locked.append(mmap.mmap(file.fileno(), 0, flags, mmap.PROT_READ))
            else:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_numbered(path: Path, size_bytes: int) -> None:
    """Write a file without holes, of whole pages; each sector begins with its number, 64 bits."""
    # Page by page, in calls of their own: what is written at large comes to lie in large folios, in
    # which ext4 walks a list of all blocks at every small write. Then the filesystem is the limit.
    page = memoryview(bytearray(b"\xa5" * mmap.PAGESIZE))
    with path.open("wb", buffering=0) as file:
        for first in range(0, size_bytes // SECTOR_BYTES, PAGE_SECTORS):
            numbers = array("Q", range(first, first + PAGE_SECTORS))
            page.cast("Q")[:: SECTOR_BYTES // 8] = memoryview(numbers)
            file.write(page)


def write_back(paths: list[Path]) -> None:
    """Nothing is dirty afterwards: the kernel would write it back during a later measurement."""
    for path in paths:
        with path.open("r+b") as file:
            os.fsync(file.fileno())


def refuses_direct_io(directory: Path) -> bool:
    """True: the filesystem has no O_DIRECT."""
    path = directory / "probe"
    path.write_bytes(bytes(mmap.PAGESIZE))
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
    except OSError:
        return True
    finally:
        path.unlink()
    return False
