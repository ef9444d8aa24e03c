"""What an import has found wrong, or could not carry over, each with its place in a foreign file.

Owns the collection, its bound, and reading text so that a file which cannot be read is one of the
problems. Knows no program's format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ggaoe.config.document import PROBLEMS_MAX
from ggaoe.config.read import FILE_BYTES_MAX
from ggaoe.errors import ConfigError, Problem

FILES_MAX = 4096
"""Files of one import: of a directory, or included by each other."""

PLACES_MAX = 3
"""Named of those where the same was found again."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands; lines and columns count from 1, line 0 is the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def right(self, characters: int) -> Place:
        return Place(self.file, self.line, self.column + characters)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Word:
    """A piece of a foreign file, without its quotes, and where it begins."""

    text: str
    at: Place


@dataclass(slots=True)
class _Note:
    """What was told, first of all and then again: of many places some are named."""

    first: Problem
    others: list[Place] = field(default_factory=list)
    more: int = 0

    def add(self, at: Place) -> None:
        if at in (Place(*self.first[:3]), *self.others):
            return
        if len(self.others) < PLACES_MAX:
            self.others.append(at)
        else:
            self.more += 1

    def problem(self) -> Problem:
        if not self.others:
            return self.first
        places = ", ".join(map(str, self.others)) + (f" and {self.more} more" if self.more else "")
        return self.first._replace(message=f"{self.first.message} (also {places})")


class Report:
    """Errors, which prevent an import, and notes on what is not as it was."""

    def __init__(self) -> None:
        self._errors: list[Problem] = []
        self._notes: dict[str, _Note] = {}
        self._dropped = 0

    @property
    def failed(self) -> bool:
        """Whether there are errors."""
        return bool(self._errors)

    def error(self, at: Place, message: str) -> None:
        if len(self._errors) < PROBLEMS_MAX:
            self._errors.append(Problem(at.file, at.line, at.column, message))
        else:
            self._dropped += 1

    def note(self, at: Place, message: str) -> None:
        """What is noted of many places is told once, so that it leaves room for the rest."""
        note = self._notes.get(message)
        if note is not None:
            note.add(at)
        elif len(self._notes) < PROBLEMS_MAX:
            first = Problem(at.file, at.line, at.column, message, warning=True)
            self._notes[message] = _Note(first)
        else:
            self._dropped += 1

    def add(self, problem: Problem) -> None:
        """One that the configuration's own check has found."""
        tell = self.note if problem.warning else self.error
        tell(Place(problem.file, problem.line, problem.column), problem.message)

    def settle(self) -> list[Problem]:
        """The notes, in the order of the files; ConfigError with everything where there are
        errors."""
        found = sorted([*self._errors, *(note.problem() for note in self._notes.values())])
        if self._dropped:
            found.append(
                Problem("ggaoe import", 0, 0, f"not shown: {self._dropped} more", warning=True)
            )
        if self._errors:
            raise ConfigError(found)
        return found


def read_bytes(path: Path, report: Report) -> bytes | None:
    """A file's content; None where it cannot be read, which is an error of the import."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        report.error(Place(str(path)), f"cannot be read: {error.strerror}")
        return None
    if len(content) > FILE_BYTES_MAX:
        text = f"is larger than {FILE_BYTES_MAX} bytes, so it is hardly what it should be"
        report.error(Place(str(path)), text)
        return None
    return content


def read_text(path: Path, report: Report) -> str | None:
    """As `read_bytes`, of text in UTF-8."""
    content = read_bytes(path, report)
    if content is None:
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        at = Place(str(path), before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        report.error(at, f"byte 0x{content[error.start]:02x} is not UTF-8: save the file in it")
        return None


def read_line(path: Path, report: Report) -> Word | None:
    """The only line of a file, as directories that hold a value per file have them."""
    text = read_text(path, report)
    if text is None:
        return None
    line, _, rest = text.partition("\n")
    if rest.strip():
        report.error(Place(str(path), 2, 1), "a second line: the file holds one value")
        return None
    return Word(line.strip(), Place(str(path), 1, 1))


def listed(directory: Path, report: Report) -> list[Path]:
    """What is in a directory, sorted by name; empty where it cannot be listed, which is an error
    of the import."""
    try:
        found = sorted(directory.iterdir())
    except OSError as error:
        report.error(Place(str(directory)), f"cannot be listed: {error.strerror}")
        return []
    if len(found) > FILES_MAX:
        report.error(Place(str(directory)), f"holds more than {FILES_MAX} files")
        return []
    return found


def visible(directory: Path, report: Report) -> list[Path]:
    """As `listed`, less hidden files, which neither a shell's `*` nor a supervisor finds."""
    return [path for path in listed(directory, report) if not path.name.startswith(".")]
