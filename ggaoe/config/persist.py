"""Writing a change into the files of a configuration: all else in them stays as it is, comments and
blanks, owner and mode.

Owns where in which file a change goes, and the files' replacement. A change is written only where
the files then mean what the change means; must not know who asks for it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ggaoe.config import keyfile, schema
from ggaoe.config.document import Problems, Section
from ggaoe.config.load import edit, load
from ggaoe.config.overlay import Edit, Values
from ggaoe.config.read import ETHERS, Document, is_toml, read_file
from ggaoe.config.schema import Kind
from ggaoe.config.sections import Sections
from ggaoe.config.toml import KINDS
from ggaoe.errors import ConfigError, Problem
from ggaoe.files import put_in_place

_BOM = "\ufeff"
_HEADER = re.compile(r"[ \t\f]*\[(?P<name>[^\x00-\x1f\x7f\[\]]+)\][ \t\r]*")
_PAIR = re.compile(r"(?P<head>[ \t\f]*(?P<key>[^#\[\]=\s][^=]*?)[ \t\f]*=[ \t\f]*)(?P<rest>.*)")
_Stamp = tuple[int, int, int]
_T = TypeVar("_T")


@dataclass
class Rewriting:
    """New texts of files, not written yet; `write` replaces, `undo` puts back what was there."""

    texts: Mapping[Path, str]
    _before: Mapping[Path, tuple[_Stamp, bytes]]
    _written: list[Path] = field(default_factory=list)

    def write(self) -> list[Path]:
        """Replace the files durably, and return which; ConfigError where one cannot be, or was
        changed by somebody else meanwhile."""
        for path, text in self.texts.items():
            stamp, old = self._before[path]
            mark = _BOM if old.startswith(_BOM.encode()) else ""
            try:
                _replace(path, (mark + text).encode(), stamp)
            except ConfigError:
                self.undo()
                raise
            self._written.append(path)
        return list(self.texts)

    def undo(self) -> None:
        """Put back what `write` has replaced."""
        while self._written:
            path = self._written.pop()
            _replace(path, self._before[path][1], None)


def rewrite(source: Path, changes: Sequence[Edit], *, ethers: Path = ETHERS) -> Rewriting:
    """The files of the configuration `source` with the changes in them. ConfigError where they have
    errors, or the change cannot be written there."""
    wanted = edit(load(source, ethers=ethers), changes)
    before: dict[Path, tuple[_Stamp, bytes]] = {}
    texts: dict[Path, str] = {}
    for change in _single(changes):
        document = read_file(source, ethers=ethers, instead=texts)
        for path, text in _changed(document, change, texts, before).items():
            texts[path] = text
    try:
        same = load(source, ethers=ethers, instead=texts) == wanted
    except ConfigError:
        same = False
    if not same:
        text = "cannot be written so that the file means the same: edit the file, and reload"
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
        return texts.get(path, before[path][1].decode("utf-8-sig"))

    found = _find(document, change)
    main = Path(document.source)
    if change.action == "add" or not found:
        kind = change.kind if change.action == "add" else _kind_of(change)
        return {main: _editor(text_of(main), main).added(kind, change.name, change.values)}
    kind, sections = found
    if change.action == "remove":
        path = Path(sections[0].file)
        return {path: _editor(text_of(path), path).removed(kind, change.name)}
    ((key, raw),) = change.values.items()
    section = next((one for one in sections if key in one.entries), sections[0])
    path = Path(section.file)
    last_line = max((entry.line for entry in section.entries.values()), default=section.line)
    return {path: _editor(text_of(path), path).set(kind, change.name, key, raw, last_line)}


def _kind_of(change: Edit) -> str:
    return change.name if change.name in ("defaults", "acls") else "interface"


def _find(document: Document, change: Edit) -> tuple[str, list[Section]] | None:
    """Kind and sections, in all files, of what is changed; ConfigError where it has none, since a
    template makes it."""
    sections = Sections(document, {}, Problems(document.source))
    for kind in ("defaults", "acls", "device", "interface"):
        found = [section for section in sections.by_kind[kind] if section.name == change.name]
        if not found:
            continue
        if change.name in sections.derived:
            text = f"{change.name} comes of {sections.derived[change.name]}: change that section, "
            problem = Problem(found[0].file, found[0].line, found[0].column, text + _WITHOUT)
            raise ConfigError([problem])
        return kind, found
    return None


_WITHOUT = "or do without --persist"


class _Keyfile:
    """A key file as lines; its end of line is kept."""

    def __init__(self, text: str) -> None:
        self._end = "\r" if "\r\n" in text else ""
        self._lines = text.split("\n")
        self._section: list[str | None] = []
        """Of each line the section that it is in, its header included."""
        current: str | None = None
        for line in self._lines:
            if header := _HEADER.fullmatch(line):
                current = header["name"]
            self._section.append(current)

    def _text(self) -> str:
        return "\n".join(self._lines)

    def _pairs(self, name: str) -> list[tuple[int, re.Match[str]]]:
        return [
            (number, pair)
            for number, line in enumerate(self._lines)
            if self._section[number] == name and (pair := _PAIR.fullmatch(line))
        ]

    def set(self, kind: str, name: str, key: str, raw: str | None, last_line: int) -> str:
        pairs = self._pairs(name)
        having = [(number, pair) for number, pair in pairs if pair["key"] == key]
        if raw is None:
            for number, _ in reversed(having):
                del self._lines[number]
        elif having:  # the last one counts
            number, pair = having[-1]
            self._lines[number] = f"{pair['head']}{raw}{self._end}"
        else:
            headers = [n for n, line in enumerate(self._lines) if self._is_header(n, name)]
            last, indent = headers[-1], ""
            if pairs and pairs[-1][0] > last:
                last, pair = pairs[-1]
                indent = pair[0][: len(pair[0]) - len(pair[0].lstrip(" \t"))]
            self._lines.insert(last + 1, f"{indent}{key} = {raw}{self._end}")
        return self._text()

    def _is_header(self, number: int, name: str) -> bool:
        return self._section[number] == name and bool(_HEADER.fullmatch(self._lines[number]))

    def added(self, kind: str, name: str, values: Values) -> str:
        while self._lines and not self._lines[-1].strip():
            self._lines.pop()
        block = [f"[{name}]", *(f"{k} = {raw}" for k, raw in values.items() if raw is not None), ""]
        before = [self._end] if self._lines else []
        self._lines += before + [line + self._end if line else line for line in block]
        return self._text()

    def removed(self, kind: str, name: str) -> str:
        """Without the section's lines up to its last option; what is commented behind it stays."""
        gone: set[int] = set()
        last = {number for number, _ in self._pairs(name)}
        for number in range(len(self._lines)):
            if self._is_header(number, name):
                options = [n for n in last if n > number and self._is_of(number, n)]
                end = max(options, default=number)
                if end + 1 < len(self._lines) - 1 and not self._lines[end + 1].strip():
                    end += 1
                gone.update(range(number, end + 1))
        self._lines = [line for number, line in enumerate(self._lines) if number not in gone]
        return self._text()

    def _is_of(self, header: int, number: int) -> bool:
        """Whether no other header is between."""
        return not any(_HEADER.fullmatch(line) for line in self._lines[header + 1 : number])


class _Toml:
    """A TOML file as tomlkit keeps it."""

    def __init__(self, text: str, path: Path) -> None:
        try:
            import tomlkit
        except ImportError:
            text = "is TOML, and tomlkit, which keeps its comments, is not installed"
            advice = "pip install 'ggaoe[persist]', or edit the file and reload"
            raise ConfigError([Problem(str(path), 0, 0, f"{text}: {advice}")]) from None
        self._kit = tomlkit
        self._text = text
        self._document = tomlkit.parse(text)

    def set(self, kind: str, name: str, key: str, raw: str | None, last_line: int) -> str:
        """`last_line` has the last option of the section: a new one goes behind it."""
        table = self._document if kind == name else self._document[_TABLES[kind]]
        section = table[name]
        if raw is None:
            section.pop(key, None)
            return self._kit.dumps(self._document)
        is_new, value = key not in section, _toml_value(kind, key, raw)
        section[key] = value
        text = self._kit.dumps(self._document)
        return self._inserted(self._pair(key, value), last_line, text) if is_new else text

    def _inserted(self, pair: str, last_line: int, otherwise: str) -> str:
        """With a line as soon behind another one as it means what it should: tomlkit would put it
        behind the comments that belong to the next section."""
        wanted = tomllib.loads(otherwise)
        lines = self._text.split("\n")
        end = "\r" if lines[0].endswith("\r") else ""
        for number in range(last_line, len(lines) + 1):
            text = "\n".join([*lines[:number], pair + end, *lines[number:]])
            with suppress(tomllib.TOMLDecodeError):
                if tomllib.loads(text) == wanted:
                    return text
        return otherwise

    def added(self, kind: str, name: str, values: Values) -> str:
        path = self._kit.key([name] if kind == name else [_TABLES[kind], name]).as_string()
        pairs = [
            self._pair(key, _toml_value(kind, key, raw))
            for key, raw in values.items()
            if raw is not None
        ]
        end = "\r\n" if "\r\n" in self._text else "\n"
        before = [self._text.rstrip(), ""] if self._text.strip() else []
        return end.join([*before, f"[{path}]", *pairs, ""])

    def _pair(self, key: str, value: object) -> str:
        return f"{self._kit.key(key).as_string()} = {self._kit.item(value).as_string()}"

    def removed(self, kind: str, name: str) -> str:
        del self._document[_TABLES[kind]][name]
        return self._kit.dumps(self._document)


_TABLES = {kind: table for table, kind in KINDS.items()}


def _editor(text: str, path: Path) -> _Keyfile | _Toml:
    return _Toml(text, path) if is_toml(text, str(path)) else _Keyfile(text)


def _toml_value(kind: str, key: str, raw: str) -> object:
    """What a key file's raw value is in TOML."""
    entry = keyfile.KeyfileEntry(key, raw, "", 0, 0, 0)
    option = schema.BY_KEY.get(key)
    if kind == "acls" or (option is not None and option.kind in schema.LISTS):
        return [item.value for item in entry.items()]
    item = entry.scalar()
    if option is not None and option.kind in (Kind.BOOLEAN, Kind.INTEGER):
        return schema.convert(option, item)
    return item.value


# --- files -------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[_Stamp, bytes]:
    return _guarded(path, lambda: (_stamp(path), path.read_bytes()))


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _replace(path: Path, content: bytes, expected: _Stamp | None) -> None:
    """Put `content` in the place of the file, or of what a link names, durably."""
    real = Path(os.path.realpath(path))
    new = real.with_name(f".{real.name}.{os.getpid()}.new")
    _guarded(path, lambda: _write(real, new, content))
    if expected is not None and _guarded(path, lambda: _stamp(path)) != expected:
        new.unlink()
        raise ConfigError([Problem(str(path), 0, 0, "was changed by somebody else: try again")])
    _guarded(path, lambda: put_in_place(new, real))


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
