"""The TOML dialect: the model of the key file as `[defaults]`, `[acls]`, `[interfaces.NAME]`,
`[devices.NAME]` and `[templates.NAME]`, with arrays for lists.

Owns the TOML shape, how keys and values are written, and the search for positions, which the
standard parser does not give. Knows no option.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ggaoe.config.document import Item, Place, Placed, Problems, Section, near, quoted

KINDS = {"interfaces": "interface", "devices": "device", "templates": "template"}
"""Tables of tables, and the kind of section that each of their members is."""

_SECTIONS = ("defaults", "acls", *KINDS)
_HEADER = re.compile(r"^[ \t]*\[[ \t]*(?:devices|interfaces|templates)[ \t]*\.", re.MULTILINE)
_WHERE = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end.*)\)")
_TOKEN = re.compile(
    r"""
      (?P<blank>[ \t\r]+|\#[^\n]*)
    | (?P<newline>\n)
    | (?P<string>\"{3}(?:\\.|[^\\])*?\"{3,5}(?!\")|'{3}.*?'{3,5}(?!')
                |"(?:\\.|[^"\\\n])*"|'[^'\n]*')
    | (?P<mark>[\[\]{}=,.])
    | (?P<bare>[^\s\[\]{}=,."'\#]+)
    """,
    re.VERBOSE | re.DOTALL,
)

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")

Path = tuple[str | int, ...]


class Pair(NamedTuple):
    """Where `key = value` begins, its value, and what is behind it: offsets in the text."""

    start: int
    value: int
    end: int


@dataclass(slots=True)
class Places:
    """Where everything stands that a text holds, by the path to it."""

    file: str
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    headers: dict[Path, int] = field(default_factory=dict)
    """The offset of `[path]`."""
    pairs: dict[Path, Pair] = field(default_factory=dict)

    @property
    def unknown(self) -> Place:
        return Place(self.file, 0, 0)


@dataclass(frozen=True, slots=True)
class TomlEntry:
    """`key = value` with the value as TOML has it, and a place for each item of an array."""

    key: str
    value: object
    file: str
    line: int
    column: int
    value_place: Placed
    item_places: tuple[Placed, ...]

    def scalar(self) -> Item:
        if isinstance(self.value, (list, tuple, Mapping)):
            raise ValueError(f"{self.key} takes one value, not a list or table")
        at = self.value_place
        return Item(self.value, at.file, at.line, at.column, typed=True)

    def items(self) -> list[Item]:
        if not isinstance(self.value, (list, tuple)):
            raise ValueError(f'{self.key} takes a list: write {self.key} = ["…", "…"]')
        return [
            Item(value, at.file, at.line, at.column, typed=True)
            for value, at in zip(self.value, self.item_places, strict=True)
        ]


def looks_like_toml(text: str) -> bool:
    """Whether a table `[devices.NAME]`, `[interfaces.NAME]` or `[templates.NAME]` stands in it: a
    key file has none."""
    return _HEADER.search(text) is not None


def parse(text: str, problems: Problems, file: str = "") -> list[Section]:
    """The sections of a TOML text; after a syntax error there are none, and one problem. The text
    stands in `file`, in that of the problems unless given."""
    file = file or problems.file
    try:
        data = tomllib.loads(text)
        places = _Scanner(text, file).places
    except RecursionError:
        problems.error(Place(file, 1, 1), "lists or tables are nested too deep")
        return []
    except ValueError as error:
        found = _WHERE.fullmatch(str(error))
        if found is None:
            problems.error(Place(file, 1, 1), f"not TOML: {error}")
        else:
            lines = text.split("\n")
            line, column = found["line"] or len(lines), found["column"] or len(lines[-1]) + 1
            problems.error(Place(file, int(line), int(column)), f"not TOML: {found['what']}")
        return []
    return _sections(data, places, problems)


def places(text: str) -> Places:
    """Of a text that is TOML."""
    return _Scanner(text, "").places


def written(value: bool | int | str | list[str]) -> str:
    """A value as it is written."""
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def written_key(*parts: str) -> str:
    """A key as it is written, with dots between its parts."""
    return ".".join(part if _BARE_KEY.fullmatch(part) else written(part) for part in parts)


def from_mapping(data: Mapping[str, object], problems: Problems) -> list[Section]:
    """The sections of settings that come from no file; every place is unknown."""
    return _sections(data, Places(problems.file), problems)


def _sections(data: Mapping[str, object], places: Places, problems: Problems) -> list[Section]:
    sections: list[Section] = []
    for name, table in data.items():
        at = places.keys.get((name,), places.unknown)
        if name not in _SECTIONS:
            hint = near(name, _SECTIONS) or ": known are " + ", ".join(_SECTIONS)
            problems.error(at, f"unknown table or option {quoted(name)}{hint}")
        elif not isinstance(table, Mapping):
            problems.error(at, f"{name} is a table: write [{name}]")
        elif name in KINDS:
            for member, content in table.items():
                place = places.keys.get((name, member), places.unknown)
                if isinstance(content, Mapping):
                    path = (name, member)
                    sections.append(_section(KINDS[name], path, place, content, places))
                else:
                    text = f"{quoted(member)} is no option of [{name}]: write [{name}.NAME] above"
                    problems.error(place, text)
        else:
            sections.append(_section(name, (name,), at, table, places))
    return sections


def _section(
    kind: str, path: tuple[str, ...], at: Place, table: Mapping[str, object], places: Places
) -> Section:
    section = Section(kind, path[-1], at.file, at.line, at.column, {})
    for key, value in table.items():
        place = places.keys.get((*path, key), at)
        value_place = places.values.get((*path, key), place)
        count = len(value) if isinstance(value, (list, tuple)) else 0
        item_places = [places.values.get((*path, key, n), value_place) for n in range(count)]
        section.entries[key] = TomlEntry(
            key, value, place.file, place.line, place.column, value_place, tuple(item_places)
        )
    return section


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    place: Place
    offset: int


class _Scanner:
    """Finds where each key and value stands in a text that the parser has already accepted."""

    def __init__(self, text: str, file: str) -> None:
        self.places = Places(file)
        self._tokens = list(_tokens(text, file))
        self._index = 0
        table: Path = ()
        while (token := self._peek()).kind != "end":
            if token.kind == "newline":
                self._index += 1
            elif token.text == "[":
                table = self._header()
            else:
                self._pair(table)

    def _peek(self) -> _Token:
        return self._tokens[self._index]

    def _next(self) -> _Token:
        token = self._tokens[self._index]
        self._index += 1
        return token

    def _header(self) -> Path:
        bracket = self._next()
        if self._peek().text == "[":
            self._index += 1
        path = self._key((), bracket.place)
        self.places.headers.setdefault(path, bracket.offset)
        while self._peek().text == "]":
            self._index += 1
        return path

    def _key(self, table: Path, place: Place) -> Path:
        path = table
        while True:
            token = self._next()
            name = token.text
            if token.kind == "string":
                name = tomllib.loads(f"name = {token.text}")["name"]
            path = (*path, name)
            self.places.keys.setdefault(path, place)
            if self._peek().text != ".":
                return path
            self._index += 1

    def _pair(self, table: Path) -> None:
        first = self._peek()
        path = self._key(table, first.place)
        self._index += 1  # the equals sign
        value = self._peek()
        self._value(path)
        last = self._tokens[self._index - 1]
        self.places.pairs[path] = Pair(first.offset, value.offset, last.offset + len(last.text))

    def _value(self, path: Path) -> None:
        token = self._next()
        self.places.values[path] = token.place
        if token.text == "[":
            index = 0
            while self._peek().text != "]":
                if self._peek().kind == "newline" or self._peek().text == ",":
                    self._index += 1
                else:
                    self._value((*path, index))
                    index += 1
            self._index += 1
        elif token.text == "{":
            while self._peek().text != "}":
                if self._peek().kind == "newline" or self._peek().text == ",":
                    self._index += 1
                else:
                    self._pair(path)
            self._index += 1
        else:
            while self._peek().kind in ("bare", "string") or self._peek().text == ".":
                self._index += 1


def _tokens(text: str, file: str) -> list[_Token]:
    tokens: list[_Token] = []
    line = 1
    line_start = 0
    for found in _TOKEN.finditer(text):
        place = Place(file, line, found.start() - line_start + 1)
        if found.lastgroup and found.lastgroup != "blank":
            tokens.append(_Token(found.lastgroup, found[0], place, found.start()))
        if newlines := found[0].count("\n"):
            line += newlines
            line_start = found.start() + found[0].rindex("\n") + 1
    tokens.append(_Token("end", "", Place(file, line, 1), len(text)))
    return tokens
