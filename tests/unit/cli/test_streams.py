"""What ggaoectl does with streams that end, and with output that cannot be written."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from ggaoe.errors import ControlError
from ggaoe.proto.frame import Command, pack_request, padded
from ggaoe.server.control import NOT_FOUND, Params
from unit.cli.answering import REPOSITORY, TIMEOUT_S, Daemon, answering, ggaoectl

DONE, REFUSED, USAGE, UNREACHABLE, PARTLY = range(5)
MAC = bytes.fromhex("020000000001")
EVENT = {"time_s": 1.0, "event": "started", "level": "info", "text": "ready\x1b[2J"}


async def events(params: Params) -> object:
    """Three of them, and the daemon ends."""

    async def following() -> AsyncGenerator[object, None]:
        for _ in range(3):
            yield EVENT

    return following()


async def trace(params: Params) -> object:
    """Frames of an interface with a hostile name, and an early end."""
    if params["names"] != ["disk"]:
        raise ControlError(NOT_FOUND, "no such device")
    frame = padded(pack_request(b"\xff" * 6, MAC, 0, 1, Command.CONFIG, 7) + bytes(8))
    passed = {
        "time_ns": 1,
        "interface": "eth\x1b[2J\udcff",
        "length_bytes": len(frame),
        "frame": frame.hex(),
    }

    async def passing() -> AsyncGenerator[object, None]:
        yield {"frames": [passed] * 100, "lost": 0}
        await asyncio.sleep(params["seconds"] if params["seconds"] < 1 else 0)  # type: ignore

    return passing()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with answering(tmp_path / "ctl", {"events": events, "trace": trace}) as daemon:
        yield daemon


def test_events_that_end_by_themselves_are_no_success(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "events")
    assert ran.status == UNREACHABLE
    assert ran.out.count("ready\\x1b[2J") == 3
    assert ran.err == f"ggaoectl: {daemon.path}: the daemon has hung up: does it still run?\n"
    ran = ggaoectl("--socket", daemon.path, "events", "--count", "3")
    assert (ran.status, ran.err) == (DONE, "")


def test_a_line_that_is_cut_off_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "ctl"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(TIMEOUT_S)

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1 << 16)
                client.sendall(b'{"result": {"streams": true}}\n{"method": "item", "par')

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        ran = ggaoectl("--socket", path, "events")
        thread.join(TIMEOUT_S)
    assert (ran.status, ran.out) == (UNREACHABLE, "")
    assert ran.err.startswith(f"ggaoectl: {path}: ")
    assert "hung up" in ran.err


def test_a_trace_of_the_whole_time(daemon: Daemon, tmp_path: Path) -> None:
    ran = ggaoectl("--socket", daemon.path, "trace", "disk", "--seconds", "200ms")
    assert (ran.status, ran.err) == (DONE, "100 frames\n")
    assert ran.out.count("eth\\x1b[2J\\udcff < 02:00:00:00:00:01") == 100
    file = tmp_path / "capture"
    ran = ggaoectl("--socket", daemon.path, "trace", "disk", "--seconds", "0.2", "--pcap", file)
    assert (ran.status, ran.out, ran.err) == (DONE, "", "100 frames\n")
    assert file.stat().st_size > 100 * 60


def test_a_trace_that_ends_early_says_so(daemon: Daemon) -> None:
    ran = ggaoectl("--socket", daemon.path, "trace", "disk", "--seconds", "60")
    assert ran.status == UNREACHABLE
    assert ran.err.startswith(f"100 frames\nggaoectl: {daemon.path}: the trace has ended early")


def test_a_refused_trace_leaves_no_file(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "capture"
    ran = ggaoectl("--socket", daemon.path, "trace", "typo", "--pcap", file)
    assert (ran.status, ran.err) == (REFUSED, "ggaoectl: no such device\n")
    assert not file.exists()


def test_files_that_cannot_be_made(daemon: Daemon, tmp_path: Path) -> None:
    trace = ("--socket", daemon.path, "trace", "disk", "--seconds", "0.2", "--pcap")
    file = tmp_path / "capture"
    file.write_text("mine")
    ran = ggaoectl(*trace, file)
    text = f"ggaoectl: {file}: File exists: name a file that is not there yet\n"
    assert (ran.status, ran.err) == (USAGE, text)
    assert file.read_text() == "mine"
    ran = ggaoectl(*trace, tmp_path / "none" / "capture")
    assert ran.status == USAGE
    assert ran.err.endswith("No such file or directory: name another file\n")


def limited(bytes_max: int, *words: str | Path) -> tuple[int, str]:
    """Status and errors of a ggaoectl whose files are full with so many bytes."""
    command = (sys.executable, "-m", "ggaoe.cli.ggaoectl", *map(str, words))
    ran = subprocess.run(
        ["prlimit", f"--fsize={bytes_max}", *command],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return ran.returncode, ran.stderr


def test_a_full_disk_ends_a_capture(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "capture"
    words = ("trace", "disk", "--seconds", "60", "--pcap", file)
    status, errors = limited(2000, "--socket", daemon.path, *words)
    assert (status, errors) == (PARTLY, f"ggaoectl: {file}: cannot be written: File too large\n")


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("list", "--json"),
        ("trace", "disk", "--seconds", "0.2"),
        ("trace", "disk", "--seconds", "0.2", "--json"),
        ("events",),
        ("top", "0.1", "--count", "1"),
        ("monitor", "0.1", "--count", "1", "--json"),
    ],
    ids=" ".join,
)
def test_output_that_cannot_be_written_is_no_traceback(
    daemon: Daemon, words: tuple[str, ...]
) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "ggaoe.cli.ggaoectl", "--socket", daemon.path, *words],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    text = "ggaoectl: the output cannot be written: No space left on device\n"
    assert (ran.returncode, ran.stderr) == (PARTLY, text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("monitor", "--count", "x"), "argument --count: 'x' is no number"),
        (("trace", "disk", "--seconds", "nan"), "argument --seconds: 'nan' is not a duration"),
        (("trace", "disk", "--seconds", "-1"), "'-1' is not a duration"),
    ],
)
def test_numbers_that_are_none(daemon: Daemon, words: tuple[str, ...], message: str) -> None:
    ran = ggaoectl("--socket", daemon.path, *words)
    assert (ran.status, ran.out) == (USAGE, "")
    assert message in ran.err
