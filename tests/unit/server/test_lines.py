"""Lines to pipes that are full, read late or never: nobody waits, and their order is kept."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ggaoe.server.lines import QUEUE_BYTES_MAX, LineStream, LineWriter
from helpers.netns import wait_until

TIMEOUT_S = 20.0
LINE = "x" * 1000
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


class Pipe:
    """A pipe; `inner` blocks, and so does our reading end."""

    def __init__(self) -> None:
        self.outer, self.inner = os.pipe()
        self._begun = b""

    def fill(self) -> None:
        with open(f"/proc/self/fd/{self.inner}", "wb", 0, opener=_non_blocking) as pipe:
            while pipe.write(b"\n") is not None:
                pass

    def line(self) -> str:
        """The next one that is not empty."""
        while True:
            first, newline, rest = self._begun.partition(b"\n")
            if not newline:
                self._begun += os.read(self.outer, 1 << 16)
                continue
            self._begun = rest
            if first:
                return first.decode()

    def close(self) -> None:
        for fd in (self.outer, self.inner):
            with suppress(OSError):
                os.close(fd)


def _non_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.mark.parametrize("thread", [False, True], ids=["no thread", "thread"])
def test_a_full_pipe_gets_the_lines_once_it_is_read(pipe: Pipe, thread: bool) -> None:
    flags = fcntl.fcntl(pipe.inner, fcntl.F_GETFL)
    writer = LineWriter(pipe.inner)
    if thread:
        writer.start()
    writer.put("before")
    assert pipe.line() == "before"
    pipe.fill()
    lines = [f"{number} {LINE}" for number in range(100)]
    for line in lines:
        writer.put(line)
    writer.finish(0)
    os.set_blocking(pipe.outer, False)
    found: list[str] = []
    while len(found) < len(lines):
        writer.finish(0)  # without a thread, this is who writes
        with suppress(BlockingIOError):
            found.append(pipe.line())
    assert found == lines
    assert fcntl.fcntl(pipe.inner, fcntl.F_GETFL) == flags


def test_what_is_too_much_is_dropped_and_counted(pipe: Pipe) -> None:
    writer = LineWriter(pipe.inner)
    writer.start()
    pipe.fill()
    count = 2 * QUEUE_BYTES_MAX // len(LINE)
    for number in range(count):
        writer.put(f"{number} {LINE}")
    kept = 0
    while pipe.line().startswith(f"{kept} x"):
        kept += 1
        if kept * len(LINE) > QUEUE_BYTES_MAX // 2:
            break
    writer.put("next")  # there is room again
    line = pipe.line()
    while line.startswith(f"{kept} x"):
        kept += 1
        line = pipe.line()
    assert 0 < kept < count
    assert line == f"next (lost before this one: {count - kept} lines)"
    writer.put("last")
    assert pipe.line() == "last"


def test_what_is_refused_is_counted(pipe: Pipe) -> None:
    writer = LineWriter(pipe.inner)
    writer.start()
    with Path("/dev/full").open("wb") as full:
        inner = os.dup(pipe.inner)
        os.dup2(full.fileno(), pipe.inner)
    writer.put("one")
    writer.put("two")
    writer.finish(TIMEOUT_S)
    os.dup2(inner, pipe.inner)
    os.close(inner)
    writer.put("three")
    found = pipe.line()
    assert found == "three (lost before this one: 2 lines)"


def test_a_non_blocking_pipe_gets_whole_lines(pipe: Pipe) -> None:
    """Another process that has it may have made it so."""
    writer = LineWriter(pipe.inner)
    writer.start()
    pipe.fill()
    os.set_blocking(pipe.inner, False)
    for number in range(100):
        writer.put(f"{number} {LINE}")
    assert [pipe.line() for _ in range(100)] == [f"{number} {LINE}" for number in range(100)]


def test_it_lets_go_of_the_pipe_after_the_last_line(pipe: Pipe) -> None:
    writer = LineWriter(pipe.inner)
    writer.start()
    pipe.fill()
    writer.put("last")
    writer.to_null()
    writer.put("nobody reads this")
    assert pipe.line() == "last"
    there = Path(f"/proc/self/fd/{pipe.inner}")
    wait_until(lambda: there.samefile(os.devnull), TIMEOUT_S, "/dev/null")
    assert os.read(pipe.outer, 1) == b""


def test_a_stream_writes_whole_lines(pipe: Pipe) -> None:
    stream = LineStream(pipe.inner)
    print("a", "b\x1b", end="", file=stream, flush=True)
    print("c\nd", file=stream)
    assert pipe.line() == "a b\\x1bc"
    assert pipe.line() == "d"


PYTHON_WRITES = """
import logging, os, sys, threading, warnings
from ggaoe.server import logs
logs.configure("stderr")
logs.write_in_thread()
def fail(*_): raise ValueError("x" * 1000)
class Failing:
    __del__ = fail
for _ in range(5):
    Failing()
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    warnings.warn("careful")
    logging.getLogger("t").error("%d", "no number")
    print("said", file=sys.stderr, flush=True)
print("done", flush=True)
sys.stdin.read()
fail()
"""


def test_nothing_that_python_writes_to_stderr_waits(pipe: Pipe) -> None:
    """Failures in destructors, threads and log calls, warnings; and the end of the process."""
    pipe.fill()
    process = subprocess.Popen(
        [sys.executable, "-c", PYTHON_WRITES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=pipe.inner,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"done\n"
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    os.close(pipe.inner)
    with os.fdopen(os.dup(pipe.outer), "rb") as left:
        assert left.read().strip() == b""  # it was full all the time
