"""Messages to a service manager that the test plays: in order, none too many, none without one."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ggaoe.server.notify import ServiceManager

TIMEOUT_S = 20.0


class Manager:
    """The other end of a notification socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.socket.settimeout(TIMEOUT_S)

    def environment(self, **more: object) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address, **{key: str(value) for key, value in more.items()}}

    def received(self) -> list[str]:
        """The lines of the next message."""
        return self.socket.recv(1 << 16).decode().split("\n")

    def silent(self) -> bool:
        """Whether nothing has arrived that was not received."""
        self.socket.setblocking(False)
        try:
            self.socket.recv(1 << 16)
        except BlockingIOError:
            return True
        return False


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    is_path = request.param == "path"
    manager = Manager(str(tmp_path / "n") if is_path else f"@ggaoe-test-{secrets.token_hex(8)}")
    with manager.socket:
        yield manager


async def test_a_life(manager: Manager) -> None:
    status = ["one"]
    told = ServiceManager(lambda: status[0], manager.environment())
    told.ready()
    assert manager.received() == ["READY=1", "STATUS=one"]
    before_us = time.monotonic_ns() // 1000
    told.reloading()
    word, stamp = manager.received()
    assert word == "RELOADING=1"
    assert before_us <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    told.reloaded("refused: f:1:1: no\nand f:2:1: no")
    assert manager.received() == ["READY=1", "STATUS=refused: f:1:1: no; and f:2:1: no"]
    told.reloading()
    told.reloaded()
    assert manager.received()[0] == "RELOADING=1"
    assert manager.received() == ["READY=1", "STATUS=one"]
    told.reloading()
    assert manager.received()[0] == "RELOADING=1"
    told.stopping()
    assert manager.received() == ["STOPPING=1", "STATUS=finishing requests"]
    told.stopping()
    told.reloaded()  # not ready again while it stops
    told.reloading()
    told.close()
    told.close()
    assert manager.silent()


async def test_nothing_of_a_reload_before_it_is_ready(manager: Manager) -> None:
    told = ServiceManager(lambda: "", manager.environment())
    told.reloading()
    told.reloaded()
    assert manager.silent()
    told.close()


async def received(manager: Manager) -> list[str]:
    manager.socket.setblocking(False)
    async with asyncio.timeout(TIMEOUT_S):
        message = await asyncio.get_running_loop().sock_recv(manager.socket, 1 << 16)
    return message.decode().split("\n")


async def test_the_loop_says_that_it_lives_and_what_has_changed(manager: Manager) -> None:
    status = ["one"]
    told = ServiceManager(lambda: status[0], manager.environment(WATCHDOG_USEC=2000))
    told.ready()
    assert await received(manager) == ["READY=1", "STATUS=one"]
    assert await received(manager) == ["WATCHDOG=1"]
    status[0] = "two"
    found = [await received(manager)]
    while found[-1] == ["WATCHDOG=1"]:
        found.append(await received(manager))
    assert found[-1] == ["WATCHDOG=1", "STATUS=two"]
    told.stopping()
    status[0] = "three"
    while (found[-1]) != ["STOPPING=1", "STATUS=finishing requests"]:
        found.append(await received(manager))
    assert await received(manager) == ["WATCHDOG=1"]
    told.close()


@pytest.mark.parametrize(
    "of_watchdog",
    [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": 2000, "WATCHDOG_PID": os.getpid() + 1}],
    ids=["none", "no number", "another process"],
)
async def test_a_watchdog_that_is_not_for_us(
    manager: Manager, of_watchdog: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ggaoe.server.notify.STATUS_INTERVAL_S", 0.001)
    status = ["one"]
    told = ServiceManager(lambda: status[0], manager.environment(**of_watchdog))
    told.ready()
    assert await received(manager) == ["READY=1", "STATUS=one"]
    status[0] = "two"
    assert await received(manager) == ["STATUS=two"]
    told.close()


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative", "/nowhere/at/all", "@nobody"])
async def test_nobody_listens(address: str) -> None:
    told = ServiceManager(lambda: pytest.fail("asked for nobody"), {"NOTIFY_SOCKET": address})
    told.ready()
    told.reloading()
    told.reloaded()
    told.stopping()
    told.close()


async def test_a_status_that_was_not_taken_is_told_again(manager: Manager) -> None:
    status = ["one"]
    beats: asyncio.Queue[str] = asyncio.Queue()

    def shown() -> str:
        beats.put_nowait(status[0])
        return status[0]

    told = ServiceManager(shown, manager.environment(WATCHDOG_USEC=2000))
    told.ready()
    flood(manager)
    status[0] = "two"
    async with asyncio.timeout(TIMEOUT_S):
        for _ in range(3):  # beats that find the queue full
            while await beats.get() != "two":
                pass
    found = await received(manager)
    while found[-1] != "STATUS=two":
        found = await received(manager)
    assert found == ["WATCHDOG=1", "STATUS=two"]
    told.close()


def flood(manager: Manager) -> None:
    """Let it have as many messages as it takes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        sender.connect(manager.address.replace("@", "\0", 1))
        with suppress(BlockingIOError):
            while True:
                sender.send(b"flood")


async def test_changes_of_state_wait_for_a_manager_that_is_busy(manager: Manager) -> None:
    """Without waiting for it, until the end of the process."""
    told = ServiceManager(lambda: "one", manager.environment())
    flood(manager)
    told.ready()
    for number in range(3):
        told.reloading()
        told.reloaded(f"refused {number}")
    found = []
    while not found or found[-1][-1] != "STATUS=refused 2":
        found.append(await received(manager))
    after = found[found.index(["READY=1", "STATUS=one"]) + 1 :]
    assert [lines[0] for lines in after] == ["RELOADING=1", "READY=1"] * 3
    flood(manager)
    told.stopping()
    closing = asyncio.create_task(asyncio.to_thread(told.close))
    while found[-1] != ["STOPPING=1", "STATUS=finishing requests"]:
        found.append(await received(manager))
    await closing


async def test_a_service_manager_that_goes_is_not_missed(manager: Manager) -> None:
    told = ServiceManager(lambda: "one", manager.environment())
    manager.socket.close()
    told.ready()
    told.reloading()
    told.reloaded()
    told.stopping()
    told.close()
