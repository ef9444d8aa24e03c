"""What both configuration dialects become: sections of entries that know where they stand, be it in
one file or in several.

Owns positions and the collection of problems. Knows no option, no default and no syntax.
"""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from ggaoe.errors import Problem
from ggaoe.units import counted

PROBLEMS_MAX = 100
"""Problems reported of one file; what is beyond is counted in one last line."""

QUOTED_CHARACTERS_MAX = 60


class Placed(Protocol):
    """Anything with a place in a file; lines and columns count from 1, line 0 is unknown."""

    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Place:
    """A place and nothing else."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Item:
    """One scalar of the file: text in a key file, a native value in TOML (`typed`)."""

    value: object
    file: str
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
    file: str
    line: int
    column: int
    entries: dict[str, Entry]

    def without(self, keys: Container[str]) -> Section:
        """The section less some of its entries."""
        kept = {key: entry for key, entry in self.entries.items() if key not in keys}
        return replace(self, entries=kept)


class Problems:
    """Collects what is wrong with a file and those that it includes, so that all of it is reported
    at once. What several devices inherit is told once."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.errors: list[Problem] = []
        self.warnings: list[Problem] = []
        self.dropped = 0

    def copy(self) -> Problems:
        """Another collection that begins with what is in this one."""
        other = Problems(self.file)
        other.errors, other.warnings = self.errors.copy(), self.warnings.copy()
        other.dropped = self.dropped
        return other

    @property
    def full(self) -> bool:
        """Whether further errors are only counted."""
        return len(self.errors) >= PROBLEMS_MAX

    def error(self, at: Placed, message: str) -> None:
        self._collect(self.errors, Problem(at.file, at.line, at.column, message))

    def warn(self, at: Placed, message: str) -> None:
        self._collect(self.warnings, Problem(at.file, at.line, at.column, message, warning=True))

    def _collect(self, found: list[Problem], problem: Problem) -> None:
        if problem in found:
            return
        if len(found) < PROBLEMS_MAX:
            found.append(problem)
        else:
            self.dropped += 1

    def report(self) -> list[Problem]:
        """Errors and warnings in the order of each file."""
        found = sorted(self.errors + self.warnings)
        if self.dropped:
            found.append(
                Problem(self.file, 0, 0, f"not shown: {counted(self.dropped, 'more problem')}")
            )
        return found


def quoted(value: object) -> str:
    """`value` for a message: printable, in quotes when it is text, of bounded length."""
    try:
        text = repr(value)
    except ValueError:  # an integer beyond Python's limit of digits
        text = "a number of thousands of digits"
    return text if len(text) <= QUOTED_CHARACTERS_MAX else text[:QUOTED_CHARACTERS_MAX] + "…"


def written(at: Placed) -> str:
    """A place as people read it."""
    return f"{at.file}:{at.line}:{at.column}" if at.line else at.file


def near(word: str, known: Iterable[str]) -> str:
    """`: did you mean 'x'?` for the nearest known word, or nothing."""
    found = nearest(word, known)
    return f": did you mean {found!r}?" if found else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was most likely meant to be."""
    shown = word[:QUOTED_CHARACTERS_MAX].lower().replace("_", "-")
    found = difflib.get_close_matches(shown, list(known), n=1, cutoff=0.7)
    return found[0] if found else None
