"""Who watches a device sees what came and what left, and nothing is kept otherwise."""

from __future__ import annotations

import pytest

from ggaoe.engine import trace
from ggaoe.engine.trace import SNAP_BYTES, Trace
from ggaoe.proto.frame import Command, unpack_header
from unit.engine.rig import Host, Rig, sectors
from unit.proto.host import MAC_A, MAC_B


async def test_requests_and_replies_are_kept_in_order(rig: Rig) -> None:
    port = rig.port()
    disk, other = rig.disk(port), rig.disk(port, name="other", slot=9)
    host = Host(port, MAC_A)
    await host.good(host.read(7))
    disk.device.watch(True)
    await host.good(host.read(0, 2), host.write(10, sectors("a")))
    await host.good(host.flush())
    found, lost = disk.device.traced()
    assert (lost, other.device.traced()) == (0, ([], 0))
    assert [record.time_ns for record in found] == sorted(record.time_ns for record in found)
    assert {record.interface for record in found} == {"eth1"}
    seen = []
    for record in found:
        header = unpack_header(record.frame)
        assert header is not None
        assert len(record.frame) == min(record.length_bytes, SNAP_BYTES)
        seen.append((header.is_response, record.length_bytes))
    requests = [length for is_response, length in seen if not is_response]
    replies = [length for is_response, length in seen if is_response]
    assert (requests[:2], sorted(replies)) == ([36, 36 + 512], [60, 60, 36 + 1024])
    assert disk.device.traced() == ([], 0)
    disk.device.watch(False)
    await host.good(host.read(0))
    assert disk.device.traced() == ([], 0)


async def test_what_is_refused_and_what_is_no_transfer_is_kept(rig: Rig) -> None:
    port = rig.port()
    disk = rig.disk(port)
    disk.device.watch(True)
    host = Host(port, MAC_B)
    await host.answer(host.send(Command.CONFIG, bytes(8)))
    found, _ = disk.device.traced()
    headers = [unpack_header(record.frame) for record in found]
    assert [(header.command, header.is_response) for header in headers if header] == [
        (Command.CONFIG, False),
        (Command.CONFIG, True),
    ]


async def test_another_device_with_the_address_elsewhere_is_not_watched(rig: Rig) -> None:
    here, there = rig.port(1), rig.port(2)
    disk = rig.disk(here)
    rig.disk(there, name="other")
    disk.device.watch(True)
    host = Host(there, MAC_B)
    await host.answer(host.send(Command.CONFIG, bytes(8)))
    assert disk.device.traced() == ([], 0)


async def test_frames_of_a_link_that_has_closed_keep_its_name(rig: Rig) -> None:
    port = rig.port()
    disk = rig.disk(port)
    disk.device.watch(True)
    host = Host(port, MAC_A)
    await host.good(host.read(0))
    rig.engine.close_link(port)
    found, _ = disk.device.traced()
    assert [record.interface for record in found] == ["eth1", "eth1"]


def test_a_full_ring_loses_the_newest_and_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "RECORDS_MAX", 2)
    ring = Trace()
    for number in range(5):
        ring.add(number, "eth1", 60, bytes(60))
    found, lost = ring.take()
    assert ([record.time_ns for record in found], lost) == ([0, 1], 3)
    assert ring.take() == ([], 0)
