"""Finds a block device by the UUID of its file system or partition.

Owns: udev's links, then libblkid (which also works without udev). Must not know what the device
is for. Blocks: libblkid may read every disk. Call from a worker thread.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

from ggaoe.errors import BackendError

_LINK_DIRECTORIES = (Path("/dev/disk/by-uuid"), Path("/dev/disk/by-partuuid"))
_TAGS = (b"UUID", b"PARTUUID")
_UUID = re.compile(r"[0-9A-Za-z-]{1,64}")


def find_by_uuid(uuid: str) -> Path:
    """Path of the device that carries `uuid`, in upper or lower case; raises BackendError."""
    if _UUID.fullmatch(uuid) is None:
        raise BackendError(f"uuid {uuid!r}: not a UUID: give the one that blkid prints")
    # File systems differ: ext4 and XFS print lower case, FAT and NTFS upper.
    spellings = dict.fromkeys((uuid, uuid.lower(), uuid.upper()))
    for directory in _LINK_DIRECTORIES:
        for spelling in spellings:
            link = directory / spelling
            if link.exists():
                return link.resolve()
    for tag in _TAGS:
        for spelling in spellings:
            if found := _ask_libblkid(tag, spelling):
                return Path(found)
    raise BackendError(f"uuid {uuid}: no such device: compare with blkid, or attach the disk")


def _ask_libblkid(tag: bytes, value: str) -> str | None:
    try:
        blkid = ctypes.CDLL("libblkid.so.1")
    except OSError:
        return None
    blkid.blkid_evaluate_tag.restype = ctypes.c_void_p
    blkid.blkid_evaluate_tag.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
    address = blkid.blkid_evaluate_tag(tag, value.encode(), None)
    if not address:
        return None
    try:
        return ctypes.string_at(address).decode()
    finally:
        libc = ctypes.CDLL(None)
        libc.free.argtypes = (ctypes.c_void_p,)
        libc.free(address)
