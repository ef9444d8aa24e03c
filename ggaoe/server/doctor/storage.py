"""Checks of what is exported, of the disks that it lies on, and of the daemon's own files."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ggaoe.backend import stacking
from ggaoe.backend.file import examine
from ggaoe.backend.origin import origin_of
from ggaoe.backend.uuid import find_by_uuid
from ggaoe.config import DeviceConfig
from ggaoe.errors import BackendError, StateError
from ggaoe.proto.frame import SECTOR_BYTES
from ggaoe.server.confine import way_in
from ggaoe.server.doctor.base import Finding, Live, Situation, read_line
from ggaoe.server.export import file_spec_of
from ggaoe.server.state import FILE_BYTES_MAX, StateStore, decode
from ggaoe.units import format_size

LAYERS_MAX = 16
"""Of files on loop devices on volumes on disks; deeper than that is a circle."""
STATE_BYTES_FREE_MIN = 1 << 20

_BLOCK = Path("/sys/dev/block")
_MOUNTS = Path("/proc/self/mountinfo")


def backings(situation: Situation) -> Iterator[Finding]:
    """Each is opened for reading, read once, and closed again."""
    daemon = _credentials(situation.live) if situation.live and os.geteuid() == 0 else None
    for name, device in situation.config.devices.items():
        try:
            warnings, way = examine(file_spec_of(device))
            path = _path_of(device)
        except BackendError as error:
            yield Finding("error", name, str(error))
            continue
        warnings = list(dict.fromkeys([*warnings, *_live_warnings(situation.live, name)]))
        for warning in warnings:
            yield Finding("warning", name, warning, _remedy(warning))
        used = _user_of(device, path)
        if used is not None:
            remedy = "use it on this machine, or export it: not both"
            yield Finding("error", name, used, remedy)
        if not device.read_only and not os.access(path, os.W_OK):
            remedy = "change its permissions, or set read-only = true"
            yield Finding("error", name, f"{path} cannot be written", remedy)
        is_open = daemon is None or _is_open_to(daemon, path, read_only=device.read_only)
        if daemon is not None and not is_open:
            text = f"{path}: user {daemon.name}, who runs the daemon, may not open it"
            yield Finding("error", name, text, way_in(path, daemon.name))
        if not warnings and used is None and is_open:
            yield Finding("ok", name, f"{path}: {way}")


def _live_warnings(live: Live | None, name: str) -> list[str]:
    """What the running daemon found out about a device, such as writes that were refused."""
    devices = live.devices if live is not None else ()
    return [text for one in devices if one["name"] == name for text in one.get("warnings", ())]


class _Credentials(NamedTuple):
    name: str
    user: int
    group: int
    groups: list[int]


def _credentials(live: Live) -> _Credentials | None:
    """Whose rights the running daemon has; None where it may do more, or cannot be told."""
    if live.daemon.get("capabilities", {}).keys() & {"dac_override", "dac_read_search"}:
        return None
    name = str(live.daemon.get("user", ""))
    fields = {}
    for line in (read_line(Path(f"/proc/{live.daemon['pid']}/status")) or "").splitlines():
        key, _, text = line.partition(":")
        fields[key] = text
    with suppress(KeyError, ValueError, IndexError):
        user = int(fields["Uid"].split()[1])
        groups = [int(number) for number in fields["Groups"].split()]
        # From another process namespace its number means nothing here.
        if user != 0 and pwd.getpwnam(name).pw_uid == user:
            return _Credentials(name, user, int(fields["Gid"].split()[1]), groups)
    return None


def _is_open_to(who: _Credentials, path: Path, *, read_only: bool) -> bool:
    """Also where that cannot be tried, as where nobody may become another user."""
    writable = [] if read_only else ["-a", "-w", str(path)]
    try:
        done = subprocess.run(
            ["test", "-r", str(path), *writable],
            check=False,
            user=who.user,
            group=who.group,
            extra_groups=who.groups,
        )
    except (OSError, subprocess.SubprocessError):
        return True
    return done.returncode == 0


def _remedy(warning: str) -> str:
    if "direct" in warning:
        return "set direct-io = false to accept it, or put the file on another file system"
    if "rounded down" not in warning:
        return ""
    if f"of {SECTOR_BYTES} bytes" in warning:
        return (
            f"make a file a multiple of {SECTOR_BYTES} bytes: truncate --size=%{SECTOR_BYTES} FILE"
        )
    return "set exact-size = true to export all of it"


def _path_of(device: DeviceConfig) -> Path:
    return device.path if device.path is not None else find_by_uuid(device.uuid or "")


def _user_of(device: DeviceConfig, path: Path) -> str | None:
    """What else uses a file or block device, as a sentence about it."""
    origin = origin_of(path, path.stat())
    if (use := stacking.user_of(origin)) is not None:
        return f"{path} is in use: it {use}"
    end = None if device.length_bytes is None else device.offset_bytes + device.length_bytes
    region = stacking.Region(device.offset_bytes, end)
    return stacking.conflict(origin, region, read_only=device.read_only)


def _mounts() -> list[list[str]]:
    return [line.split() for line in (read_line(_MOUNTS) or "").splitlines()]


# --- write caches ------------------------------------------------------------------------------


def write_caches(situation: Situation) -> Iterator[Finding]:
    """Acknowledged writes are flushed out of a disk's volatile cache, which is safe and costs
    time; not knowing the disk is what can be unsafe."""
    disks: dict[Path, list[str]] = {}
    for name, device in situation.config.devices.items():
        try:
            found = list(disks_below(_path_of(device)))
        except (OSError, BackendError):
            continue  # `backings` has said why
        for disk in found:
            disks.setdefault(disk, []).append(name)
        if not found:
            text = "what disk it is on cannot be told: whether that keeps what it has acknowledged"
            yield Finding("note", name, text, "ask whoever runs that storage")
    for disk, names in disks.items():
        cache = read_line(disk / "queue/write_cache")
        where = f"{disk.name} ({', '.join(names)})"
        if cache == "write back":
            yield Finding(
                "note",
                where,
                "has a volatile write cache: writes are answered after a flush of it",
                "disks with power-loss protection flush at once; others are slow at single writes",
            )
        elif cache is not None:
            yield Finding("ok", where, "no volatile write cache is switched on")


def disks_below(path: Path) -> Iterator[Path]:
    """The /sys directories of the disks that a file or block device lies on, through partitions,
    volumes and loop devices; none where the file system has no disk that could be named."""
    status = path.stat()
    number = status.st_rdev if stat.S_ISBLK(status.st_mode) else _disk_of_file(path, status.st_dev)
    seen: dict[Path, None] = {}
    if number is not None:
        _descend(_BLOCK / f"{os.major(number)}:{os.minor(number)}", seen, LAYERS_MAX)
    yield from seen


def _disk_of_file(path: Path, number: int) -> int | None:
    """Its file system's device; file systems that manage several have a number of their own, and
    name one of them in the list of mounts."""
    if (_BLOCK / f"{os.major(number)}:{os.minor(number)}").exists():
        return number
    own = f"{os.major(number)}:{os.minor(number)}"
    for fields in _mounts():
        source = Path(fields[fields.index("-") + 2])
        if fields[2] == own and source.is_absolute() and source.is_block_device():
            return source.stat().st_rdev
    return None


def _descend(place: Path, seen: dict[Path, None], layers: int) -> None:
    if not place.exists() or layers == 0:
        return
    real = place.resolve()
    if (real / "partition").exists():
        real = real.parent
    slaves = real / "slaves"
    below = sorted(slaves.iterdir()) if slaves.is_dir() else []
    backing = read_line(real / "loop/backing_file")
    if backing is not None and Path(backing).exists():
        status = Path(backing).stat()
        number = (
            status.st_rdev
            if stat.S_ISBLK(status.st_mode)
            else _disk_of_file(Path(backing), status.st_dev)
        )
        if number is not None:
            below = [_BLOCK / f"{os.major(number)}:{os.minor(number)}"]
    for one in below:
        _descend(one, seen, layers - 1)
    if not below:
        seen[real] = None


# --- the daemon's own files --------------------------------------------------------------------


def state_directory(situation: Situation) -> Iterator[Finding]:
    store = StateStore(situation.config.state_directory)
    if store.is_missing_default:
        yield Finding("ok", str(store.directory), "is made by the first start")
        return
    try:
        store.check()
    except StateError as error:
        yield Finding("error", str(store.directory), str(error))
        return
    is_sound = True
    for name in situation.config.devices:
        path = store.path_of(name)
        try:
            with path.open("rb") as file:
                decode(file.read(FILE_BYTES_MAX))
        except FileNotFoundError:
            continue
        except ValueError as error:
            is_sound = False
            yield Finding(
                "error",
                name,
                f"its state file {path} is damaged or not ours ({error})",
                "restore it, or remove it to start without config string, mask and reservation",
            )
    free = os.statvfs(store.directory)
    if free.f_bavail * free.f_frsize < STATE_BYTES_FREE_MIN:
        is_sound = False
        text = f"only {format_size(free.f_bavail * free.f_frsize)} are free"
        remedy = "make room: what hosts set would be refused"
        yield Finding("warning", str(store.directory), text, remedy)
    if is_sound:
        yield Finding("ok", str(store.directory), "can be written, and holds nothing damaged")


def run_files(situation: Situation) -> Iterator[Finding]:
    """Where pid file and control socket are to be made."""
    if situation.live is not None:
        return
    config = situation.config
    for key, path in (("pid-file", config.pid_file), ("control-socket", config.control_socket)):
        place = next(parent for parent in path.parents if parent.exists())
        if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
            yield Finding("ok", key, f"{path} can be made")
        else:
            text = f"{path} cannot be made: {place} cannot be written"
            yield Finding("error", key, text, f"start as root, or set another {key}")
