"""The original's configuration, which is ours, and what its hosts have set, which is not.

Owns the form of its state files: NAME.config, NAME.mac_mask and NAME.reserve, each a magic number,
a count and a fixed table, in the byte order of the machine that wrote them.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

from ggaoe.config import Config, DeviceConfig, schema
from ggaoe.config import parse as parse_config
from ggaoe.config.document import Problems
from ggaoe.config.keyfile import parse as parse_keyfile
from ggaoe.config.read import ETHERS, load_hosts
from ggaoe.errors import ConfigError
from ggaoe.importer.report import Place, Report, listed, read_bytes, read_text
from ggaoe.proto.access import LIST_ENTRIES_MAX, MacList
from ggaoe.proto.frame import SECTOR_BYTES
from ggaoe.proto.query import CONFIG_STRING_BYTES_MAX
from ggaoe.proto.target import TargetState
from ggaoe.units import counted

DEFAULT_SOURCE = Path("/etc/ggaoed.conf")

CONFIG_MAGIC = 0x38A0BFAE
LIST_MAGIC = 0xE92A716B
MAC_PADDED_BYTES = 8

_KINDS = {"config": "config_string", "mac_mask": "mask", "reserve": "reserved"}
_UNIT_BYTES = 4096
"""Sizes are rounded down to it unless exact-size is set."""


@dataclass
class Copied:
    """A configuration's text and where it keeps states, None where only states were read, and
    states by device."""

    text: str | None = None
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
    states = {}
    if config.state_directory.is_dir():
        states = read_states(config.state_directory, report)
        for name in states.keys() - config.devices.keys():
            at = Place(str(config.state_directory / name))
            report.note(at, f"state of a device that {source} does not have: left out")
            del states[name]
    lines = text.split("\n")
    for number in obsolete:
        lines[number - 1] = f"#{lines[number - 1]}"
    return Copied("\n".join(lines), states, config.state_directory)


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
        if rest_bytes := _not_exported_bytes(device):
            file, _, line = config.settings[f"devices.{name}", "path"].origin.rpartition(":")
            report.note(
                Place(file, int(line), 1),
                f"the last {rest_bytes} bytes of {device.path} would not be exported any more: "
                f"add exact-size = true to [{name}]",
            )


def _not_exported_bytes(device: DeviceConfig) -> int:
    """Of the end of a device's file, as far as it can be opened: the daemon says the rest."""
    if device.exact_size or device.path is None:
        return 0
    try:
        if not (device.path.is_file() or device.path.is_block_device()):
            return 0
        with device.path.open("rb", buffering=0) as file:
            return file.seek(0, os.SEEK_END) // SECTOR_BYTES * SECTOR_BYTES % _UNIT_BYTES
    except OSError:
        return 0


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
