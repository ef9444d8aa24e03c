"""The INI dialect of the original ggaoed.conf: GLib's key file with `,` as list separator.

Owns the syntax, escapes and positions. Knows no option: what a value means is decided elsewhere.
The rules are GLib's (checked against it by a property test): `#` starts a comment only at the start
of a line; a repeated section is merged; the last of repeated keys counts; an indented line is an
ordinary line. Unlike GLib, all wrong lines are reported, and a repeated key is warned about.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ggaoe.config.document import Item, Place, Placed, Problems, Section, quoted, written

LIST_SEPARATOR = ","

_BLANKS = " \t\r\n\f"  # g_ascii_isspace: no vertical tab, no Unicode blanks
_SECTION_NAME = re.compile(r"[^\x00-\x1f\x7f\[\]]+")
_KEY_NAME = re.compile(r"[^=\[\]]+(?:\[[\w.@-]*\])?")  # the bracket: a locale, as in Name[de]
_ESCAPES = {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


@dataclass(frozen=True, slots=True)
class KeyfileEntry:
    """`key = raw`: the raw value still holds its escapes and trailing blanks, as GLib keeps it."""

    key: str
    raw: str
    file: str
    line: int
    column: int
    value_column: int

    @property
    def value_place(self) -> Placed:
        return Place(self.file, self.line, self.value_column)

    def scalar(self) -> Item:
        """The value as one text; blanks at the line's end do not count (`\\s` does)."""
        text = unescape(self.raw.rstrip(_BLANKS))
        return Item(text, self.file, self.line, self.value_column, typed=False)

    def items(self) -> list[Item]:
        """The value as a list; blanks around the items do not count, nor do empty items."""
        return [
            Item(piece.strip(_BLANKS), self.file, self.line, self.value_column + start, typed=False)
            for start, piece in split_list(self.raw.rstrip(_BLANKS))
            if piece.strip(_BLANKS)
        ]


def unescape(raw: str) -> str:
    """The text of a raw value; ValueError for an escape that GLib does not know."""
    return "".join(piece for _, piece in _pieces(raw, ""))


def escape(text: str) -> str:
    """The raw value of a text, so that `unescape` of the line's value gives it back."""
    marks = {character: f"\\{mark}" for mark, character in _ESCAPES.items() if character != " "}
    raw = "".join(marks.get(character, character) for character in text)
    body = raw.strip(" ")
    before, after = len(raw) - len(raw.lstrip(" ")), len(raw) - len(raw.rstrip(" "))
    return "\\s" * before + body + "\\s" * (after if body else 0)


def split_list(raw: str) -> list[tuple[int, str]]:
    """(offset of the first non-blank, unescaped item) of a raw list value, blanks kept; a
    separator at the end starts no further item, `\\,` is a comma."""
    return _pieces(raw, LIST_SEPARATOR)


def _pieces(raw: str, separator: str) -> list[tuple[int, str]]:
    pieces: list[tuple[int, str]] = []
    taken: list[str] = []
    start = index = 0

    def close() -> None:
        blanks = len(raw[start:index]) - len(raw[start:index].lstrip(_BLANKS))
        pieces.append((start + blanks, "".join(taken)))
        taken.clear()

    while index < len(raw):
        character = raw[index]
        if character == "\\":
            index += 1
            follower = raw[index : index + 1]
            if follower and follower == separator:
                taken.append(follower)
            elif follower in _ESCAPES:
                taken.append(_ESCAPES[follower])
            else:
                sequence = quoted("\\" + follower).replace("\\\\", "\\")
                raise ValueError(f"{sequence} is not an escape: write \\\\ for a backslash")
        elif character == separator:
            close()
            start = index + 1
        else:
            taken.append(character)
        index += 1
    if taken or not separator:
        close()
    return pieces


class _Reader:
    """State between lines: the sections so far, and which of them is open."""

    def __init__(self, problems: Problems, file: str) -> None:
        self.problems = problems
        self.file = file
        self.sections: dict[str, Section] = {}
        self.current: Section | None = None
        self.skipping = False  # below a broken header its keys belong nowhere

    def line(self, number: int, line: str) -> None:
        body = line.lstrip(_BLANKS)
        if not body or body.startswith("#"):
            return
        at = Place(self.file, number, len(line) - len(body) + 1)
        if body.startswith("["):
            self.header(body, at)
        elif "=" in body[1:] and not body.startswith("="):
            self.pair(body, at)
        elif body.startswith(";"):
            self.problems.error(at, "';' starts no comment: write '#' instead")
        else:
            text = "is no [section], no 'option = value' and no '# comment'"
            self.problems.error(at, f"{quoted(body.rstrip())} {text}")

    def header(self, body: str, at: Place) -> None:
        name, closed, rest = body[1:].partition("]")
        wrong = ""
        if not closed:
            wrong = f"the section's name is not closed: write [{name.strip()}]"
        elif rest.strip(" \t"):
            wrong = f"{quoted(rest.strip())} follows the section's name: give it its own line"
        elif not _SECTION_NAME.fullmatch(name):
            wrong = (
                f"{quoted(name)} cannot name a section: no '[', no control characters, not empty"
            )
        self.skipping = bool(wrong)
        if wrong:
            self.problems.error(at, wrong)
        else:
            fresh = Section(None, name, at.file, at.line, at.column, {})
            self.current = self.sections.setdefault(name, fresh)

    def pair(self, body: str, at: Place) -> None:
        key, _, rest = body.partition("=")
        key = key.rstrip(_BLANKS)
        raw = rest.lstrip(_BLANKS)
        if self.skipping:
            return
        if self.current is None:
            text = f"option {quoted(key)} stands before the first section: put it below [defaults]"
            self.problems.error(at, text)
        elif not _KEY_NAME.fullmatch(key):
            self.problems.error(at, f"{quoted(key)} cannot be an option's name")
        else:
            entries = self.current.entries
            if key in entries:
                before = written(entries[key])
                text = f"option {quoted(key)} is set again, so the value at {before} has no effect"
                self.problems.warn(at, text)
            value_column = at.column + len(body) - len(raw)
            entries[key] = KeyfileEntry(key, raw, at.file, at.line, at.column, value_column)


def parse(text: str, problems: Problems, file: str = "") -> list[Section]:
    """The sections of a key file, in order of first appearance; wrong lines go to `problems`. The
    text stands in `file`, in that of the problems unless given."""
    reader = _Reader(problems, file or problems.file)
    *terminated, last = text.split("\n")
    for number, line in enumerate(terminated, 1):
        reader.line(number, line.removesuffix("\r"))
    reader.line(len(terminated) + 1, last)
    return list(reader.sections.values())
