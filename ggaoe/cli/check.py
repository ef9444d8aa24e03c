"""`ggaoe check`: what is wrong with a configuration file, or with this machine for it.

Owns what is looked up beyond the file, and how all of it is reported. Changes nothing and needs no
privilege. What cannot work is an error; what may be there later (files, interfaces) is a warning.
"""

from __future__ import annotations

import argparse
import json
import pwd
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ggaoe.cli import ggaoectl
from ggaoe.config import Config, as_mapping, effective, load, schema
from ggaoe.errors import ConfigError, ControlError, GgaoeError, Problem
from ggaoe.proto.frame import SECTOR_BYTES
from ggaoe.units import counted, printable

VERSION = 1
"""Of the JSON."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a character device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], default_config: Path
) -> None:
    """The command line of `check`."""
    check = commands.add_parser("check", help="check a configuration file, and do nothing else")
    check.add_argument(
        "-c",
        "--config",
        type=Path,
        default=default_config,
        metavar="FILE",
        help=f"configuration to check (default {default_config})",
    )
    check.add_argument(
        "--effective", action="store_true", help="print every value in force, and where it is from"
    )
    text = "say what a reload of this file would do to the running daemon"
    check.add_argument("--diff", action="store_true", help=text)
    text = "control socket of the daemon, whatever the file says"
    check.add_argument("--socket", type=Path, metavar="PATH", help=text)
    check.add_argument("--json", action="store_true", help="print all of it as JSON")
    check.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    result: dict[str, Any] = {"version": VERSION}
    try:
        config = load(options.config)
    except ConfigError as error:
        return _report(options, error.problems, result)
    problems = [*config.warnings, *dict.fromkeys(surroundings(config))]
    result |= {"devices": len(config.devices), "interfaces": _interface_count(config)}
    if options.effective:
        result["effective"] = [row._asdict() for row in effective(config)]
    if options.diff:
        try:
            result |= difference(options.socket or config.control_socket, options.config, config)
        except ControlError as error:
            found = (error.data or {}).get("problems", ()) if isinstance(error.data, dict) else ()
            problems += [Problem(**problem) for problem in found]
            result["error"] = str(error)
        except GgaoeError as error:
            result["error"] = str(error)
    return _report(options, problems, result)


def _report(
    options: argparse.Namespace,
    problems: Sequence[Problem],
    result: dict[str, Any],
) -> int:
    """Print what was found; the exit status."""
    is_ok = "error" not in result and all(problem.warning for problem in problems)
    if options.json:
        found = [problem._asdict() for problem in problems]
        print(json.dumps({**result, "ok": is_ok, "problems": found}, indent=2))
        return 0 if is_ok else 1
    for problem in problems:
        print(printable(str(problem)), file=sys.stderr)
    for warning in result.get("warnings", ()):
        print(printable(warning), file=sys.stderr)
    if "error" in result:
        print(f"ggaoe: {printable(result['error'])}", file=sys.stderr)
    section = None
    for row in result.get("effective", ()):
        if row["section"] != section:
            print(f"{'' if section is None else chr(10)}[{row['section']}]")
            section = row["section"]
        print(f"{row['key']} = {row['value']}  # {row['origin']}")
    if "changes" in result:
        print("\n".join(map(printable, result["changes"] or ["no changes"])))
    if is_ok and not (options.effective or options.diff):
        interfaces = result["interfaces"]
        where = "" if interfaces is None else f" on {counted(interfaces, 'interface')}"
        print(f"ok: {counted(result['devices'], 'device')}{where}")
    return 0 if is_ok else 1


# --- this machine ------------------------------------------------------------------------------


def surroundings(config: Config) -> Iterator[Problem]:
    """What this machine lacks of what a configuration names."""
    if config.user is not None:
        try:
            pwd.getpwnam(config.user)
        except KeyError:
            text = f"user {config.user} does not exist: create it (useradd --system {config.user})"
            yield _problem(config, "defaults", "user", text)
    default = Path(str(schema.BY_KEY["state-directory"].default))  # made by the first start
    if config.state_directory != default and not config.state_directory.is_dir():
        text = f"directory {config.state_directory} does not exist: create it"
        yield _problem(config, "defaults", "state-directory", text)
    if not config.devices:
        text = "no device is configured: nothing is exported"
        yield Problem(config.source, 0, 0, text, warning=True)
    for name, device in config.devices.items():
        if device.path is not None:
            yield from _backing(config, name, device.path)
    yield from _missing_interfaces(config)


def _backing(config: Config, name: str, path: Path) -> Iterator[Problem]:
    section = f"devices.{name}"
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        text = f"{path} does not exist now: device [{name}] waits for it"
        yield _problem(config, section, "path", text, warning=True)
        return
    except OSError:  # maybe only for who asks
        return
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is not None:
        text = f"{path} is {kind}: name a file or a block device"
        yield _problem(config, section, "path", text)
    elif stat.S_ISREG(status.st_mode) and status.st_size < SECTOR_BYTES:
        text = f"{path} has {counted(status.st_size, 'byte')}: device [{name}] waits for more"
        yield _problem(config, section, "path", text, warning=True)


def _missing_interfaces(config: Config) -> Iterator[Problem]:
    """Those that are not there: the daemon waits for one that matches a pattern, and does not
    start without one that is named."""
    from ggaoe.server.interfaces import GLOB_CHARACTERS, is_meant

    known = _interfaces()
    if known is None:
        return
    for name, device in config.devices.items():
        for pattern in device.interfaces:
            if not any(is_meant(one, [pattern]) for one in known.values()):
                if GLOB_CHARACTERS & set(pattern):
                    text = f"no interface matches {pattern} now: device [{name}] waits for one"
                else:
                    text = f"interface {pattern} does not exist now: the daemon needs it to start"
                yield _problem(config, f"devices.{name}", "interfaces", text, warning=True)


def _interface_count(config: Config) -> int | None:
    """How many interfaces of this machine would serve; None where that cannot be told."""
    from ggaoe.server.interfaces import wants

    known = _interfaces()
    if known is None:
        return None
    devices = config.devices.values()
    return sum(any(wants(device, one) for device in devices) for one in known.values())


def _interfaces() -> dict[str, Any] | None:
    from ggaoe.net.netlink import list_interfaces

    try:
        return {interface.name: interface for interface in list_interfaces()}
    except OSError:
        return None


def _problem(
    config: Config, section: str, key: str, text: str, *, warning: bool = False
) -> Problem:
    """One that is about an option, where that is set."""
    setting = config.settings.get((section, key))
    file, _, line = (setting.origin if setting else "").rpartition(":")
    if file and line.isdigit():
        return Problem(file, int(line), 0, text, warning)
    return Problem(config.source, 0, 0, text, warning)


# --- the daemon --------------------------------------------------------------------------------


def difference(socket: Path, file: Path, config: Config) -> dict[str, Any]:
    """What a reload would do, as the daemon itself says: it has changes that are in no file, and
    reaches only what it could reach when it was confined."""
    source = ggaoectl.ask(socket, "version", {})["config"]
    if source is not None and Path(source).resolve() == file.resolve():
        result: dict[str, Any] = ggaoectl.ask(socket, "reload", {"dry_run": True})
    else:
        settings = {"settings": as_mapping(config), "source": str(file.absolute())}
        searched = [str(directory) for directory in _searched(config)]
        result = ggaoectl.ask(socket, "diff", {**settings, "searched": searched})
    return {key: result[key] for key in ("changes", "plan", "warnings")}


def _searched(config: Config) -> Iterator[Path]:
    """Directories that a reload of the file reads."""
    from ggaoe.config.read import fixed_part

    yield from config.document.directories
    for template in config.templates:
        yield fixed_part(str(template.pattern))
