"""From the sections of a document to those of each kind: what is a device, and what a template.

Owns how a section's kind is told, what may stand in several files, what templates become, and where
changes that are in no file come in. Reads no option but those that it needs for that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from ggaoe.config import schema
from ggaoe.config.document import Entry, Problems, Section, near, nearest, quoted, written
from ggaoe.config.overlay import Overlay, Overlays
from ggaoe.config.read import Document, fixed_part, pattern_in, unsearchable
from ggaoe.config.schema import Place
from ggaoe.config.slots import SLOT_MAX
from ggaoe.config.toml import TomlEntry
from ggaoe.config.values import convert

DEVICE_NAME_BYTES_MAX = 200  # as `file_name` has it

FIXED = ("defaults", "acls")
TEMPLATE = "template "
_NAMED = ("interface", "device", "template")
_IN_TEXT: dict[Place, str] = {
    "defaults": "[defaults]",
    "interface": "the section of an interface",
    "device": "the section of a device",
}


class Sections:
    """All sections by their kind; `device` has those that templates make, too."""

    def __init__(self, document: Document, overlays: Overlays, problems: Problems) -> None:
        self.problems = problems
        self.by_kind: dict[str, list[Section]] = {kind: [] for kind in (*FIXED, *_NAMED)}
        self.templates: list[tuple[Section, Path]] = []
        """Each with its absolute pattern."""
        self.derived: dict[str, str] = {}
        """The devices that templates make, and of what."""
        self.base = Path(document.source).absolute().parent
        self._document = document
        for section in document.sections:
            if kind := self._kind(section):
                name = section.name
                if section.kind is None and kind == "template":
                    name = name.removeprefix(TEMPLATE).strip()
                self.by_kind[kind].append(replace(section, name=name))
        self._check_repeated()
        self.changing = self._take_changing()
        """Sections that change options of single devices of templates, by the device's name."""
        # What a section of the file exports is not the template's meanwhile, either.
        explicit = set(self._explicit())
        self._overlay(overlays)
        explicit.update(self._explicit())
        self._overlays = overlays
        derived = [
            one for section in self.by_kind["template"] for one in self._expand(section, explicit)
        ]
        self.by_kind["device"] += derived
        for name in self.changing.keys() - self.derived.keys():
            text = "has no effect: its template has no such volume now (and it has no path)"
            self.problems.warn(self.changing[name], f"[{name}] {text}")
        self._check_names()

    def path_of(self, entry: Entry, value: Path) -> Path:
        """The absolute path: a relative one starts at the directory of the file it stands in."""
        return self._directory_of(entry) / value

    def _directory_of(self, entry: Entry) -> Path:
        return Path(entry.file).absolute().parent if entry.line else self.base

    # Kinds

    def _kind(self, section: Section) -> str | None:
        """What a section is; None when that cannot be told, which is a problem."""
        if section.kind:
            return section.kind
        if section.name in FIXED:
            return section.name
        if section.name.startswith(TEMPLATE):
            return "template"
        if not section.entries:
            text = f"section [{section.name}] is empty and has no effect"
            self.problems.warn(section, text)
            return None
        known = [schema.BY_KEY[key] for key in section.entries if key in schema.BY_KEY]
        if any(option.key in schema.DEVICE_MARKS for option in known):
            return "device"
        if meant := nearest(section.name, FIXED):
            text = f"unknown section [{section.name}]: did you mean [{meant}]?"
            self.problems.error(section, text)
            return None
        if any("device" in option.places for option in known):
            return "device"
        if any("interface" in option.places for option in known):
            return "interface"
        self._no_kind(section)
        return None

    def _no_kind(self, section: Section) -> None:
        self.problems.error(
            section,
            f"section [{section.name}] has no option of a device (path or uuid, shelf, slot) "
            "or of an interface (mtu, ring-buffer-size …)",
        )
        for entry in section.entries.values():
            if entry.key in schema.BY_KEY:
                misplaced(self.problems, entry, section)
            else:
                unknown(self.problems, entry, schema.BY_KEY)

    def _check_repeated(self) -> None:
        """Of several files: [defaults] and [acls] go on, every other section is in one of them."""
        for kind in FIXED:
            known: dict[str, Entry] = {}
            for section in self.by_kind[kind]:
                for key, entry in section.entries.items():
                    before = known.setdefault(key, entry)
                    if before is not entry and key != "include":
                        text = f"{quoted(key)} is set at {written(before)} already"
                        self.problems.error(entry, f"{text}: remove one of the two")
        for kind in _NAMED:
            first: dict[str, Section] = {}
            for section in self.by_kind[kind]:
                if (other := first.setdefault(section.name, section)) is not section:
                    text = f"{kind} [{section.name}] is at {written(other)} already"
                    self.problems.error(section, f"{text}: give one of the two another name")

    def _check_names(self) -> None:
        """Whoever names a section, as to change it, has to mean one."""
        interfaces = {section.name for section in self.by_kind["interface"]}
        for section in self.by_kind["device"]:
            if section.name in FIXED or section.name in interfaces:
                text = f"device [{section.name}] has the name of another section"
                self.problems.error(section, f"{text}: give it one of its own")

    # Changes that are in no file

    def _overlay(self, overlays: Overlays) -> None:
        for kind in FIXED:
            if overlay := overlays.get(kind):
                if not self.by_kind[kind]:
                    self.by_kind[kind].append(Section(kind, kind, self.problems.file, 0, 0, {}))
                first, *others = self.by_kind[kind]
                bare = [one.without(overlay.values) for one in others]
                self.by_kind[kind] = [overlay.changed(first), *bare]
        for kind in ("interface", "device"):
            found = [
                changed
                for section in self.by_kind[kind]
                if (changed := overlays.get(section.name, Overlay()).applied(section)) is not None
            ]
            self.by_kind[kind] = found
        known = {section.name for kind in self.by_kind.values() for section in kind}
        for name, overlay in overlays.items():
            if overlay.fresh and (overlay.removed or name not in known):
                self.by_kind[overlay.fresh].append(overlay.section(name))

    # Templates

    def _take_changing(self) -> dict[str, Section]:
        """Those that are called as a device of a template, and do not say what to export."""
        begins = tuple(f"{template.name}-" for template in self.by_kind["template"])
        found = {
            section.name: section
            for section in self.by_kind["device"]
            if section.name.startswith(begins) and not section.entries.keys() & {"path", "uuid"}
        }
        self.by_kind["device"] = [
            section for section in self.by_kind["device"] if section.name not in found
        ]
        return found

    def _explicit(self) -> Iterable[str]:
        """The real paths that devices with sections of their own export."""
        for section in self.by_kind["device"]:
            entry = section.entries.get("path")
            if entry is not None and (value := self._path(entry, None)):
                yield os.path.realpath(self.path_of(entry, Path(value)))

    def _path(self, entry: Entry, problems: Problems | None) -> str | None:
        """As it is written."""
        try:
            return str(convert(schema.BY_KEY["path"], entry.scalar()))
        except ValueError as error:
            if problems is not None:
                problems.error(entry.value_place, str(error))
            return None

    def _expand(self, section: Section, explicit: set[str]) -> list[Section]:
        """A device for each volume that a template matches and that no other section has."""
        entry = section.entries.get("path")
        what = f"template [{section.name}]"
        if not section.name:
            text = "a template needs a name, which its devices have in theirs: [template NAME]"
            self.problems.error(section, text)
        for key in ("uuid", "slot"):
            wrong = section.entries.get(key)
            if wrong is not None and (key == "uuid" or not _is_auto(wrong)):
                advice = "auto" if key == "slot" else "a path with wildcards"
                self.problems.error(wrong, f"{what} has a {key}: its devices take {advice}")
        if entry is None:
            self.problems.error(section, f"{what} has no path: add one, as in path = /dev/vg0/*")
            return []
        value = self._path(entry, self.problems)
        if value is None:
            return []
        pattern = pattern_in(self._directory_of(entry), value)
        self.templates.append((section, pattern))
        try:
            matched = self._document.matches(str(pattern))
        except OSError as error:
            text = unsearchable(fixed_part(str(pattern)), error)
            self.problems.error(entry.value_place, text)
            return []
        volumes = self._distinct(entry, matched, explicit)
        if len(volumes) > SLOT_MAX + 1:
            text = f"{what} matches {len(volumes)} volumes, and a shelf has {SLOT_MAX + 1} slots"
            advice = "narrow the pattern, or part it into templates with a shelf each"
            self.problems.error(entry.value_place, f"{text}: {advice}")
            return []
        found = [self._derived(section, entry, pattern, path) for path in volumes]
        return [one for one in found if one is not None]

    def _distinct(self, at: Entry, matched: Iterable[Path], explicit: set[str]) -> list[Path]:
        """Each volume by the first of its names, and none of `explicit`, where they are then."""
        volumes: dict[str, Path] = {}
        for path in matched:
            real = os.path.realpath(path)
            if real in volumes:
                text = f"{path} is not exported: it is the same as {volumes[real]}"
                self.problems.warn(at.value_place, text)
            elif real not in explicit:
                volumes[real] = path
        explicit.update(volumes)
        return list(volumes.values())

    def _derived(self, section: Section, at: Entry, pattern: Path, path: Path) -> Section | None:
        """The section of one volume; its name is the template's and the volume's."""
        part = str(path.relative_to(fixed_part(str(pattern)))).replace("/", "-")
        name = f"{section.name}-{part}"
        if not is_device_name(name):
            text = f"{quoted(name)} cannot name a device, so {quoted(str(path))} is not exported"
            self.problems.warn(at.value_place, text)
            return None
        what = f"{path} of template [{section.name}]"
        if name in self.derived:
            text = f"{what} would become device [{name}], as {self.derived[name]} would"
            self.problems.error(at.value_place, f"{text}: narrow a pattern, or rename a template")
            return None
        self.derived[name] = what
        overlay = self._overlays.get(name, Overlay())
        if overlay.removed:
            return None
        for other in self.by_kind["device"]:
            if other.name == name:
                text = f"{path} would become device [{name}], which is at {written(other)} already"
                self.problems.error(at.value_place, f"{text}: give the section another name")
                return None
        place = at.value_place
        volume = TomlEntry("path", str(path), at.file, at.line, at.column, place, ())
        auto = TomlEntry("slot", schema.AUTO, at.file, at.line, at.column, place, ())
        derived = replace(section, kind="device", name=name, entries={})
        own = overlay.changed(self.changing.get(name, derived)).entries
        entries = {**section.entries, "path": volume, "slot": auto, **own}
        return replace(derived, entries=entries)


def file_name(name: str) -> str:
    """What the file of a device called `name` is called, whatever characters it has."""
    return quote(name, safe=" ")


def is_device_name(name: str) -> bool:
    """Whether a device can be called so."""
    return (
        name not in ("", ".", "..")
        and "/" not in name
        and name.isprintable()
        and len(file_name(name)) <= DEVICE_NAME_BYTES_MAX
    )


def unknown(problems: Problems, entry: Entry, known: Iterable[str]) -> None:
    """Tell about an option that there is not."""
    hint = near(entry.key, known) or near(entry.key, schema.BY_KEY)
    advice = hint or ": remove it, or see the list of options"
    problems.error(entry, f"unknown option {quoted(entry.key)}{advice}")


def misplaced(problems: Problems, entry: Entry, section: Section) -> None:
    """Tell about an option that belongs elsewhere."""
    places = " or ".join(_IN_TEXT[place] for place in schema.BY_KEY[entry.key].places)
    text = f"option {quoted(entry.key)} cannot stand in [{section.name}]: it belongs in"
    problems.error(entry, f"{text} {places}")


def _is_auto(entry: Entry) -> bool:
    try:
        return entry.scalar().value == schema.AUTO
    except ValueError:
        return False
