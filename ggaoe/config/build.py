"""From the sections of a document to a Config, or to every problem that they have.

Owns inheritance from [defaults] and the rules between options. Options themselves are in `schema`,
kinds of sections in `sections`; syntax and files are not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ggaoe.config import acl, keyfile, schema, slots
from ggaoe.config.document import Entry, Item, Placed, Section, quoted, written
from ggaoe.config.document import Place as At
from ggaoe.config.model import (
    Config,
    DeviceConfig,
    InterfaceConfig,
    Setting,
    Template,
    may_share_interface,
)
from ggaoe.config.overlay import Overlays
from ggaoe.config.read import Document
from ggaoe.config.schema import Option, Place, Value
from ggaoe.config.sections import (
    DEVICE_NAME_BYTES_MAX,
    Sections,
    is_device_name,
    misplaced,
    unknown,
)
from ggaoe.config.values import convert
from ggaoe.errors import ConfigError
from ggaoe.proto.rules import EVERYBODY, Rules
from ggaoe.units import counted

INTERFACE_NAME_BYTES_MAX = 15  # IFNAMSIZ of Linux, less its final zero
NAMES_SHOWN_MAX = 3
"""Of devices, in a warning about all of them."""
ORIGIN_DEFAULT = "default"
ORIGIN_AUTOMATIC = f" ({schema.AUTO})"
"""Ends the origin of a number that was chosen."""

_IN_WARNINGS = {
    "accept": "use",
    "discover": "discover",
    "read": "read",
    "write": "write to",
    "change": "change settings of",
}


def build(
    document: Document, overlays: Overlays | None = None, state_directory: Path | None = None
) -> Config:
    """The configuration that a document makes, changed by `overlays`. Automatic slots are looked up
    in `state_directory`, in the configured one unless given. ConfigError carries every problem,
    those of reading included."""
    return _Builder(document, overlays or {}, state_directory).config()


@dataclass(slots=True)
class _Device:
    """A device section on its way: its settings, and its access lists as far as they resolve."""

    section: Section
    settings: dict[str, Setting]
    lists: dict[str, Rules]


class _Builder:
    """One pass over the sections of one document."""

    def __init__(
        self, document: Document, overlays: Overlays, state_directory: Path | None
    ) -> None:
        self.document = document
        self.overlays = overlays
        self.state_directory = state_directory
        self.problems = document.problems.copy()
        self.sections = Sections(document, overlays, self.problems)
        self.by_kind = self.sections.by_kind
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
        self.resolver = acl.Resolver(self.lists, document.hosts, self.problems)

    def config(self) -> Config:
        found = {s.name: (s, self._interface(s)) for s in self.by_kind["interface"]}
        # What no option is left of has no effect: a key file could not even tell what it is.
        interfaces = {name: own for name, (section, own) in found.items() if section.entries}
        templates = [self._template(*one) for one in self.sections.templates]
        devices = [self._device(section) for section in self.by_kind["device"]]
        memory = self._choose_slots(devices)
        self._check_addresses(devices)
        if self.problems.errors:
            raise ConfigError(self.problems.report())
        for device in devices:
            self._warn_closed(device)
        self._warn_everywhere([one for one in devices if not _patterns(one.settings)])
        return Config(
            document=self.document,
            overlays=MappingProxyType(dict(self.overlays)),
            templates=tuple(templates),
            slots=memory,
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

    # Options

    def _options(self, section: Section, place: Place) -> dict[str, Setting]:
        """The valid settings of a section; what is wrong in it goes to the problems."""
        allowed = [option.key for option in schema.OPTIONS if place in option.places]
        settings: dict[str, Setting] = {}
        for entry in section.entries.values():
            option = schema.BY_KEY.get(entry.key)
            if option is None:
                unknown(self.problems, entry, allowed)
            elif place not in option.places:
                misplaced(self.problems, entry, section)
            elif option.obsolete:
                text = f"option {quoted(option.key)} is obsolete and ignored: {option.obsolete}"
                self.problems.warn(entry, text)
            else:
                self._set(settings, option, entry)
        return settings

    def _set(self, settings: dict[str, Setting], option: Option, entry: Entry) -> None:
        item: Placed = entry.value_place
        try:
            if option.kind in schema.LISTS:
                texts = []
                for item in entry.items():
                    texts.append(str(convert(option, item)))
                value: Value = tuple(texts)
            else:
                value = convert(option, entry.scalar())
        except ValueError as error:
            self.problems.error(item, f"{error}{_comment_hint(entry)}")
            return
        if mark := _comment_mark(entry):
            text = f"the value of {option.key} holds a '{mark}'{_comment_hint(entry)}"
            self.problems.warn(item, text)
        if option.raised and value == option.raised[0]:
            value = int(option.low)
            text = f"{option.key} = {option.raised[0]} is taken as {value}: {option.raised[1]}"
            self.problems.warn(entry.value_place, text)
        if isinstance(value, Path):
            is_plain = not str(value).startswith("~") and "$" not in str(value)
            value = self.sections.path_of(entry, value)
            if not is_plain:
                text = f"'~' and '$' stand for nothing here: {option.key} is {value}"
                self.problems.warn(item, f"{text}: write the whole path")
        settings[option.key] = Setting(value, self._origin(entry))

    def _items(self, entry: Entry) -> list[Item]:
        try:
            return entry.items()
        except ValueError as error:
            self.problems.error(entry.value_place, str(error))
            return []

    def _origin(self, entry: Entry) -> str:
        return f"{entry.file}:{entry.line}" if entry.line else entry.file

    # Interfaces

    def _interface(self, section: Section) -> dict[str, Setting]:
        name = section.name
        if (
            name in ("", ".", "..")
            or len(name.encode("utf-8", "surrogatepass")) > INTERFACE_NAME_BYTES_MAX
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

    def _template(self, section: Section, pattern: Path) -> Template:
        """Told what is wrong with it even where it matches nothing."""
        if "shelf" not in section.entries and self.defaults["shelf"].value is None:
            text = f"template [{section.name}] has no shelf: add it, here or in [defaults]"
            self.problems.error(section, text)
        read_only = self._options(section, "device").get("read-only")
        return Template(section.name, pattern, read_only is not None and bool(read_only.value))

    def _device(self, section: Section) -> _Device:
        name = section.name
        if not is_device_name(name):
            text = (
                f"{quoted(name)} cannot name a device: no '/', no control characters, "
                f"1 to {DEVICE_NAME_BYTES_MAX} bytes, all but letters, digits, blanks and _.-~ "
                f"counting three"
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
        missing = [
            key
            for key in ("shelf", "slot")
            if key not in entries and self.defaults[key].value is None
        ]
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

    def _warn_everywhere(self, devices: list[_Device]) -> None:
        """Storage on the network that leads to everybody else is nearly always an oversight."""
        if not devices:
            return
        names = [f"[{device.section.name}]" for device in devices[:NAMES_SHOWN_MAX]]
        if rest := len(devices) - len(names):
            names.append(counted(rest, "other"))
        text = (
            f"no interfaces are set for {', '.join(names)}: every Ethernet interface that is up "
            "serves them, even the one of the default route; set interfaces, in [defaults] for all "
            "devices (interfaces = * is what happens now)"
        )
        self.problems.warn(devices[0].section, text)

    def _device_config(self, device: _Device) -> DeviceConfig:
        fields = self._fields("device", device.settings)
        return DeviceConfig(name=device.section.name, **(fields | device.lists))

    def _choose_slots(self, devices: list[_Device]) -> slots.Memory | None:
        """Give numbers to those that have none of their own; what is to be remembered of it."""
        wanting: dict[int, dict[str, _Device]] = {}
        explicit: dict[int, dict[str, int]] = {}
        for device in devices:
            shelf, slot = (device.settings[key].value for key in ("shelf", "slot"))
            if isinstance(shelf, int) and slot == schema.AUTO:
                wanting.setdefault(shelf, {})[device.section.name] = device
            elif isinstance(shelf, int) and isinstance(slot, int):
                explicit.setdefault(shelf, {})[device.section.name] = slot
        if not wanting and not self.sections.templates:
            return None
        memory = dict(self._remembered())
        for shelf in sorted(memory.keys() | wanting.keys() | explicit.keys()):
            by_name = wanting.get(shelf, {})
            chosen = slots.choose(memory.get(shelf, {}), by_name, explicit.get(shelf, {}))
            memory[shelf] = chosen.memory
            for name, device in by_name.items():
                self._number(device, shelf, chosen.slots.get(name), chosen.reused.get(name))
        return MappingProxyType(memory)

    def _number(self, device: _Device, shelf: int, slot: int | None, former: str | None) -> None:
        at, name = _at(device, "slot"), device.section.name
        if slot is None:
            text = f"shelf {shelf} has no slot left for device [{name}]: use another shelf"
            self.problems.error(at, text)
        elif former is not None:
            text = f"device [{name}] becomes e{shelf}.{slot}, which was that of {quoted(former)}"
            self.problems.warn(at, f"{text}: shelf {shelf} has no slot that was free all the time")
        origin = f"{device.settings['slot'].origin}{ORIGIN_AUTOMATIC}"
        device.settings["slot"] = Setting(slot, origin)

    def _remembered(self) -> slots.Memory:
        configured = self.defaults["state-directory"].value
        assert isinstance(configured, Path)
        directory = self.state_directory or configured
        file = At(str(directory / slots.FILE_NAME), 0, 0)
        try:
            return slots.read(directory)
        except PermissionError:
            self.problems.error(file, "cannot be read: Permission denied: run as who may read it")
        except OSError as error:
            text = f"cannot be read: {error.strerror}: mend it, or set another state-directory"
            self.problems.error(file, text)
        except ValueError as error:
            text = f"is damaged or not ours ({error}): restore it, or remove it and give devices"
            self.problems.error(file, f"{text} whose slots have to stay explicit ones")
        return {}

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
                    where = written(_at(other, "shelf"))
                    self.problems.error(
                        _at(device, "shelf"),
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
            if option.field and not set(skip) & set(option.places)
        }

    def _settings(
        self, interfaces: Mapping[str, Mapping[str, Setting]], devices: list[_Device]
    ) -> dict[tuple[str, str], Setting]:
        found = {
            ("defaults", option.key): self.defaults[option.key]
            for option in schema.options_of("defaults")
            if option.field
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


def _at(device: _Device, key: str) -> Placed:
    """Where a device has an option, its section where it comes from [defaults]."""
    return device.section.entries.get(key, device.section)


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
    mark = _comment_mark(entry)
    return f" (a comment needs a line of its own: move the '{mark}…' away)" if mark else ""


def _comment_mark(entry: Entry) -> str:
    """What seems to begin a comment behind a value, or nothing."""
    raw = entry.raw if isinstance(entry, keyfile.KeyfileEntry) else ""
    return next((mark for mark in "#;" if f" {mark}" in raw or f"\t{mark}" in raw), "")
