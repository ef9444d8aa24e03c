"""A Unix socket that listens at a path: how its file comes there, and goes.

Owns the file. What nobody serves any more makes way for it; what somebody else has put in its place
stays. Must not know what is served.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from ggaoe.errors import StartError


class SocketFile:
    """A bound `socket`, with permissions `mode`; StartError, which names the `option` that says the
    path, where another process serves it or it cannot be made."""

    def __init__(self, path: Path, mode: int, option: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path = path
        try:
            _make_way(path, option)
            _bind(self.socket, path, mode)
            self._identity = _identity(path)
        except OSError as error:
            self.socket.close()
            reason = error.strerror or str(error)
            raise StartError(f"{_called(option, path)}: {reason}: set another {option}") from None
        except StartError:
            self.socket.close()
            raise

    def remove(self) -> None:
        """Unlink the file, unless it has become somebody else's. To be called while the socket
        still listens: until then nobody takes the path for another."""
        with suppress(OSError):
            if _identity(self._path) == self._identity:
                self._path.unlink()


def _bind(sock: socket.socket, path: Path, mode: int) -> None:
    """Make the file with permissions `mode`: Linux gives it those of the socket, less the umask.

    A change of the mode by path would come too late, and change what another user who may write to
    the directory has put there meanwhile."""
    os.fchmod(sock.fileno(), mode)
    before = os.umask(0)
    try:
        sock.bind(os.fspath(path))
        sock.listen()  # who finds the file is not refused, even before anything is served
    finally:
        os.umask(before)


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _make_way(path: Path, option: str) -> None:
    """Remove a socket that nobody serves; StartError where something else is in the place."""
    what = _called(option, path)
    if not path.parent.is_dir():
        raise StartError(
            f"{what}: there is no directory {path.parent}: create it, or set another {option}"
        )
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise StartError(
            f"{what}: a file that is no socket is in its place: remove it, or set another {option}"
        )
    if _is_served(path):
        raise StartError(f"{what} is in use by another ggaoe: stop it, or set another {option}")
    path.unlink()


def _called(option: str, path: Path) -> str:
    return f"{option.replace('-', ' ')} {path}"


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        found = probe.connect_ex(os.fspath(path))
    # A full backlog is EAGAIN; a datagram socket, as the original daemon's is, EPROTOTYPE.
    if found in (0, errno.EAGAIN, errno.EPROTOTYPE):
        return True
    if found == errno.ECONNREFUSED:
        return False
    raise OSError(found, os.strerror(found))
