"""From the sections of one file to a Config, or to every problem that they have.

Owns the kinds of sections, inheritance from [defaults] and the rules between options. Options
themselves are in `schema`; syntax and files are not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ggaoe.config import acl, keyfile, schema
from ggaoe.config.document import Entry, Item, Placed, Problems, Section, near, nearest, quoted
from ggaoe.config.model import (
    Config,
    DeviceConfig,
    InterfaceConfig,
    Setting,
    may_share_interface,
)
from ggaoe.config.schema import Option, Place, Value
from ggaoe.errors import ConfigError
from ggaoe.proto.rules import EVERYBODY, Rules

DEVICE_NAME_BYTES_MAX = 200  # it names the device's state file
INTERFACE_NAME_BYTES_MAX = 15  # IFNAMSIZ of Linux, less its final zero
ORIGIN_DEFAULT = "default"

_FIXED_SECTIONS = ("defaults", "acls")
_IN_WARNINGS = {
    "accept": "use",
    "discover": "discover",
    "read": "read",
    "write": "write to",
    "change": "change settings of",
}
_IN_TEXT: dict[Place, str] = {
    "defaults": "[defaults]",
    "interface": "the section of an interface",
    "device": "the section of a device",
}


def build(sections: list[Section], problems: Problems, hosts: acl.Hosts) -> Config:
    """The configuration that the sections of a file make. ConfigError carries every problem,
    those that reading the file has left in `problems` included."""
    return _Builder(sections, problems, hosts).config()


@dataclass(slots=True)
class _Device:
    """A device section on its way: its settings, and its access lists as far as they resolve."""

    section: Section
    settings: dict[str, Setting]
    lists: dict[str, Rules]


class _Builder:
    """One pass over the sections of one file."""

    def __init__(self, sections: list[Section], problems: Problems, hosts: acl.Hosts) -> None:
        self.problems = problems
        self.base = Path(problems.file).absolute().parent
        self.by_kind: dict[str, list[Section]] = {
            kind: [] for kind in ("defaults", "acls", "interface", "device")
        }
        for section in sections:
            if kind := self._kind(section):
                self.by_kind[kind].append(section)
        self.defaults = {
            option.key: Setting(option.default, ORIGIN_DEFAULT)
            for option in schema.OPTIONS
            if not option.obsolete
        }
        for section in self.by_kind["defaults"]:
            self.defaults |= self._options(section, "defaults")
        self.lists = {
            key: self._items(entry)
            for section in self.by_kind["acls"]
            for key, entry in section.entries.items()
        }
        self.resolver = acl.Resolver(self.lists, hosts, problems)

    def config(self) -> Config:
        interfaces = {s.name: self._interface(s) for s in self.by_kind["interface"]}
        devices = [self._device(section) for section in self.by_kind["device"]]
        self._check_addresses(devices)
        if self.problems.errors:
            raise ConfigError(self.problems.report())
        for device in devices:
            self._warn_closed(device)
        return Config(
            source=self.problems.file,
            **self._fields("defaults", self.defaults, skip=("device", "interface")),
            default_interface_patterns=_patterns(self.defaults),
            default_interface=self._interface_config("", self.defaults),
            acls=MappingProxyType(self.resolver.resolved),
            interfaces=MappingProxyType(
                {name: self._interface_config(name, own) for name, own in interfaces.items()}
            ),
            devices=MappingProxyType(
                {device.section.name: self._device_config(device) for device in devices}
            ),
            settings=MappingProxyType(self._settings(interfaces, devices)),
            warnings=tuple(sorted(self.problems.warnings)),
        )

    # Sections

    def _kind(self, section: Section) -> str | None:
        """What a section is; None when that cannot be told, which is a problem."""
        if section.kind:
            return section.kind
        if section.name in _FIXED_SECTIONS:
            return section.name
        if not section.entries:
            text = f"section [{section.name}] is empty and has no effect"
            self.problems.warn(section, text)
            return None
        known = [schema.BY_KEY[key] for key in section.entries if key in schema.BY_KEY]
        if any(option.key in schema.DEVICE_MARKS for option in known):
            return "device"
        if meant := nearest(section.name, _FIXED_SECTIONS):
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
                self._misplaced(entry, section)
            else:
                self._unknown(entry, schema.BY_KEY)

    # Options

    def _options(self, section: Section, place: Place) -> dict[str, Setting]:
        """The valid settings of a section; what is wrong in it goes to the problems."""
        allowed = [option.key for option in schema.OPTIONS if place in option.places]
        settings: dict[str, Setting] = {}
        for entry in section.entries.values():
            option = schema.BY_KEY.get(entry.key)
            if option is None:
                self._unknown(entry, allowed)
            elif place not in option.places:
                self._misplaced(entry, section)
            elif option.obsolete:
                text = f"option {quoted(option.key)} is obsolete and ignored: {option.obsolete}"
                self.problems.warn(entry, text)
            else:
                self._set(settings, option, entry)
        return settings

    def _unknown(self, entry: Entry, known: Mapping[str, Option] | list[str]) -> None:
        hint = near(entry.key, known) or near(entry.key, schema.BY_KEY)
        advice = hint or ": remove it, or see the list of options"
        self.problems.error(entry, f"unknown option {quoted(entry.key)}{advice}")

    def _misplaced(self, entry: Entry, section: Section) -> None:
        places = " or ".join(_IN_TEXT[place] for place in schema.BY_KEY[entry.key].places)
        text = f"option {quoted(entry.key)} cannot stand in [{section.name}]: it belongs in"
        self.problems.error(entry, f"{text} {places}")

    def _set(self, settings: dict[str, Setting], option: Option, entry: Entry) -> None:
        item: Placed = entry.value_place
        try:
            if option.kind in schema.LISTS:
                texts = []
                for item in entry.items():
                    texts.append(str(schema.convert(option, item)))
                value: Value = tuple(texts)
            else:
                value = schema.convert(option, entry.scalar())
        except ValueError as error:
            self.problems.error(item, f"{error}{_comment_hint(entry)}")
            return
        if hint := _comment_hint(entry):
            self.problems.warn(item, f"the value of {option.key} holds a '#'{hint}")
        if option.raised and value == option.raised[0]:
            value = int(option.low)
            text = f"{option.key} = {option.raised[0]} is taken as {value}: {option.raised[1]}"
            self.problems.warn(entry.value_place, text)
        if isinstance(value, Path):
            value = self.base / value
        settings[option.key] = Setting(value, self._origin(entry))

    def _items(self, entry: Entry) -> list[Item]:
        try:
            return entry.items()
        except ValueError as error:
            self.problems.error(entry.value_place, str(error))
            return []

    def _origin(self, entry: Entry) -> str:
        return f"{self.problems.file}:{entry.line}" if entry.line else self.problems.file

    # Interfaces

    def _interface(self, section: Section) -> dict[str, Setting]:
        name = section.name
        if (
            name in ("", ".", "..")
            or len(name.encode()) > INTERFACE_NAME_BYTES_MAX
            or any(character.isspace() or character in "/:*?[]\0" for character in name)
        ):
            text = f"{quoted(name)} is no name of an interface (patterns belong in 'interfaces')"
            self.problems.error(section, text)
        return self._inherit(section, "interface")

    def _interface_config(self, name: str, settings: Mapping[str, Setting]) -> InterfaceConfig:
        fields = self._fields("interface", settings)
        fields["mtu_bytes"] = fields["mtu_bytes"] or None
        return InterfaceConfig(name=name, **fields)

    # Devices

    def _device(self, section: Section) -> _Device:
        name = section.name
        if (
            name in ("", ".", "..")
            or len(name.encode()) > DEVICE_NAME_BYTES_MAX
            or "/" in name
            or not name.isprintable()
        ):
            text = (
                f"{quoted(name)} cannot name a device: no '/', no control characters, "
                f"1 to {DEVICE_NAME_BYTES_MAX} bytes"
            )
            self.problems.error(section, text)
        self._require(section)
        settings = self._inherit(section, "device")
        lists = {
            option.field: self._rules(section, settings, option)
            for option in schema.options_of("device")
            if option.kind in schema.MEMBERS
        }
        return _Device(section, settings, lists)

    def _require(self, section: Section) -> None:
        entries = section.entries
        if "path" in entries and "uuid" in entries:
            later = max(entries["path"], entries["uuid"], key=lambda e: (e.line, e.column))
            text = f"device [{section.name}] has a path and a uuid: remove one of them"
            self.problems.error(later, text)
        missing = [key for key in ("shelf", "slot") if key not in entries]
        if "path" not in entries and "uuid" not in entries:
            missing.insert(0, "path (or uuid)")
        for key in missing:
            self.problems.error(section, f"device [{section.name}] has no {key}: add it")

    def _rules(self, section: Section, settings: Mapping[str, Setting], option: Option) -> Rules:
        """Those of a device's list; everybody's where there is no list (or no valid one)."""
        if settings[option.key].origin == ORIGIN_DEFAULT:
            return EVERYBODY
        read = {"accept": self.resolver.accepted, "deny": self.resolver.denied}
        return read.get(option.key, self.resolver.ordered)(section.entries[option.key].items())

    def _warn_closed(self, device: _Device) -> None:
        """What nobody may is nearly always an oversight."""
        admission = [device.lists["accept"], device.lists["deny"]]
        for key, rules in device.lists.items():
            if rules.others or not _nobody(admission if key == "accept" else [*admission, rules]):
                continue
            what = _IN_WARNINGS[key]
            text = f"nobody can {what} device [{device.section.name}]: its lists leave no address"
            self.problems.warn(device.section.entries[key].value_place, text)
            if key == "accept":
                break

    def _device_config(self, device: _Device) -> DeviceConfig:
        fields = self._fields("device", device.settings)
        return DeviceConfig(name=device.section.name, **(fields | device.lists))

    def _check_addresses(self, devices: list[_Device]) -> None:
        """One address on one interface is one device."""
        taken: dict[tuple[Value, Value], list[_Device]] = {}
        for device in devices:
            shelf, slot = (device.settings[key].value for key in ("shelf", "slot"))
            if shelf is None or slot is None:
                continue
            others = taken.setdefault((shelf, slot), [])
            for other in others:
                mine, theirs = _patterns(device.settings), _patterns(other.settings)
                if may_share_interface(mine, theirs):
                    there = other.section.entries["shelf"]
                    where = f"{self.problems.file}:{there.line}:{there.column}"
                    self.problems.error(
                        device.section.entries["shelf"],
                        f"address e{shelf}.{slot} of device [{device.section.name}] is that of "
                        f"[{other.section.name}] ({where}): change it, or let them use "
                        "different interfaces",
                    )
                    break
            others.append(device)

    # Results

    def _inherit(self, section: Section, place: Place) -> dict[str, Setting]:
        own = self._options(section, place)
        return {
            option.key: own.get(option.key, self.defaults[option.key])
            for option in schema.options_of(place)
        }

    def _fields(
        self, place: Place, settings: Mapping[str, Setting], skip: tuple[Place, ...] = ()
    ) -> dict[str, Any]:
        """The attributes of a model object; the option table says which type each has."""
        return {
            option.field: settings[option.key].value
            for option in schema.options_of(place)
            if not set(skip) & set(option.places)
        }

    def _settings(
        self, interfaces: Mapping[str, Mapping[str, Setting]], devices: list[_Device]
    ) -> dict[tuple[str, str], Setting]:
        found = {
            ("defaults", option.key): self.defaults[option.key]
            for option in schema.options_of("defaults")
        }
        for section in self.by_kind["acls"]:
            for key, entry in section.entries.items():
                value = tuple(str(item.value) for item in self.lists[key])
                found["acls", key] = Setting(value, self._origin(entry))
        for name, settings in interfaces.items():
            found |= {(f"interfaces.{name}", key): own for key, own in settings.items()}
        for device in devices:
            where = f"devices.{device.section.name}"
            found |= {(where, key): own for key, own in device.settings.items()}
        return found


def _patterns(settings: Mapping[str, Setting]) -> tuple[str, ...]:
    value = settings["interfaces"].value
    return value if isinstance(value, tuple) else ()


def _nobody(lists: Sequence[Rules]) -> bool:
    """Whether no host passes all of these lists."""
    named = next((rules.exceptions for rules in lists if not rules.others), None)
    return named is not None and not any(
        all(rules.permits(mac) for rules in lists) for mac in named
    )


def _comment_hint(entry: Entry) -> str:
    """Advice for the likeliest slip of key files: a comment behind a value."""
    if isinstance(entry, keyfile.KeyfileEntry) and (" #" in entry.raw or "\t#" in entry.raw):
        return " (a comment needs a line of its own: move the '#…' away)"
    return ""
