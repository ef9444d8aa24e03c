"""What both configuration dialects become: sections of entries that know where they stand.

Owns positions and the collection of problems. Knows no option, no default and no syntax.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ggaoe.errors import Problem

PROBLEMS_MAX = 100
"""Problems reported of one file; what is beyond is counted in one last line."""

QUOTED_CHARACTERS_MAX = 60


class Placed(Protocol):
    """Anything with a place in the file; lines and columns count from 1, line 0 is unknown."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Item:
    """One scalar of the file: text in a key file, a native value in TOML (`typed`)."""

    value: object
    line: int
    column: int
    typed: bool


class Entry(Placed, Protocol):
    """One `key = value`, placed at its key; the option's type decides how the value is read.

    Both readers raise ValueError, with a text for people, when the value cannot be read that way.
    """

    @property
    def key(self) -> str: ...
    @property
    def value_place(self) -> Placed: ...
    def scalar(self) -> Item: ...
    def items(self) -> list[Item]: ...


@dataclass(slots=True)
class Section:
    """A section as written; `kind` is None where the dialect leaves it to the keys."""

    kind: str | None
    name: str
    line: int
    column: int
    entries: dict[str, Entry]


class Problems:
    """Collects what is wrong with one file, so that all of it is reported at once."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []
        self.dropped = 0

    @property
    def full(self) -> bool:
        """Whether further errors are only counted."""
        return len(self.errors) >= PROBLEMS_MAX

    def error(self, at: Placed, message: str) -> None:
        if self.full:
            self.dropped += 1
        else:
            self.errors.append(Problem(self.file, at.line, at.column, message))

    def warn(self, at: Placed, message: str) -> None:
        if len(self.warnings) < PROBLEMS_MAX:
            self.warnings.append(Problem(self.file, at.line, at.column, message, warning=True))
        else:
            self.dropped += 1

    def report(self) -> list[Problem]:
        """Errors and warnings in the order of the file."""
        found = sorted(self.errors + self.warnings)
        if self.dropped:
            found.append(Problem(self.file, 0, 0, f"{self.dropped} more problems are not shown"))
        return found


def quoted(value: object) -> str:
    """`value` for a message: printable, in quotes when it is text, of bounded length."""
    try:
        text = repr(value)
    except ValueError:  # an integer beyond Python's limit of digits
        text = "a number of thousands of digits"
    return text if len(text) <= QUOTED_CHARACTERS_MAX else text[:QUOTED_CHARACTERS_MAX] + "…"


def near(word: str, known: Iterable[str]) -> str:
    """`: did you mean 'x'?` for the nearest known word, or nothing."""
    found = nearest(word, known)
    return f": did you mean {found!r}?" if found else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was most likely meant to be."""
    shown = word[:QUOTED_CHARACTERS_MAX].lower().replace("_", "-")
    found = difflib.get_close_matches(shown, list(known), n=1, cutoff=0.7)
    return found[0] if found else None
