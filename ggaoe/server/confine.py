"""What the daemon gives up once it has started: its user, its capabilities, most of the file system
and most system calls.

Owns what is to remain, the order in which the rest is given up, and how that is told. Must not know
how (`capabilities`, `landlock`, `seccomp`). All of it holds for the thread that does it and those
that it makes later, so it comes before the first further thread.
"""

from __future__ import annotations

import errno
import grp
import logging
import os
import re
import stat
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import ggaoe
from ggaoe.backend import stacking
from ggaoe.backend.uuid import UDEV
from ggaoe.config import Config, DeviceConfig, slots
from ggaoe.config.model import Template
from ggaoe.config.read import ETHERS, fixed_part
from ggaoe.errors import GgaoeError, StartError
from ggaoe.files import give
from ggaoe.server import capabilities, landlock, seccomp
from ggaoe.server.capabilities import Capability
from ggaoe.server.landlock import Restriction, Right
from ggaoe.units import counted

DEVICES = Path("/dev")
OFF = "switched off by the configuration"

_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
_TIME_ZONES = ("/etc/localtime", "/usr/share/zoneinfo")
_OF_BLKID = ("/sys", "/proc", "/run/udev", "/run/blkid", "/etc/blkid.conf")
"""What libblkid reads to find a device by its UUID."""
_SYSTEM = frozenset(
    (
        *("bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "proc", "root"),
        *("run", "sbin", "sys", "usr", "var"),
    )
)
"""Directories of / that hold more than data: filesystem hierarchy standard 3.0."""
_OCTAL = re.compile(r"\\([0-7]{3})")  # as mountinfo writes blanks: proc(5)

_T = TypeVar("_T")
_log = logging.getLogger("ggaoe.confine")


@dataclass(frozen=True)
class Limits:
    """What is to remain."""

    user: str | None = None
    landlock: bool = True
    seccomp: bool = True
    devices: tuple[DeviceConfig, ...] = ()
    templates: tuple[Template, ...] = ()
    source: Path | None = None
    """The configuration file that a reload reads."""
    files: tuple[Path, ...] = ()
    """Those that it includes."""
    directories: tuple[Path, ...] = ()
    """Those in which it looks for files to include."""
    state_directory: Path | None = None
    control_socket: Path | None = None
    removed: tuple[Path, ...] = ()
    """Files and directories that are to be removed at the end."""


def limits_of(
    config: Config,
    *,
    source: Path | None,
    state_directory: Path,
    control_socket: Path | None,
    removed: Iterable[Path],
) -> Limits:
    """What a daemon with this configuration needs."""
    return Limits(
        user=config.user,
        landlock=config.landlock,
        seccomp=config.seccomp,
        devices=tuple(config.devices.values()),
        templates=config.templates,
        source=source,
        files=config.document.files,
        directories=config.document.directories,
        state_directory=state_directory,
        control_socket=control_socket,
        removed=tuple(removed),
    )


@dataclass
class Confinement:
    """What is in force."""

    user: str
    is_root: bool
    kept: dict[Capability, str] = field(default_factory=dict)
    """The capabilities, and what for."""
    restriction: Restriction | None = None
    no_landlock: str = ""
    """Why there is no restriction."""
    calls: int | None = None
    """System calls that are left."""
    no_seccomp: str = ""

    def facts(self) -> dict[str, object]:
        """For the control protocol; a reason is why the like is not in force, otherwise null."""
        restriction = self.restriction
        return {
            "user": self.user,
            "capabilities": {name.name.lower(): reason for name, reason in self.kept.items()},
            "no_new_privileges": True,
            "landlock": {
                "abi": restriction.abi if restriction else None,
                "rules": len(restriction.rules) if restriction else 0,
                "reason": self.no_landlock or None,
            },
            "seccomp": {"calls": self.calls or 0, "reason": self.no_seccomp or None},
        }

    def log(self) -> None:
        """One line, and one more for each thing that should be in force and is not."""
        abi = f"Landlock (ABI {self.restriction.abi})" if self.restriction else "no Landlock"
        calls = counted(self.calls, "system call") if self.calls else "all system calls"
        names = ", ".join(
            f"CAP_{name.name}" + (f" ({reason})" if name is not Capability.NET_RAW else "")
            for name, reason in self.kept.items()
        )
        _log.info("confined: user %s, %s, %s, %s", self.user, names, abi, calls)
        for what, reason in (("Landlock", self.no_landlock), ("seccomp", self.no_seccomp)):
            if reason and reason != OFF:
                _log.warning("no %s: %s", what, reason)

    def why_closed(self, config: DeviceConfig) -> str | None:
        """Why a device whose file can be read cannot be opened all the same; None where it can."""
        wanted = _wanted(config)
        if config.path is None or capabilities.may(config.path, _mode(config)):
            restriction = self.restriction
            path = config.path or DEVICES
            if restriction is None or restriction.permits(path, wanted):
                return None
        error = GgaoeError(f"{config.path}: {os.strerror(errno.EACCES)}")
        error.__cause__ = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return self.explain(config, error)

    def explain(self, config: DeviceConfig, error: GgaoeError) -> str:
        """Why a device cannot be opened, and what to do, where the confinement is the cause."""
        restriction = self.restriction
        if config.uuid and restriction:
            for place in (DEVICES, UDEV):
                if place.exists() and not restriction.permits(place, Right.READ_FILE):
                    return _outside(f"uuid {config.uuid}", place)
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno != errno.EACCES:
            return str(error)
        path = config.path or Path(str(cause.filename))
        closed = _closed_directory(path)
        if closed is None and restriction is not None:
            wanted = _wanted(config)
            named = restriction.names.get(_place_of(path), Right(0))
            if wanted & named != wanted and not restriction.permits(path, wanted):
                return _outside(str(path), _place_of(path))
            # Owner, mode and capabilities permit it, so the kernel's rule is for another inode.
            if capabilities.may(path, _mode(config)):
                return (
                    f"{path}: Landlock was set up at the start for what was mounted there then: "
                    f"restart the daemon, or set landlock = false"
                )
        if not self.is_root and closed is not None:
            return (
                f"{path}: user {self.user} may not enter {closed}: give it access "
                f"(setfacl -m u:{self.user}:x {closed})"
            )
        if not self.is_root:
            return f"{path}: user {self.user} may not open it: {way_in(path, self.user)}"
        if Capability.DAC_OVERRIDE not in self.kept:
            return (
                f"{path}: belongs to another user, and CAP_DAC_OVERRIDE was given up at the start, "
                f"when no device needed it: restart the daemon, or give root access"
            )
        return str(error)


def confine(limits: Limits) -> Confinement:
    """Give up everything else. StartError where that cannot be done; what this kernel does not have
    is left out, and said."""
    try:
        return _confine(limits)
    except OSError as error:
        raise StartError(
            f"cannot give up privileges: {error.filename or 'system call'}: {error.strerror}: see "
            f"what the container or service manager that starts it leaves out or forbids"
        ) from None


def _confine(limits: Limits) -> Confinement:
    if capabilities.thread_count() != 1:
        raise StartError("cannot be confined: threads that exist already would not be")
    user = capabilities.user_called(limits.user) if limits.user else None
    # Before we become the user, who may be given a way to a place only later.
    ruleset, no_landlock = _tried(limits.landlock, lambda: landlock.Ruleset(rules(limits)))
    becomes_another = user is not None and os.geteuid() != user.pw_uid
    kept = {} if becomes_another else _needed(limits)
    if user is not None and becomes_another:
        if limits.control_socket is not None:
            give(limits.control_socket, user.pw_uid, user.pw_gid)
        try:
            capabilities.become(user)
        except OSError as error:
            raise StartError(f"cannot become user {user.pw_name}: {error.strerror}") from None
    kept = {Capability.NET_RAW: "to open packet sockets", **kept}
    capabilities.keep_only(kept)
    capabilities.no_new_privileges()
    found = Confinement(capabilities.user_name(), os.geteuid() == 0, kept, no_landlock=no_landlock)
    if ruleset is not None:
        found.restriction, found.no_landlock = _tried(True, ruleset.restrict)
    found.calls, found.no_seccomp = _tried(limits.seccomp, seccomp.restrict)
    return found


def rules(limits: Limits) -> Iterator[tuple[Path, Right]]:
    """Directories rather than files: what is replaced by another file of that name, or comes and
    goes as device nodes do, can be opened again."""
    paths = sysconfig.get_paths()
    code = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    yield Path(ggaoe.__file__).parent, landlock.READ
    for name in (*code, *_SYSTEM_LIBRARIES, *_TIME_ZONES):
        yield Path(name), landlock.READ
    yield Path(os.devnull), Right.READ_FILE | Right.WRITE_FILE
    yield stacking.VIRTUAL_DEVICES, landlock.READ
    if limits.source is not None:
        yield _directory(limits.source), Right.READ_FILE
        yield _place_of(limits.source), Right.READ_FILE
        # Only the file: all of /etc is too much for names that few configurations use. One that has
        # been put in its place cannot be read, unless the configuration is in /etc, too; a reload
        # that needs it then says so.
        yield ETHERS, Right.READ_FILE
    for directory in limits.directories:
        if (existing := _existing(directory)) != Path("/"):
            yield existing, landlock.READ
    for file in limits.files:
        yield _place_of(file), Right.READ_FILE
    if limits.state_directory is not None:
        yield limits.state_directory, landlock.KEEP
    for path in limits.removed:
        yield path.parent, Right.REMOVE_DIR if path.is_dir() else Right.REMOVE_FILE
    yield from _rules_of_stores(limits)


def _rules_of_stores(limits: Limits) -> Iterator[tuple[Path, Right]]:
    """Where what is exported can be opened."""
    for template in limits.templates:
        below, rights = fixed_part(str(template.pattern)), _use(template.read_only)
        for place in (below, *_lasting(below)):
            yield place, rights | Right.READ_DIR
        if Path(os.path.realpath(below)).is_relative_to(DEVICES):
            yield DEVICES, rights | Right.READ_DIR
    for device in limits.devices:
        rights = _use(device.read_only)
        if device.path is not None:
            for place in (_place_of(device.path), *_lasting(device.path)):
                yield place, rights
        else:
            yield DEVICES, rights | Right.READ_DIR
            for of_blkid in _OF_BLKID:
                yield Path(of_blkid), landlock.READ


def _mode(device: DeviceConfig) -> int:
    """How the device's file is opened, for access(2)."""
    return os.R_OK if device.read_only else os.R_OK | os.W_OK


def _wanted(device: DeviceConfig) -> Right:
    """The same, for a rule."""
    return Right.READ_FILE if device.read_only else Right.READ_FILE | Right.WRITE_FILE


def _use(read_only: bool) -> Right:
    return landlock.USE & ~Right.WRITE_FILE if read_only else landlock.USE


def _place_of(path: Path) -> Path:
    """The directory to which a rule for `path` is bound: of the file itself, not of links to it;
    for device nodes all of /dev, since a disk that comes back may have another one."""
    real = Path(os.path.realpath(path))
    return DEVICES if real.is_relative_to(DEVICES) else _directory(real)


def _lasting(path: Path) -> Iterator[Path]:
    """Directories that are still there when a file system on the way to `path` is mounted again, or
    for the first time: a rule for them holds for what is below them by then.

    A mount point itself is no such directory, because the kernel skips it while something is
    mounted there. Left out is what would give more than data: / and the system's directories."""
    real = Path(os.path.realpath(path))
    mount_points = _mount_points()
    found = [place.parent for place in (real, *real.parents) if str(place) in mount_points]
    if _is_missing(real):
        existing = _existing(real)
        found += [existing, existing.parent]
    yield from (place for place in dict.fromkeys(found) if _holds_data(place))


def _is_missing(path: Path) -> bool:
    """Whether nothing is there, or an empty directory, where something may be mounted later."""
    try:
        return not path.exists() or (path.is_dir() and not any(path.iterdir()))
    except OSError:
        return False


def _holds_data(directory: Path) -> bool:
    """Whether it is no directory of the system, by its name."""
    top = directory.parts[1:2]
    return bool(top) and top[0] not in _SYSTEM and directory != Path("/tmp")


def _existing(path: Path) -> Path:
    """`path`, or the nearest directory above it that exists and can be seen."""
    return next(place for place in (path, *path.parents) if os.path.exists(place))  # noqa: PTH110


def _mount_points() -> frozenset[str]:
    """Where something is mounted now."""
    with suppress(OSError):
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        return frozenset(
            _OCTAL.sub(lambda match: chr(int(match[1], 8)), line.split()[4]) for line in lines
        )
    return frozenset()


def _directory(path: Path) -> Path:
    """Where `path` is, unless everything is there."""
    return path if path.parent == Path("/") else path.parent


def _needed(limits: Limits) -> dict[Capability, str]:
    """What root needs beyond CAP_NET_RAW, since something configured belongs to somebody else."""
    levels = ((), (Capability.DAC_READ_SEARCH,), (Capability.DAC_OVERRIDE,))
    everything = capabilities.permitted()
    found: tuple[int, Path] = 0, Path()
    for path, mode in _opened(limits):
        if not path.exists():
            continue
        for level in range(len(levels)):
            capabilities.use_only((Capability.NET_RAW, *levels[level]))
            is_enough = capabilities.may(path, mode)
            capabilities.use_only(everything)
            if is_enough:
                found = max(found, (level, path), key=lambda one: one[0])
                break
    level, path = found
    return dict.fromkeys(levels[level], f"to open {path}")


def _opened(limits: Limits) -> Iterator[tuple[Path, int]]:
    """What is opened or changed later, and how."""
    for device in limits.devices:
        if device.path is not None:
            yield device.path, _mode(device)
    if limits.source is not None:
        yield limits.source, os.R_OK
    for file in limits.files:
        yield file, os.R_OK
    for directory in limits.directories:
        yield directory, os.R_OK | os.X_OK
    if limits.state_directory is not None:
        yield limits.state_directory, os.R_OK | os.W_OK | os.X_OK
        yield limits.state_directory / slots.FILE_NAME, os.R_OK
        for path in limits.state_directory.glob("*.json"):
            yield path, os.R_OK
    for path in limits.removed:
        yield path.parent, os.W_OK | os.X_OK


def _tried(wanted: bool, restrict: Callable[[], _T]) -> tuple[_T | None, str]:
    """What `restrict` returns, or why there is nothing."""
    if not wanted:
        return None, OFF
    try:
        return restrict(), ""
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return None, f"this kernel does not have it ({error.strerror})"
        return None, f"not permitted here: {error.strerror}"


def _outside(what: str, place: Path) -> str:
    return (
        f"{what}: Landlock was set up at the start without {place}: restart the daemon, or set "
        f"landlock = false"
    )


def _closed_directory(path: Path) -> Path | None:
    """The first directory on the way to `path` that we may not enter: what is beyond it cannot be
    compared with the rules, and these do not keep anybody from looking."""
    real = Path(os.path.realpath(path))
    for place in (*reversed(real.parents), real):
        try:
            place.stat()
        except PermissionError:
            return place.parent
        except OSError:
            return None
    return None


def way_in(path: Path, user: str) -> str:
    """Advice for who wants to give `user` access to `path`."""
    real = os.path.realpath(path)
    advice = f"give it access (setfacl -m u:{user}:rw {real})"
    with suppress(OSError, KeyError):
        status = Path(real).stat()
        if status.st_gid != 0 and status.st_mode & stat.S_IRGRP:
            group = grp.getgrgid(status.st_gid).gr_name
            return f"add the user to the group {group} and restart, or {advice}"
    return advice
