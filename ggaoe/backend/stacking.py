"""Other users of a backing store on this machine: block devices stacked on it, and their users.

Owns what the kernel says of them in /sys and /proc. Must not know how a store is opened or locked.

A block device has one exclusive user: a mounted filesystem, a swap area, RAID, LVM, or an export. A
loop device needs no such claim on what it is attached to. So a file, or a block device, that a
filesystem uses by way of a loop device looks free. Therefore an export of the lower one looks for
loop devices on it, and an export of the upper one looks for locks and claims below it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ggaoe.backend.origin import Origin, origin_of

LAYERS_MAX = 16
"""Of loop devices on volumes on disks; deeper than that is a circle."""
VIRTUAL_DEVICES = Path("/sys/devices/virtual")
"""Where /sys has loop devices, RAID and volumes. A confined daemon has to be able to read it."""

_BLOCK = Path("/sys/dev/block")
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_INFO_BYTES = 232
_LOOP_INFO_HEAD = struct.Struct("=QQQQQ")
_TABLE_BYTES_MAX = 1 << 24
_LOCK = struct.Struct("hhqqi4x")


class _Table:
    """A file of /proc that stays open: under Landlock it could not be opened again."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._fd = -1

    def open(self) -> None:
        """Open it, unless it is open."""
        with self._lock:
            self._open()

    def lines(self) -> list[str]:
        """What it says now; nothing where it cannot be read."""
        with suppress(OSError), self._lock:
            self._open()
            os.lseek(self._fd, 0, os.SEEK_SET)
            found = b""
            while len(found) < _TABLE_BYTES_MAX and (part := os.read(self._fd, 1 << 16)):
                found += part
            return os.fsdecode(found).splitlines()
        return []

    def _open(self) -> None:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)


_mounts = _Table("/proc/self/mountinfo")
_swaps = _Table("/proc/swaps")


def keep_open() -> None:
    """Open the tables of mounts and swap areas for good; for before a confinement."""
    for table in (_mounts, _swaps):
        with suppress(OSError):
            table.open()


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes of a store, [begin, end); `end` None is up to the end of the store."""

    begin: int = 0
    end: int | None = None

    def overlaps(self, other: Region) -> bool:
        """Whether a byte belongs to both."""
        return (self.end is None or other.begin < self.end) and (
            other.end is None or self.begin < other.end
        )


@dataclass(frozen=True, slots=True)
class _Loop:
    """An attached loop device."""

    name: str
    number: int
    """Of its block device."""
    path: Path
    """What it is attached to, as the kernel names it."""
    below: Origin | None
    """The same; None where it cannot be found."""
    region: Region
    read_only: bool


def conflict(origin: Origin, region: Region, *, read_only: bool) -> str | None:
    """Who else writes to what is at `origin`, or reads it while it is to be written; None where
    nobody does. `region` and `read_only` are those of the export. Blocks."""
    loops = list(_loops())
    chain = _Chain(loops)
    chain.descend(origin, LAYERS_MAX)
    for loop in loops:
        if loop.number in chain.blocks or loop.below is None or (read_only and loop.read_only):
            continue
        if not chain.has(loop.below):
            continue
        # Other layers begin elsewhere: for what is below them, all of it counts.
        if _is_same(loop.below, origin) and not loop.region.overlaps(region):
            continue
        return _attached(origin, loop)
    for loop in chain.loops:
        if (taken := _taken_below(loop, read_only=read_only)) is not None:
            return taken
    return None


def blocks_below(origin: Origin) -> frozenset[int]:
    """The numbers of a block device and of those that it lies on. Blocks."""
    chain = _Chain(list(_loops()))
    chain.descend(origin, LAYERS_MAX)
    return frozenset(chain.blocks)


def user_of(origin: Origin) -> str | None:
    """What a block device is used for, as the end of a sentence; None where nothing is known."""
    place = block_of(origin.number[0])
    return _use(place, LAYERS_MAX) if origin.is_block and place is not None else None


@dataclass
class _Chain:
    """A store, and everything that it lies on."""

    attached: list[_Loop]
    """Every loop device of the machine."""
    blocks: set[int] = field(default_factory=set)
    files: set[tuple[int, int]] = field(default_factory=set)
    loops: list[_Loop] = field(default_factory=list)
    """The loop devices in it."""

    def has(self, origin: Origin) -> bool:
        if origin.is_block:
            return origin.number[0] in self.blocks
        return origin.number in self.files

    def descend(self, origin: Origin, layers: int) -> None:
        if not origin.is_block:
            self.files.add(origin.number)
        elif layers:
            self._descend_block(origin.number[0], layers)

    def _descend_block(self, number: int, layers: int) -> None:
        if number in self.blocks:
            return
        self.blocks.add(number)
        for loop in self.attached:
            if loop.number == number:
                self.loops.append(loop)
                if loop.below is not None:
                    self.descend(loop.below, layers - 1)
        place = block_of(number)
        if place is None:
            return
        below = [place.parent] if (place / "partition").exists() else _entries(place / "slaves")
        for one in below:
            if (lower := _number_in(one)) is not None and layers:
                self._descend_block(lower, layers - 1)


def _is_same(one: Origin, other: Origin) -> bool:
    return (one.is_block, one.number) == (other.is_block, other.number)


def _attached(origin: Origin, loop: _Loop) -> str:
    device = f"/dev/{loop.name}"
    place = block_of(loop.number)
    use = _use(place, LAYERS_MAX) if place is not None else None
    what = str(origin.path) if loop.below and _is_same(loop.below, origin) else str(loop.path)
    which = f", which {use}" if use else ""
    first = "unmount it, then " if use and "mounted" in use else ""
    return f"{what} is attached as {device}{which}: {first}detach it (losetup -d {device})"


def _taken_below(loop: _Loop, *, read_only: bool) -> str | None:
    """Who has what is below a loop device; None where that cannot be told."""
    if loop.below is None:
        return None
    claim = os.O_EXCL if loop.below.is_block else 0
    try:
        fd = os.open(loop.path, os.O_RDONLY | os.O_CLOEXEC | claim)
    except OSError:
        use = user_of(loop.below)
        return f"{loop.path}, which /dev/{loop.name} is attached to, {use}" if use else None
    try:
        kind = fcntl.F_RDLCK if read_only else fcntl.F_WRLCK
        begin, end = loop.region.begin, loop.region.end
        length = 0 if end is None else end - begin
        asked = _LOCK.pack(kind, os.SEEK_SET, begin, length, 0)
        found = _LOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
    except OSError:
        return None
    finally:
        os.close(fd)
    if found[0] == fcntl.F_UNLCK:
        return None
    return (
        f"/dev/{loop.name} is attached to {loop.path}, which another device exports or another "
        "process has locked: export one of the two"
    )


# --- what the kernel says ----------------------------------------------------------------------


def _loops() -> Iterator[_Loop]:
    for place in _entries(VIRTUAL_DEVICES / "block"):
        backing = _read(place / "loop/backing_file") if place.name.startswith("loop") else None
        number = _number_in(place)
        if backing is None or number is None:
            continue
        path = Path(backing)
        begin, size = _integer(place / "loop/offset"), _integer(place / "loop/sizelimit")
        yield _Loop(
            place.name,
            number,
            path,
            _asked(place.name, path) or _looked_up(path),
            Region(begin, begin + size if size else None),
            _integer(place / "ro") == 1,
        )


def _asked(name: str, path: Path) -> Origin | None:
    """What a loop device says that it is attached to: true even where the path means another file
    by now, or is one of another mount namespace. None where we may not ask."""
    try:
        fd = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        answer = fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(_LOOP_INFO_BYTES))
    except OSError:
        return None
    finally:
        os.close(fd)
    device, inode, block, *_ = _LOOP_INFO_HEAD.unpack_from(answer)
    return Origin(path, True, (block, 0)) if block else Origin(path, False, (device, inode))


def _looked_up(path: Path) -> Origin | None:
    try:
        return origin_of(path, path.stat())
    except OSError:
        return None


def _use(place: Path, layers: int) -> str | None:
    """What uses the block device that /sys has at `place`."""
    number = _number_in(place)
    if number is None or layers == 0:
        return None
    for fields in (line.split() for line in _mounts.lines()):
        if fields[2] == f"{os.major(number)}:{os.minor(number)}" or _is_node(
            fields[fields.index("-") + 2], number
        ):
            return f"is mounted at {_unescaped(fields[4])}"
    for line in _swaps.lines()[1:]:
        if _is_node(_unescaped(line.split()[0]), number):
            return "is used as swap"
    for holder in _entries(place / "holders"):
        use = _use(holder.resolve(), layers - 1)
        return f"is part of /dev/{holder.name}" + (f", which {use}" if use else "")
    for partition in _entries(place):
        if (partition / "partition").exists() and (use := _use(partition, layers - 1)):
            return f"has the partition /dev/{partition.name}, which {use}"
    return None


def _is_node(path: str, number: int) -> bool:
    """For filesystems that have a number of their own, such as btrfs, and for swap areas."""
    if not path.startswith("/dev/"):
        return False
    try:
        status = Path(path).stat()
    except OSError:
        return False
    return stat.S_ISBLK(status.st_mode) and status.st_rdev == number


def block_of(number: int) -> Path | None:
    """Where /sys has a block device; None where there is none with this number."""
    place = _BLOCK / f"{os.major(number)}:{os.minor(number)}"
    return place.resolve() if place.exists() else None


def _number_in(place: Path) -> int | None:
    text = _read(place / "dev")
    if text is None:
        return None
    major, _, minor = text.partition(":")
    return os.makedev(int(major), int(minor))


def _entries(place: Path) -> list[Path]:
    try:
        return sorted(place.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str | None:
    try:
        return os.fsdecode(path.read_bytes()).rstrip("\n")
    except OSError:
        return None


def _integer(path: Path) -> int:
    return int(_read(path) or 0)


def _unescaped(text: str) -> str:
    """/proc writes blanks and their like as octal numbers."""
    return os.fsdecode(
        b"".join(
            bytes([int(part[:3], 8)]) + part[3:] if index and part[:3].isdigit() else part
            for index, part in enumerate(os.fsencode(text).split(b"\\"))
        )
    )
