"""Finds the block device that carries a UUID, of its file system or partition.

Owns udev's database and links, and libblkid, which also works without udev. Must not know what the
device is for. Blocks: libblkid may read every disk. Call from a worker thread.

A copy of a disk has its UUID: a snapshot, a clone, a half of a mirror. Which one is found first is
chance, and a write to the wrong one destroys it. So several devices with one UUID are an error,
unless one of them lies on all the others, as a multipath device does on its paths.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from ggaoe.backend import stacking
from ggaoe.backend.origin import Origin, origin_of
from ggaoe.errors import BackendError
from ggaoe.units import counted

_LINK_DIRECTORIES = (Path("/dev/disk/by-uuid"), Path("/dev/disk/by-partuuid"))
UDEV = Path("/run/udev/data")
"""What udev knows of each device."""
_UDEV_KEYS = (b"E:ID_FS_UUID=", b"E:ID_PART_ENTRY_UUID=")
_TAGS = (b"UUID", b"PARTUUID")
_UUID = re.compile(r"[0-9A-Za-z-]{1,64}")
_Pointer = ctypes.c_void_p
_NO_CACHE = b"/dev/null"
"""In place of libblkid's cache, which may be old, and is not ours to write."""


def find_by_uuid(uuid: str) -> Path:
    """Path of the device that carries `uuid`, in upper or lower case; raises BackendError."""
    if _UUID.fullmatch(uuid) is None:
        raise BackendError(f"uuid {uuid!r}: not a UUID: give the one that blkid prints")
    # File systems differ: ext4 and XFS print lower case, FAT and NTFS upper.
    spellings = dict.fromkeys((uuid, uuid.lower(), uuid.upper()))
    search = _known_to_udev if UDEV.is_dir() else _probed
    try:
        found = [*_linked(spellings), *search(spellings)]
    except OSError as error:
        text = f"uuid {uuid}: cannot tell which devices have it: {error.filename}: {error.strerror}"
        raise BackendError(text) from error
    devices = _topmost(found)
    if not devices:
        raise BackendError(f"uuid {uuid}: no such device: compare with blkid, or attach the disk")
    if len(devices) > 1:
        names = " and ".join(sorted(str(device.path) for device in devices))
        raise BackendError(
            f"uuid {uuid}: {counted(len(devices), 'device')} have it, {names}: set the path of "
            "one, or give the other a new UUID"
        )
    return devices[0].path


def _topmost(devices: Iterable[Origin]) -> list[Origin]:
    """Those that none of the others lies on."""
    by_number = {device.number[0]: device for device in devices}
    below = {
        lower
        for number, device in by_number.items()
        for lower in stacking.blocks_below(device) - {number}
    }
    return [device for number, device in by_number.items() if number not in below]


def _block_device(path: Path) -> Iterator[Origin]:
    """The one at `path`, if there is one."""
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except OSError:
        return
    if stat.S_ISBLK(status.st_mode):
        yield origin_of(real, status)


def _linked(spellings: Iterable[str]) -> Iterator[Origin]:
    """By udev's links: of several devices with one UUID there is one."""
    for directory in _LINK_DIRECTORIES:
        for spelling in spellings:
            yield from _block_device(directory / spelling)


def _known_to_udev(spellings: Iterable[str]) -> Iterator[Origin]:
    """By udev's database; raises OSError."""
    wanted = {key + os.fsencode(spelling) for key in _UDEV_KEYS for spelling in spellings}
    for file in UDEV.iterdir():
        number = re.fullmatch(r"b(\d+):(\d+)", file.name)
        if number is not None and wanted.intersection(_lines(file)):
            place = stacking.block_of(os.makedev(int(number[1]), int(number[2])))
            if place is not None:
                yield from _block_device(Path("/dev", place.name.replace("!", "/")))


def _probed(spellings: Iterable[str]) -> Iterator[Origin]:
    """By libblkid, which reads the disks; raises OSError where it cannot. Without the library,
    links are all there is."""
    try:
        blkid = ctypes.CDLL("libblkid.so.1")
    except OSError:
        return
    for function, result in (("dev_iterate_begin", _Pointer), ("dev_devname", ctypes.c_char_p)):
        getattr(blkid, f"blkid_{function}").restype = result
    cache, device = _Pointer(), _Pointer()
    if blkid.blkid_get_cache(ctypes.byref(cache), _NO_CACHE) != 0:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "libblkid")
    try:
        if blkid.blkid_probe_all(cache) != 0:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), "/proc/partitions")
        for tag in _TAGS:
            for spelling in spellings:
                iterator = _Pointer(blkid.blkid_dev_iterate_begin(cache))
                blkid.blkid_dev_set_search(iterator, tag, spelling.encode())
                while blkid.blkid_dev_next(iterator, ctypes.byref(device)) == 0:
                    name = blkid.blkid_dev_devname(device)
                    yield from _block_device(Path(os.fsdecode(name)))
                blkid.blkid_dev_iterate_end(iterator)
    finally:
        blkid.blkid_put_cache(cache)


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except OSError:
        return []
