"""What foreign programs export, in one form, and what becomes of it in our configuration.

Owns the checks that all imports share, the joining of exports that differ in their interface only
(a device of ours has many, and then requests keep one order), and the names of sections. Knows no
program's format and no syntax of ours.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from glob import escape

from ggaoe import units
from ggaoe.config import schema
from ggaoe.config.build import INTERFACE_NAME_BYTES_MAX
from ggaoe.config.document import Item, quoted
from ggaoe.config.sections import TEMPLATE, is_device_name
from ggaoe.config.values import convert
from ggaoe.importer.report import Place, Report, Word

Value = bool | int | str | tuple[str, ...]
Options = dict[str, Value]

_FIXED_SECTIONS = ("defaults", "acls")
_SECTION_NAME = re.compile(r"[\w@+-][\w .:@+-]*")
_MAC_DIGITS = re.compile(r"(?:[0-9a-fA-F]{2}:?){5}[0-9a-fA-F]{2}")


@dataclass
class Export:
    """One thing that a foreign program exports; `options` are ours by their keys."""

    shelf: int
    slot: int
    path: str
    interfaces: tuple[str, ...]
    options: Options
    at: Place
    name: str = ""
    enabled: bool = True

    @property
    def address(self) -> str:
        return f"e{self.shelf}.{self.slot}"


@dataclass
class Imported:
    """All that one foreign configuration holds."""

    exports: list[Export] = field(default_factory=list)
    acls: dict[str, tuple[str, ...]] = field(default_factory=dict)
    interfaces: dict[str, Options] = field(default_factory=dict)


@dataclass
class Sections:
    """Our configuration, ready to be written; `disabled` names devices that are not exported."""

    acls: Options
    interfaces: dict[str, Options]
    devices: dict[str, Options]
    disabled: frozenset[str]


# Single values


def number(key: str, word: Word, report: Report) -> int | None:
    """The value of our option `key`, a whole number; None where it cannot have it."""
    try:
        value = convert(schema.BY_KEY[key], Item(word.text, "", 0, 0, typed=False))
    except ValueError as error:
        report.error(word.at, str(error))
        return None
    if not isinstance(value, int):
        report.error(word.at, f"{quoted(word.text)} is no number")
        return None
    return value


def path_of(word: Word, report: Report) -> str | None:
    """A file or block device by its absolute path."""
    if not word.text.startswith("/"):
        text = f"{quoted(word.text)} is no absolute path: write where the file is"
        report.error(word.at, text)
    elif not word.text.isprintable():
        report.error(word.at, f"{quoted(word.text)} cannot be printed: give the file another name")
    else:
        return word.text
    return None


def interface_of(word: Word, report: Report) -> str | None:
    """An interface by its name; what our configuration refuses as one is an error."""
    name = word.text
    wrong = any(character.isspace() or character in "/:;\"'" for character in name)
    if wrong or not name.isprintable() or not 0 < len(name.encode()) <= INTERFACE_NAME_BYTES_MAX:
        report.error(word.at, f"{quoted(name)} is no name of an interface")
        return None
    return name


def mac_of(word: Word, report: Report) -> str | None:
    """A host's address, with all colons, some or none, in the form of ours."""
    try:
        if _MAC_DIGITS.fullmatch(word.text):
            mac = bytes.fromhex(word.text.replace(":", ""))
        else:
            mac = units.parse_mac(word.text)
    except ValueError as error:
        report.error(word.at, str(error))
        return None
    if mac[0] & 1:
        report.error(word.at, f"{quoted(word.text)} is a multicast address: no host sends from one")
        return None
    return units.format_mac(mac)


def export_of(
    shelf: Word,
    slot: Word,
    interface: Word,
    path: Word,
    options: Options,
    report: Report,
) -> Export | None:
    """An export of checked values; None where one of them is wrong."""
    numbers = number("shelf", shelf, report), number("slot", slot, report)
    name, file = interface_of(interface, report), path_of(path, report)
    if numbers[0] is None or numbers[1] is None or name is None or file is None:
        return None
    return Export(numbers[0], numbers[1], file, (name,), options, shelf.at)


# From exports to sections


def sections_of(imported: Imported, report: Report) -> Sections:
    """Our sections for what was imported; what cannot be served as it stands goes to `report`."""
    exports = _joined(imported.exports, report)
    _tell_overlaps(exports, report)
    devices: dict[str, Options] = {}
    disabled = set()
    taken = set(imported.interfaces)
    for export in exports:
        name = _name(export, taken)
        taken.add(name)
        devices[name] = {
            "path": export.path,
            "shelf": export.shelf,
            "slot": export.slot,
            "interfaces": tuple(escape(interface) for interface in export.interfaces),
            **export.options,
        }
        if not export.enabled:
            disabled.add(name)
    return Sections({**imported.acls}, imported.interfaces, devices, frozenset(disabled))


def _joined(exports: Iterable[Export], report: Report) -> list[Export]:
    """One export for each address; two of one address on one interface are an error."""
    joined: dict[tuple[int, int], list[Export]] = {}
    for export in exports:
        group = joined.setdefault((export.shelf, export.slot), [])
        for other in group:
            if set(other.interfaces) & set(export.interfaces):
                text = f"{export.address} is exported on {export.interfaces[0]} already"
                report.error(export.at, f"{text} ({other.at}): remove one of the two")
                break
            if (other.path, other.options, other.enabled) == (
                export.path,
                export.options,
                export.enabled,
            ):
                other.interfaces += export.interfaces
                break
        else:
            group.append(export)
    return [export for group in joined.values() for export in group]


def _tell_overlaps(exports: list[Export], report: Report) -> None:
    by_path: dict[str, list[Export]] = {}
    for export in exports:
        if not export.enabled:
            continue
        same = by_path.setdefault(os.path.realpath(export.path), [])
        for other in same:
            if _overlap(export, other):
                report.note(
                    export.at,
                    f"exports what {other.address} ({other.at}) exports, too: ggaoe lets one "
                    "device write to a part of a file, and the other one waits: remove one, or "
                    "make both the same but for the interface, or both read-only",
                )
                break
        same.append(export)


def _overlap(one: Export, other: Export) -> bool:
    if one.options.get("read-only") and other.options.get("read-only"):
        return False
    first, second = _part(one), _part(other)
    return first[0] < second[1] and second[0] < first[1]


def _part(export: Export) -> tuple[float, float]:
    start, length = export.options.get("offset", 0), export.options.get("length")
    assert isinstance(start, int)
    return start, start + length if isinstance(length, int) else float("inf")


def _name(export: Export, taken: Collection[str]) -> str:
    """The section's name: the one it had where it can have it, else its address."""
    names = [export.name, export.address, f"{export.address}-{export.interfaces[0]}"]
    for name in names:
        if _is_section_name(name) and name not in taken:
            return name
    return next(
        name for n in range(2, len(taken) + 3) if (name := f"{export.address}-{n}") not in taken
    )


def _is_section_name(name: str) -> bool:
    return (
        bool(_SECTION_NAME.fullmatch(name))
        and name == name.strip()
        and is_device_name(name)
        and not name.startswith(TEMPLATE)
        and name not in _FIXED_SECTIONS
    )
