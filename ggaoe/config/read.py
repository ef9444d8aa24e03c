"""Reading: from a file, and those that it includes, to one document of sections.

Owns the choice of the dialect, what `include` means, and every bound on what is read. What the
sections mean is in `build`.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ggaoe.config import acl, keyfile, toml
from ggaoe.config.document import Item, Problems, Section, near, quoted
from ggaoe.errors import ConfigError, Problem

FILE_BYTES_MAX = 1024 * 1024
"""Size of a configuration file, and of an ethers file."""
FILES_MAX = 1000
"""Files that one file includes, directly or not."""

ETHERS = Path("/etc/ethers")

_INCLUDE = "include"
_WILDCARDS = frozenset("*?[")
_ESCAPED = re.compile(r"\[([*?[])\]")  # as glob.escape writes them
_ADVICE = {
    FileNotFoundError: "name the file with -c",
    PermissionError: "run as a user who may read it",
    IsADirectoryError: "name a file",
}
_INCLUDE_ADVICE = {
    FileNotFoundError: "correct the name, or write a pattern, which may match nothing",
    PermissionError: "give access; a daemon that was confined without it has to be restarted",
}


@dataclass(frozen=True)
class Document:
    """What was read, with what is wrong so far."""

    source: str
    sections: tuple[Section, ...]
    problems: Problems
    hosts: acl.Hosts
    files: tuple[Path, ...] = ()
    """Those that `source` includes."""
    directories: tuple[Path, ...] = ()
    """Those in which files to include were looked for."""
    volumes: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    """What each pattern of a template has matched: once for the life of the document."""

    def matches(self, pattern: str) -> tuple[Path, ...]:
        """The files and block devices that a template's absolute `pattern` matches, sorted; raises
        OSError where its directory cannot be read."""
        if pattern not in self.volumes:
            found = (Path(name) for name in expand(pattern))
            self.volumes[pattern] = tuple(path for path in found if _holds_data(path))
        return self.volumes[pattern]


def read_file(
    path: Path | str, *, ethers: Path = ETHERS, instead: Mapping[Path, str] | None = None
) -> Document:
    """Read `path`, and what it includes. ConfigError where it cannot be read itself; all else that
    is wrong is in the document. `instead` has texts that count for what is in files."""
    texts = instead or {}
    try:
        text = texts[Path(path)] if Path(path) in texts else _text_of(path)
    except OSError as error:
        advice = _ADVICE.get(type(error), "check the file")
        raise _failure(path, f"cannot be read: {error.strerror}; {advice}") from None
    except UnicodeError as error:
        raise _undecodable(path, error) from None
    except ValueError as error:
        raise _failure(path, str(error)) from None
    return read_text(text, str(path), hosts=load_hosts(ethers), instead=texts)


def read_text(
    text: str,
    source: str,
    *,
    hosts: acl.Hosts | None = None,
    instead: Mapping[Path, str] | None = None,
) -> Document:
    """As if `text` stood in the file `source`."""
    problems = Problems(source)
    reader = _Reader(problems, instead or {})
    reader.parse(text, source)
    return Document(
        source,
        tuple(reader.sections),
        problems,
        hosts or acl.Hosts(ETHERS),
        tuple(reader.files),
        tuple(dict.fromkeys(reader.directories)),
    )


def parse_text(text: str, problems: Problems, file: str = "") -> list[Section]:
    """The sections of one file, whose name's ending `.toml` or whose tables `[devices.NAME]`,
    `[interfaces.NAME]`, `[templates.NAME]` make it TOML; anything else is a key file."""
    parse = toml.parse if is_toml(text, file or problems.file) else keyfile.parse
    return parse(text, problems, file)


def is_toml(text: str, file: str) -> bool:
    """Whether a file is of the TOML dialect."""
    return file.endswith(".toml") or toml.looks_like_toml(text)


def load_hosts(ethers: Path) -> acl.Hosts:
    """The host names of an ethers file; `failure` says why there are none."""
    try:
        with ethers.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return acl.Hosts(ethers, failure="there is no such file")
    except PermissionError:
        text = "it may not be read; where it has been replaced since the daemon started: restart"
        return acl.Hosts(ethers, failure=text)
    except OSError as error:
        return acl.Hosts(ethers, failure=f"it cannot be read: {error.strerror}")
    if len(content) > FILE_BYTES_MAX:
        return acl.Hosts(ethers, failure=f"it is larger than {FILE_BYTES_MAX} bytes")
    return acl.Hosts(ethers, acl.parse_ethers(content.decode("utf-8", "replace")))


class _Reader:
    """The sections so far, and the files that are being read, outermost first."""

    def __init__(self, problems: Problems, instead: Mapping[Path, str]) -> None:
        self.problems = problems
        self.instead = instead
        self.sections: list[Section] = []
        self.files: list[Path] = []
        self.directories: list[Path] = []
        self._seen: set[str] = set()
        self._open: list[str] = []

    def parse(self, text: str, file: str) -> None:
        self._open.append(os.path.realpath(file))
        self._seen.add(self._open[-1])
        sections = parse_text(text, self.problems, file)
        self.sections += sections
        for section in sections:
            entry = section.entries.get(_INCLUDE)
            if entry is None or (section.kind, section.name) not in _DEFAULTS:
                continue
            try:
                items = entry.items()
            except ValueError as error:
                self.problems.error(entry.value_place, str(error))
                continue
            for item in items:
                self._include(item)
        self._open.pop()

    def _include(self, item: Item) -> None:
        if not isinstance(item.value, str) or not item.value or "\0" in item.value:
            text = f"{quoted(item.value)} cannot be included: write the name of a file"
            self.problems.error(item, text)
            return
        if not _WILDCARDS & set(item.value):
            name = str(Path(item.file).absolute().parent / item.value)
            self.directories.append(Path(name).parent)
            self._read(item, name)
            return
        name = str(pattern_in(Path(item.file).absolute().parent, item.value))
        self.directories.append(fixed_part(name))
        try:
            found = expand(name)
        except OSError as error:
            self.problems.error(item, unsearchable(fixed_part(name), error))
            return
        for one in found:
            # What a pattern matches beside what is meant is left out: the file that it stands in,
            # directories, and what an earlier item has named.
            if os.path.realpath(one) not in self._seen and not Path(one).is_dir():
                self._read(item, one)

    def _read(self, item: Item, name: str) -> None:
        real = os.path.realpath(name)
        if real in self._open:
            way = [*self._open[self._open.index(real) :], real]
            names = " → ".join(Path(one).name for one in way)
            text = f"{quoted(item.value)} includes itself ({names}): remove one of the inclusions"
            self.problems.error(item, text)
            return
        if real in self._seen:
            return
        if len(self.files) >= FILES_MAX:
            self.problems.error(item, f"more than {FILES_MAX} files are included: join some")
            self._seen.add(real)
            return
        self.files.append(Path(name))
        try:
            known = self.instead.get(Path(name))
            text = _text_of(name, regular=True) if known is None else known
        except OSError as error:
            hint = near(Path(name).name, set(_names_beside(Path(name))) - {Path(name).name})
            advice = hint.removeprefix(": ") or _INCLUDE_ADVICE.get(type(error), "check the file")
            self.problems.error(item, f"{name} cannot be read: {error.strerror}; {advice}")
        except UnicodeError as error:
            (problem,) = _undecodable(name, error).problems
            self.problems.errors.append(problem)
        except ValueError as error:
            self.problems.error(item, f"{name} {error}")
        else:
            self.parse(text, name)


_DEFAULTS = ((None, "defaults"), ("defaults", "defaults"))


def expand(pattern: str) -> list[str]:
    """What an absolute pattern matches, sorted. Raises OSError where the directory in which it
    begins cannot be read, which is not the same as nothing that matches."""
    with suppress(FileNotFoundError, NotADirectoryError):
        os.scandir(fixed_part(pattern)).close()
    return sorted(glob.iglob(pattern))  # noqa: PTH207 - Path.glob finds hidden files, too


def unsearchable(directory: Path, error: OSError) -> str:
    """Why a directory cannot be searched, and what to do."""
    advice = "check the directory"
    if isinstance(error, PermissionError):
        advice = "give access"
        with suppress(NotImplementedError):
            if os.access(directory, os.R_OK | os.X_OK, effective_ids=True):
                # Its owner and mode permit it: something else does not, as of the start.
                advice = (
                    "the daemon was confined (Landlock) without it: restart the daemon, hosts wait "
                    "meanwhile"
                )
    return f"{directory} cannot be searched: {error.strerror}; {advice}"


def fixed_part(pattern: str) -> Path:
    """The directory below which everything is that a pattern can match."""
    parts = Path(pattern).parts
    bare = (_WILDCARDS & set(_ESCAPED.sub("", part)) for part in parts)
    fixed = next((n for n, wildcards in enumerate(bare) if wildcards), len(parts) - 1)
    return Path(*(_ESCAPED.sub(r"\1", part) for part in parts[:fixed]))


def pattern_in(directory: Path, pattern: str) -> Path:
    """The absolute pattern: a relative one starts at `directory`, whatever characters that has in
    its name."""
    return Path(glob.escape(str(directory))) / pattern


def _holds_data(path: Path) -> bool:
    """Of what cannot be examined that shows when it is opened: a device that waits, and says why,
    is better than one that is gone."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def _names_beside(path: Path) -> list[str]:
    try:
        return [one.name for one in path.parent.iterdir()]
    except OSError:
        return []


def _text_of(path: Path | str, *, regular: bool = False) -> str:
    """The text of a file; raises OSError, UnicodeError, or ValueError with what is wrong."""
    # To open a pipe would take for ever.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_NONBLOCK if regular else 0))
    if regular and not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError("is no regular file: write the name of one, or a pattern")
    with os.fdopen(handle, "rb") as file:
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(
            f"is larger than {FILE_BYTES_MAX} bytes, so it is hardly a configuration file"
        )
    return content.decode("utf-8-sig")


def _undecodable(path: Path | str, error: UnicodeError) -> ConfigError:
    assert isinstance(error, UnicodeDecodeError)
    before = error.object[: error.start]
    column = error.start - before.rfind(b"\n")
    text = f"byte 0x{error.object[error.start]:02x} is not UTF-8: save the file in that encoding"
    return ConfigError([Problem(str(path), before.count(b"\n") + 1, column, text)])


def _failure(path: Path | str, text: str) -> ConfigError:
    return ConfigError([Problem(str(path), 0, 0, text)])
