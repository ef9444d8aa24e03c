"""The daemon and a service manager that the test plays, under the daemon's whole confinement."""

from __future__ import annotations

import queue
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.scene import DEADLINE_S, GGAOE, Daemon, Scene, device

pytestmark = pytest.mark.one_engine

WATCHDOG_US = 20_000


class Manager:
    """Starts a daemon as a service manager does, and hears it."""

    def __init__(self, address: str, heard: socket.socket) -> None:
        self.environment = ("env", f"NOTIFY_SOCKET={address}", f"WATCHDOG_USEC={WATCHDOG_US}")
        self._heard = heard
        self._messages: queue.Queue[list[str]] = queue.Queue()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def start(self, daemon: Daemon) -> None:
        daemon.wrapper = self.environment
        daemon.start()

    def hear(self, first: str) -> list[str]:
        """The next message that begins with the line `first`, after any of the watchdog's."""
        while True:
            lines = self._messages.get(timeout=DEADLINE_S)
            if lines[0] == first:
                return lines
            assert lines[0] == "WATCHDOG=1", lines

    def left(self) -> list[list[str]]:
        """All that nobody has asked for; no more is heard."""
        self._heard.shutdown(socket.SHUT_RD)
        self._thread.join()
        return list(self._messages.queue)

    def _listen(self) -> None:
        # A queue of the kernel's would be full after ten messages.
        while message := self._heard.recv(1 << 16):
            self._messages.put(message.decode().split("\n"))


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, scene: Scene, tmp_path: Path) -> Iterator[Manager]:
    is_path = request.param == "path"
    address = str(tmp_path / "notify") if is_path else f"@ggaoe-test-{secrets.token_hex(8)}"
    with scene.target.entered():  # abstract names belong to a network namespace
        heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with heard:
        heard.bind(address.replace("@", "\0", 1))
        manager = Manager(address, heard)
        yield manager
        manager.left()


def test_a_life_with_a_service_manager(scene: Scene, manager: Manager) -> None:
    scene.disk()
    daemon = scene.daemon(device())
    manager.start(daemon)
    assert manager.hear("READY=1") == ["READY=1", "STATUS=serving 1 of 1 device on 1 interface"]
    for _ in range(3):
        manager.hear("WATCHDOG=1")

    daemon.reconfigure(device(), device("absent", 2))
    (_, stamp) = manager.hear("RELOADING=1")
    assert stamp.removeprefix("MONOTONIC_USEC=").isdigit()
    assert manager.hear("READY=1")[1] == "STATUS=serving 1 of 2 devices on 1 interface"

    scene.disk("absent")  # found again in its own time
    daemon.wait_for_state("absent", "serving")
    lines = manager.hear("WATCHDOG=1")
    while len(lines) == 1:
        lines = manager.hear("WATCHDOG=1")
    assert lines[1] == "STATUS=serving 2 of 2 devices on 1 interface"

    daemon.reconfigure(device(slot=300))
    manager.hear("RELOADING=1")
    (_, status) = manager.hear("READY=1")
    assert status.startswith(f"STATUS=reload refused: {daemon.config}:")

    assert daemon.ctl("reload", "--dry-run").status == 1
    assert daemon.stop() == 0
    assert manager.hear("STOPPING=1") == ["STOPPING=1", "STATUS=finishing requests"]


def test_a_start_that_fails_is_never_ready(scene: Scene, manager: Manager) -> None:
    daemon = scene.daemon("[defaults]\nstate-directory = nowhere\n", device())
    outcome = scene.run(*manager.environment, *GGAOE, "-c", daemon.config)
    assert outcome.status == 1
    assert not manager.left()
