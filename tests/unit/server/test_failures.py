"""Whatever callbacks raise is logged, and ends the process only where it goes on for long."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from pathlib import Path
from typing import Any

import pytest

from ggaoe.errors import report_end
from ggaoe.server.failures import FAILURES_MIN, LASTING_S, LOGGED_BURST, PAUSE_S, Failures


class Watched:
    """Failures at times that the test sets; `ended` counts the ends of the process."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.ended = 0
        self.failures = Failures(self._end, lambda: self.now_s)

    def _end(self) -> None:
        self.ended += 1

    def fail(self, after_s: float) -> None:
        self.now_s += after_s
        context = {"message": "it failed", "exception": ValueError("why")}
        self.failures.handle(asyncio.get_running_loop(), context)


async def test_an_exception_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    failed = asyncio.Event()

    def fail() -> None:
        loop.call_soon(failed.set)
        raise ValueError("why")

    try:
        Failures().watch(loop)
        loop.call_soon(fail)
        await failed.wait()
    finally:
        loop.set_exception_handler(before)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "why" in caplog.text


async def test_failures_that_last_end_the_process(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    while not watched.ended:
        assert watched.now_s <= 100 + LASTING_S + 2
        watched.fail(1.0)
    assert watched.now_s >= 100 + LASTING_S
    assert caplog.records[-1].levelno == logging.CRITICAL
    assert len(caplog.records) < LOGGED_BURST + LASTING_S


@pytest.mark.parametrize(
    ("count", "apart_s"),
    [(10_000, (LASTING_S - 1) / 10_000), (100, PAUSE_S + 1), (FAILURES_MIN - 1, PAUSE_S)],
    ids=["many at once", "now and then", "few"],
)
async def test_others_do_not(count: int, apart_s: float) -> None:
    watched = Watched()
    for _ in range(count):
        watched.fail(apart_s)
    assert not watched.ended


async def test_a_task_that_nobody_awaits_is_reported() -> None:
    loop = asyncio.get_running_loop()
    before, told = loop.get_exception_handler(), asyncio.Queue[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: told.put_nowait(context))

    async def fail() -> None:
        raise ValueError("why")

    try:
        asyncio.create_task(fail(), name="device data").add_done_callback(report_end)
        context = await told.get()
    finally:
        loop.set_exception_handler(before)
    assert context["message"] == "device data failed"
    assert isinstance(context["exception"], ValueError)


async def test_connections_that_cannot_be_accepted_end_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio's own loop reports each one, a hundred at a time, as long as it lasts."""
    watched = Watched()
    loop = asyncio.SelectorEventLoop()
    reported = 0

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal reported
        reported += 1
        watched.now_s += 1
        watched.failures.handle(loop, context)
        if reported > 2 * LASTING_S:
            loop.stop()

    def serve() -> None:
        loop.set_exception_handler(handle)
        path = str(tmp_path / "socket")
        listening = loop.create_unix_server(asyncio.Protocol, path)
        server = loop.run_until_complete(listening)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
            try:
                loop.run_forever()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
        server.close()
        loop.close()

    await asyncio.to_thread(serve)
    assert reported > LASTING_S
    assert not watched.ended
    assert "a connection waits: too many open files: raise their limit" in caplog.text
