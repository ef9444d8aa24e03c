"""What an import has found wrong, or could not carry over, each with its place in a foreign file.

Owns the collection, its bound, and reading text so that a file which cannot be read is one of the
problems. Knows no program's format.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ggaoe.config.document import PROBLEMS_MAX
from ggaoe.config.read import FILE_BYTES_MAX
from ggaoe.errors import ConfigError, Problem

FILES_MAX = 4096
"""Files of one import: of a directory, or included by each other."""


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


class Report:
    """Errors, which prevent an import, and notes on what is not as it was."""

    def __init__(self) -> None:
        self._errors: list[Problem] = []
        self._notes: list[Problem] = []
        self._dropped = 0

    @property
    def failed(self) -> bool:
        """Whether there are errors."""
        return bool(self._errors)

    def error(self, at: Place, message: str) -> None:
        self._add(self._errors, Problem(at.file, at.line, at.column, message))

    def note(self, at: Place, message: str) -> None:
        self._add(self._notes, Problem(at.file, at.line, at.column, message, warning=True))

    def add(self, problem: Problem) -> None:
        """One that the configuration's own check has found."""
        self._add(self._notes if problem.warning else self._errors, problem)

    def _add(self, problems: list[Problem], problem: Problem) -> None:
        if len(problems) < PROBLEMS_MAX:
            problems.append(problem)
        else:
            self._dropped += 1

    def settle(self) -> list[Problem]:
        """The notes, in the order of the files; ConfigError with everything where there are
        errors."""
        found = sorted(self._errors + self._notes)
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
