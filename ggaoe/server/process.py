"""The daemon as a process: going to the background, the pid file, the privilege it needs.

Owns fork, the message about the outcome of a start, and the lock on the pid file. Must not know
what is started. Forks before there is an event loop or a thread.
"""

from __future__ import annotations

import fcntl
import os
import re
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ggaoe.errors import StartError, limit_reached
from ggaoe.server.lines import LineStream

MESSAGE_BYTES_MAX = 1 << 16
OPEN_FILES_MIN = 64
"""A daemon with a device and an interface has some 20."""
PID_FILE_BYTES_MAX = 32
PID_FILE_ATTEMPTS_MAX = 100

_STDERR = 2
_CAP_NET_RAW = 13  # linux/capability.h
_READY = b"+"
_FAILED = b"-"


class Readiness:
    """Tells whoever started the daemon how the start went; by default that is a terminal or a
    service manager, which sees the exit status and stderr."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = fd

    def ready(self, text: str = "") -> None:
        """The daemon serves: the command that started it prints `text` and ends with status 0, and
        stderr becomes /dev/null. StartError where that command has been interrupted, so nobody
        wants it any more."""
        if self._fd is None:
            return
        if isinstance(sys.stderr, LineStream):
            sys.stderr.writer.to_null()
        else:
            _to_null(sys.stderr)
        try:
            self._tell(_READY + text.encode(errors="replace")[: MESSAGE_BYTES_MAX - 1])
        except BrokenPipeError:
            raise StartError("the command that starts ggaoe was interrupted") from None

    def failed(self, text: str) -> None:
        """The daemon cannot start: `text` is shown where it was started, in lines as it has them,
        and the command ends with status 1. Without effect after `ready`."""
        if self._fd is None:
            _print_error(text)
            return
        with suppress(BrokenPipeError):
            self._tell(_FAILED + text.encode(errors="replace")[: MESSAGE_BYTES_MAX - 1])

    def _tell(self, message: bytes) -> None:
        assert self._fd is not None
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            try:
                os.write(fd, message)
            finally:
                os.close(fd)


def take_over() -> None:
    """Make a process of our own of what the starting one has handed down. To be called before we
    open anything.

    Files beyond the standard streams are closed: a lock that the starting script holds would
    otherwise last as long as the daemon, and no confinement would hold for them. A service
    manager's sockets (LISTEN_FDS) are none that we use. Signals that were blocked are no longer.
    StartError where too few files can be open."""
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - as short as it can be
            if int(name) > _STDERR:
                with suppress(OSError):
                    os.close(int(name))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES_MIN:
        raise StartError(
            f"the limit of open files is {hard}, and at least {OPEN_FILES_MIN} are needed: "
            f"raise it (ulimit -n, LimitNOFILE= in a unit)"
        )
    with suppress(OSError, ValueError):  # many devices need more than the customary 1024
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def daemonise() -> Readiness:
    """Go on in a process of its own session, in the directory /, without stdin and stdout.

    Returns in that process only. The calling one stays until it hears how the start went, and
    ends with status 0 or 1. StartError where there can be no further process. Relative paths are
    to be made absolute before.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    if child := _fork():
        os.close(writing)
        os._exit(_outcome(child, reading))
    os.close(reading)
    os.setsid()
    try:
        if _fork():  # only the leader of a session could be given a terminal again
            os._exit(0)
    except StartError as error:
        Readiness(writing).failed(str(error))
        os._exit(1)
    os.chdir("/")
    _to_null(sys.stdin)
    _to_null(sys.stdout)
    return Readiness(writing)


def _fork() -> int:
    try:
        return os.fork()
    except OSError as error:
        reason = limit_reached(error) or error.strerror
        raise StartError(f"cannot go to the background: {reason}") from None


def _outcome(child: int, reading: int) -> int:
    """Exit status of the command; `child` ends as soon as it has forked."""
    try:
        with suppress(ChildProcessError):  # where SIGCHLD is ignored
            os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as pipe:
            message = pipe.read(MESSAGE_BYTES_MAX)
    except KeyboardInterrupt:
        return 130
    if message.startswith(_READY):
        if text := message.removeprefix(_READY).decode(errors="replace"):
            print(text, flush=True)
        return 0
    _print_error(
        message.removeprefix(_FAILED).decode(errors="replace")
        or "ended in the middle of its start: try it in the foreground"
    )
    return 1


def _print_error(text: str) -> None:
    for line in text.split("\n"):
        print(f"ggaoe: {line}", file=sys.stderr, flush=True)


def _to_null(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, stream.fileno())
    os.close(null)


def make_directory(path: Path) -> None:
    """The directory of a file below /run, which is empty after each boot: only this one, none above
    it. Where it cannot be made, whoever makes the file says so."""
    with suppress(OSError):
        path.parent.mkdir(mode=0o755)


class PidFile:
    """A context that holds `path` with our process id in it, locked; removed at its end.

    What a dead process left behind is replaced; what cannot be removed is left empty. StartError
    where its process lives, the file is something else, or it cannot be written. Enter it in the
    process that stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> PidFile:
        try:
            self._fd = self._locked()
        except OSError as error:
            raise StartError(
                f"pid file {self._path}: {error.strerror}: set another pid-file"
            ) from None
        try:
            if not re.fullmatch(rb"\s*\d*\s*", os.pread(self._fd, PID_FILE_BYTES_MAX, 0)):
                raise StartError(
                    f"pid file {self._path}: a file that holds no process id is in its place: "
                    f"remove it, or set another pid-file"
                )
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            os.close(self._fd)
            raise StartError(f"pid file {self._path}: {error.strerror}") from None
        except StartError:
            os.close(self._fd)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._is_at_path(self._fd):
                self._path.unlink()
        except OSError:  # the directory belongs to somebody else; an empty file is nobody's
            os.ftruncate(self._fd, 0)
        os.close(self._fd)

    def _locked(self) -> int:
        for _ in range(PID_FILE_ATTEMPTS_MAX):
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(fd, PID_FILE_BYTES_MAX, 0).decode(errors="replace").strip()
                os.close(fd)
                raise StartError(
                    f"pid file {self._path}: ggaoe runs already, as process {owner or 'unknown'}: "
                    f"stop it, or set another pid-file"
                ) from None
            if self._is_at_path(fd):
                return fd
            os.close(fd)  # its process has removed it between our two steps
        raise StartError(f"pid file {self._path}: others keep replacing it: set another pid-file")

    def _is_at_path(self, fd: int) -> bool:
        ours = os.fstat(fd)
        try:
            there = self._path.lstat()
        except FileNotFoundError:
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def require_capability_net_raw() -> None:
    """StartError where this process may not open packet sockets: capabilities(7), CAP_NET_RAW."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", _own_status(), re.MULTILINE)
    if found is not None and not int(found[1], 16) >> _CAP_NET_RAW & 1:
        raise StartError(
            "needs CAP_NET_RAW to send and receive Ethernet frames: run it as root, or give it the "
            "capability (AmbientCapabilities=CAP_NET_RAW in a unit, setpriv or setcap elsewhere)"
        )


def _own_status() -> str:
    try:
        return Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise StartError(f"cannot read {error.filename}: {error.strerror}: mount /proc") from None
