"""Lines to a descriptor that may not take them: a stopped terminal, a full pipe, a hung disk.

Owns the queue, its bound and the thread that waits for the descriptor. Must not know who writes or
what the lines say. The descriptor stays as it was inherited: O_NONBLOCK would hold for every
process that shares the terminal.
"""

from __future__ import annotations

import io
import os
import select
import threading
import time
from collections import deque
from contextlib import suppress

from ggaoe.units import counted, printable

QUEUE_BYTES_MAX = 1 << 18
"""Lines that the descriptor has not taken yet; newer ones are dropped, and counted."""
FINISH_TIMEOUT_S = 1.0
"""The end of the process waits so long for the last lines to be taken."""

_TO_NULL = b""  # in the queue: from here on the descriptor is /dev/null


class LineWriter:
    """Writes lines to `fd` in order, and never waits for it. Until `start` it writes what `fd`
    takes at once; from then on a thread waits for `fd`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # Reentrant, because a destructor that fails in here is reported on stderr, which is us.
        self._changed = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._lost = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Leave the waiting to a thread from now on. Idempotent; RuntimeError without a thread."""
        if self._thread is None:
            thread = threading.Thread(target=self._write_forever, name="lines", daemon=True)
            thread.start()
            self._thread = thread

    def put(self, line: str) -> None:
        """Queue a line, which has no newline yet. Where the queue is full, the line is dropped and
        counted in the next one."""
        with self._changed:
            if self._lost:
                line += f" (lost before this one: {counted(self._lost, 'line')})"
            text = f"{line}\n".encode(errors="backslashreplace")
            if self._queue and self._queued_bytes + len(text) > QUEUE_BYTES_MAX:
                self._lost += 1
                return
            self._lost = 0
            self._append(text)

    def to_null(self) -> None:
        """Let go of what `fd` refers to once the queued lines are written: it becomes /dev/null."""
        with self._changed:
            self._append(_TO_NULL)

    def finish(self, timeout_s: float = FINISH_TIMEOUT_S) -> None:
        """Wait until all queued lines are written, but no longer than `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            if self._thread is None:
                self._write_what_is_taken()
                return
            while self._queue and (left_s := deadline_s - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def _append(self, text: bytes) -> None:
        self._queue.append(text)
        self._queued_bytes += len(text)
        if self._thread is None:
            self._write_what_is_taken()
        else:
            self._changed.notify_all()

    def _write_what_is_taken(self) -> None:
        # A descriptor that is ready takes as much as a pipe takes at once.
        while self._queue and self._wait(0):
            self._write(select.PIPE_BUF)

    def _write_forever(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    self._changed.wait()
            self._write()

    def _write(self, limit_bytes: int | None = None) -> None:
        """Write the oldest line or the beginning of it; a line that is refused is lost."""
        text = self._queue[0]
        lost = 0
        try:
            if text == _TO_NULL:
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, self._fd)
                os.close(null)
                rest = b""
            else:
                rest = text[os.write(self._fd, text[:limit_bytes]) :]
        except BlockingIOError:  # somebody else has made it non-blocking
            self._wait(None)
            return
        except OSError:
            rest, lost = b"", 1
        with self._changed:
            self._lost += lost
            self._queued_bytes -= len(text) - len(rest)
            if rest:
                self._queue[0] = rest
            else:
                self._queue.popleft()
                self._changed.notify_all()

    def _wait(self, timeout_ms: int | None) -> bool:
        """Wait until the descriptor takes something, or has an error."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(timeout_ms))


class LineStream(io.TextIOBase):
    """A text stream, such as sys.stderr, whose lines go to a LineWriter."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._begun = ""
        self.writer = LineWriter(fd)

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self.writer.put(printable(line))
        return len(text)

    def flush(self) -> None:
        """Nothing: whoever prints a traceback flushes, and must not wait."""

    def close(self) -> None:
        with suppress(ValueError):
            super().close()
