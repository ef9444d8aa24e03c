"""One opened file or block device: its descriptor, the exported region, and its exclusive use.

Owns: the kernel's answers about the file (kind, size, logical block), the lock of the region and
the claim of a block device. Must not know transfers, nor how I/O is done.

Exclusive use has two parts. The **region** is locked with an open-file-description lock, shared
for a read-only export and exclusive otherwise: devices on disjoint parts of one file live together,
in one daemon or several; overlapping ones only if all of them are read-only. A **block device** is
claimed with O_EXCL besides, which also keeps file systems, RAID and LVM away; what these reach by
way of a loop device, `stacking` finds. The kernel knows a claim by its open file, so a second one
in the same process would fail: claims are counted here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
import sys
import threading
from contextlib import suppress
from pathlib import Path

from ggaoe.backend import stacking
from ggaoe.backend.origin import origin_of
from ggaoe.errors import BackendError
from ggaoe.proto.ata import LBA48_SECTORS_MAX
from ggaoe.proto.frame import SECTOR_BYTES

ADDRESSABLE_BYTES = LBA48_SECTORS_MAX * SECTOR_BYTES
"""128 PiB: what lies beyond has no sector number."""
FALLBACK_BLOCK_BYTES = 4096
"""Alignment for direct I/O that suits practically every store, where the kernel does not say."""

_BLKROGET = 0x125E
_BLKSSZGET = 0x1268
_STATX_DIOALIGN = 0x2000
_AT_EMPTY_PATH = 0x1000
_STATX_BYTES = 256
_STATX_DIO_OFFSET_ALIGN_AT = 156
_TMPFS_MAGIC = 0x01021994
_STATFS_BYTES = 256

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a character device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}

_HINTS = {
    errno.ENOENT: "check the path, or attach the device",
    errno.EBUSY: "the device is in use: mounted, swap, part of RAID or LVM, or served by another "
    "program; see lsblk",
    errno.EACCES: "start as root, or give the daemon's user access; a write-protected store "
    "needs read-only = true",
    errno.EPERM: "start as root, or look for an immutable file (lsattr)",
    errno.EROFS: "set read-only = true",
    errno.ENXIO: "the driver knows no such device: attach it",
    errno.ENOMEDIUM: "insert a medium",
    errno.ETXTBSY: "the file is in use as swap or as a running program",
    errno.ELOOP: "too many symbolic links",
}

_libc = ctypes.CDLL(None, use_errno=True)


def explain(path: Path, error: OSError) -> BackendError:
    """`error` of a call on `path` as one line that says what to do."""
    text = f"{path}: {os.strerror(error.errno) if error.errno else error}"
    hint = _HINTS.get(error.errno or 0)
    return BackendError(f"{text}: {hint}" if hint else text)


class _Claim:
    """The O_EXCL claim of one block device, shared by every open store on it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd = -1
        self._users = 0

    def take(self, path: Path) -> str:
        """Claim the device at `path`; returns a path that opens the very same device node, on which
        locks therefore meet whatever name the device was opened by."""
        with self._lock:
            if self._users == 0:
                self._fd = os.open(path, os.O_RDONLY | os.O_EXCL)
            self._users += 1
            return f"/proc/self/fd/{self._fd}"

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                os.close(self._fd)


_claims: dict[int, _Claim] = {}
"""By device number. An unused claim stays: there are no more than device numbers ever served."""


class Store:
    """An open file or block device with the region [offset, offset + length) of it.

    Blocks while it opens: call from a worker thread. Raises BackendError. One that is not
    exclusive leaves a block device unclaimed: only to look at it.
    """

    def __init__(
        self,
        path: Path,
        offset_bytes: int,
        length_bytes: int | None,
        read_only: bool,
        direct: bool,
        *,
        is_exclusive: bool = True,
    ) -> None:
        self.path = path
        self.offset_bytes = offset_bytes
        self.length_bytes = length_bytes
        self.read_only = read_only
        self.is_direct = direct
        """O_DIRECT is set; False after opening says that the file system refuses it."""
        self.unit_bytes = SECTOR_BYTES
        """What the size of the region is rounded down to."""
        self.fd = -1
        self.cached_fd = -1
        """The same file through the page cache, where `open_cached` was called."""
        self._claim: _Claim | None = None
        try:
            self._open(is_exclusive)
        except OSError as error:
            self.close()
            raise explain(path, error) from error
        except BackendError:
            self.close()
            raise

    def close(self) -> None:
        """Close the descriptor and give up lock and claim; blocks, idempotent."""
        for fd in (self.cached_fd, self.fd):
            if fd >= 0:
                # An error here concerns data that no FLUSH has asked for.
                with suppress(OSError):
                    os.close(fd)
        self.cached_fd = self.fd = -1
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def file_size_bytes(self) -> int:
        """Bytes of the whole file or device; raises OSError."""
        if self.is_block:
            return os.lseek(self.fd, 0, os.SEEK_END)
        return os.fstat(self.fd).st_size

    def region_bytes(self) -> int:
        """Bytes of the region that exist now, not rounded; raises OSError."""
        left_bytes = max(0, self.file_size_bytes() - self.offset_bytes)
        return left_bytes if self.length_bytes is None else min(left_bytes, self.length_bytes)

    def size_bytes(self) -> int:
        """Bytes of the region to export: whole units only; raises OSError."""
        region_bytes = min(self.region_bytes(), ADDRESSABLE_BYTES)
        return region_bytes // self.unit_bytes * self.unit_bytes

    def direct_block_bytes(self) -> int:
        """The unit to which O_DIRECT transfers must be aligned, 0 if they are impossible."""
        if self.is_block:
            return self._ask_device(_BLKSSZGET)
        # Trying it out would not tell: a read of a hole succeeds at any alignment.
        told_bytes = self._told_block_bytes()
        return FALLBACK_BLOCK_BYTES if told_bytes is None else told_bytes

    @property
    def vouches_for_direct(self) -> bool:
        """The kernel says how direct I/O has to be aligned, so both reads and writes are meant.
        Kernels before 6.1 and some file systems do not: there, direct writes are uncertain."""
        return self.is_block or self._told_block_bytes() is not None

    def _told_block_bytes(self) -> int | None:
        """What the file system says of direct I/O's alignment; 0: it has no direct I/O."""
        answer = ctypes.create_string_buffer(_STATX_BYTES)
        failed = not hasattr(_libc, "statx") or _libc.statx(
            self.fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, answer
        )
        if failed or not int.from_bytes(answer.raw[:4], sys.byteorder) & _STATX_DIOALIGN:
            return None
        (offset_align_bytes,) = struct.unpack_from("=I", answer, _STATX_DIO_OFFSET_ALIGN_AT)
        return max(SECTOR_BYTES, offset_align_bytes) if offset_align_bytes else 0

    def open_cached(self) -> None:
        """Open `cached_fd` beside a descriptor with O_DIRECT; raises OSError."""
        access = os.O_RDONLY if self.read_only else os.O_RDWR
        if self.cached_fd < 0:
            self.cached_fd = os.open(f"/proc/self/fd/{self.fd}", access)

    @property
    def is_in_memory(self) -> bool:
        """The page cache is all there is: the kernel takes O_DIRECT and does the same I/O as
        without it."""
        answer = ctypes.create_string_buffer(_STATFS_BYTES)
        if self.is_block or not hasattr(_libc, "fstatfs") or _libc.fstatfs(self.fd, answer):
            return False
        return ctypes.c_long.from_buffer(answer).value == _TMPFS_MAGIC

    def refuse_shared(self) -> None:
        """BackendError if something else on this machine writes to the region by way of other block
        devices; after `lock`, so that of two exports one sees the other."""
        end = None if self.length_bytes is None else self.offset_bytes + self.length_bytes
        region = stacking.Region(self.offset_bytes, end)
        found = stacking.conflict(self.origin, region, read_only=self.read_only)
        if found is not None:
            raise BackendError(found)

    def stop_direct(self) -> None:
        """From now on I/O goes through the page cache; raises OSError. For use by any thread while
        others use `fd`: its number stays, and what has started ends as it began."""
        if self.cached_fd >= 0:
            os.dup2(self.cached_fd, self.fd, inheritable=False)
            self.is_direct = False
            return
        flags = fcntl.fcntl(self.fd, fcntl.F_GETFL)
        fcntl.fcntl(self.fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        self.is_direct = False

    def lock(self) -> bool:
        """Lock the region; BackendError if somebody else has it, False where the file system has
        no locks."""
        kind = fcntl.F_RDLCK if self.read_only else fcntl.F_WRLCK
        region = (self.offset_bytes, self.length_bytes or 0)
        request = struct.pack("hhqqi4x", kind, os.SEEK_SET, *region, 0)
        # The lock ends with the open file that has it: let that be the one that stays.
        owner_fd = self.cached_fd if self.cached_fd >= 0 else self.fd
        try:
            fcntl.fcntl(owner_fd, fcntl.F_OFD_SETLK, request)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise BackendError(
                    f"{self.path}: locked by another process, or another device exports the "
                    "same part of it: see lslocks"
                ) from error
            return False
        return True

    def _open(self, is_exclusive: bool) -> None:
        status = self.path.stat()
        self._refuse_kind(status.st_mode)
        self.origin = origin_of(self.path, status)
        self.is_block = self.origin.is_block
        name = str(self.path)
        if self.is_block and is_exclusive:
            claim = _claims.setdefault(status.st_rdev, _Claim())
            try:
                name = claim.take(self.path)
            except OSError as error:
                use = stacking.user_of(self.origin) if error.errno == errno.EBUSY else None
                if use is None:
                    raise
                raise BackendError(f"{self.path}: in use: it {use}") from error
            self._claim = claim
        access = os.O_RDONLY if self.read_only else os.O_RDWR
        try:
            self.fd = os.open(name, access | (os.O_DIRECT if self.is_direct else 0))
        except OSError as error:
            if not self.is_direct or error.errno != errno.EINVAL:
                raise
            self.is_direct = False
            self.fd = os.open(name, access)
        if self.is_direct and not self.read_only and not self.vouches_for_direct:
            # Taking O_DIRECT away would not do: a FUSE file system has been told of it at opening.
            self.open_cached()
        opened = os.fstat(self.fd)
        if (opened.st_dev, opened.st_ino) != (status.st_dev, status.st_ino):
            raise BackendError(f"{self.path}: replaced by another file just now: try again")
        if self.is_block and not self.read_only and self._ask_device(_BLKROGET):
            raise BackendError(f"{self.path}: the device is write-protected: set read-only = true")

    def _refuse_kind(self, mode: int) -> None:
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            kind = _KINDS.get(stat.S_IFMT(mode), "of unknown kind")
            raise BackendError(f"{self.path}: is {kind}: give a regular file or a block device")

    def _ask_device(self, request: int) -> int:
        answer = fcntl.ioctl(self.fd, request, bytes(4))
        return int.from_bytes(answer, sys.byteorder)
