"""Entry points: a configuration file, text or mapping becomes a Config or a ConfigError.

Owns the reading of files, the choice of the dialect and the listing of effective values. What the
sections mean is in `build`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ggaoe.config import acl, keyfile, schema, toml
from ggaoe.config.build import build
from ggaoe.config.document import Problems
from ggaoe.config.model import Config
from ggaoe.errors import ConfigError, Problem

FILE_BYTES_MAX = 1024 * 1024
"""Size of a configuration file, and of an ethers file."""

ETHERS = Path("/etc/ethers")


class Row(NamedTuple):
    """One line of the effective configuration."""

    section: str
    key: str
    value: str
    origin: str


def load(path: Path | str, *, ethers: Path = ETHERS) -> Config:
    """Read and check a file. ConfigError carries every problem."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    return parse(_decode(content, str(path)), str(path), hosts=load_hosts(ethers))


async def load_async(path: Path | str, *, ethers: Path = ETHERS) -> Config:
    """As `load`, with the files read off the event loop."""
    import asyncio  # both here, since only the daemon needs them

    import aiofiles

    try:
        async with aiofiles.open(path, "rb") as file:
            content = await file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    hosts = await asyncio.to_thread(load_hosts, ethers)
    return parse(_decode(content, str(path)), str(path), hosts=hosts)


def load_hosts(ethers: Path) -> acl.Hosts:
    """The host names of an ethers file; `failure` says why there are none."""
    try:
        with ethers.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return acl.Hosts(ethers, failure="there is no such file")
    except PermissionError:
        text = "it may not be read; where it has been replaced since the daemon started: restart"
        return acl.Hosts(ethers, failure=text)
    except OSError as error:
        return acl.Hosts(ethers, failure=f"it cannot be read: {error.strerror}")
    if len(content) > FILE_BYTES_MAX:
        return acl.Hosts(ethers, failure=f"it is larger than {FILE_BYTES_MAX} bytes")
    return acl.Hosts(ethers, acl.parse_ethers(content.decode("utf-8", "replace")))


def parse(text: str, source: str, *, hosts: acl.Hosts | None = None) -> Config:
    """Check a text as if it stood in the file `source`, whose ending `.toml` or whose tables
    `[devices.NAME]`, `[interfaces.NAME]` make it TOML; anything else is a key file."""
    problems = Problems(source)
    if source.endswith(".toml") or toml.looks_like_toml(text):
        sections = toml.parse(text, problems)
    else:
        sections = keyfile.parse(text, problems)
    return build(sections, problems, hosts or acl.Hosts(ETHERS))


def from_mapping(
    data: Mapping[str, object], source: str, *, hosts: acl.Hosts | None = None
) -> Config:
    """Check settings that stand in no file (the TOML model as mappings): from a command line."""
    problems = Problems(source)
    sections = toml.from_mapping(data, problems)
    return build(sections, problems, hosts or acl.Hosts(ETHERS))


def effective(config: Config) -> list[Row]:
    """Every value in force with its origin: defaults, access lists, interfaces, devices."""
    rows = []
    for (section, key), setting in config.settings.items():
        option = schema.BY_KEY.get(key) if section != "acls" else None
        if option is None:
            value = ", ".join(setting.value) if isinstance(setting.value, tuple) else ""
        else:
            value = schema.format_value(option, setting.value)
        rows.append(Row(section, key, value, setting.origin))
    return rows


def _unreadable(path: Path | str, error: OSError) -> ConfigError:
    advice = {
        FileNotFoundError: "name the file with -c",
        PermissionError: "run as a user who may read it",
        IsADirectoryError: "name a file",
    }.get(type(error), "check the file")
    text = f"cannot be read: {error.strerror}; {advice}"
    return ConfigError([Problem(str(path), 0, 0, text)])


def _decode(content: bytes, source: str) -> str:
    if len(content) > FILE_BYTES_MAX:
        text = f"is larger than {FILE_BYTES_MAX} bytes, so it is hardly a configuration file"
        raise ConfigError([Problem(source, 0, 0, text)])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = error.start - before.rfind(b"\n")
        text = f"byte 0x{content[error.start]:02x} is not UTF-8: save the file in that encoding"
        raise ConfigError([Problem(source, before.count(b"\n") + 1, column, text)]) from None
