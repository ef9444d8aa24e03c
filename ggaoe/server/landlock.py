"""Landlock: which parts of the file system this process can still reach.

Owns the three system calls and the rights' names. Must not know what the paths are for. Nothing
that is open already is affected. Source: the kernel's document userspace-api/landlock.

A right on a directory holds for everything below it, and is bound to the directory itself, not to
its name: a directory that is put in its place later, or a file system that is mounted there, is
another one.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

# The same numbers on all architectures.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_NET_BIND_TCP, _NET_CONNECT_TCP = 1, 2
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1, 2
_RULESET = struct.Struct("=QQQ")
_PATH_BENEATH = struct.Struct("=Qi")

_libc = ctypes.CDLL(None, use_errno=True)


class Right(IntFlag):
    """linux/landlock.h, LANDLOCK_ACCESS_FS_."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Right.READ_FILE | Right.READ_DIR
USE = Right.READ_FILE | Right.WRITE_FILE | Right.IOCTL_DEV
KEEP = READ | Right.WRITE_FILE | Right.TRUNCATE | Right.MAKE_REG | Right.REMOVE_FILE
"""Make, replace and remove files, and read them."""

_OF_FILES = Right.READ_FILE | Right.WRITE_FILE | Right.EXECUTE | Right.TRUNCATE | Right.IOCTL_DEV
"""Rights that a rule on a file can give; the others are a directory's."""

_FIRST_OF_ABI = ((2, Right.REFER), (3, Right.TRUNCATE), (5, Right.IOCTL_DEV))
_ABI_OF_NETWORK = 4
_ABI_OF_SCOPES = 6


@dataclass(frozen=True)
class Restriction:
    """What is in force."""

    abi: int
    rules: Mapping[tuple[int, int], Right]
    """By device and inode of what the rule was made for."""
    names: Mapping[Path, Right]
    """By the names under which that was found."""

    def permits(self, path: Path, wanted: Right) -> bool:
        """Whether a rule gives `wanted` on `path`, or on a directory that it is in."""
        real = Path(os.path.realpath(path))
        found = Right(0)
        for place in (real, *real.parents):
            try:
                status = place.stat()
            except OSError:
                continue
            found |= self.rules.get((status.st_dev, status.st_ino), Right(0))
        return wanted & found == wanted


def abi() -> int:
    """The version of Landlock in this kernel; raises OSError where there is none."""
    return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)


class Ruleset:
    """What `wanted` gives, looked up with the eyes of who makes it. Paths that do not exist are
    left out. Raises OSError where the kernel has no Landlock."""

    def __init__(self, wanted: Iterable[tuple[Path, Right]]) -> None:
        self._abi = abi()
        self._rules: dict[tuple[int, int], Right] = {}
        self._names: dict[Path, Right] = {}
        self._handled = ~Right(0)
        for first, right in _FIRST_OF_ABI:
            if self._abi < first:
                self._handled &= ~right
        network = _NET_BIND_TCP | _NET_CONNECT_TCP if self._abi >= _ABI_OF_NETWORK else 0
        scopes = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if self._abi >= _ABI_OF_SCOPES else 0
        attributes = _RULESET.pack(self._handled, network, scopes)
        # An older kernel takes a longer structure, too, as long as the rest of it is zero.
        self._fd = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
        try:
            for path, rights in wanted:
                self._add(path, rights & self._handled)
        except OSError:
            os.close(self._fd)
            raise

    def _add(self, path: Path, rights: Right) -> None:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        try:
            status = os.fstat(place)
            if not stat.S_ISDIR(status.st_mode):
                rights &= _OF_FILES
            if not rights:
                return
            _call(_ADD_RULE, self._fd, _RULE_PATH_BENEATH, _PATH_BENEATH.pack(rights, place), 0)
        finally:
            os.close(place)
        identity = status.st_dev, status.st_ino
        self._rules[identity] = self._rules.get(identity, Right(0)) | rights
        self._names[path] = self._names.get(path, Right(0)) | rights

    def restrict(self) -> Restriction:
        """From now on this thread, and those it makes, can do in the file system only this; no TCP,
        no signals to other processes, no abstract sockets of theirs. To be called once. Needs
        no_new_privs; raises OSError."""
        try:
            _call(_RESTRICT_SELF, self._fd, 0)
        finally:
            os.close(self._fd)
        return Restriction(self._abi, self._rules, self._names)


def _call(number: int, *arguments: object) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "landlock")
    return int(result)
