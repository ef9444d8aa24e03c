"""Writing a change into the files of a configuration: all else in them stays as it is, comments and
blanks, owner and mode.

Owns where in which file a change goes, and the files' replacement. A change is written only where
the files then mean what the change means; must not know who asks for it.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ggaoe.config.document import Problems, Section
from ggaoe.config.editor import editor
from ggaoe.config.load import edit, load
from ggaoe.config.overlay import Edit
from ggaoe.config.read import ETHERS, Document, read_file
from ggaoe.config.sections import Sections
from ggaoe.errors import ConfigError, Problem
from ggaoe.files import put_in_place

LINKS_MAX = 40
"""Symbolic links on the way to a file, as in the kernel."""

_BOM = "\ufeff"
_Stamp = tuple[int, int, int]
_T = TypeVar("_T")


@dataclass
class Rewriting:
    """New texts of files, not written yet; `write` replaces, `undo` puts back what was there."""

    texts: Mapping[Path, str]
    _before: Mapping[Path, tuple[_Stamp, bytes]]
    _written: dict[Path, _Stamp] = field(default_factory=dict)

    def write(self) -> list[Path]:
        """Replace the files durably, and return which; ConfigError where one cannot be, or was
        changed by somebody else meanwhile."""
        for path, text in self.texts.items():
            stamp, old = self._before[path]
            mark = _BOM if old.startswith(_BOM.encode()) else ""
            try:
                self._written[path] = _replace(path, (mark + text).encode(), stamp)
            except ConfigError:
                self.undo()
                raise
        return list(self.texts)

    def undo(self) -> None:
        """Put back what `write` has replaced; ConfigError where that is not there any more, or
        cannot be replaced."""
        problems: list[Problem] = []
        while self._written:
            path, stamp = self._written.popitem()
            try:
                _replace(path, self._before[path][1], stamp)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)


@contextmanager
def alone(source: Path) -> Iterator[None]:
    """Meanwhile nobody else rewrites the configuration `source` in this way: who wants to waits."""
    with ExitStack() as stack:
        with suppress(OSError):  # a file system without locks; what was changed is noticed, too
            directory = os.open(source.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, directory)
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield


def rewrite(source: Path, changes: Sequence[Edit], *, ethers: Path = ETHERS) -> Rewriting:
    """The files of the configuration `source` with the changes in them. ConfigError where they have
    errors, or the change cannot be written there."""
    wanted = edit(load(source, ethers=ethers), changes, in_file=True)
    before: dict[Path, tuple[_Stamp, bytes]] = {}
    texts: dict[Path, str] = {}
    for change in _single(changes):
        document = read_file(source, ethers=ethers, instead=texts)
        texts |= _changed(document, change, texts, before)
    texts = {path: new for path, new in texts.items() if new != _text(before[path][1])}
    for path in texts:
        check_trusted(path)
    text = ""
    try:
        if load(source, ethers=ethers, instead=texts) != wanted:
            text = "cannot be written so that the file means the same: edit the file, and reload"
        "".join(texts.values()).encode()
    except ConfigError:
        text = "cannot be written so that the file can be read: edit the file, and reload"
    except UnicodeEncodeError:
        text = "has a name that is not UTF-8, as a file is: give it another one, or a link"
    if text:
        raise ConfigError([Problem(str(source), 0, 0, f"{', '.join(map(str, changes))}: {text}")])
    return Rewriting(texts, before)


def _single(changes: Sequence[Edit]) -> Iterator[Edit]:
    """What is set, one option after the other: each moves what comes behind it in the file."""
    for change in changes:
        if change.action == "set":
            for key, raw in change.values.items():
                yield change._replace(values={key: raw})
        else:
            yield change


def _changed(
    document: Document,
    change: Edit,
    texts: Mapping[Path, str],
    before: dict[Path, tuple[_Stamp, bytes]],
) -> dict[Path, str]:
    """The texts that one change makes, by file."""

    def text_of(path: Path) -> str:
        if path not in before:
            before[path] = _read(path)
        return texts.get(path, _text(before[path][1]))

    kind, sections = _find(document, change)
    main = Path(document.source)
    if not sections:
        if not any(raw is not None for raw in change.values.values()):
            return {}
        return {main: editor(text_of(main), main).added(kind, change.name, change.values)}
    if change.action == "remove":
        path = Path(sections[0].file)
        return {path: editor(text_of(path), path).removed(kind, change.name)}
    ((key, raw),) = change.values.items()
    section = next((one for one in sections if key in one.entries), sections[0])
    path = Path(section.file)
    last_line = max((entry.line for entry in section.entries.values()), default=section.line)
    return {path: editor(text_of(path), path).set(kind, change.name, key, raw, last_line)}


def _find(document: Document, change: Edit) -> tuple[str, list[Section]]:
    """Kind of what is changed, and its sections in all files. ConfigError where a template is what
    has to be changed."""
    if change.action == "add":
        return change.kind, []
    name = change.name
    sections = Sections(document, {}, Problems(document.source))
    if name in sections.derived:
        _check_derived(document, change, sections.derived[name])
        return "device", [sections.changing[name]] if name in sections.changing else []
    for kind in ("defaults", "acls", "device", "interface"):
        found = [section for section in sections.by_kind[kind] if section.name == name]
        if found:
            return kind, found
    return (name if name in ("defaults", "acls") else "interface"), []


def _check_derived(document: Document, change: Edit, volume: str) -> None:
    """ConfigError for what no section can change of a device that comes of a template."""
    if change.action == "remove":
        advice = f"narrow its pattern, or 'ggaoectl stop {change.name} --persist'"
    elif change.values.keys() & {"path", "uuid"}:
        advice = "write a section with another name for it, or do without --persist"
    else:
        return
    text = f"{change.name} is {volume}: {advice}"
    raise ConfigError([Problem(document.source, 0, 0, text)])


def check_trusted(path: Path) -> None:
    """ConfigError where another user than root and ours can replace the file, or what leads to it.

    The daemon says which file it has read. It must not make root write to any other."""
    place, links = Path("/"), 0
    names = list(reversed(path.absolute().parts[1:]))
    while names:
        name = names.pop()
        if name == "..":
            place = place.parent
            continue
        entry = place / name
        status = _guarded(path, entry.lstat)
        if stat.S_ISLNK(status.st_mode):
            target = Path(_guarded(path, entry.readlink))
            links += 1
            if links > LINKS_MAX:
                raise ConfigError([Problem(str(path), 0, 0, "too many symbolic links")])
            place = Path("/") if target.is_absolute() else place
            names += reversed(target.parts[target.is_absolute() :])
            continue
        place = entry
        writer = _other_writer(status)
        if writer:
            text = f"not written, because {writer} may change {place}; edit it, and reload"
            raise ConfigError([Problem(str(path), 0, 0, text)])


def _other_writer(status: os.stat_result) -> str:
    """Who else may change a file, or the names in a directory; "" where only root and we may."""
    if status.st_uid not in (0, os.geteuid()):
        return f"user {status.st_uid}"
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return ""  # only the owner of what is in it may replace it
    if status.st_mode & stat.S_IWOTH:
        return "everybody"
    if status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getegid()):
        return f"group {status.st_gid}"
    return ""


# --- files -------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[_Stamp, bytes]:
    return _guarded(path, lambda: (_stamp(path), path.read_bytes()))


def _text(content: bytes) -> str:
    return content.decode("utf-8-sig")


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _replace(path: Path, content: bytes, expected: _Stamp) -> _Stamp:
    """Put `content` in the place of the file, or of what a link names, durably."""
    real = Path(os.path.realpath(path))
    new = real.with_name(f".{real.name}.{os.getpid()}.new")
    _guarded(path, lambda: _write(real, new, content))
    if _guarded(path, lambda: _stamp(path)) != expected:
        new.unlink()
        raise ConfigError([Problem(str(path), 0, 0, "was changed by somebody else: try again")])
    stamp = _stamp(new)
    try:
        _guarded(path, lambda: put_in_place(new, real))
    except ConfigError:
        new.unlink(missing_ok=True)
        raise
    return stamp


def _write(real: Path, new: Path, content: bytes) -> None:
    status = real.stat()
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(handle, status.st_uid, status.st_gid)
            os.fchmod(handle, status.st_mode & 0o7777)
            for name in os.listxattr(real):
                with suppress(OSError):  # what the new file got of itself, as a label
                    os.setxattr(handle, name, os.getxattr(real, name))
            os.fsync(handle)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _guarded(path: Path, act: Callable[[], _T]) -> _T:
    try:
        return act()
    except OSError as error:
        text = f"cannot be rewritten: {error.strerror}: run it as who may, or do without --persist"
        raise ConfigError([Problem(str(path), 0, 0, text)]) from None
