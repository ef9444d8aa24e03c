"""The difference between two configurations, as what a reload has to do.

Owns which option causes which step (from the option table) and its wording. Does nothing itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from ggaoe.config import schema
from ggaoe.config.model import Config, DeviceConfig, InterfaceConfig
from ggaoe.config.schema import Kind, Option
from ggaoe.proto.rules import EVERYBODY, Rules
from ggaoe.units import counted

How = Literal["live", "reopen", "replace"]
_DEVICE = schema.options_of("device")
_INTERFACE = schema.options_of("interface")
_DAEMON = [
    option
    for option in schema.options_of("defaults")
    if option.places == schema.DAEMON and option.field
]
_FORCE: tuple[How, ...] = ("live", "reopen", "replace")


@dataclass(frozen=True, slots=True)
class OptionChange:
    """One option with another value; both as they are written."""

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.key} {self.old} → {self.new}"


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """A device that stays. `live`: swap the configuration; `reopen`: drain, close, open;
    `replace`: its address changes, so remove it and add it again."""

    name: str
    how: How
    old: DeviceConfig
    new: DeviceConfig
    options: tuple[OptionChange, ...]


@dataclass(frozen=True, slots=True)
class InterfaceChange:
    """An interface to open again; the name is empty for all that have no section of their own."""

    name: str
    options: tuple[OptionChange, ...]


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """Steps from `old` to `config`, which is the new configuration with the old values of what only
    a restart can change (`restart`)."""

    old: Config
    config: Config
    removed: tuple[DeviceConfig, ...]
    added: tuple[DeviceConfig, ...]
    changed: tuple[DeviceChange, ...]
    interfaces: tuple[InterfaceChange, ...]
    daemon: tuple[OptionChange, ...]
    restart: tuple[OptionChange, ...]

    @property
    def empty(self) -> bool:
        """Whether nothing changes, not even something that waits for a restart."""
        return not self.lines()

    def relinks(self, interface: str) -> bool:
        """Whether an open interface has to be opened again."""
        return self.old.interface(interface) != self.config.interface(interface)

    def facts(self) -> dict[str, list[object]]:
        """The plan for programs: values as they are written."""
        return {
            "removed": [_named(device) for device in self.removed],
            "added": [_named(device) for device in self.added],
            "changed": [
                {**_named(change.old), "how": change.how, "options": _facts(change.options)}
                for change in self.changed
            ],
            "interfaces": [
                {"name": link.name, "options": _facts(link.options)} for link in self.interfaces
            ],
            "daemon": _facts(self.daemon),
            "restart": _facts(self.restart),
        }

    def reopening(self, names: Collection[str]) -> ReloadPlan:
        """The same, and those of the devices `names` that stay are opened again, since their paths
        have come to mean something else."""
        changes = {change.name: change for change in self.changed}
        for name in self.old.devices.keys() & self.config.devices.keys() & set(names):
            old, new = self.old.devices[name], self.config.devices[name]
            change = changes.get(name, DeviceChange(name, "live", old, new, ()))
            if change.how == "live":
                path = OptionChange("path", str(old.path or old.uuid), "what is there now")
                options = (*change.options, path)
                changes[name] = replace(change, how="reopen", options=options)
        return replace(self, changed=tuple(changes.values()))

    def lines(self) -> list[str]:
        """The plan for people, in the order in which it is carried out."""
        lines = [f"remove {device.name} ({device.address})" for device in self.removed]
        for change in self.changed:
            verb = {"live": "change", "reopen": "reopen", "replace": "replace"}[change.how]
            lines.append(f"{verb} {change.name} ({change.old.address}): {_joined(change.options)}")
        lines += [f"add {device.name} ({device.address})" for device in self.added]
        for link in self.interfaces:
            who = link.name or "all interfaces without a section"
            lines.append(f"reopen {who}: {_joined(link.options)}")
        lines += [f"change {option}" for option in self.daemon]
        lines += [f"needs a restart: {option}; {option.old} stays" for option in self.restart]
        return lines


def diff(old: Config, new: Config) -> ReloadPlan:
    """What a reload from `old` to `new` has to do; a device is known by its section's name."""
    daemon = _changes(old, new, _DAEMON)
    restart = tuple(change for change in daemon if schema.BY_KEY[change.key].reload == "restart")
    kept = new.devices.keys() & old.devices.keys()
    return ReloadPlan(
        old=old,
        config=_keep(old, new, restart),
        removed=tuple(device for name, device in old.devices.items() if name not in kept),
        added=tuple(device for name, device in new.devices.items() if name not in kept),
        changed=tuple(
            _device_change(old.devices[name], device)
            for name, device in new.devices.items()
            if name in kept and device != old.devices[name]
        ),
        interfaces=_interface_changes(old, new),
        daemon=tuple(change for change in daemon if change not in restart),
        restart=restart,
    )


def _device_change(old: DeviceConfig, new: DeviceConfig) -> DeviceChange:
    changes = _changes(old, new, _DEVICE)
    strongest = max(changes, key=lambda change: _FORCE.index(_how(change.key)))
    return DeviceChange(new.name, _how(strongest.key), old, new, changes)


def _how(key: str) -> How:
    return next(how for how in _FORCE if how == schema.BY_KEY[key].reload)


def _interface_changes(old: Config, new: Config) -> tuple[InterfaceChange, ...]:
    found = []
    for name in ("", *sorted(old.interfaces.keys() | new.interfaces.keys())):
        options = _changes(old.interface(name), new.interface(name), _INTERFACE)
        if options:
            found.append(InterfaceChange(name, options))
    return tuple(found)


_Sides = Config | DeviceConfig | InterfaceConfig


def _changes(old: _Sides, new: _Sides, options: Sequence[Option]) -> tuple[OptionChange, ...]:
    found = []
    for option in options:
        before, after = getattr(old, option.field), getattr(new, option.field)
        if before != after:
            found.append(OptionChange(option.key, *_written(option, before, after)))
    return tuple(found)


def _written(option: Option, before: object, after: object) -> tuple[str, str]:
    """Both values as text."""
    if isinstance(before, Rules) and isinstance(after, Rules):
        return _written_rules(option, before, after)
    old, new = (schema.format_value(option, value) for value in (before, after))  # type: ignore[arg-type]
    return old, new


def _written_rules(option: Option, before: Rules, after: Rules) -> tuple[str, str]:
    """Of access lists only the size and what came and went."""
    texts = []
    for rules in (before, after):
        text = counted(len(rules.exceptions), "address")
        if rules.others and option.kind is Kind.RULES:
            text = f"all but {text}"
        texts.append(f"({option.unset})" if rules == EVERYBODY else text)
    if EVERYBODY not in (before, after) and before.others == after.others:
        came = len(after.exceptions - before.exceptions)
        went = len(before.exceptions - after.exceptions)
        texts[1] += f" (+{came} -{went})"
    return texts[0], texts[1]


def _keep(old: Config, new: Config, restart: Sequence[OptionChange]) -> Config:
    fields = {schema.BY_KEY[change.key].field for change in restart}
    keys = [("defaults", change.key) for change in restart]
    settings = {**new.settings, **{key: old.settings[key] for key in keys}}
    kept: dict[str, Any] = {field: getattr(old, field) for field in fields}
    return replace(new, settings=MappingProxyType(settings), **kept)


def _named(device: DeviceConfig) -> dict[str, object]:
    return {"name": device.name, "address": device.address}


def _facts(changes: Sequence[OptionChange]) -> list[object]:
    return [asdict(change) for change in changes]


def _joined(changes: Sequence[OptionChange]) -> str:
    return ", ".join(map(str, changes))
