"""What only observes the daemon cannot stop it: a log that is full, clients that do not read."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import termios
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.netns import wait_until
from helpers.targets import REPOSITORY
from integration.scene import DEADLINE_S, GGAOE, Daemon, Scene, device, round_trip

READ_BYTES_MAX = 1 << 16


@dataclass
class Destination:
    """Where a daemon logs to: what it writes at `inner` is read at `outer`."""

    inner: int
    outer: int

    def wait_for(self, text: bytes) -> None:
        read = b""
        while text not in read:
            if not select.select([self.outer], [], [], DEADLINE_S)[0]:
                raise TimeoutError(f"no {text!r}, last {read[-100:]!r}")
            read = read[-len(text) :] + os.read(self.outer, READ_BYTES_MAX)

    def stop(self) -> None:
        """Take nothing from now on."""
        if os.isatty(self.inner):
            termios.tcflow(self.inner, termios.TCOOFF)
            return
        # Non-blocking for us, and not for the daemon.
        with open(f"/proc/self/fd/{self.inner}", "wb", 0, opener=_non_blocking) as pipe:
            while pipe.write(b"x" * 4096) is not None:
                pass

    def go_on(self) -> None:
        if os.isatty(self.inner):
            termios.tcflow(self.inner, termios.TCOON)


def _non_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


@pytest.fixture(params=["pipe", "terminal"])
def destination(request: pytest.FixtureRequest) -> Iterator[Destination]:
    outer, inner = os.pipe() if request.param == "pipe" else pty.openpty()
    yield Destination(inner, outer)
    os.close(inner)
    os.close(outer)


def launch(daemon: Daemon, destination: Destination) -> None:
    """Starts it on `destination`, which it need not notice."""
    daemon.process = daemon.namespace.spawn(
        *(*GGAOE, "-c", daemon.config),
        stdout=destination.inner,
        stderr=destination.inner,
        cwd=REPOSITORY,
    )


@pytest.mark.parametrize("since", ["the start", "later"])
async def test_a_log_that_takes_no_lines_stops_nothing(
    scene: Scene, destination: Destination, since: str
) -> None:
    """Not the disk, which logs each request, nor the control socket, a reload, or the end."""
    disk = scene.disk()
    daemon = scene.daemon(device(trace_io=True))
    if since == "the start":
        destination.stop()
    launch(daemon, destination)
    if since == "later":
        destination.wait_for(b"ready: ")
        destination.stop()
    control = scene.directory / "ctl"
    wait_until(control.exists, DEADLINE_S, "the control socket")
    async with scene.initiator() as initiator:
        await round_trip(initiator, disk)
        assert daemon.listed("disk")["state"] == "serving"
        daemon.configure(device(trace_io=True), device("later", 2))
        daemon.running.signal(signal.SIGHUP)
        wait_until(lambda: len(daemon.look("list")["devices"]) == 2, DEADLINE_S, "the reload")
        await round_trip(initiator, disk)
    # More was logged than is queued.
    destination.go_on()
    destination.wait_for(b"disk: ")
    daemon.running.signal(signal.SIGHUP)
    destination.wait_for(b"(lost before this one: ")
    destination.stop()
    assert daemon.stop() == 0


@contextmanager
def deaf_clients(control: Path, web: Path) -> Iterator[None]:
    """One of each that asks for much, and reads nothing."""
    request = b'{"jsonrpc": "2.0", "id": 1, "method": "%b", "params": {}}\n'
    follow = request.replace(b"{}}", b'{"follow": true}}') % b"events"
    with ExitStack() as stack:
        for path, text in (
            (control, request % b"show" * 5000),
            (control, follow),
            (web, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 500),
        ):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            client.connect(str(path))
            client.setblocking(False)
            left = memoryview(text)
            with suppress(BlockingIOError):
                while left:
                    left = left[client.send(left) :]
        yield


async def test_clients_and_managers_that_do_not_read_stop_nothing(scene: Scene) -> None:
    disk = scene.disk()
    manager, web = scene.directory / "manager", scene.directory / "web"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(manager))
        deaf.setblocking(False)
        daemon = scene.daemon(f"[defaults]\nmetrics = {web}\n", device())
        daemon.wrapper = ("env", f"NOTIFY_SOCKET={manager}", "WATCHDOG_USEC=2000")
        daemon.start()
        with deaf_clients(scene.directory / "ctl", web):
            async with scene.initiator() as initiator:
                for number in range(3):
                    daemon.reconfigure(device(queue_length=number + 2))
                    await round_trip(initiator, disk)
        assert daemon.stop() == 0
