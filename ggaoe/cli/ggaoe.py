"""The `ggaoe` command: the daemon, and the tools that need no daemon.

Owns the command line and exit statuses; every error of an operator or of the environment is one
line on stderr (status 1), usage is argparse's (status 2).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import pwd
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ggaoe import __version__
from ggaoe.cli import check, doctor, output
from ggaoe.cli.importing import add_import_parser
from ggaoe.cli.tools import add_tool_parsers
from ggaoe.cli.vblade import SOURCE, StartLine, add_vblade_parser, mapping_of
from ggaoe.config import Config, from_mapping, load
from ggaoe.config.sections import FIXED, is_device_name
from ggaoe.errors import GgaoeError, StartError, limit_reached
from ggaoe.files import give
from ggaoe.server.process import Readiness
from ggaoe.units import parse_size_bytes

if TYPE_CHECKING:
    from ggaoe.server.app import Daemon

DEFAULT_CONFIG = Path("/etc/ggaoe/ggaoed.conf")
CONFINEMENTS = ("landlock", "seccomp")
"""Options of [defaults] that `ggaoe export` can switch off."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    output.open_missing()
    options = command_parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except GgaoeError as error:
        for line in str(error).splitlines():
            print(f"ggaoe: {line}", file=sys.stderr)
        return 1
    except OSError as error:
        if getattr(options, "debug", False):
            raise
        print(f"ggaoe: {_told(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _told(error: OSError | RuntimeError) -> str:
    """What is wrong with the environment that we were started in, and what to do."""
    text = limit_reached(error) or getattr(error, "strerror", None) or str(error)
    file = getattr(error, "filename", None)
    return text if file is None else f"{file}: {text}"


def command_parser() -> argparse.ArgumentParser:
    """The whole command line; manual pages and completion are made from it, too."""
    parser = argparse.ArgumentParser(
        prog="ggaoe",
        description="ATA-over-Ethernet target: without a command, run the daemon.",
    )
    parser.set_defaults(run=_run_daemon)
    parser.add_argument("-V", "--version", action="version", version=_version())
    parser.add_argument(
        "-c", "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="configuration"
    )
    _add_daemon_options(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    check.add_parser(commands, DEFAULT_CONFIG)
    doctor.add_parser(commands, DEFAULT_CONFIG)
    _add_export_parser(commands)
    add_vblade_parser(commands, _run_vblade)
    add_import_parser(commands)
    add_tool_parsers(commands)
    return parser


def _version() -> str:
    from ggaoe.engine.select import live_engine

    return f"ggaoe {__version__} (engine: {live_engine()})"


def _add_daemon_options(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group()
    place.add_argument("-d", "--daemon", action="store_true", help="go to the background")
    place.add_argument(
        "-n", "--nofork", action="store_true", help="stay in the foreground (the default)"
    )
    parser.add_argument("--debug", action="store_true", help="log more, with tracebacks")
    parser.add_argument("--syslog", action="store_true", help="log to syslog in the foreground")


def _add_export_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = commands.add_parser(
        "export",
        help="serve one file or block device, without a configuration file",
        description="Serve one file or block device. What hosts set (config string, mask list, "
        "reservation) is forgotten at the end unless --state-directory is given.",
    )
    export.add_argument("file", type=Path, help="file or block device to serve")
    export.add_argument(
        *("-i", "--interface"),
        action="append",
        metavar="IF",
        help="interface to serve on, or a pattern: '*' is every Ethernet interface (repeatable; "
        "required)",
    )
    export.add_argument("--shelf", type=int, default=0, help="of its address (default: 0)")
    text = "of its address (default: the first one that is free)"
    export.add_argument("--slot", type=int, help=text)
    export.add_argument("--read-only", action="store_true", help="refuse writes")
    export.add_argument("--buffered", action="store_true", help="use the page cache")
    export.add_argument("--write-cache", action="store_true", help="acknowledge volatile writes")
    export.add_argument(
        "--exact-size",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="export every whole sector, or round the size down to 4096 bytes (default: exact)",
    )
    export.add_argument("--offset", type=_size, metavar="SIZE", help="where the part begins")
    export.add_argument("--length", type=_size, metavar="SIZE", help="size of the part")
    export.add_argument("--queue-length", type=int, metavar="N", help="buffer count to announce")
    export.add_argument(
        "--accept", action="append", metavar="MAC", help="serve only these hosts (repeatable)"
    )
    export.add_argument("--state-directory", type=Path, metavar="DIR", help="to keep it")
    export.add_argument(
        "--control-socket",
        type=Path,
        metavar="PATH",
        help="for ggaoectl (default: in a temporary directory, as printed)",
    )
    export.add_argument(
        "--wait",
        action="store_true",
        help="wait for a file that cannot be opened, or an address that another target has,"
        " instead of giving up",
    )
    export.add_argument(
        "--metrics", metavar="ADDRESS:PORT", help="serve a status page and metrics by HTTP"
    )
    export.add_argument(
        "--user", metavar="NAME", help="become this user, who may open the file, once started"
    )
    for name in CONFINEMENTS:
        export.add_argument(
            f"--no-{name}", dest=name, action="store_false", help=f"do not confine it by {name}"
        )
    _add_daemon_options(export)
    export.set_defaults(run=_run_export, refuse=export.error)


def _size(text: str) -> int:
    try:
        return parse_size_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# --- daemon ------------------------------------------------------------------------------------


def _run_daemon(options: argparse.Namespace) -> int:
    from ggaoe.server.state import StateStore

    source = options.config.absolute()
    config = load(source)
    user = _user(config)
    store = StateStore(config.state_directory)
    if store.is_missing_default and store.make() and user is not None:
        give(store.directory, user.pw_uid, user.pw_gid)
    return _serve(
        options,
        config,
        source=source,
        state_directory=config.state_directory,
        control_socket=config.control_socket,
        pid_file=config.pid_file,
        removed=[config.pid_file, config.control_socket],
    )


def _run_export(options: argparse.Namespace) -> int:
    if not options.interface:
        options.refuse(f"--interface is missing{_choice_of_interfaces()}")
    is_slot_free_to_choose = options.slot is None
    if is_slot_free_to_choose:
        options.slot = 0  # so that all else is checked before a slot is looked for
    config = from_mapping(_export_mapping(options), "ggaoe export")
    if is_slot_free_to_choose:
        options.slot = _free_slot(options.shelf, options.interface)
        config = from_mapping(_export_mapping(options), "ggaoe export")
    user = _user(config)
    with ExitStack() as stack:
        state_directory, control_socket = options.state_directory, options.control_socket
        removed = []
        if state_directory is None or control_socket is None:
            advice = "set TMPDIR, or name a --state-directory and a --control-socket"
            temporary = stack.enter_context(_temporary_directory("ggaoe-export-", advice))
            removed.append(temporary)
            if user is not None:
                give(temporary, user.pw_uid, user.pw_gid)
            state_directory = state_directory or temporary
            control_socket = control_socket or temporary / "control"
        control_socket = control_socket.absolute()
        return _serve(
            options,
            config,
            source=None,
            state_directory=state_directory.absolute(),
            control_socket=control_socket,
            pid_file=None,
            removed=[*removed, control_socket],
            readiness_of=partial(_ExportReadiness, control_socket, options.wait),
        )


class _ExportReadiness(Readiness):
    """A start that fails where the file cannot be served, and says how to reach the process."""

    def __init__(
        self, control_socket: Path, may_wait: bool, daemon: Daemon, readiness: Readiness
    ) -> None:
        super().__init__()
        self._control_socket = control_socket
        self._may_wait = may_wait
        self._daemon = daemon
        self._readiness = readiness

    def ready(self, text: str = "") -> None:
        (export,) = self._daemon.exports.values()
        obstacle = self._daemon.obstacle(export)
        if obstacle is not None and not self._may_wait:
            raise StartError(f"{obstacle} (--wait waits until it is served)")
        look = f"ggaoectl -s {self._control_socket} list"
        logging.getLogger("ggaoe").info("to look at it: %s", look)
        path, address = export.config.path, export.config.address
        does = f"serves {path} as {address}"
        if obstacle is not None:
            does = f"waits for {path}, to serve it as {address}"
        self._readiness.ready(
            f"process {os.getpid()} {does}\n"
            f"to look at it: {look}\n"
            f"to stop it:    kill {os.getpid()}"
        )


def _choice_of_interfaces() -> str:
    """What --interface may be here."""
    from ggaoe.net.netlink import list_interfaces

    found = [one for one in list_interfaces() if one.is_ethernet and not one.is_loopback]
    names = [one.name if one.is_up else f"{one.name} (down)" for one in found]
    there_are = f"; there are {', '.join(sorted(names))}" if names else ""
    return f"{there_are}; --interface '*' is every Ethernet interface"


def _free_slot(shelf: int, patterns: Sequence[str]) -> int:
    """The first slot that nobody serves on these interfaces, which is printed where there are any.
    Another process may take it between this look and the claim of the daemon, which then has a
    conflict."""
    from ggaoe.net.netlink import list_interfaces
    from ggaoe.server import process
    from ggaoe.server.freeslot import first_free
    from ggaoe.server.interfaces import is_meant

    process.require_capability_net_raw()
    interfaces = [one for one in list_interfaces() if is_meant(one, patterns)]
    slot = first_free(shelf, interfaces)
    if interfaces:
        where = ", ".join(one.name for one in interfaces)
        print(f"ggaoe: e{shelf}.{slot} is the first free address on {where}", file=sys.stderr)
    return slot


def _run_vblade(options: argparse.Namespace) -> int:
    config = from_mapping(mapping_of(options), SOURCE)
    with _temporary_directory("ggaoe-vblade-", "set TMPDIR") as directory:
        return _serve(
            options,
            config,
            source=None,
            state_directory=directory,
            control_socket=None,
            pid_file=None,
            removed=[directory],
            level=logging.WARNING,
            readiness_of=StartLine,
        )


@contextmanager
def _temporary_directory(prefix: str, advice: str) -> Iterator[Path]:
    """For what hosts set, which is forgotten at the end."""
    try:
        made = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartError(f"no temporary directory can be made: {reason}: {advice}") from None
    with made as name:
        yield Path(name)


def _user(config: Config) -> pwd.struct_passwd | None:
    """The user that the daemon is to become, whom directories that we make are for. To be asked
    before anything is made: StartError where there is none."""
    from ggaoe.server.capabilities import user_called

    return None if config.user is None else user_called(config.user)


def _export_mapping(options: argparse.Namespace) -> dict[str, object]:
    device: dict[str, object] = {
        "path": str(options.file.absolute()),
        "shelf": options.shelf,
        "slot": options.slot,
        "interfaces": options.interface,
        "read-only": options.read_only,
        "direct-io": not options.buffered,
        "write-cache": options.write_cache,
        "exact-size": options.exact_size,
    }
    for key in ("offset", "length", "queue_length", "accept"):
        value = getattr(options, key)
        if value is not None:
            device[key.replace("_", "-")] = value
    defaults = {name: getattr(options, name) for name in CONFINEMENTS}
    for key in ("user", "metrics"):
        value = getattr(options, key)
        if value is not None:
            defaults[key] = value
    name = options.file.name
    if name in FIXED or not is_device_name(name):
        name = "export"
    return {"defaults": defaults, "devices": {name: device}}


def _serve(
    options: argparse.Namespace,
    config: Config,
    *,
    source: Path | None,
    state_directory: Path,
    control_socket: Path | None,
    pid_file: Path | None,
    removed: Sequence[Path],
    level: int = logging.INFO,
    readiness_of: Callable[[Daemon, Readiness], Readiness] = lambda _, readiness: readiness,
) -> int:
    """Become the daemon; returns when it has been stopped. `readiness_of` turns the daemon and
    what reports its start into what is told that it has started."""
    from ggaoe.server import logs, process

    process.require_capability_net_raw()
    process.take_over()
    readiness = process.daemonise() if options.daemon else process.Readiness()
    try:
        syslog = options.syslog or (options.daemon and logs.has_syslog())
        logs.configure("syslog" if syslog else "stderr", level, options.debug)
        if options.daemon and not syslog:
            logging.getLogger("ggaoe").warning("no syslog listens: messages end with the start")
        with ExitStack() as stack:
            for path in (pid_file, control_socket):
                if path is not None:
                    process.make_directory(path)
            if pid_file is not None:
                stack.enter_context(process.PidFile(pid_file))
            _run_loop(
                lambda: _daemon(
                    lambda daemon: readiness_of(daemon, readiness),
                    config,
                    source,
                    state_directory,
                    control_socket,
                    removed,
                ),
                debug=options.debug,
            )
    except GgaoeError as error:
        readiness.failed(str(error))
        return 1
    except (OSError, RuntimeError) as error:
        if options.debug or not (isinstance(error, OSError) or limit_reached(error)):
            raise
        readiness.failed(_told(error))
        return 1
    return 0


async def _daemon(
    readiness_of: Callable[[Daemon], Readiness],
    config: Config,
    source: Path | None,
    state_directory: Path,
    control_socket: Path | None,
    removed: Sequence[Path],
) -> None:
    from ggaoe.server.app import Daemon

    daemon = Daemon(
        config,
        source=source,
        state_directory=state_directory,
        control_socket=control_socket,
        removed=removed,
    )
    await daemon.run(readiness_of(daemon))


def _run_loop(start: Callable[[], Coroutine[object, object, None]], *, debug: bool) -> None:
    """On uvloop where it is installed, else on asyncio's own loop."""
    factory: Callable[[], asyncio.AbstractEventLoop]
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = asyncio.new_event_loop
    for end in (*os.pipe(), *socket.socketpair()):  # a loop ends badly where it gets none
        os.close(end if isinstance(end, int) else end.detach())
    with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
        runner.run(start())


if __name__ == "__main__":
    sys.exit(main())
