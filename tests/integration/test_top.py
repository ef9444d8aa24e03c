"""ggaoectl top while something goes on: lines, JSON, and a screen."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ggaoe.engine.select import ENGINES
from integration.load import Load, running
from integration.scene import DEADLINE_S, GGAOECTL, Scene, device

pytestmark = pytest.mark.one_engine


@pytest.mark.parametrize("engine", ENGINES)
async def test_lines_and_json(scene: Scene, engine: str) -> None:
    disk, host = scene.disk(), scene.host.mac("near0").hex(":")
    sections = (f"[defaults]\nengine = {engine}\n", device(), device("gone", 2))
    with scene.serving(*sections) as daemon:
        async with scene.initiator() as initiator:
            load = Load(await initiator.open(0, 1), disk, workers=4)
            async with running(load):
                words = ("top", "0.5", "--count", "1")
                as_json = await asyncio.to_thread(daemon.ctl, "--json", *words)
                lines = (await asyncio.to_thread(daemon.ctl, *words)).stdout.splitlines()
    found = json.loads(as_json.stdout)
    one = found["devices"]["disk"]
    assert one["state"] == "serving"
    for operation in ("read", "write"):
        assert one[f"{operation}_iops"] > 0
        assert 0 < one[f"{operation}_p50_us"] <= one[f"{operation}_p99_us"]
    assert found["initiators"]["disk"][host]["write_bytes_per_s"] > 0
    assert found["interfaces"]["far0"]["rx_frames_per_s"] > 0
    assert found["devices"]["gone"]["state"] == "waiting"
    assert found["devices"]["gone"]["read_p50_us"] is None
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert rows["disk"][:2] == ["e0.1", "serving"]
    assert rows[host][:2] == ["disk", "far0"]
    assert {"gone", "far0"} <= rows.keys()


def test_a_screen(scene: Scene) -> None:
    pytest.importorskip("rich", reason="needs rich")
    scene.disk()
    with scene.serving(device(), device("gone", 2, path="/nowhere/\x7f")) as daemon:
        ours, theirs = pty.openpty()
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            process = subprocess.Popen(
                [*GGAOECTL, "-c", daemon.config, "top", "0.2", "--count", "2"],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", "LINES": "40"},
                cwd=Path(__file__).parents[2],
            )
            os.close(theirs)
            shown = b""
            while piece := _piece(terminal.fileno()):
                shown += piece
            assert process.wait(DEADLINE_S) == 0, shown
    text = shown.decode()
    for word in ("disk", "e0.1", "serving", "waiting", "far0", "No such file", "\x1b[?1049h"):
        assert word in text, (word, text)
    assert text.endswith("\x1b[?25h\x1b[?1049l"), "the cursor is back, and what was there before"


def _piece(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # its other end is closed
        return b""


_MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from ggaoe.cli.ggaoectl import main
sys.exit(main())
"""
CATCHING = (sys.executable, "-c", _MAIN)
"""ggaoectl, whatever started the tests does with interrupts."""


@pytest.mark.parametrize("end", ["daemon", "interrupt", "terminate"])
def test_a_screen_ends_as_it_should(scene: Scene, end: str) -> None:
    """What was on the terminal is there again, whoever ends it."""
    pytest.importorskip("rich", reason="needs rich")
    scene.disk()
    with scene.serving(device()) as daemon:
        ours, theirs = pty.openpty()
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            process = subprocess.Popen(
                [*CATCHING, "-c", daemon.config, "top", "0.2"],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={**os.environ, "TERM": "xterm-256color"},
                cwd=Path(__file__).parents[2],
            )
            os.close(theirs)
            try:
                shown = b""
                while b"serving" not in shown:
                    piece = _piece(terminal.fileno())
                    assert piece, shown
                    shown += piece
                if end == "daemon":
                    assert daemon.stop() == 0
                else:
                    numbers = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
                    process.send_signal(numbers[end])
                while piece := _piece(terminal.fileno()):
                    shown += piece
                status = process.wait(DEADLINE_S)
            finally:
                process.kill()
                process.wait()
    before, _, after = shown.decode().rpartition("\x1b[?25h\x1b[?1049l")
    assert before
    if end == "daemon":
        assert status == 3
        assert "cannot reach the daemon" in after
    else:
        assert (status, after) == ({"interrupt": 0, "terminate": 143}[end], "")
