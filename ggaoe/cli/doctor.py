"""`ggaoe doctor`: what is wrong with a configuration on this machine, and what to do about it.

Owns what is gathered for the checks (`ggaoe.server.doctor`), among it the answers of the daemon if
one runs, and how findings are shown. Exit status: 0 no errors, 1 errors, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggaoe.cli.render import wants_colour
from ggaoe.cli.tool import Subparsers, add_json, print_json
from ggaoe.config import Config, from_mapping, load
from ggaoe.errors import ConfigError, ControlError, Problem
from ggaoe.units import printable

if TYPE_CHECKING:
    from ggaoe.server.doctor import Finding, Live, Severity, Situation

_COLOURS = {"error": "\x1b[31m", "warning": "\x1b[33m", "ok": "\x1b[32m", "note": ""}
_PLAIN = "\x1b[0m"
_INDENT = 28


def add_parser(subparsers: Subparsers, default: Path) -> None:
    doctor = subparsers.add_parser(
        "doctor",
        help="look for what keeps the daemon from serving well",
        description="Examine the configuration, this machine and, if it runs, the daemon. Changes "
        "nothing. Exit status 1 if there are errors.",
    )
    doctor.add_argument("-c", "--config", type=Path, default=default, metavar="FILE")
    add_json(doctor)
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    found = []
    for check, finding in _findings(options.config.absolute()):
        found.append((check, finding))
        if not options.json:
            print(_text(check, finding), flush=True)
    counts = Counter(finding.severity for _, finding in found)
    if options.json:
        rows = [{"check": check, **asdict(finding)} for check, finding in found]
        print_json({"errors": counts["error"], "warnings": counts["warning"], "findings": rows})
    else:
        print(f"errors: {counts['error']}, warnings: {counts['warning']}")
    return 1 if counts["error"] else 0


def _findings(source: Path) -> Iterator[tuple[str, Finding]]:
    from ggaoe.server.doctor import Finding, examine

    try:
        config = load(source)
    except ConfigError as error:
        for problem in error.problems:
            severity: Severity = "warning" if problem.warning else "error"
            yield "configuration", Finding(severity, _place(problem), problem.message)
        yield from examine(_situation(from_mapping({}, str(source)), source), has_config=False)
        return
    yield from examine(_situation(config, source), has_config=True)


def _place(problem: Problem) -> str:
    return f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file


def _situation(config: Config, source: Path) -> Situation:
    from ggaoe.cli import ggaoectl
    from ggaoe.net.netlink import list_interfaces
    from ggaoe.server import capabilities
    from ggaoe.server.doctor import Situation

    live, unreachable = None, ""
    try:
        live = _live(ggaoectl.control_socket(source))
    except (ggaoectl.UsageError, ggaoectl.UnreachableError, ControlError) as error:
        unreachable = str(error)
    return Situation(
        config=config,
        source=source,
        interfaces=tuple(list_interfaces()),
        capabilities=capabilities.permitted(),
        live=live,
        unreachable=unreachable,
    )


def _live(path: Path) -> Live:
    from ggaoe.cli.ggaoectl import ask
    from ggaoe.server.doctor import Live

    shown: dict[str, Any] = ask(path, "show", {"names": ["daemon", "*"]})
    try:
        changes = tuple(ask(path, "reload", {"dry_run": True})["changes"])
    except ControlError:
        changes = None
    return Live(
        listing=ask(path, "list", {}),
        devices=tuple(shown["devices"]),
        # A device may have that name.
        daemon=shown.get("daemon") or ask(path, "version", {}),
        stats=ask(path, "stats", {"names": []}),
        changes=changes,
    )


def _text(check: str, finding: Finding) -> str:
    severity = f"{finding.severity:<8}"
    if wants_colour(sys.stdout):
        severity = f"{_COLOURS[finding.severity]}{severity}{_PLAIN}"
    head = f"{severity} {check:<18} "
    lines = [f"{head}{printable(finding.where)}: {printable(finding.what)}"]
    if finding.remedy:
        lines.append(f"{'':<{_INDENT}}{printable(finding.remedy)}")
    return "\n".join(lines)
