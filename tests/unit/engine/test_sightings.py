"""What hosts have sent last and what became of it is known on every engine, and is bounded."""

from __future__ import annotations

import logging
import time

import pytest

from ggaoe.backend.faults import Fail
from ggaoe.engine.sightings import FRAMES_PER_HOST_MAX, HOSTS_MAX, Fate, Sighting, Sightings
from ggaoe.net import strays
from ggaoe.net.strays import Stray, Strays
from ggaoe.proto.ata import Op
from ggaoe.proto.target import Refusal
from ggaoe.testing.engine import link_of
from ggaoe.units import format_mac
from unit.engine.rig import Disk, Host, Rig, until
from unit.proto.host import (
    ANY_SHELF,
    ANY_SLOT,
    IDENTIFY,
    MAC_A,
    MAC_B,
    all_but,
    config_argument,
    request,
)

EIO = 5


def told(disk: Disk, mac: bytes = MAC_A) -> list[tuple[str, int, Fate, str]]:
    """(interface, command or opcode, fate, cause) of the last frames of a host."""
    return [
        (seen.interface, seen.head[27] or seen.head[19], seen.fate, seen.cause)
        for seen in disk.device.last_frames(mac)
    ]


async def test_what_was_asked_and_what_became_of_it(rig: Rig) -> None:
    port = rig.port()
    disk = rig.disk(port, write=all_but(MAC_A))
    host = Host(port, MAC_A)
    assert told(disk) == []
    await host.answer(host.send(1, config_argument(0)))
    await host.answer(host.ata(IDENTIFY))
    await host.answer(host.write(0, "x"))
    await host.answer(host.read(0, 20))
    await host.good(host.read(7))
    assert told(disk) == [
        ("eth1", 1, Fate.ANSWERED, ""),
        ("eth1", IDENTIFY, Fate.ANSWERED, ""),
        ("eth1", 0x30, Fate.REFUSED, Refusal.WRITE_LIST.value),
        ("eth1", 0x20, Fate.REFUSED, Refusal.SECTOR_COUNT.value),
        ("eth1", 0x20, Fate.ANSWERED, ""),
    ]
    last = disk.device.last_frames(MAC_A)[-1]
    assert (last.length_bytes, last.head[28], last.times) == (36, 7, 1)
    assert 0 <= time.monotonic() - last.time_s < 60
    assert told(disk, MAC_B) == []


async def test_what_is_dropped_says_why(rig: Rig) -> None:
    port = rig.port()
    disk = rig.disk(port, accept=all_but(MAC_A))
    host = Host(port, MAC_A)
    host.read(0)
    host.send(1, config_argument(0))
    await until(lambda: len(told(disk)) == 2)
    assert [(fate, cause) for _, _, fate, cause in told(disk)] == [
        (Fate.DROPPED, "access_list")
    ] * 2


async def test_the_last_request_is_under_way_until_it_is_answered(rig: Rig) -> None:
    disk = rig.disk(port := rig.port())
    host = Host(port, MAC_A)
    disk.hold(Op.WRITE)
    tag = host.write(3, "x")
    await until(lambda: disk.faults.held)
    assert told(disk) == [("eth1", 0x30, Fate.UNDER_WAY, "")]
    assert disk.device.last_frames(MAC_A)[0].length_bytes == 36 + 512
    host.write(3, "x", tag=tag)  # as hosts that lose patience do
    await rig.quiet()
    assert told(disk) == [("eth1", 0x30, Fate.UNDER_WAY, "")]
    disk.release()
    await host.good(tag)
    assert told(disk) == [("eth1", 0x30, Fate.ANSWERED, "")]


async def test_a_failure_of_the_store_is_told(rig: Rig) -> None:
    disk = rig.disk(port := rig.port())
    disk.strike(Fail(EIO), Op.READ)
    host = Host(port, MAC_A)
    await host.answer(host.read(0))
    ((_, _, fate, cause),) = told(disk)
    assert fate is Fate.REFUSED
    assert cause.endswith("(EIO)")


async def test_what_never_started_is_told(rig: Rig) -> None:
    disk = rig.disk(port := rig.port())
    host = Host(port, MAC_A)
    disk.hold(Op.WRITE)
    first = host.write(3, "x")
    host.write(3, "y")
    await until(lambda: disk.device.in_flight + disk.device.waiting == 2)
    rig.engine.drop_waiting(disk.device)
    assert told(disk) == [("eth1", 0x30, Fate.DROPPED, "not_serving")]
    disk.release()
    await host.good(first)
    assert told(disk) == [("eth1", 0x30, Fate.DROPPED, "not_serving")]


async def test_a_change_is_under_way_until_somebody_settles_it(rig: Rig) -> None:
    disk = rig.disk(port := rig.port())
    host = Host(port, MAC_A)
    tag = host.send(1, config_argument(4, b"text"))
    await until(lambda: rig.changes)
    assert told(disk) == [("eth1", 1, Fate.UNDER_WAY, "")]
    disk.device.sightings.settle(MAC_A, tag + 1, Fate.ANSWERED, "")
    assert told(disk) == [("eth1", 1, Fate.UNDER_WAY, "")]
    disk.device.sightings.settle(MAC_A, tag, Fate.DROPPED, "changes_waiting")
    assert told(disk) == [("eth1", 1, Fate.DROPPED, "changes_waiting")]


async def test_a_frame_for_all_is_seen_by_each(rig: Rig) -> None:
    port = rig.port()
    disks = [rig.disk(port, name=f"disk{slot}", slot=slot) for slot in (1, 2)]
    refusing = rig.disk(port, name="disk3", slot=3, discover=all_but(MAC_A))
    host = Host(port, MAC_A)
    host.send(1, config_argument(0), shelf=ANY_SHELF, slot=ANY_SLOT)
    await until(lambda: told(refusing))
    assert [told(disk) for disk in disks] == [[("eth1", 1, Fate.ANSWERED, "")]] * 2
    assert told(refusing) == [("eth1", 1, Fate.DROPPED, "discover_list")]


async def test_what_is_for_nobody_is_a_stray_of_its_link(rig: Rig) -> None:
    ports = rig.port(1), rig.port(2)
    disk = rig.disk(*ports)
    Host(ports[1], MAC_A).read(0, slot=77)
    Host(ports[1], MAC_B).send(1, config_argument(0), slot=78)
    await until(lambda: len(ports[1].link.strays.items()) == 2)
    found = dict(ports[1].link.strays.items())
    assert {mac: (stray.reason, stray.head[18]) for mac, stray in found.items()} == {
        MAC_A: ("address", 77),
        MAC_B: ("address", 78),
    }
    assert found[MAC_A].length_bytes == 36
    assert 0 <= time.monotonic() - found[MAC_A].time_s < 60
    assert ports[0].link.strays.items() == []
    assert told(disk) == []
    Host(ports[1], MAC_A).read(0, slot=79)
    await until(lambda: dict(ports[1].link.strays.items())[MAC_A].head[18] == 79)


async def test_strays_are_in_order_wherever_they_were_dropped(rig: Rig) -> None:
    """A request for nobody, what is no request at all, and the first again."""
    port = rig.port()
    rig.disk(port)
    macs = [bytes([2, 0, 0, 1, 0, number]) for number in range(3)]
    Host(port, macs[0]).read(0, slot=77)
    await until(lambda: port.link.counters.drops["address"] == 1)
    link_of(port).deliver(request(0, source=macs[1])[:20])
    await until(lambda: port.link.counters.drops["malformed"] == 1)
    Host(port, macs[2]).read(0, slot=77)
    await until(lambda: port.link.counters.drops["address"] == 2)
    assert [(mac, stray.reason) for mac, stray in port.link.strays.items()] == [
        (macs[0], "address"),
        (macs[1], "malformed"),
        (macs[2], "address"),
    ]


async def test_many_strays_leave_the_last_ones(rig: Rig) -> None:
    """Some of the older give way early where the table has sets; the last host never does."""
    port = rig.port()
    rig.disk(port)
    macs = [bytes([2, 0, 0, 1, *divmod(number, 256)]) for number in range(2 * strays.HOSTS_MAX)]
    for mac in macs:
        Host(port, mac).read(0, slot=77)
    await until(lambda: port.link.counters.drops["address"] == len(macs))
    found = [mac for mac, _ in port.link.strays.items()]
    assert strays.HOSTS_MAX // 2 < len(found) <= strays.HOSTS_MAX
    assert macs[-1] in found
    assert macs[0] not in found


def sighting(number: int, tag: int = 0, fate: Fate = Fate.ANSWERED) -> Sighting:
    head = request(1, config_argument(0, bytes([number])), tag=tag)[:36]
    return Sighting(float(tag), "eth1", len(head), head, fate)


def test_what_differs_only_in_tag_and_time_is_counted() -> None:
    known = Sightings()
    for tag in range(5):
        known.add(MAC_A, sighting(1, tag))
    known.add(MAC_A, sighting(2, 5))
    known.add(MAC_A, sighting(1, 6, Fate.DROPPED))
    seen = known.of(MAC_A)
    assert [(one.times, one.time_s) for one in seen] == [(5, 4.0), (1, 5.0), (1, 6.0)]


def test_frames_and_hosts_are_bounded_and_the_oldest_give_way() -> None:
    known = Sightings()
    for number in range(FRAMES_PER_HOST_MAX + 3):
        known.add(MAC_A, sighting(number, number))
    assert [one.tag for one in known.of(MAC_A)] == list(range(3, FRAMES_PER_HOST_MAX + 3))
    for number in range(HOSTS_MAX - 1):
        known.add(bytes([2, 0, 0, 0, 1, number]), sighting(0))
    assert known.of(MAC_A)
    known.add(MAC_B, sighting(0))
    assert not known.of(MAC_A)
    others = [bytes([2, 0, 0, 0, 1, number]) for number in range(HOSTS_MAX - 1)]
    assert all(map(known.of, [*others, MAC_B]))


def test_an_older_stray_does_not_take_a_newer_ones_place() -> None:
    known = Strays()
    head = request(1)
    known.add(Stray(2.0, 60, head, "address"))
    known.add(Stray(1.0, 60, head, "vlan"))
    known.add(Stray(3.0, 8, head[:8], "malformed"))
    assert known.items() == [(MAC_A, Stray(2.0, 60, head, "address"))]


async def test_a_new_host_is_told_of_though_nobody_asks(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """By its reads and writes alone."""
    port = rig.port()
    rig.disk(port)
    with caplog.at_level(logging.INFO, "ggaoe.engine"):
        for mac in (MAC_A, MAC_B):
            host = Host(port, mac)
            await host.good(host.read(0))
            await until(lambda: format_mac(mac) in caplog.text)  # noqa: B023
