"""vblade's exports: a directory of fragments (/etc/vblade.conf.d), or a file with a line for each.

Owns both forms, and what vblade's options mean here. vblade(8), vblade-persistence(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from ggaoe.config.document import near, quoted
from ggaoe.importer import shell
from ggaoe.importer.model import Export, Imported, Options, export_of, mac_of, number
from ggaoe.importer.report import Place, Report, Word, read_text, visible
from ggaoe.proto.frame import SECTOR_BYTES
from ggaoe.units import counted

DEFAULT_SOURCE = Path("/etc/vblade.conf.d")

_FLAGS = "dsr"
_VALUED = "bmol"
_VARIABLES = ("shelf", "slot", "netif", "filename")
_OPTIONAL_VARIABLES = ("options", "ionice")
_WORD = re.compile(r"\S+")
_NUMBER = re.compile(r"[0-9]+")
_SECTORS = {
    8: re.compile(r"0[0-7]*"),
    10: re.compile(r"[1-9][0-9]*"),
    16: re.compile(r"0[xX][0-9a-fA-F]+"),
}
"""How -o and -l write numbers to each base, as strtol(3) finds it out."""
_SECTORS_CHARACTERS_MAX = 20
_HOST = re.compile(r"(?:[0-9a-fA-F]{2}:?){5}[0-9a-fA-F]{2}")


def read(source: Path, report: Report) -> Imported:
    """What `source` exports: a directory of fragments, one fragment, or a file of lines."""
    imported = Imported()
    if source.is_dir():
        for path in visible(source, report):
            if path.suffix == ".conf" and path.is_file():
                imported.exports += _fragment(path, report)
        return imported
    text = read_text(source, report)
    if text is None:
        return imported
    if _is_fragment(text):
        imported.exports += _fragment(source, report)
    else:
        for line_number, line in enumerate(text.split("\n"), 1):
            if export := _line(line, Place(str(source), line_number, 1), report):
                imported.exports.append(export)
    return imported


def _is_fragment(text: str) -> bool:
    words = [line.split(None, 1)[0] for line in text.split("\n") if line.strip()]
    first = next((word for word in words if not word.startswith("#")), "")
    return "=" in first


# --- fragments ---------------------------------------------------------------------------------


def _fragment(path: Path, report: Report) -> list[Export]:
    text = read_text(path, report)
    if text is None:
        return []
    found = shell.assignments(text, str(path), report)
    whole = Place(str(path))
    known = (*_VARIABLES, *_OPTIONAL_VARIABLES)
    for name, value in found.items():
        if name not in known:
            text = f"{name} has no meaning for vblade, and is left out{near(name, known)}"
            report.note(value.at, text)
    missing = [name for name in _VARIABLES if name not in found or not found[name].text]
    if missing:
        text = f"sets no {', '.join(missing)}, so vblade does not export it: left out"
        report.note(whole, f"{text}; complete it and import again if it is wanted")
        return []
    given = found.get("options", Word("", whole))
    options = options_of(words_of(given), found["shelf"].at, report)
    if ionice := found.get("ionice"):
        text = "ionice is not carried over: one ggaoe serves all devices"
        report.note(ionice.at, f"{text}; set IOSchedulingClass= of its unit, for all of them")
    shelf, slot, netif, filename = (found[name] for name in _VARIABLES)
    export = export_of(shelf, slot, netif, filename, options, report)
    if export is None:
        return []
    export.name = path.stem
    return [export]


# --- one file ----------------------------------------------------------------------------------


def _line(line: str, at: Place, report: Report) -> Export | None:
    """`SHELF SLOT NETIF FILE [OPTIONS]`, or `NETIF SHELF SLOT FILE [MAC,…]` as in Fedora's."""
    words = list(takewhile(lambda word: word.text[0] != "#", words_of(Word(line, at))))
    if not words:
        return None
    if len(words) < 4:
        found = counted(len(words), "word")
        text = f"{found}: write SHELF SLOT NETIF FILE [OPTIONS], or remove the line"
        report.error(words[0].at, text)
        return None
    head, rest = words[:4], words[4:]
    if _NUMBER.fullmatch(head[0].text):
        shelf, slot, netif, filename = head
    else:
        netif, shelf, slot, filename = head
        if len(rest) == 1 and not rest[0].text.startswith("-"):
            rest.insert(0, Word("-m", rest[0].at))
    return export_of(shelf, slot, netif, filename, options_of(rest, shelf.at, report), report)


def words_of(text: Word) -> list[Word]:
    """What blanks part."""
    return [Word(one[0], text.at.right(one.start())) for one in _WORD.finditer(text.text)]


# --- options -----------------------------------------------------------------------------------


@dataclass
class _Given:
    """The options on a command line; of repeated ones the last counts, but for hosts."""

    flags: set[str] = field(default_factory=set)
    values: dict[str, Word] = field(default_factory=dict)
    hosts: list[Word] = field(default_factory=list)


def options_of(words: list[Word], at: Place, report: Report) -> Options:
    """What options of vblade at `at` are here; notes say what is not as it was."""
    given = _parse(words, report)
    options: Options = {
        "read-only": "r" in given.flags,
        "direct-io": "d" in given.flags,
        "write-cache": False,
    }
    if not given.flags & {"s", "r"}:
        report.note(
            at,
            "vblade acknowledges writes before they are on stable storage, ggaoe does not: set "
            "write-cache = true if their loss in a power cut is better than waiting",
        )
    if word := given.values.get("b"):
        length = number("queue-length", word, report)
        if length == 1:
            report.note(word.at, "one buffer: a Linux host would never bring it up; taken as 2")
        options["queue-length"] = max(length or 0, 2)
    for letter, key in (("o", "offset"), ("l", "length")):
        if word := given.values.get(letter):
            options[key] = _sectors(key, word, report)
    if given.hosts:
        macs = [mac for word in given.hosts if (mac := host_of(word, report))]
        options["accept"] = tuple(dict.fromkeys(macs))
    return options


def sectors_of(text: str) -> int:
    """What vblade takes for -o and -l: hexadecimal behind 0x, octal behind 0; ValueError for what
    it would take a part of."""
    for base, pattern in _SECTORS.items():
        if len(text) <= _SECTORS_CHARACTERS_MAX and pattern.fullmatch(text):
            return int(text, base)
    raise ValueError(f"{quoted(text)} is no number of sectors: write a whole number")


def host_of(word: Word, report: Report) -> str | None:
    """A host as vblade knows it: two digits for each byte, colons where somebody likes them. Others
    it leaves out, and where all are left out it serves everybody: an error."""
    if not _HOST.fullmatch(word.text):
        text = f"{quoted(word.text)} is not a MAC address: write it as 02:00:00:00:00:01"
        report.error(word.at, text)
        return None
    return mac_of(word, report)


def _sectors(key: str, word: Word, report: Report) -> int:
    """A count of sectors in bytes."""
    try:
        sectors = sectors_of(word.text)
    except ValueError as error:
        report.error(word.at, str(error))
        return 0
    size_bytes = sectors * SECTOR_BYTES
    if size_bytes:
        number(key, Word(str(size_bytes), word.at), report)
    elif key == "length":
        report.error(word.at, "a length of 0 sectors: vblade refuses it: remove -l or give one")
    return size_bytes


def _parse(words: list[Word], report: Report) -> _Given:
    given = _Given()
    rest = iter(words)
    for word in rest:
        if not word.text.startswith("-") or len(word.text) < 2:
            text = f"{quoted(word.text)} is no option of vblade: -b -d -s -r -m -o -l are known"
            report.error(word.at, text)
            break
        _cluster(word, rest, given, report)
    return given


def _cluster(word: Word, rest: Iterator[Word], given: _Given, report: Report) -> None:
    """The letters behind one dash; one that takes a value takes the rest, or the next word."""
    for index, letter in enumerate(word.text[1:], 1):
        at = word.at.right(index)
        if letter in _FLAGS:
            given.flags.add(letter)
            continue
        if letter not in _VALUED:
            report.error(at, f"-{letter} is no option of vblade: remove it")
            return
        value = Word(word.text[index + 1 :], at.right(1))
        if not value.text:
            following = next(rest, None)
            if following is None:
                report.error(at, f"-{letter} has no value: give it one, or remove it")
                return
            value = following
        if letter == "m":
            given.hosts += hosts_of(value)
        else:
            given.values[letter] = value
        return


def hosts_of(value: Word) -> list[Word]:
    """The items of a list that is separated by commas."""
    words = []
    start = 0
    for item in value.text.split(","):
        words.append(Word(item, value.at.right(start)))
        start += len(item) + 1
    return words
