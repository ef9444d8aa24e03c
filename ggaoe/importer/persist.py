"""vblade-persist's exports: a directory for each, with a file for each of its values.

`eSHELF.SLOT/env/{SHELF,SLOT,NETIF,SOURCE}` hold a value each, names in `macs` are the hosts that
may use it, and a file `down` keeps the supervisor (runit) from starting it: that is `noauto`.
"""

from __future__ import annotations

from pathlib import Path

from ggaoe.importer.model import Export, Imported, export_of
from ggaoe.importer.report import Place, Report, Word, read_line, visible
from ggaoe.importer.vblade import options_of

DEFAULT_SOURCE = Path("/var/lib/vblade-persist/vblades")

_FILES = ("SHELF", "SLOT", "NETIF", "SOURCE")


def read(source: Path, report: Report) -> Imported:
    """The exports below `source`, or below `source`/vblades."""
    below = source / "vblades"
    imported = Imported()
    for directory in visible(below if below.is_dir() else source, report):
        if directory.is_dir() and (export := _export(directory, report)):
            imported.exports.append(export)
    return imported


def _export(directory: Path, report: Report) -> Export | None:
    whole = Place(str(directory))
    missing = [name for name in _FILES if not (directory / "env" / name).is_file()]
    if missing:
        text = f"no export: env/{', env/'.join(missing)} is missing: left out"
        report.note(whole, text)
        return None
    words = [read_line(directory / "env" / name, report) for name in _FILES]
    given: list[Word] = []
    macs = directory / "macs"
    if macs.is_dir():
        for path in visible(macs, report):
            given += [Word("-m", whole), Word(path.name, Place(str(path)))]
    options = options_of(given, whole, report)
    shelf, slot, netif, path_word = words
    if shelf is None or slot is None or netif is None or path_word is None:
        return None
    export = export_of(shelf, slot, netif, path_word, options, report)
    if export is not None and (directory / "down").exists():
        export.enabled = False
        text = f"noauto: {export.address} is commented out; remove the marks to export it"
        report.note(Place(str(directory / "down")), text)
    return export
