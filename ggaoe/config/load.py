"""Entry points: a configuration file, text or mapping becomes a Config or a ConfigError; a Config
with a change becomes another one.

Owns the listing of effective values. Files are read in `read`; what sections mean is in `build`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ggaoe.config import acl, schema, toml
from ggaoe.config.build import ORIGIN_AUTOMATIC, ORIGIN_DEFAULT, build
from ggaoe.config.document import Problems, near
from ggaoe.config.endpoint import Endpoint
from ggaoe.config.model import Config
from ggaoe.config.overlay import Edit, overlaid
from ggaoe.config.read import ETHERS, Document, read_file, read_text
from ggaoe.config.schema import Value
from ggaoe.config.values import format_value
from ggaoe.errors import ConfigError, Problem


class Row(NamedTuple):
    """One line of the effective configuration."""

    section: str
    key: str
    value: str
    origin: str


def load(
    path: Path | str,
    *,
    ethers: Path = ETHERS,
    state_directory: Path | None = None,
    instead: Mapping[Path, str] | None = None,
) -> Config:
    """Read and check a file, and what it includes. ConfigError carries every problem. Automatic
    slots are looked up in `state_directory` (in the configured one unless given), and `instead`
    has texts that count for what is in files."""
    return build(read_file(path, ethers=ethers, instead=instead), state_directory=state_directory)


async def load_async(
    path: Path | str, *, ethers: Path = ETHERS, state_directory: Path | None = None
) -> Config:
    """As `load`, off the event loop."""
    import asyncio  # since only the daemon needs it

    return await asyncio.to_thread(load, path, ethers=ethers, state_directory=state_directory)


def parse(text: str, source: str, *, hosts: acl.Hosts | None = None) -> Config:
    """Check a text as if it stood in the file `source`."""
    return build(read_text(text, source, hosts=hosts))


def from_mapping(
    data: Mapping[str, object],
    source: str,
    *,
    hosts: acl.Hosts | None = None,
    state_directory: Path | None = None,
) -> Config:
    """Check settings that stand in no file (the TOML model as mappings): from a command line."""
    problems = Problems(source)
    sections = tuple(toml.from_mapping(data, problems))
    document = Document(source, sections, problems, hosts or acl.Hosts(ETHERS))
    return build(document, state_directory=state_directory)


def as_mapping(config: Config) -> dict[str, dict[str, object]]:
    """Every setting that is no default, for `from_mapping`, of values that JSON has. What came of
    templates is written out; slots that are automatic stay so."""
    found: dict[str, dict[str, object]] = {"interfaces": {}, "devices": {}}
    for kind, names in (("interfaces", config.interfaces), ("devices", config.devices)):
        found[kind] = {name: {} for name in names}
    for (section, key), setting in config.settings.items():
        inherited = section != "defaults" and setting == config.settings.get(("defaults", key))
        if setting.origin != ORIGIN_DEFAULT and not inherited:
            kind, _, name = section.partition(".")
            table = found[kind][name] if name else found.setdefault(kind, {})
            assert isinstance(table, dict)
            is_automatic = key == "slot" and setting.origin.endswith(ORIGIN_AUTOMATIC)
            table[key] = schema.AUTO if is_automatic else _plain(setting.value)
    return found


def _plain(value: Value) -> object:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path | Endpoint) else value


def edit(
    config: Config,
    changes: Sequence[Edit],
    *,
    state_directory: Path | None = None,
    in_file: bool = False,
) -> Config:
    """The configuration after changes that stand in no file, or (`in_file`) are to stand there; its
    document is not read again. ConfigError carries every problem of it."""
    overlays = config.overlays
    devices, interfaces = set(config.devices), set(config.interfaces)
    problems = []
    for change in changes:
        exact, wrong = _resolved(change, devices, interfaces)
        if wrong := wrong or _only_in_files(change, in_file=in_file):
            problems.append(Problem(str(change), 0, 0, wrong))
        overlays = overlaid(overlays, exact)
        if exact.action == "add":
            (devices if exact.kind == "device" else interfaces).add(exact.name)
        elif exact.action == "remove":
            devices.discard(exact.name)
    if problems:
        raise ConfigError(problems)
    return build(config.document, overlays, state_directory)


def _resolved(change: Edit, devices: set[str], interfaces: set[str]) -> tuple[Edit, str]:
    """The change as it is meant (what is set of an interface without a section adds one), and what
    is wrong with it."""
    known = {*devices, *interfaces, "defaults", "acls"}
    wrong = ""
    if change.action == "add" and change.name in known:
        wrong = "there is one of that name: change it with set, or take another name"
    elif change.action == "remove" and change.name not in devices:
        wrong = f"there is no such device{near(change.name, devices)}"
    elif change.action == "set" and change.name not in known:
        options = [schema.BY_KEY.get(key) for key in change.values]
        if all(option is not None and "interface" in option.places for option in options):
            change = change._replace(action="add", kind="interface")
        else:
            wrong = f"there is no such device or interface{near(change.name, known)}"
    return change, wrong


def effective(config: Config) -> list[Row]:
    """Every value in force with its origin: defaults, access lists, interfaces, devices."""
    rows = []
    for (section, key), setting in config.settings.items():
        option = schema.BY_KEY.get(key) if section != "acls" else None
        if option is None:
            value = ", ".join(setting.value) if isinstance(setting.value, tuple) else ""
        else:
            value = format_value(option, setting.value)
        rows.append(Row(section, key, value, setting.origin))
    return rows


def _only_in_files(change: Edit, *, in_file: bool) -> str:
    """Why a change cannot be made in this way; empty where it can."""
    if change.name != "defaults":
        return ""
    for key in change.values:
        option = schema.BY_KEY.get(key)
        if option is not None and option.reload == "restart" and not in_file:
            return f"{key} is changed only by a restart: write it into the file (--persist does)"
        if option is not None and not option.field and not option.obsolete:
            return f"{key} has a meaning only in a file: write it there, and reload"
    return ""
