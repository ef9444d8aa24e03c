"""What leads to nothing is left to the kernel once there is too much of it, and only then."""

from __future__ import annotations

import asyncio
import logging

import pytest

from ggaoe.engine import flood, limit
from ggaoe.engine.base import Port
from ggaoe.proto.query import Ccmd, pack_config
from ggaoe.testing.engine import link_of
from unit.engine.rig import Host, Rig, until
from unit.proto.host import MAC_A, MAC_B, SHELF, SLOT, only

QUERY = pack_config(Ccmd.READ)
FRAMES = 5


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than 5 frames for nothing, nor 3 answers to one source, for a while."""
    monkeypatch.setattr(flood, "USELESS_BURST", FRAMES)
    monkeypatch.setattr(flood, "USELESS_RATE_PER_S", 1e-6)
    monkeypatch.setattr(limit, "SOURCE_BURST", 3)
    monkeypatch.setattr(limit, "SOURCE_RATE_PER_S", 1e-6)


def narrowed_to(port: Port) -> tuple[set[tuple[int, int]], set[bytes]] | None:
    return link_of(port).narrowed_to


async def test_a_flood_is_left_to_the_kernel_for_a_while(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flood, "NARROW_S", 0.01)
    port, other = rig.port(1), rig.port(2)
    disk = rig.disk(port, other, discover=only(MAC_B))
    denied = Host(port, MAC_A)
    for _ in range(FRAMES):
        denied.send(1, QUERY)
    await until(lambda: disk.device.counters.drops["discover_list"] == FRAMES)
    assert narrowed_to(port) is None
    with caplog.at_level(logging.WARNING, "ggaoe.engine"):
        denied.send(1, QUERY)
        await until(lambda: link_of(port).counters.narrowed == 1)
        assert narrowed_to(other) is None
        await until(lambda: narrowed_to(port) is None)
        denied.send(1, QUERY)
        await until(lambda: link_of(port).counters.narrowed == 2)
    (told,) = caplog.records
    assert "eth1: flooded" in told.getMessage()


async def test_who_asks_too_much_is_shed(rig: Rig) -> None:
    port = rig.port()
    disk = rig.disk(port)
    hosts = [Host(port, MAC_A), Host(port, MAC_B)]
    for host in hosts:
        for _ in range(FRAMES + 4):
            host.send(1, QUERY)
    await until(lambda: disk.device.counters.drops["rate_limited"] == 2 * (FRAMES + 1))
    assert narrowed_to(port) == ({(SHELF, SLOT)}, {MAC_A, MAC_B})


async def test_another_device_on_the_link_ends_it(rig: Rig) -> None:
    port = rig.port()
    disk = rig.disk(port)
    host = Host(port, MAC_A)
    for _ in range(FRAMES + 4):
        host.send(1, QUERY)
    await until(lambda: narrowed_to(port) is not None)
    rig.disk(port, name="more", slot=SLOT + 1)
    assert narrowed_to(port) is None
    assert disk.device.ports == {port}


async def test_a_link_that_closes_while_it_is_flooded(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flood, "NARROW_S", 0.0)
    port = rig.port()
    rig.disk(port)
    host = Host(port, MAC_A)
    for _ in range(FRAMES + 4):
        host.send(1, QUERY)
    await until(lambda: link_of(port).counters.narrowed)
    rig.engine.close_link(port)
    await asyncio.sleep(0.01)
    assert not rig.engine.ports
