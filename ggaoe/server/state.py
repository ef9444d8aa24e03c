"""What is kept over restarts: what initiators have set of a device, in one small JSON file for each
device, and which device has which automatic slot.

Owns the files' form and their durability: a new state is on stable storage before `save` returns,
and a crash leaves the old file or the new one, never a mixture. A file that cannot be understood is
an error, not an empty state: a lost reservation would hand the disk to whoever comes first.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

import aiofiles

from ggaoe.config import slots
from ggaoe.config.schema import BY_KEY
from ggaoe.config.sections import file_name
from ggaoe.engine.limit import Bucket
from ggaoe.errors import StateError
from ggaoe.files import decode_record, encode_record, put_in_place
from ggaoe.proto.access import LIST_ENTRIES_MAX, MacList
from ggaoe.proto.ata import SMART_HOST_LOGS
from ggaoe.proto.frame import SECTOR_BYTES
from ggaoe.proto.query import CONFIG_STRING_BYTES_MAX
from ggaoe.proto.target import TargetState
from ggaoe.server.capabilities import may, user_name
from ggaoe.units import format_mac, parse_mac

FORMAT = "ggaoe-state"
FORMAT_VERSION = 1
FILE_BYTES_MAX = 1 << 20
CHANGE_RATE_PER_S = 50
CHANGE_BURST = 1000
"""Changes by initiators that are stored, of all devices together: each costs two fsyncs of a disk
that others use. A script that labels or reserves every device of a shelf stays below the burst."""
LOCK_NAME = "lock"
"""An empty file, which stays: its lock is the kernel's, and ends with the process."""
DEFAULT_DIRECTORY = Path(str(BY_KEY["state-directory"].default))


class StateStore:
    """The state directory; it must exist and be writable."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock: int | None = None
        self._changes = Bucket(CHANGE_RATE_PER_S, CHANGE_BURST)

    def may_change(self) -> bool:
        """Whether one more change by an initiator is within the rate; it counts then."""
        return self._changes.take(asyncio.get_running_loop().time())

    @property
    def is_missing_default(self) -> bool:
        """Is it one that `make` may make? Any other that is missing may lie on a file system that
        is not mounted yet, and an empty one in its place would forget reservations."""
        return self.directory == DEFAULT_DIRECTORY and not self.directory.exists()

    def make(self) -> bool:
        """Make it, for our user alone. False where that fails: `check` says what is wrong."""
        try:
            self.directory.mkdir(mode=0o700)
        except OSError:
            return False
        return True

    def check(self) -> None:
        """StateError where states could not be stored."""
        if not self.directory.is_dir():
            raise StateError(
                f"state directory {self.directory} does not exist: create it, "
                f"or set another state-directory"
            )
        if not may(self.directory, os.R_OK | os.W_OK | os.X_OK):
            raise StateError(
                f"state directory {self.directory} is not readable and writable for user "
                f"{user_name()}: change its owner or permissions, or set another state-directory"
            )

    def lock(self) -> None:
        """Keep other processes from this directory until `close`; StateError where one has it.

        Two daemons with one directory overwrite each other's states: after a restart, a reservation
        of the one's disk locks hosts out of the other's."""
        path = self.directory / LOCK_NAME
        try:
            handle = _open_lock(path, os.O_RDONLY)
        except OSError as error:
            raise StateError(f"state directory: {path}: {error.strerror}") from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
                # NFS wants a writable descriptor, with which no other file system could be
                # remounted read-only.
                os.close(handle)
                handle = _open_lock(path, os.O_RDWR)
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            reason = error.strerror
            if isinstance(error, BlockingIOError):
                pid = lock_holder(os.fstat(handle))
                owner = "another process" if pid is None else f"process {pid}"
                reason = f"in use by {owner}; stop it, or set another state-directory"
            os.close(handle)
            raise StateError(f"state directory {self.directory}: {reason}") from None
        self._lock = handle

    def close(self) -> None:
        """Let another process have the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path_of(self, name: str) -> Path:
        """The file of the device called `name`, whatever characters the name has."""
        return self.directory / f"{file_name(name)}.json"

    async def load(self, name: str) -> TargetState:
        """The state of device `name`, the empty one where none was saved; raises StateError."""
        path = self.path_of(name)
        with suppress(OSError):  # a crash in the middle of `save`; what keeps it here, `save` tells
            await asyncio.to_thread(_temporary(path).unlink)
        try:
            async with aiofiles.open(path, "rb") as file:
                content = await file.read(FILE_BYTES_MAX)
        except FileNotFoundError:
            return TargetState()
        except OSError as error:
            raise StateError(f"state file {path}: {error.strerror}") from None
        try:
            return decode(content)
        except ValueError as error:
            raise StateError(
                f"state file {path} is damaged or not ours ({error}): restore it, or remove it "
                f"to start with no config string, mask list and reservation"
            ) from None

    async def save(self, name: str, state: TargetState) -> None:
        """Store `state` durably; raises StateError, and then the old one is still there."""
        await self._write(self.path_of(name), encode(state))

    async def save_slots(self, memory: slots.Memory) -> None:
        """Store the automatic slots as durably, unless they are stored so already."""
        path = self.directory / slots.FILE_NAME
        try:
            if await asyncio.to_thread(slots.read, self.directory) == memory:
                return
        except OSError as error:
            advice = f"give user {user_name()} access"
            raise StateError(f"{path} cannot be read: {error.strerror}: {advice}") from None
        except ValueError as error:
            advice = "restore it, since without it devices may get other slots"
            raise StateError(f"{path} is damaged or not ours ({error}): {advice}") from None
        await self._write(path, slots.encode(memory))

    async def _write(self, path: Path, content: bytes) -> None:
        temporary = _temporary(path)
        try:
            async with aiofiles.open(temporary, "wb", opener=_no_link) as file:
                await file.write(content)
                await file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
            await asyncio.to_thread(put_in_place, temporary, path)
        except OSError as error:
            raise StateError(f"state file {path}: {error.strerror}") from None


def _open_lock(path: Path, access: int) -> int:
    return os.open(path, os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | access, 0o644)


def lock_holder(status: os.stat_result) -> int | None:
    """The process that holds a lock by flock(2) on a file; None where /proc does not show it."""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    file = f"{device}:{status.st_ino}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii", errors="replace").splitlines():
            # As in `1: FLOCK  ADVISORY  WRITE 4711 fd:01:393222 0 EOF`; `->` marks one that waits.
            fields = line.split()
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == file:
                return int(fields[4]) if int(fields[4]) > 0 else None
    return None


def _no_link(path: str, flags: int) -> int:
    """Open a file for `open`, not through a symbolic link that another user has made."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def encode(state: TargetState) -> bytes:
    """The file's content; byte strings in hexadecimal."""
    fields = {
        "config_string": state.config_string.hex(),
        "mask": [format_mac(mac) for mac in state.mask],
        "reserved": [format_mac(mac) for mac in state.reserved],
        "smart_enabled": state.smart_enabled,
        "smart_logs": {str(log): data.hex() for log, data in sorted(state.smart_logs.items())},
    }
    return encode_record(FORMAT, FORMAT_VERSION, fields)


def decode(content: bytes) -> TargetState:
    """The state in a file's content; raises ValueError with what is wrong."""
    document = decode_record(content, FORMAT, FORMAT_VERSION)
    config_string = _bytes(document.get("config_string"))
    if len(config_string) > CONFIG_STRING_BYTES_MAX:
        raise ValueError("config string is too long")
    smart_enabled = document.get("smart_enabled")
    if not isinstance(smart_enabled, bool):
        raise ValueError("smart_enabled is neither true nor false")
    logs = document.get("smart_logs")
    if not isinstance(logs, dict):
        raise ValueError("smart_logs is no object")
    smart_logs = {int(log): _bytes(data) for log, data in logs.items()}
    for log, data in smart_logs.items():
        if log not in SMART_HOST_LOGS or len(data) != SECTOR_BYTES:
            raise ValueError(f"SMART log {log} is not a host's log of one sector")
    return TargetState(
        config_string=config_string,
        mask=_macs(document.get("mask"), "mask"),
        reserved=_macs(document.get("reserved"), "reserved"),
        smart_enabled=smart_enabled,
        smart_logs=smart_logs,
    )


def _bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("a byte string is missing")
    return bytes.fromhex(value)


def _macs(value: object, what: str) -> MacList:
    if not isinstance(value, list) or len(value) > LIST_ENTRIES_MAX:
        raise ValueError(f"{what} is no list of at most {LIST_ENTRIES_MAX}")
    macs = tuple(parse_mac(item) if isinstance(item, str) else b"" for item in value)
    if b"" in macs or len(set(macs)) != len(macs):
        raise ValueError(f"{what} holds something else than distinct MAC addresses")
    return macs
