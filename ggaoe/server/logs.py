"""Where the daemon's log lines go, and that each of them is one line of one event.

Owns the destination (stderr, the journal, syslog), the format, and the limit on repetition. Must
not know who logs. What peers sent can be logged as it is: nothing unprintable leaves, so that it
cannot forge a line. A destination that does not take a line never stops who logs: the line is
dropped, and counted in the next one.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ggaoe.errors import StartError, limit_reached
from ggaoe.events import FIELDS
from ggaoe.server.lines import LineStream
from ggaoe.units import counted, printable

LINE_CHARACTERS_MAX = 8192
LIMIT_LINES = 10
LIMIT_INTERVAL_S = 10.0
LIMIT_TEMPLATES_MAX = 1024
"""Message templates that are counted at once; the one that began first gives way."""
TRACE_LOGGER = "ggaoe.trace"
"""Lines of `trace-io`: asked for one by one, so never limited."""
SYSLOG_SOCKET = "/dev/log"
JOURNAL_SOCKET = "/run/systemd/journal/socket"

_FACILITY_DAEMON = 3 << 3  # RFC 5424, Table 1

Destination = Literal["stderr", "syslog"]


def has_syslog(syslog_socket: str = SYSLOG_SOCKET) -> bool:
    """Whether a syslog listens; a socket file may be left of one that does not."""
    try:
        _connected(syslog_socket).close()
    except OSError:
        return False
    return True


def configure(
    destination: Destination,
    level: int = logging.INFO,
    debug: bool = False,
    syslog_socket: str = SYSLOG_SOCKET,
    journal_socket: str = JOURNAL_SOCKET,
) -> None:
    """Send every log line of the process to `destination` from now on.

    `debug` lowers the level to DEBUG and shows tracebacks on stderr as lines of their own. Where
    the journal reads stderr, lines go to its socket, with the fields of events (GGAOE_EVENT,
    GGAOE_DEVICE, GGAOE_INTERFACE, GGAOE_PEER). StartError where no syslog listens. Whatever else
    Python writes to stderr takes the same way, so that it waits for nobody.
    """
    stream = _stderr_stream()
    if destination == "syslog":
        handler = _to_syslog(syslog_socket)
    else:
        handler = _to_stderr(stream, journal_socket, indent_tracebacks=debug)
    handler.addFilter(RateLimit())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if debug else level)
    logging.getLogger("asyncio").setLevel(logging.WARNING)  # which selector it took: no news
    logging.captureWarnings(True)


def write_in_thread() -> None:
    """Leave waiting for stderr to a thread, now that the process may have threads; nothing to do
    before `configure`. StartError where the system has no more threads."""
    if not isinstance(sys.stderr, LineStream):
        return
    try:
        sys.stderr.writer.start()
    except RuntimeError as error:
        raise StartError(f"no thread for the log: {limit_reached(error) or error}") from None


def _stderr_stream() -> LineStream:
    """Return what sys.stderr is from the first call on."""
    if not isinstance(sys.stderr, LineStream):
        stream = LineStream(sys.stderr.fileno())
        sys.stderr.flush()
        sys.stderr = stream
        # A terminal may stop background processes that write to it (stty tostop).
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        atexit.register(stream.writer.finish)
    return sys.stderr


def _to_syslog(path: str) -> logging.Handler:
    try:
        handler = _SyslogHandler(path)
    except OSError as error:
        raise StartError(
            f"no syslog at {path}: {error.strerror}: start one, or log to stderr"
        ) from None
    handler.setFormatter(_OneLine(_no_prefix))
    return handler


def _to_stderr(
    stream: LineStream, journal_socket: str, *, indent_tracebacks: bool
) -> logging.Handler:
    handler: logging.Handler = _LineHandler(stream)
    if not _is_journal(stream.fileno()):
        handler.setFormatter(_OneLine(_time_prefix, indent_tracebacks=indent_tracebacks))
        return handler
    try:
        journal = _JournalHandler(journal_socket)
    except OSError:  # what is written to stderr arrives as well, without fields
        handler.setFormatter(_OneLine(_priority_prefix))
        return handler
    journal.setFormatter(_OneLine(_no_prefix))
    return journal


@dataclass(slots=True)
class _Window:
    start_s: float
    lines: int = 0


class RateLimit(logging.Filter):
    """Lets `lines` of one message template through per `interval_s`; the last of them says that
    more are held back, the first after the interval how many were. Debug lines are not limited."""

    def __init__(
        self,
        lines: int = LIMIT_LINES,
        interval_s: float = LIMIT_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._lines = lines
        self._interval_s = interval_s
        self._clock = clock
        self._windows: dict[tuple[str, int, str], _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG or record.name == TRACE_LOGGER:
            return True
        key = (record.name, record.levelno, str(record.msg))
        now_s = self._clock()
        window = self._windows.get(key)
        suppressed = 0
        if window is None or now_s - window.start_s >= self._interval_s:
            if window is not None:
                suppressed = max(0, window.lines - self._lines)
                del self._windows[key]  # so that the new one is the youngest
            window = self._open(key, now_s)
        window.lines += 1
        if suppressed:
            _append(record, f" (suppressed {suppressed} more)")
        if window.lines == self._lines:
            _append(record, f" (more of these are suppressed for {self._interval_s:g} s)")
        return window.lines <= self._lines

    def _open(self, key: tuple[str, int, str], now_s: float) -> _Window:
        if len(self._windows) >= LIMIT_TEMPLATES_MAX:
            del self._windows[next(iter(self._windows))]
        window = self._windows[key] = _Window(now_s)
        return window


def _append(record: logging.LogRecord, text: str) -> None:
    record.msg, record.args = record.getMessage() + text, ()


class _OneLine(logging.Formatter):
    """A prefix and the message, printable throughout; a traceback is part of the line, or
    follows as indented lines."""

    def __init__(
        self, prefix: Callable[[logging.LogRecord], str], indent_tracebacks: bool = False
    ) -> None:
        super().__init__()
        self._prefix = prefix
        self._indent = indent_tracebacks

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if trace and not self._indent:
            text = f"{text}\n{trace}"
        line = self._prefix(record) + _cut(printable(text))
        if trace and self._indent:
            line += "".join(f"\n    {printable(row)}" for row in trace.split("\n"))
        return line


def _cut(text: str) -> str:
    return text if len(text) <= LINE_CHARACTERS_MAX else text[:LINE_CHARACTERS_MAX] + "…"


def _priority(record: logging.LogRecord) -> int:
    """Severity as of syslog, RFC 5424, Table 2."""
    for level, priority in (
        (logging.CRITICAL, 2),
        (logging.ERROR, 3),
        (logging.WARNING, 4),
        (logging.INFO, 6),
    ):
        if record.levelno >= level:
            return priority
    return 7


def _no_prefix(record: logging.LogRecord) -> str:
    return ""


def _priority_prefix(record: logging.LogRecord) -> str:
    return f"<{_priority(record)}>"


def _time_prefix(record: logging.LogRecord) -> str:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
    return f"{stamp}.{int(record.msecs):03d} {record.levelname.lower()}: "


def _is_journal(fd: int) -> bool:
    """Whether the journal reads what is written to `fd`: systemd.exec, $JOURNAL_STREAM."""
    status = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _LineHandler(logging.Handler):
    """To a stream of lines."""

    def __init__(self, stream: LineStream) -> None:
        super().__init__()
        self._writer = stream.writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        self._writer.put(text)

    def flush(self) -> None:
        """Wait a moment for the last lines to be taken: the process is about to end."""
        self._writer.finish()


def _connected(path: str) -> socket.socket:
    fresh = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    fresh.setblocking(False)
    try:
        fresh.connect(path)
    except OSError:
        fresh.close()
        raise
    return fresh


class _DatagramHandler(logging.Handler, ABC):
    """To a local service that takes a datagram a line. The standard library's own would stop the
    event loop whenever it does not keep up: here such lines are lost, and counted in the next.
    OSError where nobody listens."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._lost = 0
        self._socket: socket.socket | None = _connected(path)

    @abstractmethod
    def _datagram(self, record: logging.LogRecord, text: str) -> bytes:
        """What says `text`, which is one line."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if self._lost:
            text += f" (lost before this one: {counted(self._lost, 'line')})"
        try:
            self._send(self._datagram(record, text))
        except OSError:
            self._lost += 1
        else:
            self._lost = 0

    def _send(self, line: bytes) -> None:
        if self._socket is not None:
            try:
                self._socket.send(line)
            except BlockingIOError:
                raise
            except OSError:  # the service was restarted: its socket is another one now
                self._socket.close()
                self._socket = None
            else:
                return
        self._socket = _connected(self._path)
        self._socket.send(line)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        super().close()


class _SyslogHandler(_DatagramHandler):
    """To the local syslog, facility daemon."""

    def _datagram(self, record: logging.LogRecord, text: str) -> bytes:
        priority = _FACILITY_DAEMON | _priority(record)
        return f"<{priority}>ggaoe[{os.getpid()}]: {text}".encode()


class _JournalHandler(_DatagramHandler):
    """To the journal, by its native protocol: a field a line."""

    def _datagram(self, record: logging.LogRecord, text: str) -> bytes:
        fields = {
            "MESSAGE": text,
            "PRIORITY": str(_priority(record)),
            "SYSLOG_IDENTIFIER": "ggaoe",
            **{f"GGAOE_{name.upper()}": getattr(record, name, "") for name in ("event", *FIELDS)},
        }
        lines = [f"{name}={printable(value)}\n" for name, value in fields.items() if value]
        return "".join(lines).encode()
