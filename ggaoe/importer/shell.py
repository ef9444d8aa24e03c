"""Assignments of a shell fragment, as far as they need no shell: words, quotes and comments.

Nothing is executed: what would need a shell (expansions, commands) is an error that says so.
"""

from __future__ import annotations

import re

from ggaoe.config.document import quoted
from ggaoe.importer.report import Place, Report, Word

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_OPERATORS = "&|<>()"
_EXPANSIONS = "$`"


class _NeedsShellError(Exception):
    def __init__(self, at: Place, message: str) -> None:
        super().__init__(message)
        self.at = at


def assignments(text: str, file: str, report: Report) -> dict[str, Word]:
    """Name → value, the last one of each; every line that is none of these is an error."""
    found: dict[str, Word] = {}
    for number, line in enumerate(text.split("\n"), 1):
        try:
            found |= _line(line.removesuffix("\r"), Place(file, number, 1))
        except _NeedsShellError as error:
            report.error(error.at, str(error))
    return found


def _line(line: str, begin: Place) -> dict[str, Word]:
    """The assignments of a line; a value is placed behind its quote."""
    found: dict[str, Word] = {}
    is_command = False
    index = 0
    while index < len(line) and line[index] != "#":
        if line[index] == ";":
            if not is_command:
                text = "nothing stands before the ';': remove it"
                raise _NeedsShellError(begin.right(index), text)
            is_command = False
            index += 1
        elif line[index] in " \t":
            index += 1
        else:
            start = index
            named = _ASSIGNMENT.match(line, start)
            value, index = _word(line, named.end() if named else start, begin)
            if named is None:
                text = f"{quoted(value)} is no assignment: write NAME='VALUE' on one line"
                raise _NeedsShellError(begin.right(start), text)
            is_command = True
            inside = line[named.end() : named.end() + 1] in ("'", '"')
            found[named[1]] = Word(value, begin.right(named.end() + inside))
    return found


def _word(line: str, index: int, begin: Place) -> tuple[str, int]:
    taken: list[str] = []
    while index < len(line) and line[index] not in " \t;":
        character = line[index]
        if character in "'\"":
            piece, index = _quoted(line, index, begin)
            taken.append(piece)
            continue
        is_home = character == "~" and line[index - 1] in "=:"
        if is_home or character in _OPERATORS + _EXPANSIONS:
            text = f"{quoted(character)} needs a shell: write the plain value"
            raise _NeedsShellError(begin.right(index), text)
        if character == "\\":
            index += 1
            if index == len(line):
                text = "the line goes on in the next one: write it as one"
                raise _NeedsShellError(begin.right(index - 1), text)
        taken.append(line[index])
        index += 1
    return "".join(taken), index


def _quoted(line: str, index: int, begin: Place) -> tuple[str, int]:
    mark, start = line[index], index
    taken: list[str] = []
    index += 1
    while index < len(line) and line[index] != mark:
        if mark == '"' and line[index] in _EXPANSIONS:
            text = f"{quoted(line[index])} needs a shell: write the plain value"
            raise _NeedsShellError(begin.right(index), text)
        if mark == '"' and line[index] == "\\" and line[index + 1 : index + 2] in ('"', "\\", "$"):
            index += 1
        taken.append(line[index])
        index += 1
    if index == len(line):
        raise _NeedsShellError(begin.right(start), "the quote is not closed on its line: close it")
    return "".join(taken), index + 1
