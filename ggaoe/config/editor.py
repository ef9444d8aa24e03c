"""Changes of the text of one configuration file, in either dialect: all else in it stays as it is.

Owns where in a text a section and its options stand. What comes out may mean something else than
what was asked for, where the text is written in an uncommon way: the caller has to compare.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ggaoe.config import keyfile, schema, toml
from ggaoe.config.overlay import Values
from ggaoe.config.read import is_toml
from ggaoe.config.schema import Kind
from ggaoe.config.values import convert

_HEADER = re.compile(r"[ \t\f]*\[(?P<name>[^\x00-\x1f\x7f\[\]]+)\][ \t\r]*")
_PAIR = re.compile(r"(?P<head>[ \t\f]*(?P<key>[^#\[\]=\s][^=]*?)[ \t\f]*=[ \t\f]*)(?P<rest>.*)")
_TABLES = {kind: table for table, kind in toml.KINDS.items()}


class Editor(Protocol):
    """A text; each method returns what becomes of it. Sections are named by kind and name, and
    values are those of a key file."""

    def set(self, kind: str, name: str, key: str, raw: str | None, last_line: int) -> str:
        """With another value of an option, or, for None, without it. A new one goes behind
        `last_line`, which has the section's last option."""

    def added(self, kind: str, name: str, values: Values) -> str:
        """With one more section at the end."""

    def removed(self, kind: str, name: str) -> str:
        """Without a section's lines up to its last option; what is commented behind it stays."""


def editor(text: str, path: Path) -> Editor:
    """For the text of the file `path`."""
    return _Toml(text) if is_toml(text, str(path)) else _Keyfile(text)


def _joined(lines: Iterable[str]) -> str:
    """A text of lines; half an end of line is none."""
    text = "\n".join(lines)
    return f"{text}\n" if text.endswith("\r") else text


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
        return _joined(self._lines)

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
    """A TOML text, and where everything stands in it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._end = "\r\n" if "\r\n" in text else "\n"
        self._places = toml.places(text)

    def set(self, kind: str, name: str, key: str, raw: str | None, last_line: int) -> str:
        table = _table(kind, name)
        pair = self._places.pairs.get((*table, key))
        if raw is None:
            return self._without([(pair.start, pair.end)]) if pair else self._text
        value = _toml_value(kind, key, raw)
        if pair is not None:
            return f"{self._text[: pair.value]}{value}{self._text[pair.end :]}"
        for text in self._inserted(table, key, value, last_line):
            with suppress(tomllib.TOMLDecodeError):
                if self._is_wanted(text, table, key, value):
                    return text
        return self._text

    def _inserted(
        self, table: tuple[str, ...], key: str, value: str, last_line: int
    ) -> Iterator[str]:
        """Texts with a line more, as soon as can be behind another one."""
        lines = self._text.split("\n")
        headers = (n for n in range(len(table), 0, -1) if table[:n] in self._places.headers)
        pair = f"{toml.written_key(*table[next(headers, 0) :], key)} = {value}"
        for number in range(last_line, len(lines) + 1):
            yield "\n".join([*lines[:number], pair + self._end[:-1], *lines[number:]])

    def _is_wanted(self, text: str, table: tuple[str, ...], key: str, value: str) -> bool:
        """Whether `text` has the option, and is the same otherwise."""
        found = tomllib.loads(text)
        section = found
        for part in table:
            section = section.get(part, {})
        new = section.pop(key, None)
        return new == tomllib.loads(f"x = {value}")["x"] and found == tomllib.loads(self._text)

    def added(self, kind: str, name: str, values: Values) -> str:
        pairs = [
            f"{toml.written_key(key)} = {_toml_value(kind, key, raw)}"
            for key, raw in values.items()
            if raw is not None
        ]
        header = f"[{toml.written_key(*_table(kind, name))}]"
        before = [self._text.rstrip(), ""] if self._text.strip() else []
        return self._end.join([*before, header, *pairs, ""])

    def removed(self, kind: str, name: str) -> str:
        table = _table(kind, name)
        pairs = [pair for path, pair in self._places.pairs.items() if path[: len(table)] == table]
        header = self._places.headers.get(table)
        if header is None:
            return self._without((pair.start, pair.end) for pair in pairs)
        end = max((pair.end for pair in pairs), default=header)
        return self._without([(header, end)], is_section=True)

    def _without(self, spans: Iterable[tuple[int, int]], *, is_section: bool = False) -> str:
        """Without the lines of the spans, and of a section also the blank one behind them."""
        gone: set[int] = set()
        lines = self._text.split("\n")
        for start, end in spans:
            first, last = (self._text.count("\n", 0, at) for at in (start, end))
            if is_section and last + 1 < len(lines) - 1 and not lines[last + 1].strip():
                last += 1
            gone.update(range(first, last + 1))
        return _joined(line for number, line in enumerate(lines) if number not in gone)


def _table(kind: str, name: str) -> tuple[str, ...]:
    return (kind,) if kind == name else (_TABLES[kind], name)


def _toml_value(kind: str, key: str, raw: str) -> str:
    """What a key file's raw value is in TOML."""
    entry = keyfile.KeyfileEntry(key, raw, "", 0, 0, 0)
    option = schema.BY_KEY.get(key)
    if kind == "acls" or (option is not None and option.kind in schema.LISTS):
        return toml.written([str(item.value) for item in entry.items()])
    item = entry.scalar()
    if option is not None and option.kind in (Kind.BOOLEAN, Kind.INTEGER):
        value = convert(option, item)
        assert isinstance(value, bool | int | str)
        return toml.written(value)
    return toml.written(str(item.value))
