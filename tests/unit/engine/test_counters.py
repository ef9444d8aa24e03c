"""What is counted is what happened, by device, by host and by link."""

from __future__ import annotations

import logging

import pytest

from ggaoe.backend.faults import Fail
from ggaoe.engine import counters
from ggaoe.sched.queue import Policy
from ggaoe.testing.engine import link_of
from unit.engine.rig import Host, Rig, sectors, until
from unit.proto.host import IDENTIFY, MAC_A, MAC_B


async def test_device_and_hosts(rig: Rig) -> None:
    port = rig.port()
    disk = rig.disk(port, write_cache=False)
    one, two = Host(port, MAC_A), Host(port, MAC_B)
    await one.good(one.read(0, 2), one.write(10, sectors("a", "b")), one.verify(20), one.flush())
    await two.good(two.read(30), two.ata(IDENTIFY))
    device = disk.device.counters
    assert (device.read_requests, device.read_bytes) == (2, 3 * 512)
    assert (device.write_requests, device.write_bytes) == (1, 1024)
    assert (device.verify_requests, device.flush_requests, device.other_requests) == (1, 1, 1)
    assert device.read_ns > 0
    assert device.write_ns > 0
    assert [sum(counts) for counts in (device.read_latency, device.write_latency)] == [2, 1]
    assert (sum(device.flush_latency), device.write_sectors[1]) == (1, 1)
    assert device.read_sectors[:3] == [1, 1, 0]
    hosts = dict(disk.device.initiators.items())
    first, second = hosts[MAC_A], hosts[MAC_B]
    assert (first.read_requests, first.read_bytes) == (1, 1024)
    assert (first.write_requests, first.write_bytes, first.other_requests) == (1, 1024, 2)
    assert (second.read_requests, second.write_requests, second.other_requests) == (1, 0, 1)
    assert first.interface == "eth1"
    assert 0 < first.first_seen_s <= first.last_seen_s <= second.last_seen_s
    assert (first.in_flight, first.errors, dict(first.drops)) == (0, 0, {})


async def test_links(rig: Rig) -> None:
    port = rig.port()
    rig.disk(port)
    host = Host(port, MAC_A)
    await host.good(host.read(0), host.write(5, "w"))
    link = link_of(port).counters
    assert (link.rx_frames, link.rx_bytes) == (2, 36 + 548)
    assert (link.tx_frames, link.tx_bytes) == (2, 548 + 60)


async def test_hosts_in_flight_count_what_waits_and_runs(rig: Rig) -> None:
    port = rig.port()
    disk = rig.disk(port, policy=Policy(queue_length=2))
    one, two = Host(port, MAC_A), Host(port, MAC_B)
    disk.hold()
    tags = [one.read(2 * number) for number in range(5)]
    other = two.read(100)
    await rig.quiet()
    hosts = dict(disk.device.initiators.items())
    assert (hosts[MAC_A].in_flight, hosts[MAC_B].in_flight) == (5, 1)
    disk.release()
    await one.good(*tags)
    await two.good(other)
    hosts = dict(disk.device.initiators.items())
    assert (hosts[MAC_A].in_flight, hosts[MAC_B].in_flight) == (0, 0)


async def test_cleared_while_requests_are_in_flight(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.hold()
    tag = host.read(0)
    await until(lambda: disk.faults.held)
    disk.device.clear_counters()
    assert all(known.read_requests == 0 for _, known in disk.device.initiators.items())
    disk.release()
    await host.good(tag)
    assert disk.device.counters.read_requests == 1
    await host.good(host.read(0))
    assert dict(disk.device.initiators.items())[MAC_A].in_flight == 0


async def test_hosts_remembered_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "INITIATORS_MAX", 4)
    port = rig.port()
    disk = rig.disk(port)
    for number in range(10):
        host = Host(port, bytes([2, 0, 0, 0, 1, number]))
        await host.good(host.read(0))
        first = Host(port, MAC_A)
        await first.good(first.read(0))
    macs = [mac for mac, _ in disk.device.initiators.items()]
    assert [mac[5] for mac in macs] == [7, 8, 9, MAC_A[5]]


async def test_trace_has_a_line_for_each_request(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    port = rig.port()
    rig.disk(port, trace_io=True)
    rig.disk(port, name="quiet", slot=9)
    host, other = Host(port, MAC_A), Host(port, MAC_A, slot=9)
    with caplog.at_level(logging.INFO, "ggaoe.trace"):
        await host.good(host.write(8, "w", tag=0xBEEF), host.read(4000, 2, tag=0x80000001))
        await other.good(other.read(0))
    assert [record.getMessage() for record in caplog.records] == [
        "disk: WRITE sector 8+1 from 02:00:00:00:00:0a tag 0000beef",
        "disk: READ sector 4000+2 from 02:00:00:00:00:0a tag 80000001",
    ]


async def test_failures_are_logged_with_place_and_reason(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.strike(Fail(5))
    await host.answer(host.read(7))
    await until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.getMessage() == "disk: READ of sector 7+1 failed: Input/output error (EIO)"


async def test_who_is_silent_after_clearing_is_not_there_any_more(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    port = rig.port()
    disk = rig.disk(port)
    silent, busy = Host(port, MAC_A), Host(port, MAC_B)
    await silent.good(silent.read(0))
    await busy.good(busy.read(0))
    assert len(disk.device.initiators.items()) == 2
    disk.device.clear_counters()
    with caplog.at_level(logging.INFO, "ggaoe.engine"):
        assert disk.device.initiators.items() == []
        await busy.good(busy.read(0))
        assert [mac for mac, _ in disk.device.initiators.items()] == [MAC_B]
    assert len(caplog.records) == 1


async def test_when_and_where_a_host_was_seen_last(rig: Rig) -> None:
    one, two = rig.port(1), rig.port(2)
    disk = rig.disk(one, two)
    near, far = Host(one, MAC_A), Host(two, MAC_A)
    await near.good(near.read(0))
    first = dict(disk.device.initiators.items())[MAC_A].last_seen_s
    await far.good(far.ata(IDENTIFY))
    seen = dict(disk.device.initiators.items())[MAC_A]
    assert (seen.interface, seen.last_seen_s > first) == ("eth2", True)
    await near.good(near.read(0))
    rig.engine.close_link(one)
    assert dict(disk.device.initiators.items())[MAC_A].interface == "eth1"


async def test_host_of_a_link_that_has_closed(rig: Rig) -> None:
    one, two = rig.port(1), rig.port(2)
    disk = rig.disk(one, two)
    host = Host(one, MAC_A)
    disk.hold()
    host.read(0)
    await until(lambda: disk.faults.held)
    rig.engine.close_link(one)
    disk.release()
    await until(lambda: disk.device.in_flight == 0)
    (seen,) = [seen for _, seen in disk.device.initiators.items()]
    assert (seen.interface, seen.read_requests, seen.in_flight) == ("eth1", 1, 0)
