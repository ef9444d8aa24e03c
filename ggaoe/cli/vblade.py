"""`ggaoe vblade`: one export with vblade's command line, start-up line and exit status.

Owns arguments and what they mean in our configuration, and the line. Differences: a write is on
stable storage when it is acknowledged, with -s or without; an interface that is down is waited for.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from ggaoe.config.document import quoted
from ggaoe.errors import StartError
from ggaoe.importer.model import interface_of
from ggaoe.importer.report import Place, Report, Word
from ggaoe.importer.vblade import host_of, hosts_of, sectors_of
from ggaoe.proto.ata import SERIAL_CHARS
from ggaoe.proto.frame import SECTOR_BYTES
from ggaoe.server.lines import LineWriter
from ggaoe.server.process import Readiness

if TYPE_CHECKING:
    from ggaoe.server.app import Daemon

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

SOURCE = "ggaoe vblade"
"""Where settings come from, for messages."""


def add_vblade_parser(commands: Subparsers, run: Callable[[argparse.Namespace], int]) -> None:
    """Add the command, which `run` executes."""
    parser = commands.add_parser(
        "vblade",
        help="serve one file or block device with the arguments of vblade",
        description="Serve one file or block device as vblade does, until a signal ends it. Unlike "
        "vblade, a write is on stable storage when it is acknowledged, even without -s; a host "
        "that -m names wrongly is an error; and an interface that is down is waited for.",
    )
    parser.add_argument("-b", type=_whole, metavar="N", help="buffer count to announce")
    parser.add_argument("-d", action="store_true", help="bypass the page cache (O_DIRECT)")
    parser.add_argument("-s", action="store_true", help="without effect: writes are always synced")
    parser.add_argument("-r", action="store_true", help="refuse writes")
    parser.add_argument("-m", action="append", metavar="MAC,…", help="serve only these hosts")
    parser.add_argument(
        "-o", type=_sectors, metavar="SECTORS", help="sectors to leave out at the start"
    )
    parser.add_argument("-l", type=_sectors, metavar="SECTORS", help="sectors to export")
    parser.add_argument("shelf", type=_whole)
    parser.add_argument("slot", type=_whole)
    parser.add_argument("netif", help="interface to serve")
    parser.add_argument("file", type=Path, metavar="filename", help="file or block device")
    parser.error = partial(_wrong_usage, parser)  # type: ignore[method-assign]
    # What a command does not know would be its parent's error, with the parent's status.
    parser.parse_known_args = partial(_all_args, parser)  # type: ignore[assignment,method-assign]
    parser.set_defaults(run=run, daemon=False, debug=False, syslog=False)


def _whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", text):
        raise argparse.ArgumentTypeError(f"{quoted(text)} is no whole number")
    return int(text)


def _sectors(text: str) -> int:
    try:
        return sectors_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _all_args(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None = None,
    namespace: argparse.Namespace | None = None,
) -> tuple[argparse.Namespace, list[str]]:
    found, rest = argparse.ArgumentParser.parse_known_args(parser, arguments, namespace)
    if rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    return found, rest


def _wrong_usage(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """As vblade, which knows one exit status."""
    parser.print_usage(sys.stderr)
    parser.exit(1, f"{parser.prog}: {message}\n")


def mapping_of(options: argparse.Namespace) -> dict[str, object]:
    """Our configuration for the arguments; ConfigError where a host is no host, or an interface no
    interface."""
    report, at = Report(), Place(SOURCE)
    device: dict[str, object] = {
        "path": str(options.file.absolute()),
        "shelf": options.shelf,
        "slot": options.slot,
        "interfaces": [glob.escape(interface_of(Word(options.netif, at), report) or "")],
        "read-only": options.r,
        "direct-io": options.d,
    }
    if options.b is not None:
        device["queue-length"] = options.b
    for key, sectors in (("offset", options.o), ("length", options.l)):
        if sectors is not None:
            device[key] = sectors * SECTOR_BYTES
    if options.m is not None:
        words = [word for text in options.m for word in hosts_of(Word(text, at))]
        device["accept"] = [mac for word in words if (mac := host_of(word, report))]
    report.settle()
    # What vblade shows hosts as the serial number, which comes from the name.
    name = f"{options.shelf}.{options.slot}:{socket.gethostname()}"[:SERIAL_CHARS]
    return {"devices": {name: device}}


class StartLine(Readiness):
    """Prints vblade's line once the device is served; StartError where it cannot be."""

    def __init__(self, daemon: Daemon, _: Readiness) -> None:
        super().__init__()
        self._daemon = daemon

    def ready(self, text: str = "") -> None:
        (export,) = self._daemon.exports.values()
        if (obstacle := self._daemon.obstacle(export)) is not None:
            raise StartError(obstacle)
        access = "O_RDONLY" if export.config.read_only else "O_RDWR"
        sectors = export.device.target.size_sectors
        line = f"pid {os.getpid()}: {export.config.address}, {sectors} sectors {access}"
        LineWriter(sys.stdout.fileno()).put(line)  # which does not wait for its reader
