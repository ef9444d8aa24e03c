"""The syntax of qaoed.conf: assignments and blocks, comments of C and of the shell, includes.

Owns tokens, nesting and the order that includes give: what a file includes follows all of its own
statements. Knows no keyword but `include`.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ggaoe.config.document import quoted
from ggaoe.importer.report import FILES_MAX, Place, Report, Word, read_text

NESTING_MAX = 8
"""Blocks within blocks; qaoed knows two."""

_TOKEN = re.compile(
    r"""
      (?P<blank>\s+|\#[^\n]*|/\*.*?\*/)
    | (?P<string>"[^"\n]*")
    | (?P<mark>[={};])
    | (?P<open>/\*|")
    | (?P<bare>[^\s={};"\#]+)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Assignment:
    """`key = value;`"""

    key: Word
    value: Word


@dataclass(frozen=True, slots=True)
class Block:
    """`key { … }`"""

    key: Word
    body: tuple[Statement, ...]


Statement = Assignment | Block


class _SyntaxError(Exception):
    def __init__(self, at: Place, message: str) -> None:
        super().__init__(message)
        self.at = at


def read(source: Path, report: Report) -> list[Statement]:
    """The statements of a file and of those that it includes."""
    return _Reader(report).file(source, ())


class _Reader:
    """Counts the files of one configuration, which may include each other."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.files = 0

    def file(self, path: Path, including: tuple[Path, ...]) -> list[Statement]:
        text = read_text(path, self.report)
        if text is None:
            return []
        self.files += 1
        try:
            statements = _Parser(list(_tokens(text, str(path)))).file()
        except _SyntaxError as error:
            self.report.error(error.at, str(error))
            return []
        own = [one for one in statements if not _is_include(one)]
        for one in statements:
            if isinstance(one, Assignment) and _is_include(one):
                own += self._included(one.value, (*including, path))
        return own

    def _included(self, pattern: Word, including: tuple[Path, ...]) -> list[Statement]:
        # qaoed looks where it was started, which nobody knows any more.
        base = including[-1].absolute().parent
        is_pattern = pattern.text and pattern.text.isprintable()
        found = sorted(glob.glob(str(base / pattern.text))) if is_pattern else []  # noqa: PTH207
        if not found:
            text = f"{quoted(pattern.text)} matches no file: nothing is included"
        else:
            text = f"{quoted(pattern.text)} is not looked up any more: what is there is included"
        self.report.note(pattern.at, f"{text}; ggaoe has an include of its own, in [defaults]")
        statements: list[Statement] = []
        for name in found:
            if os.path.realpath(name) in map(os.path.realpath, including):
                text = f"{name} includes itself: remove one of the inclusions"
                self.report.error(pattern.at, text)
            elif not Path(name).is_file():
                text = f"{name} is no regular file: name files, or narrow the pattern"
                self.report.error(pattern.at, text)
            elif self.files >= FILES_MAX:
                self.report.error(pattern.at, f"more than {FILES_MAX} files are included")
                break
            else:
                statements += self.file(Path(name), including)
        return statements


def _is_include(statement: Statement) -> bool:
    return isinstance(statement, Assignment) and statement.key.text == "include"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    word: Word

    def __str__(self) -> str:
        return "the end of the file" if self.kind == "end" else quoted(self.word.text)


def _tokens(text: str, file: str) -> Iterator[_Token]:
    line, line_start = 1, 0
    for found in _TOKEN.finditer(text):
        place = Place(file, line, found.start() - line_start + 1)
        kind = found.lastgroup or ""
        if kind == "open":
            what = "comment" if found[0] == "/*" else "quote"
            raise _SyntaxError(place, f"the {what} is not closed: close it")
        if kind != "blank":
            yield _Token(kind, Word(found[0].strip('"') if kind == "string" else found[0], place))
        if newlines := found[0].count("\n"):
            line += newlines
            line_start = found.start() + found[0].rindex("\n") + 1
    yield _Token("end", Word("", Place(file, line, len(text) - line_start + 1)))


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._index = 0

    def file(self) -> tuple[Statement, ...]:
        return self._statements(0)

    def _next(self) -> _Token:
        token = self._tokens[self._index]
        self._index += token.kind != "end"
        return token

    def _statements(self, depth: int) -> tuple[Statement, ...]:
        """Up to the end of the block, or of the file where `depth` is 0."""
        statements: list[Statement] = []
        while True:
            token = self._next()
            if token.kind == "end":
                if depth:
                    raise _SyntaxError(token.word.at, "a block is not closed: write } behind it")
                return tuple(statements)
            if token.word.text == "}" and token.kind == "mark":
                if not depth:
                    raise _SyntaxError(token.word.at, "no block is open here: remove the }")
                return tuple(statements)
            if token.kind == "mark":
                if token.word.text == ";":
                    continue
                raise _SyntaxError(token.word.at, f"a keyword is expected, not {token}")
            statements.append(self._statement(token.word, depth))

    def _statement(self, key: Word, depth: int) -> Statement:
        token = self._next()
        if token.kind == "mark" and token.word.text == "{":
            if depth == NESTING_MAX:
                text = f"more than {NESTING_MAX} blocks within each other"
                raise _SyntaxError(token.word.at, text)
            return Block(key, self._statements(depth + 1))
        if token.kind != "mark" or token.word.text != "=":
            text = f"= or {{ is expected behind {quoted(key.text)}, not {token}"
            raise _SyntaxError(token.word.at, text)
        value = self._next()
        if value.kind in ("mark", "end"):
            text = f"a value is expected for {quoted(key.text)}, not {value}"
            raise _SyntaxError(value.word.at, text)
        end = self._next()
        if end.kind != "mark" or end.word.text != ";":
            text = f"; is expected behind the value of {quoted(key.text)}, not {end}"
            raise _SyntaxError(end.word.at, f"{text}; a value with blanks stands in quotes")
        return Assignment(key, value.word)
