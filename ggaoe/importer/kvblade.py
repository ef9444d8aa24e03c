"""kvblade's exports: what the kernel module shows in sysfs while it serves.

A directory SHELF.SLOT@INTERFACE for each, with an attribute `bpath` (the block device) and, among
others, `sn` (the serial number that hosts see).
"""

from __future__ import annotations

import re
from pathlib import Path

from ggaoe.importer.model import Export, Imported, export_of
from ggaoe.importer.report import Place, Report, Word, listed, read_line

DEFAULT_SOURCE = Path("/sys/kvblade")

_DIRECTORY = re.compile(r"(\d+)\.(\d+)@(.*)")
_SERIAL_UNSET = "SN HERE"


def read(source: Path, report: Report) -> Imported:
    """What the module exports now."""
    imported = Imported()
    for directory in listed(source, report):
        found = _DIRECTORY.fullmatch(directory.name)
        if found and directory.is_dir() and (export := _export(directory, found, report)):
            imported.exports.append(export)
    return imported


def _export(directory: Path, found: re.Match[str], report: Report) -> Export | None:
    whole = Place(str(directory))
    path = read_line(directory / "bpath", report)
    if path is None:
        return None
    if (directory / "sn").is_file():
        serial = read_line(directory / "sn", report)
        if serial is not None and serial.text not in ("", _SERIAL_UNSET):
            text = "the serial number is not carried over: hosts see the name of the section"
            report.note(serial.at, f"{text}; name it {serial.text!r} if they go by that")
    shelf, slot, interface = (Word(text, whole) for text in found.groups())
    options = {"direct-io": True, "write-cache": False}
    return export_of(shelf, slot, interface, path, {**options}, report)
