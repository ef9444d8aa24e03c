"""What the tools of the initiator's side have in common: their options, opening, errors, JSON.

Must not know: any single tool. Exit status of each: 0 done, 1 failed, 2 wrong usage, and 128 + the
signal where it was interrupted or nobody reads its output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

from ggaoe.cli import output, render
from ggaoe.client import Initiator, RemoteDevice, Timing
from ggaoe.errors import GgaoeError
from ggaoe.units import parse_address, parse_mac, printable

OPEN_TIMEOUT_S = 3.0
LISTEN_S = 1.0
REQUEST_TIMEOUT_S = 5.0
"""For how long a request is repeated, where it is not said."""
JSON_VERSION = 1

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
T = TypeVar("T")
Body: TypeAlias = Callable[[argparse.Namespace], Coroutine[Any, Any, int]]


def add_tool(
    subparsers: Subparsers, name: str, body: Body, summary: str, *, title: str = ""
) -> argparse.ArgumentParser:
    """A command that runs `body`; `title` is what it is called in errors, if not by `name`."""
    parser = subparsers.add_parser(name, help=summary, description=summary)
    parser.add_argument(
        "-i",
        "--interface",
        action="append",
        metavar="IF",
        help="interface to use; may be repeated (default: every Ethernet interface that is up)",
    )

    def run(arguments: argparse.Namespace) -> int:
        try:
            status = asyncio.run(body(arguments))
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            output.give_up()  # who reads it has seen enough
            return 128 + signal.SIGPIPE
        except GgaoeError as error:
            complain(title or name, str(error))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            complain(title or name, f"{where}{error.strerror or error}")
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        return 1

    parser.set_defaults(run=run)
    return parser


def add_verb(
    verbs: Subparsers, command: str, name: str, body: Body, summary: str
) -> argparse.ArgumentParser:
    """A tool that is a verb of `command`, about one device."""
    parser = add_tool(verbs, name, body, summary, title=f"{command} {name}")
    add_address(parser)
    add_timeout(parser)
    add_json(parser)
    return parser


def add_verbs(subparsers: Subparsers, command: str, summary: str) -> Subparsers:
    """A command that does nothing without one of its verbs, which are to be added to the result."""
    parser = subparsers.add_parser(command, help=summary, description=summary)
    return parser.add_subparsers(title="verbs", metavar="VERB", required=True)


def add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", type=address, help="as in e0.1")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_listen(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "-t",
        "--timeout",
        type=positive,
        default=LISTEN_S,
        metavar="SECONDS",
        help=f"how long to listen for {what} ({LISTEN_S:g})",
    )


def add_timeout(parser: argparse.ArgumentParser, default_s: float = REQUEST_TIMEOUT_S) -> None:
    parser.add_argument(
        "-t",
        "--timeout",
        type=positive,
        default=default_s,
        metavar="SECONDS",
        help=f"how long a request is repeated before it counts as unanswered ({default_s:g})",
    )


def address(text: str) -> tuple[int, int]:
    return _argument(parse_address, text)


def mac(text: str) -> bytes:
    return _argument(parse_mac, text)


def _argument(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count: write 1 or more")
    return int(text)


def positive(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


@asynccontextmanager
async def opened(
    arguments: argparse.Namespace,
    where: tuple[int, int],
    timeout_s: float | None = None,
    *,
    multipath: bool = False,
) -> AsyncIterator[RemoteDevice]:
    """The device at `where`; with `timeout_s` that is for finding it, otherwise the arguments'
    timeout is for that and each of its requests."""
    timing = Timing() if timeout_s is not None else Timing(deadline_s=arguments.timeout)
    async with Initiator(arguments.interface, timing) as initiator:
        yield await initiator.open(*where, timeout_s, multipath=multipath)


def complain(title: str, text: str) -> None:
    print(f"ggaoe {title}: {text}", file=sys.stderr)


def print_json(value: dict[str, object]) -> None:
    print(json.dumps({"version": JSON_VERSION, **value}, indent=2))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[render.Cell]]) -> None:
    print("\n".join(render.table(heads, rows, render.wants_colour(sys.stdout))), flush=True)


def shown(text: bytes) -> str:
    """A config string is any bytes; what would disturb a terminal is escaped."""
    return printable(text.decode("utf-8", "backslashreplace"))
