"""The privileges of this thread: its capabilities, its user, and no_new_privs.

Owns the system calls, and the names of the capabilities that matter here. Must not know why one is
kept. All of it belongs to a thread: threads made afterwards have the same, those that exist already
keep what they had. Sources: capabilities(7), credentials(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import struct
from collections.abc import Collection
from contextlib import suppress
from enum import IntEnum
from functools import cache
from pathlib import Path

from ggaoe.errors import StartError


class Capability(IntEnum):
    """linux/capability.h: those that can be kept."""

    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    NET_RAW = 13


# linux/capability.h, linux/prctl.h, linux/securebits.h
_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITIES_MAX = 64
_HEADER = struct.Struct("=Ii")
_SETS = struct.Struct("=6I")

# linux/fcntl.h; faccessat2 has this number on all architectures.
_FACCESSAT2 = 439
_AT_FDCWD = -100
_AT_EACCESS = 0x200

_libc = ctypes.CDLL(None, use_errno=True)


def permitted() -> frozenset[int]:
    """The capabilities that this thread can use."""
    _, allowed = _sets()
    return frozenset(number for number in range(_CAPABILITIES_MAX) if allowed >> number & 1)


def use_only(capabilities: Collection[int]) -> None:
    """Have only these in effect for now; the others can still be taken up again."""
    _, allowed = _sets()
    _set(_mask(capabilities) & allowed, allowed)


def keep_only(capabilities: Collection[int]) -> None:
    """Give up all others for good, and what a program to be executed would have."""
    _, allowed = _sets()
    _set(allowed, allowed)
    for number in range(_CAPABILITIES_MAX):
        # The bounding set takes CAP_SETPCAP, which who starts without root does not have; EINVAL
        # is beyond the last capability of the kernel.
        with suppress(OSError):
            _prctl(_PR_CAPBSET_DROP, number)
    with suppress(OSError):  # before Linux 4.3 there is no ambient set
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    kept = _mask(capabilities) & allowed
    _set(kept, kept)


def may(path: Path, mode: int) -> bool:
    """Whether this thread, with the capabilities that it has in effect, may open `path` for `mode`
    (os.R_OK and the like)."""
    # Not os.access: before Linux 5.8 or glibc 2.33 that does not ask the kernel, but judges by
    # owner and mode, by which root may do everything.
    number, directory = ctypes.c_long(_FACCESSAT2), ctypes.c_int(_AT_FDCWD)
    if _libc.syscall(number, directory, os.fsencode(path), mode, _AT_EACCESS) == 0:
        return True
    if ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):  # the latter by a container's filter
        return False
    effective, _ = _sets()
    if effective >> Capability.DAC_OVERRIDE & 1:
        return True
    if os.geteuid() != 0:
        return os.access(path, mode, effective_ids=True)
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_uid == 0 and status.st_mode >> 6 & mode == mode


def no_new_privileges() -> None:
    """No program that is executed from now on gains anything by its file: set-uid, capabilities."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def become(user: pwd.struct_passwd) -> None:
    """Change to `user` and its groups; capabilities stay permitted, and none is in effect. Raises
    OSError."""
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.initgroups(user.pw_name, user.pw_gid)
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    _prctl(_PR_SET_KEEPCAPS, 0)


def user_called(name: str) -> pwd.struct_passwd:
    """The user's entry in the system's list; StartError where there is none, or we cannot become
    it."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise StartError(
            f"user {name} does not exist: create it (useradd --system {name}), or set another user"
        ) from None
    if os.geteuid() not in (0, user.pw_uid):
        raise StartError(
            f"user {name}: only root can become another user: start as root, or remove the option"
        )
    return user


def user_name() -> str:
    """The name of the user we are, or its number."""
    return _name_of(os.geteuid())


@cache
def _name_of(user_id: int) -> str:
    """Remembered, as the list of users may be out of reach later."""
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)


def thread_count() -> int:
    """Threads of this process."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def _mask(capabilities: Collection[int]) -> int:
    return sum(1 << number for number in set(capabilities))


def _sets() -> tuple[int, int]:
    """(effective, permitted), as masks."""
    header = ctypes.create_string_buffer(_HEADER.pack(_VERSION_3, 0), _HEADER.size)
    data = ctypes.create_string_buffer(_SETS.size)
    if _libc.capget(header, data) != 0:
        raise _error("capget")
    low_effective, low_permitted, _, high_effective, high_permitted, _ = _SETS.unpack(data.raw)
    return low_effective | high_effective << 32, low_permitted | high_permitted << 32


def _set(effective: int, allowed: int) -> None:
    """Set these, and make the inheritable set empty."""
    low, high = 0xFFFFFFFF, 32
    header = ctypes.create_string_buffer(_HEADER.pack(_VERSION_3, 0), _HEADER.size)
    values = (effective & low, allowed & low, 0, effective >> high, allowed >> high, 0)
    data = ctypes.create_string_buffer(_SETS.pack(*values), _SETS.size)
    if _libc.capset(header, data) != 0:
        raise _error("capset")


def _prctl(option: int, argument: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero) != 0:
        raise _error("prctl")


def _error(call: str) -> OSError:
    number = ctypes.get_errno() or errno.EPERM
    return OSError(number, os.strerror(number), call)
