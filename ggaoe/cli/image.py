"""The file that `ggaoe copy` writes: a disk's image, a block device or a pipe.

Owns the temporary name, holes, and when the final name appears. Must not know where the data comes
from. An image appears under its final name only when it is complete and on stable storage.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from pathlib import Path

from ggaoe.errors import GgaoeError
from ggaoe.files import put_in_place

PARTIAL_SUFFIX = ".partial"
HOLE_BYTES = 1 << 16
"""Zeros of this length and alignment become a hole."""
_ZEROS = bytes(HOLE_BYTES)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
"""What flock(2) says on a file system that has none, where copies do without."""


class OutputFile:
    """The destination of a copy, open for writing.

    A regular file is written as `NAME.partial` and gets its name at the end; block devices, pipes
    and character devices are written in place. `length_bytes` is how much it already has, which is
    not 0 with `resume` only. Raises GgaoeError where something would be overwritten without
    `force`, OSError where the file cannot be opened.
    """

    def __init__(self, name: str, *, force: bool, resume: bool) -> None:
        self.name = name
        self.length_bytes = 0
        self._path: Path | None = None
        """Final name of an image; None for what is written in place."""
        self._at = 0
        if name == "-":
            self._fd = os.dup(sys.stdout.fileno())
        elif (status := _status(name)) is None or stat.S_ISREG(status.st_mode):
            self._open_image(status, force=force, resume=resume)
        else:
            if stat.S_ISBLK(status.st_mode) and not force:
                raise GgaoeError(f"{name} is a disk and would be overwritten: add --force")
            if resume:
                raise GgaoeError(f"{name}: only an image can be resumed")
            self._fd = os.open(name, os.O_WRONLY)
        self._mode = os.fstat(self._fd).st_mode

    def _open_image(self, old: os.stat_result | None, *, force: bool, resume: bool) -> None:
        # A symbolic link stays, and what it names is replaced.
        path = Path(os.path.realpath(self.name))
        partial = path.with_name(path.name + PARTIAL_SUFFIX)
        if old is not None and not force:
            raise GgaoeError(f"{self.name} exists and would be overwritten: add --force")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(partial, flags, 0o666)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from None
        try:
            self._claim(partial, force=force, resume=resume)
            if old is not None:
                os.fchmod(self._fd, stat.S_IMODE(old.st_mode))
                if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(self._fd, old.st_uid, old.st_gid)
        except BaseException:
            os.close(self._fd)
            raise
        self._path = path

    def _claim(self, partial: Path, *, force: bool, resume: bool) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GgaoeError(f"{partial} is being written by another process") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        length_bytes = os.fstat(self._fd).st_size
        # Whoever had the lock may have finished, and this is no longer the partial file.
        if not partial.exists() or not os.path.samestat(partial.stat(), os.fstat(self._fd)):
            raise GgaoeError(f"{partial} has just been finished by another process")
        if resume:
            self.length_bytes = length_bytes
        elif length_bytes and not force:
            raise GgaoeError(
                f"{partial} is what an interrupted copy has left: add --resume to continue it,"
                " or --force to start again"
            )
        else:
            os.ftruncate(self._fd, 0)

    @property
    def partial_name(self) -> str | None:
        """Name of what an interrupted copy leaves; None where nothing can be resumed."""
        return None if self._path is None else self.name + PARTIAL_SUFFIX

    @property
    def room_bytes(self) -> int | None:
        """Size of a block device; None for everything else."""
        if not stat.S_ISBLK(self._mode):
            return None
        room_bytes = os.lseek(self._fd, 0, os.SEEK_END)
        os.lseek(self._fd, 0, os.SEEK_SET)
        return room_bytes

    def read(self, at: int, size_bytes: int) -> bytes:
        """What an image already has at byte `at`."""
        return os.pread(self._fd, size_bytes, at)

    def cut(self, length_bytes: int) -> None:
        """Give up what an image has beyond `length_bytes`, and continue there."""
        os.ftruncate(self._fd, length_bytes)
        self._at = self.length_bytes = length_bytes

    def write(self, data: bytes | bytearray) -> None:
        """Append `data`; in an image, zeros become holes. OSError names the file."""
        try:
            if self._path is None:
                self._write_at(memoryview(data), None)
            else:
                self._write_sparse(memoryview(data))
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from None

    def _write_sparse(self, data: memoryview) -> None:
        done = 0
        while done < len(data):
            # To the next multiple in the file, so that holes are aligned as file systems keep them.
            count = min(HOLE_BYTES - self._at % HOLE_BYTES, len(data) - done)
            part = data[done : done + count]
            if part.tobytes() == _ZEROS[:count]:
                os.ftruncate(self._fd, self._at + count)
            else:
                self._write_at(part, self._at)
            self._at += count
            done += count

    def _write_at(self, data: memoryview, at: int | None) -> None:
        while data:
            if at is None:
                count = os.write(self._fd, data)
            else:
                count = os.pwrite(self._fd, data, at)
                at += count
            data = data[count:]

    def finish(self) -> None:
        """Make everything stable; an image gets its final name."""
        try:
            if stat.S_ISREG(self._mode) or stat.S_ISBLK(self._mode):
                os.fsync(self._fd)
            if self._path is not None:
                partial = self._path.with_name(self._path.name + PARTIAL_SUFFIX)
                put_in_place(partial, self._path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from None

    def close(self) -> None:
        """Close it; an image that is not finished keeps what it has, for --resume."""
        os.close(self._fd)

    def discard_empty(self) -> None:
        """Remove an image that has nothing yet."""
        if self._path is not None and os.fstat(self._fd).st_size == 0:
            self._path.with_name(self._path.name + PARTIAL_SUFFIX).unlink(missing_ok=True)


def _status(name: str) -> os.stat_result | None:
    try:
        return Path(name).stat()
    except FileNotFoundError:
        return None
