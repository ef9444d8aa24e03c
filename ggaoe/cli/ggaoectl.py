"""ggaoectl: asks a running daemon by its control socket.

Owns the verbs, their arguments, and exit statuses: 0 done, 1 refused by the daemon, 2 wrong usage,
3 daemon not reachable, 4 partly done. Has to start fast: neither asyncio nor the daemon is
imported, and the configuration's reader only where the socket's path is looked up in a file.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

from ggaoe import __version__, parts
from ggaoe.cli import changing, output, rates, render
from ggaoe.errors import ControlError, GgaoeError, needed
from ggaoe.units import counted, format_mac, parse_duration_s, parse_mac, printable

if TYPE_CHECKING:
    from ggaoe.engine.trace import Traced

CONFIG = changing.DEFAULT_CONFIG
MESSAGE_BYTES_MAX = 1 << 20
"""Longest line either way, without its newline, as the daemon has it."""
ANSWER_TIMEOUT_S = 60.0
INTERVAL_S = 1.0
TRACE_S = 10.0
INTERVAL_S_MIN = 0.1
INTERVAL_S_MAX = 86400.0

DONE, REFUSED, USAGE, UNREACHABLE, PARTLY = range(5)

_REACH_HINTS = {
    errno.ENOENT: "does the daemon run, and with this control-socket?",
    errno.ECONNREFUSED: "the daemon has ended: start it again",
    errno.EACCES: "run it as root, or as the daemon's user",
    errno.EPROTOTYPE: "it is the socket of another program, maybe of the original ggaoed",
}


class UsageError(GgaoeError):
    """The command line, or the file it names, does not tell what to do."""


class UnreachableError(GgaoeError):
    """No daemon answers."""


class OutputError(GgaoeError):
    """What the daemon has said cannot be written."""


class Verb(NamedTuple):
    """One verb; its name is the daemon's method, too."""

    name: str
    doc: str
    view: render.View
    names: Literal["none", "one", "optional", "required"] = "optional"


VERBS = (
    Verb("list", "devices and interfaces, and why one does not serve", render.listing, "none"),
    Verb(
        "show",
        "everything about devices, or about the daemon, which is called daemon",
        render.show,
        "required",
    ),
    Verb("why", "what keeps a host from devices, what it sent last, and what to do", render.why),
    Verb("stats", "counters since the start or the last clear-stats", render.stats),
    Verb("monitor", "rates, once per interval", render.monitor),
    Verb("top", "devices, interfaces and hosts at work, once per interval", render.top),
    Verb("metrics", "counters as Prometheus reads them, as for a textfile", render.events, "none"),
    Verb("events", "what has happened, and what happens", render.events, "none"),
    Verb("trace", "requests and replies of a device as they pass", render.events, "one"),
    Verb("show-config", "config strings, as hosts have set them", render.config_strings),
    Verb("show-macmask", "MAC mask lists, as hosts have set them", render.mask_lists),
    Verb("show-reserve", "reservations", render.reservations),
    Verb("clear-stats", "set counters to zero", render.cleared),
    Verb("clear-config", "remove config strings", render.cleared, "required"),
    Verb("clear-macmask", "remove MAC mask lists", render.cleared, "required"),
    Verb("clear-reserve", "remove reservations", render.cleared, "required"),
    Verb("add", "export one more device", render.changed, "none"),
    Verb("remove", "stop devices and forget them", render.changed, "none"),
    Verb("start", "serve devices that are stopped", render.changed, "none"),
    Verb("stop", "finish requests, close files; hosts get no answer", render.changed, "none"),
    Verb("swap", "exchange the file or block device of an export", render.changed, "none"),
    Verb("set", "change options, with which all else stays", render.changed, "none"),
    Verb("reload", "read the configuration again", render.reload, "none"),
    Verb("version", "what runs, and since when", render.version, "none"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    output.open_missing()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `ggaoectl stats | head` ends in silence
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    arguments = command_parser().parse_args(argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ControlError as error:
        _report_refusal(error, arguments.json)
        return REFUSED
    except (UsageError, changing.OptionError) as error:
        _complain(str(error))
        return USAGE
    except UnreachableError as error:
        _complain(str(error))
        return UNREACHABLE
    except OutputError as error:
        _complain(str(error))
        return PARTLY
    except Exception as error:
        if arguments.debug:
            raise
        _complain(f"failed, {type(error).__name__}: {error}: --debug shows where")
        return REFUSED


def _run(arguments: argparse.Namespace) -> int:
    verb: Verb = arguments.verb
    path = arguments.socket or control_socket(arguments.config)

    def call(method: str, **params: object) -> Any:
        return ask(path, method, params)

    if verb.name in ("monitor", "top"):
        return _monitor(arguments, call)
    if verb.name == "trace":
        return _trace(arguments, path)
    if verb.name == "metrics":
        return _metrics(path, as_json=arguments.json)
    if verb.name == "events" and not arguments.recent:
        return _events(arguments, path)
    if verb.name == "reload":
        result = call("reload", dry_run=arguments.dry_run, force=arguments.force)
    elif verb.name in changing.NAMES:
        result = changing.run(verb.name, arguments, call)
    elif verb.name == "why":
        result = call("why", host=arguments.host, names=arguments.names)
    elif verb.names == "none":
        result = call(verb.name)
    else:
        result = call(verb.name, names=arguments.names)
    for warning in result.get("warnings", ()):
        print(printable(warning), file=sys.stderr)
    if arguments.json:
        _print([json.dumps(result, indent=2)])
    else:
        _print(verb.view(result, render.wants_colour(sys.stdout)))
    return _report_missing(result)


def _monitor(arguments: argparse.Namespace, call: Callable[..., Any]) -> int:
    """Rates once per interval: as lines, or of `top` on a terminal as a screen."""
    interval_s, names = _interval_and_names(arguments.names)
    is_lines = arguments.verb.name == "monitor" and not arguments.json
    which = {"names": names, "without_initiators": is_lines}
    before = call("stats", **which)
    status = _report_missing(before)
    with suppress(KeyboardInterrupt), ExitStack() as stack:  # the way to end it
        show = _shown(arguments, stack)
        for _ in _ticks(interval_s, arguments.count):
            after = call("stats", **which)
            found = rates.rates(before, after)
            before = after
            if arguments.verb.name == "top":
                found["devices"] = _with_states(found["devices"], call("list")["devices"])
            show(found)
    return status


def _with_states(devices: dict[str, Any], listed: list[dict[str, Any]]) -> dict[str, Any]:
    """Rates of devices, with what `list` says of them."""
    rows = {row["name"]: row for row in listed}
    keys = ("address", "state", "reason", "size_bytes")
    return {
        name: {**{key: rows[name][key] for key in keys}, **found}
        for name, found in devices.items()
        if name in rows
    }


def _shown(arguments: argparse.Namespace, stack: ExitStack) -> Callable[[dict[str, Any]], None]:
    """What shows one interval; `stack` ends it."""
    if arguments.json:
        return lambda found: _print([json.dumps(found)])
    on_screen, colour = render.is_screen(sys.stdout), render.wants_colour(sys.stdout)
    if arguments.verb.name == "top" and on_screen:
        try:
            from ggaoe.cli import top
        except ImportError as error:
            print(f"{needed('a screen', error)}: lines instead", file=sys.stderr)
        else:
            return stack.enter_context(top.screen(colour))
    view: render.View = arguments.verb.view
    if on_screen:
        return lambda found: _print(render.refreshed(view(found, colour)))
    return lambda found: _print(view(found, colour))


def _events(arguments: argparse.Namespace, path: Path) -> int:
    """Print what is remembered and what follows, as many as are wanted."""
    colour = render.wants_colour(sys.stdout)
    try:
        for number, event in enumerate(_items(path, "events", {"follow": True}), 1):
            _print([json.dumps(event)] if arguments.json else render.events([event], colour))
            if number == arguments.count:
                return DONE
    except KeyboardInterrupt:
        return DONE  # the way to end it
    raise UnreachableError(f"{path}: the daemon has hung up: does it still run?")


def _metrics(path: Path, *, as_json: bool) -> int:
    """Print all of the text, or, where the daemon ends meanwhile, nothing."""
    text, left = "", 1
    for item in _items(path, "metrics", {}):
        text += item["text"]
        left = item["left"]
    if left:
        raise UnreachableError(f"{path}: the daemon has ended before it had said everything")
    _print([json.dumps({"text": text}, indent=2) if as_json else text.rstrip("\n")])
    return DONE


def _trace(arguments: argparse.Namespace, path: Path) -> int:
    """Print frames, or write them to a file, until the time is over."""
    params = {"names": arguments.names, "seconds": arguments.seconds}
    end_s = time.monotonic() + arguments.seconds
    frames = lost = 0
    ended_early = False
    show = None
    with ExitStack() as stack:
        stack.enter_context(suppress(KeyboardInterrupt))
        for item in _items(path, "trace", params):
            if show is None:  # not before: what is refused makes no file
                show = _tracer(arguments, stack)
            show(item["frames"])
            frames += len(item["frames"])
            lost += item["lost"]
        ended_early = time.monotonic() < end_s
    note = f", {lost} more came too fast" if lost else ""
    print(f"{counted(frames, 'frame')}{note}", file=sys.stderr)
    if ended_early:
        text = "the trace has ended early: the daemon has ended, or serves another device now"
        raise UnreachableError(f"{path}: {text}")
    return DONE


def _tracer(
    arguments: argparse.Namespace, stack: ExitStack
) -> Callable[[list[dict[str, Any]]], None]:
    """What shows or writes frames; `stack` ends it."""
    from ggaoe.cli.dissect import Dissector
    from ggaoe.engine.trace import Traced

    def passed(found: dict[str, Any]) -> Traced:
        frame = bytes.fromhex(found["frame"])
        return Traced(found["time_ns"], found["interface"], found["length_bytes"], frame)

    if arguments.pcap:
        write = stack.enter_context(_capturing(arguments.pcap))
        return lambda frames: write(map(passed, frames))
    if arguments.json:
        return lambda frames: _print(map(json.dumps, frames))
    dissector = Dissector()
    return lambda frames: _print(printable(dissector.line(passed(one))) for one in frames)


@contextmanager
def _capturing(path: Path) -> Iterator[Callable[[Iterable[Traced]], None]]:
    """What writes frames to the file `path`, which is made."""
    from ggaoe.cli.pcapng import Capture
    from ggaoe.engine.trace import SNAP_BYTES

    try:
        file = path.open("xb")
    except OSError as error:
        is_there = error.errno == errno.EEXIST
        hint = "name a file that is not there yet" if is_there else "name another file"
        raise UsageError(f"{path}: {error.strerror}: {hint}") from None
    capture = Capture(file, SNAP_BYTES)

    def write(frames: Iterable[Traced]) -> None:
        try:
            for passed in frames:
                capture.add(*passed)
            file.flush()
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from None

    try:
        yield write
    finally:
        with suppress(OSError):  # nothing is left to be written, or it has been told of
            file.close()


def _ticks(interval_s: float, count: int | None) -> Iterator[int]:
    """Numbers from 0, each after one more interval; those missed are left out."""
    due_s = time.monotonic()
    for number in itertools.count() if count is None else range(count):
        due_s = max(due_s + interval_s, time.monotonic())
        time.sleep(max(0.0, due_s - time.monotonic()))
        yield number


def _interval_and_names(words: list[str]) -> tuple[float, list[str]]:
    """The first word is the interval where it can be read as one, otherwise a name."""
    try:
        interval_s = parse_duration_s(words[0])
    except (IndexError, ValueError):
        return INTERVAL_S, words
    if not INTERVAL_S_MIN <= interval_s <= INTERVAL_S_MAX:
        limits = f"{INTERVAL_S_MIN:g} to {INTERVAL_S_MAX:g} s"
        raise UsageError(f"interval {words[0]} is out of range: {limits}")
    return interval_s, words[1:]


def ask(path: Path, method: str, params: dict[str, object]) -> Any:
    """The result of one request on a connection of its own. ControlError: refused."""
    params = {**params, "parts": True}
    with (
        _reaching(path),
        _asked(path, method, params) as connection,
        connection.makefile("rb") as lines,
    ):
        result = _result(path, _line(lines))
        if result != {"streams": True}:
            return result
        whole: dict[str, Any] = {}
        while part := _item(path, _line(lines)):
            parts.join(whole, part)
        return whole


def _items(path: Path, method: str, params: dict[str, object]) -> Iterator[Any]:
    """The items of a stream, until the daemon ends it. ControlError: refused."""
    with (
        _reaching(path),
        _asked(path, method, params) as connection,
        connection.makefile("rb") as lines,
    ):
        _result(path, _line(lines))
        connection.settimeout(None)
        while lines.peek(1):
            yield _item(path, _line(lines))


def _asked(path: Path, method: str, params: dict[str, object]) -> socket.socket:
    """A connection on which `method` has been called."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(ANSWER_TIMEOUT_S)
        connection.connect(str(path))
        with suppress(BrokenPipeError):  # it has answered already: why it hung up
            connection.sendall(json.dumps(request).encode() + b"\n", socket.MSG_NOSIGNAL)
    except OSError:
        connection.close()
        raise
    return connection


@contextmanager
def _reaching(path: Path) -> Iterator[None]:
    """What the system says of the socket becomes an UnreachableError."""
    try:
        yield
    except TimeoutError:
        text = f"{path}: no answer within {ANSWER_TIMEOUT_S:g} s: see the daemon's log"
        raise UnreachableError(text) from None
    except OSError as error:
        hint = _REACH_HINTS.get(error.errno or 0, "does it still run, and is this its socket?")
        reason = error.strerror or str(error)
        raise UnreachableError(f"{path}: cannot reach the daemon: {reason}: {hint}") from None


def _result(path: Path, line: bytes) -> Any:
    """The result that an answer holds."""
    try:
        return _held(line, "result")
    except (ValueError, KeyError, TypeError):
        text = f"{path}: the answer is no JSON-RPC: it is the socket of another program"
        raise UnreachableError(text) from None


def _item(path: Path, line: bytes) -> Any:
    """What an item of a stream holds."""
    try:
        return _held(line, "params")
    except (ValueError, KeyError, TypeError):
        raise UnreachableError(f"{path}: what follows the answer is no item") from None


def _held(line: bytes, key: str) -> Any:
    """What a message has at `key`. ControlError: it is a refusal, which may also end a stream."""
    message = json.loads(line)
    if "error" not in message:
        return message[key]
    found = message["error"]
    raise ControlError(found["code"], found["message"], found.get("data"))


def _line(lines: BinaryIO) -> bytes:
    line = lines.readline(MESSAGE_BYTES_MAX + 2)
    if len(line) > MESSAGE_BYTES_MAX + 1:
        raise OSError(f"its answer is longer than {MESSAGE_BYTES_MAX} bytes")
    if not line.endswith(b"\n"):
        raise OSError("it hung up " + ("in the middle of a line" if line else "without an answer"))
    return line


def control_socket(config: Path | None) -> Path:
    """The path of the control socket in a configuration file that may have errors elsewhere: the
    daemon that runs has read a better one, and `reload` is to reach it and hear what is wrong."""
    from ggaoe.config import read, schema
    from ggaoe.config.values import convert

    option = schema.BY_KEY["control-socket"]
    file = config or CONFIG
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        if config is None and isinstance(error, FileNotFoundError):
            return Path(str(option.default))
        hint = "name the file with -c, or the socket with --socket"
        raise UsageError(f"{file}: {error.strerror}: {hint}") from None
    found = read.read_text(text, str(file))
    if not found.sections and found.problems.errors:
        raise UsageError(f"{found.problems.errors[0]} (or name the socket with --socket)")
    for section in found.sections:
        entry = section.entries.get(option.key)
        if section.name == "defaults" and section.kind in (None, "defaults") and entry is not None:
            try:
                value = convert(option, entry.scalar())
            except ValueError as error:
                place = f"{entry.file}:{entry.line}:{entry.column}"
                raise UsageError(f"{place}: {error}") from None
            return Path(entry.file).absolute().parent / str(value)
    return Path(str(option.default))


def _print(lines: Iterable[str]) -> None:
    """OutputError where it cannot be written."""
    text = "".join(f"{line}\n" for line in lines)
    try:
        print(text, end="", flush=True)
    except OSError as error:
        output.give_up()
        raise OutputError(f"the output cannot be written: {error.strerror}") from None


def _complain(text: str) -> None:
    print(f"ggaoectl: {printable(text)}", file=sys.stderr)


def _report_missing(result: dict[str, Any]) -> int:
    missing = result.get("missing", [])
    for name in missing:
        _complain(f"nothing matches {name!r}: the list verb shows the names")
    unfinished = result.get("unfinished", {})
    for name, reason in unfinished.items():
        _complain(f"{name}: {reason}")
    waiting = result.get("waiting", {})
    for name, reason in waiting.items():
        _complain(f"{name} waits: {reason}")
    return PARTLY if missing or unfinished or waiting else DONE


def _report_refusal(error: ControlError, as_json: bool) -> None:
    data = error.data if isinstance(error.data, dict) else {}
    if as_json:
        content = {"code": error.code, "message": str(error), "data": error.data}
        print(json.dumps({"error": content}, indent=2))
    for problem in data.get("problems", []):
        place = problem["file"]
        if problem["line"]:
            place += f":{problem['line']}:{problem['column']}"
        kind = "warning: " if problem["warning"] else ""
        print(printable(f"{place}: {kind}{problem['message']}"), file=sys.stderr)
    _complain(str(error))


def command_parser() -> argparse.ArgumentParser:
    """The whole command line; manual pages and completion are made from it, too."""
    parser = argparse.ArgumentParser(
        prog="ggaoectl",
        description="Control a running ggaoe.",
        epilog="NAMES are glob patterns of devices (for stats, monitor and top of interfaces, "
        "too). Exit status: 0 done, 1 refused by the daemon, 2 wrong usage, 3 daemon not "
        "reachable, 4 partly done.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"ggaoectl {__version__}")
    parser.set_defaults(config=None, socket=None, json=False, debug=False)
    _add_options(parser)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for verb in VERBS:
        one = verbs.add_parser(
            verb.name, help=verb.doc, description=f"{verb.doc[0].upper()}{verb.doc[1:]}."
        )
        one.set_defaults(verb=verb)
        _add_options(one)
        if verb.name in ("monitor", "top"):
            one.add_argument("--count", type=_count, metavar="N", help="end after N intervals")
            text = f"seconds, or a number with ms, s, min ({INTERVAL_S:g} if none), then names"
            one.add_argument("names", nargs="*", metavar="INTERVAL NAMES", help=text)
        elif verb.name in changing.NAMES:
            changing.add_arguments(verb.name, one)
        elif verb.name == "events":
            text = "only what is remembered"
            one.add_argument("--recent", action="store_true", help=text)
            one.add_argument("--count", type=_count, metavar="N", help="end after N events")
        elif verb.name == "reload":
            text = "only tell what would change"
            one.add_argument("--dry-run", action="store_true", help=text)
            text = "even if it removes every device, or removes or moves one that is used"
            one.add_argument("--force", action="store_true", help=text)
        elif verb.names != "none":
            if verb.name == "trace":
                text = f"how long, in seconds, or a number with ms, s, min ({TRACE_S:g} if none)"
                one.set_defaults(seconds=TRACE_S)
                one.add_argument("--seconds", type=_seconds, metavar="S", help=text)
                text = "write a pcapng file, for Wireshark and the like"
                one.add_argument("--pcap", type=Path, metavar="FILE", help=text)
            if verb.name == "why":
                one.add_argument("host", type=_mac, metavar="MAC", help="as in 02:00:00:00:00:01")
            if verb.names == "one":
                one.add_argument("names", nargs=1, metavar="NAME", help="a device, or a pattern")
                continue
            count = "+" if verb.names == "required" else "*"
            one.add_argument("names", nargs=count, metavar="NAMES", help="glob patterns")
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    """The options that may stand before the verb or after it."""
    options = parser.add_argument_group("options for every verb")
    later = argparse.SUPPRESS  # so that what stands before the verb is not set back after it
    text = f"configuration file that names the control socket ({CONFIG})"
    options.add_argument("-c", "--config", type=Path, default=later, metavar="FILE", help=text)
    text = "control socket, whatever the configuration says"
    options.add_argument("-s", "--socket", type=Path, default=later, metavar="PATH", help=text)
    text = "print the result as JSON"
    options.add_argument("--json", action="store_true", default=later, help=text)
    text = "show where an unexpected error comes from"
    options.add_argument("--debug", action="store_true", default=later, help=text)


def _mac(text: str) -> str:
    try:
        return format_mac(parse_mac(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number: write 1, or more")
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least one")
    return int(text)


def _seconds(text: str) -> float:
    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
