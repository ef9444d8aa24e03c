"""Replies for which a link has no room leave as soon as there is some, on every engine.

A send buffer that is full is told of by the descriptor; a device that is full is tried again after
pauses that grow.
"""

from __future__ import annotations

import asyncio
import select
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ggaoe.backend.memory import MemoryBackend
from ggaoe.engine import portable
from ggaoe.engine.base import Hooks
from ggaoe.engine.select import ENGINES
from ggaoe.net.filters import Role
from ggaoe.net.link import HEAD_BYTES, LinkSettings
from ggaoe.net.netlink import list_interfaces
from ggaoe.net.plain import PlainLink
from ggaoe.proto.target import Settings, Target
from ggaoe.sched.queue import Policy
from ggaoe.testing.link import MemoryLink
from helpers.needs import requires_namespaces, requires_program
from helpers.netns import Namespace, veth
from unit.engine.rig import Host, Rig, until
from unit.proto.host import MAC_A, MAC_TARGET, READ, SHELF, SLOT, ata_argument, request

REPLIES = 100
"""Of 1 KiB each: many times what the smallest send buffer takes."""
WIRE = "qdisc add dev t0 root tbf rate 100mbit burst 2kb limit 1mb"
DEADLINE_S = 30.0


class RecordingLoop:
    """A loop that notes the delay of the first timer after each attempt of `link` to send."""

    def __init__(self, loop: asyncio.AbstractEventLoop, link: MemoryLink) -> None:
        self._loop = loop
        self._link = link
        self.delays_s: dict[int, float] = {}

    def call_later(self, delay_s: float, *arguments: Any) -> asyncio.TimerHandle:
        # A timer may go off early, and is set again for the rest of the pause.
        if attempts := self._link.counters.tx_held:
            self.delays_s.setdefault(attempts, delay_s)
        return self._loop.call_later(delay_s, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def test_pauses_grow_until_a_frame_leaves(rig: Rig) -> None:
    port = rig.port()
    rig.disk(port)
    host = Host(port, MAC_A)
    loop: Any = RecordingLoop(asyncio.get_running_loop(), host.link)
    rig.engine._loop = loop
    host.link.room_frames = 0
    host.read(0)
    host.read(1)
    await until(lambda: len(loop.delays_s) >= 6)
    assert list(loop.delays_s.values())[:6] == [0.0001, 0.0002, 0.0004, 0.0008, 0.001, 0.001]
    before = len(loop.delays_s)
    host.link.room_frames = 1
    await until(lambda: len(host.link.sent) == 1)
    assert 0.0001 in list(loop.delays_s.values())[before:]
    host.link.room_frames = None
    await until(lambda: len(host.link.sent) == 2)


@pytest.fixture
def slow_wire() -> Iterator[Namespace]:
    """Interfaces t0 and h0; what t0 sends stays in its sender's buffer until the wire takes it."""
    requires_namespaces()
    requires_program("tc")
    with Namespace() as namespace:
        veth(namespace, "t0", namespace, "h0")
        namespace.ip(f"link set t0 address {MAC_TARGET.hex(':')}")
        try:
            namespace.run("tc", *WIRE.split())
        except subprocess.CalledProcessError:
            pytest.skip("needs a kernel with the tbf queueing discipline")
        yield namespace


@pytest.mark.parametrize("engine", ENGINES)
async def test_no_timer_is_needed_when_the_send_buffer_is_full(
    slow_wire: Namespace, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All replies to a burst arrive though nothing but room in the buffer wakes the engine."""
    monkeypatch.setattr(portable, "SEND_PAUSE_S_MIN", 3600.0)
    monkeypatch.setattr(portable, "SEND_PAUSE_S_MAX", 3600.0)
    server = ENGINES[engine](Hooks(changed=lambda *_: None, conflict=lambda *_: None))
    server.start()
    with slow_wire.entered():
        found = {interface.name: interface for interface in list_interfaces()}
        port = server.open_link(found["t0"], LinkSettings(send_buffer_bytes=1))
        host = PlainLink(found["h0"], role=Role.INITIATOR)
    target = Target(Settings(SHELF, SLOT, "serial", "model", "firmware", 64))
    device = server.add_device("disk", target, Policy(), trace_io=False)
    backend = MemoryBackend(1 << 20)
    target.size_sectors = backend.size_bytes // 512
    server.attach(device, backend)
    server.set_ports(device, [port])
    try:
        for tag in range(REPLIES):
            argument = ata_argument(READ, 2 * tag, 2)
            host.send([[request(0, argument, tag=tag, source=host.mac)]])
        tags = []
        async with asyncio.timeout(DEADLINE_S):
            while len(tags) < REPLIES:
                await asyncio.sleep(0)
                for frame in host.receive(REPLIES):
                    tags.append(int.from_bytes(frame.head[20:24]))
                    frame.release()
        assert tags == list(range(REPLIES))
        assert port.link.refresh().tx_held > 0
    finally:
        await server.remove_device(device, None)
        server.close()
        host.close()


def test_the_core_sleeps_until_there_is_room(slow_wire: Namespace) -> None:
    """It has no timer then; and it tries again in every turn, whatever the turn was for."""
    core_module = pytest.importorskip(
        "ggaoe.engine.native.core", reason="the native engine is not built"
    )
    with slow_wire.entered():
        found = {interface.name: interface for interface in list_interfaces()}
        plain = PlainLink(found["t0"], LinkSettings(send_buffer_bytes=1))
    core = core_module.Core(5 * 10**9, False)
    link = core.open_link(plain.fileno(), plain.index, plain.mac, 2, 2048, None, (1, 1), (1, 1))
    sent = 0

    def turn() -> int:
        nonlocal sent
        wait_ns: int = core.turn(time.monotonic_ns(), time.time_ns())
        sent += link.counters()[0]["tx_frames"]
        return wait_ns

    try:
        link.send([plain.mac + bytes(HEAD_BYTES + 1000)] * REPLIES)
        assert turn() == -1
        assert 0 < sent < REPLIES
        while sent < REPLIES:
            before = sent
            assert select.select([], [plain], [], DEADLINE_S)[1]
            assert turn() == -1
            assert sent > before
    finally:
        core.close_link(link)
        core.close()
        plain.close()
