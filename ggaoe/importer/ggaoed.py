"""The original's configuration, which is ours, and what its hosts have set, which is not.

Owns the form of its state files: NAME.config, NAME.mac_mask and NAME.reserve, each a magic number,
a count and a fixed table, in the byte order of the machine that wrote them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from ggaoe.config import Config, DeviceConfig, schema
from ggaoe.config import parse as parse_config
from ggaoe.config.build import ORIGIN_DEFAULT
from ggaoe.config.document import Problems
from ggaoe.config.keyfile import parse as parse_keyfile
from ggaoe.config.read import ETHERS, load_hosts
from ggaoe.errors import ConfigError
from ggaoe.importer.report import Place, Report, listed, read_bytes, read_text
from ggaoe.proto.access import LIST_ENTRIES_MAX, MacList
from ggaoe.proto.query import CONFIG_STRING_BYTES_MAX
from ggaoe.proto.target import TargetState
from ggaoe.units import counted

DEFAULT_SOURCE = Path("/etc/ggaoed.conf")

CONFIG_MAGIC = 0x38A0BFAE
LIST_MAGIC = 0xE92A716B
MAC_PADDED_BYTES = 8

_KINDS = {"config": "config_string", "mac_mask": "mask", "reserve": "reserved"}


@dataclass
class Copied:
    """A configuration's text and where it keeps states, None where only states were read, and
    states by device."""

    text: str | None = None
    has_devices: bool = False
    states: dict[str, TargetState] = field(default_factory=dict)
    state_directory: Path | None = None


def read(source: Path, report: Report) -> Copied:
    """`source` is a ggaoed.conf, of which the states are read, too, or a state directory."""
    if source.is_dir():
        return Copied(states=read_states(source, report))
    text = read_text(source, report)
    if text is None:
        return Copied()
    try:
        config = parse_config(text, str(source), hosts=load_hosts(ETHERS))
    except ConfigError as error:
        for problem in error.problems:
            report.add(problem)
        return Copied()
    obsolete = _obsolete_lines(text, str(source), report)
    for warning in config.warnings:
        report.add(warning)
    _tell_differences(config, source, report)
    states = _states_of(config, source, report)
    lines = text.split("\n")
    for number in obsolete:
        lines[number - 1] = f"#{lines[number - 1]}"
    return Copied(
        "\n".join(lines), bool(config.devices or config.templates), states, config.state_directory
    )


def _states_of(config: Config, source: Path, report: Report) -> dict[str, TargetState]:
    """The states of its devices."""
    directory = config.state_directory
    if not directory.is_dir():
        setting = config.settings["defaults", "state-directory"]
        at = Place(str(source))
        if setting.origin != ORIGIN_DEFAULT:
            at = _place(config, "defaults", "state-directory")
        text = f"{directory} is no directory, so what hosts have set (config strings, mask lists, "
        report.note(at, f"{text}reservations) is not carried over: give it, or import it by itself")
        return {}
    states = read_states(directory, report)
    for name in states.keys() - config.devices.keys():
        at = Place(str(directory / name))
        report.note(at, f"state of a device that {source} does not have: left out")
        del states[name]
    return states


def _obsolete_lines(text: str, source: str, report: Report) -> list[int]:
    """The lines of a key file that have no effect any more; relative paths in it are told."""
    if source.endswith(".toml"):
        return []
    lines = []
    for section in parse_keyfile(text, Problems(source)):
        for entry in section.entries.values():
            option = schema.BY_KEY.get(entry.key)
            if option is None:
                continue
            if option.obsolete:
                lines.append(entry.line)
            value = str(entry.scalar().value)
            if option.kind is schema.Kind.PATH and not value.startswith("/"):
                report.note(
                    Place(source, entry.line, entry.column),
                    f"{entry.key} starts at the directory of the configuration, no more where "
                    "the daemon was started: write an absolute path",
                )
    return lines


def _tell_differences(config: Config, source: Path, report: Report) -> None:
    """What the same file means here, where it is not what it meant there."""
    if config.devices and not any(d.write_cache for d in config.devices.values()):
        report.note(
            Place(str(source)),
            "ggaoed acknowledges writes before they are on stable storage, ggaoe does not: set "
            "write-cache = true in [defaults] if their loss in a power cut is better than waiting",
        )
    for name, device in config.devices.items():
        _tell_interfaces(config, name, device, report)
    _tell_lists(config, report)


def _place(config: Config, where: str, key: str) -> Place:
    """Where an option stands that the file has."""
    file, _, line = config.settings[where, key].origin.rpartition(":")
    return Place(file, int(line), 1)


def _tell_interfaces(config: Config, name: str, device: DeviceConfig, report: Report) -> None:
    """A device's interfaces are some of those of [defaults] there, and instead of them here."""
    served = config.default_interface_patterns
    if served and any(
        not any(fnmatchcase(pattern, one) for one in served) for pattern in device.interfaces
    ):
        report.note(
            _place(config, f"devices.{name}", "interfaces"),
            f"[{name}] is served on all of {', '.join(device.interfaces)} now, ggaoed left out "
            f"what is not among the interfaces of [defaults] ({', '.join(served)}): name only "
            "those that are meant",
        )


def _tell_lists(config: Config, report: Report) -> None:
    """What of an access list is beyond its bound there, or not known yet where it is named."""
    members = {
        name: setting.value
        for (section, name), setting in config.settings.items()
        if section == "acls" and isinstance(setting.value, tuple)
    }
    names = list(members)
    for index, name in enumerate(names):
        at = _place(config, "acls", name)
        if len(config.acls[name]) > LIST_ENTRIES_MAX:
            report.note(
                at,
                f"ggaoed uses the first {LIST_ENTRIES_MAX} addresses of {name}, ggaoe all "
                f"{len(config.acls[name])}: remove those that are not meant",
            )
        for item in members[name]:
            if item in names[index:]:
                report.note(
                    at,
                    f"ggaoed leaves {item} out of {name}, since it is defined below, ggaoe does "
                    "not: remove it if its hosts are not meant",
                )


# --- states ------------------------------------------------------------------------------------


def read_states(directory: Path, report: Report) -> dict[str, TargetState]:
    """Device → what hosts have set of it, of those for which there is anything."""
    fields: dict[str, dict[str, bytes | MacList]] = {}
    for path in listed(directory, report):
        name, _, kind = path.name.rpartition(".")
        if kind not in _KINDS or not name or not path.is_file():
            continue
        content = read_bytes(path, report)
        if content is None:
            continue
        try:
            value = decode_config(content) if kind == "config" else decode_list(content)
        except ValueError as error:
            text = f"no state of ggaoed: {error}: restore it, or remove it to go without"
            report.error(Place(str(path)), text)
            continue
        if value:
            fields.setdefault(name, {})[_KINDS[kind]] = value
    return {name: TargetState(**found) for name, found in fields.items()}  # type: ignore[arg-type]


def decode_config(content: bytes) -> bytes:
    """The config string of a NAME.config; ValueError with what is wrong."""
    order = _order(content, CONFIG_MAGIC)
    return _table(content, order, CONFIG_STRING_BYTES_MAX, 1)


def decode_list(content: bytes) -> MacList:
    """The addresses of a NAME.mac_mask or NAME.reserve; ValueError with what is wrong."""
    order = _order(content, LIST_MAGIC)
    table = _table(content, order, LIST_ENTRIES_MAX, MAC_PADDED_BYTES)
    macs = [table[at : at + 6] for at in range(0, len(table), MAC_PADDED_BYTES)]
    return tuple(dict.fromkeys(macs))


def _order(content: bytes, magic: int) -> str:
    for order in "<>":
        if content[:4] == struct.pack(f"{order}I", magic):
            return order
    raise ValueError(f"it begins with {content[:4].hex() or 'nothing'} instead of {magic:08x}")


def _table(content: bytes, order: str, entries_max: int, entry_bytes: int) -> bytes:
    if len(content) < 8:
        raise ValueError("it is cut off")
    (count,) = struct.unpack_from(f"{order}I", content, 4)
    if count > entries_max:
        raise ValueError(f"{counted(count, 'entry')}, of which there can be {entries_max}")
    table = content[8 : 8 + count * entry_bytes]
    if len(table) < count * entry_bytes:
        raise ValueError("it is cut off")
    return table
