"""Overlapping requests take effect in the order of their arrival, over all links of a device."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from ggaoe.engine.portable import FRAMES_PER_TURN_MAX
from ggaoe.net.link import Frame
from ggaoe.proto.ata import Op
from ggaoe.sched.queue import Policy
from ggaoe.testing.link import MemoryLink
from unit.engine.rig import Disk, Host, Rig, sectors, until
from unit.proto.host import MAC_A, MAC_B, READ_EXT, WRITE

MS = 1_000_000
BACKLOG_FRAMES = 50 * FRAMES_PER_TURN_MAX


def two_paths(rig: Rig, **how: Any) -> tuple[Disk, Host, Host]:
    """A disk, and one host that reaches it by two links."""
    ports = rig.port(1), rig.port(2)
    return rig.disk(*ports, **how), Host(ports[0], MAC_A), Host(ports[1], MAC_A)


@pytest.mark.parametrize("write_cache", [False, True])
async def test_kernel_time_stamps_decide_over_links(rig: Rig, write_cache: bool) -> None:
    disk, one, two = two_paths(rig, write_cache=write_cache)
    now = time.time_ns()
    for number in range(20):
        late = one.write(number, "late", at=now + 2 * number + 1)
        early = two.write(number, "early", at=now + 2 * number)
        await one.good(late)
        await two.good(early)
    assert disk.content(0, 20) == sectors("late") * 20


async def test_read_between_two_writes_sees_the_first(rig: Rig) -> None:
    disk, one, two = two_paths(rig)
    now = time.time_ns() - MS
    one.write(0, "first", at=now)
    last = one.write(0, "last", at=now + 2)
    read = two.read(0, at=now + 1)
    assert (await two.answer(read)).data == sectors("first")
    await one.good(last)
    assert disk.content(0) == sectors("last")


async def test_a_crowd_at_one_block_takes_effect_in_order_of_arrival(rig: Rig) -> None:
    """Each read shows the write before it, also where requests touch more than one block."""
    port = rig.port(mtu_bytes=9000)
    disk = rig.disk(port, policy=Policy(queue_length=2))
    hosts = [Host(port, bytes([2, 0, 0, 0, 0, number])) for number in range(8)]
    disk.hold(times=1)
    expected: list[tuple[Host, int, bytes]] = []
    content = [""] * 20
    for number in range(600):
        host, first, count = hosts[number % 8], number % 4, 1 + number % 17
        if number % 3:
            expected.append((host, host.read(first, count), sectors(*content[first:][:count])))
        else:
            content[first : first + count] = [f"{number} "] * count
            host.write(first, sectors(*content[first : first + count]))
    await until(lambda: port.link.counters.rx_frames == 600)
    assert disk.device.counters.overlaps > 500
    disk.release()
    for host, tag, data in expected:
        assert (await host.answer(tag)).data == data
    assert disk.content(0, 20) == sectors(*content)


async def test_write_waits_for_an_older_read_in_flight(rig: Rig) -> None:
    disk, one, two = two_paths(rig)
    disk.fill(0, sectors("old"))
    disk.hold(Op.READ)
    read = one.read(0, 2)
    await until(lambda: disk.faults.held)
    write = two.write(1, "new")
    await rig.quiet()
    assert disk.of(Op.WRITE) == []
    disk.release()
    assert (await one.answer(read)).data == sectors("old", "")
    await two.good(write)
    assert disk.device.counters.overlaps == 1


async def test_requests_that_do_not_overlap_are_free(rig: Rig) -> None:
    disk, one, two = two_paths(rig)
    disk.hold(Op.WRITE, times=1)
    held = one.write(0, "held")
    await until(lambda: disk.faults.held)
    await two.good(two.write(1, "free"), two.read(2), two.flush())
    disk.release()
    await one.good(held)


@pytest.mark.parametrize("granule_bytes", [512, 4096, 65536, 1 << 20])
async def test_longest_requests_take_turns_whatever_the_block(rig: Rig, granule_bytes: int) -> None:
    disk, one, two = two_paths(rig, granule_bytes=granule_bytes)
    for sector in range(0, 1024, 127):
        disk.hold(Op.VERIFY)
        verify = one.verify(sector, 255)
        await until(lambda: disk.faults.held)
        write = two.write(sector + 254, "behind")
        await rig.quiet()
        assert disk.device.in_flight == disk.device.waiting == 1
        disk.release()
        await one.good(verify)
        await two.good(write)


async def test_writes_within_one_block_of_the_store_take_turns(rig: Rig) -> None:
    """The store reads, changes and writes whole blocks: two at a time would lose one."""
    disk, one, two = two_paths(rig, granule_bytes=4096)
    disk.hold(Op.WRITE)
    first = one.write(0, "first")
    await until(lambda: disk.faults.held)
    second, free = two.write(7, "second"), two.write(8, "free")
    await rig.quiet()
    assert disk.of(Op.WRITE) == [(0, 1), (8, 1)]
    disk.release()
    await one.good(first)
    await two.good(second, free)


async def test_more_than_a_turn_on_one_link_does_not_let_the_other_overtake(rig: Rig) -> None:
    disk, one, two = two_paths(rig)
    count = 3 * FRAMES_PER_TURN_MAX
    start = time.time_ns() - MS
    tags = [one.write(0, f"one {number}", at=start + 2 * number) for number in range(count)]
    for place in (count - 1, count - 2, 10):
        tags.append(two.write(place, f"two {place}", at=start + 2 * place + 1))
        two.write(0, f"two {place}", at=start + 2 * place + 1)
    last = two.write(0, "last", at=start + 2 * count)
    read = two.read(0, at=start + 2 * count + 1)
    assert (await two.answer(read)).data == sectors("last")
    await two.good(last)
    assert disk.content(0) == sectors("last")


async def test_backlog_is_executed_in_order_of_stamps(rig: Rig) -> None:
    """Every write of both links goes to one sector, a read behind each tells what it found."""
    _, one, two = two_paths(rig)
    count = 2 * FRAMES_PER_TURN_MAX
    start = time.time_ns() - MS
    reads = []
    for number in range(count):
        # Runs of different lengths on each link, so that turns end within them.
        host = one if number // 5 % 3 else two
        host.write(0, f"{number}", at=start + 2 * number)
        reads.append((host, host.read(0, at=start + 2 * number + 1)))
    for number, (host, tag) in enumerate(reads):
        assert (await host.answer(tag)).data == sectors(f"{number}")


async def test_frames_that_come_while_links_are_read_wait_for_the_next_turn(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older one reaches a link that was read already, the newer one a link that was not."""
    if rig.engine.name == "native":
        pytest.skip("in memory nothing comes in the middle of the core's turn")
    disk, one, two = two_paths(rig)
    receive = MemoryLink.receive
    tags: list[int] = []

    def receive_late(link: MemoryLink, frames_max: int) -> list[Frame]:
        if link is two.link and not tags:
            tags.append(one.write(0, "older"))
            tags.append(two.write(0, "newer"))
        return receive(link, frames_max)

    monkeypatch.setattr(MemoryLink, "receive", receive_late)
    two.read(100)
    await until(lambda: tags)
    await one.good(tags[0])
    await two.good(tags[1])
    assert disk.content(0) == sectors("newer")


async def test_turns_do_not_multiply_under_a_flood(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One link never runs dry, so the other's newer frames wait for turn after turn."""
    if rig.engine.name == "native":
        pytest.skip("counts the portable engine's calls")
    _, one, two = two_paths(rig)
    receive = MemoryLink.receive
    calls = 0

    def receive_counted(link: MemoryLink, frames_max: int) -> list[Frame]:
        nonlocal calls
        calls += 1
        return receive(link, frames_max)

    monkeypatch.setattr(MemoryLink, "receive", receive_counted)
    start = time.time_ns() - 1000 * MS
    two.read(1, at=start + 900 * MS)
    calls_of_turn = []
    for turn in range(40):
        while one.link.backlog_frames < 10 * FRAMES_PER_TURN_MAX:
            one.read(0, at=start + turn)
        calls = 0
        await asyncio.sleep(0)
        calls_of_turn.append(calls)
    print(calls_of_turn)
    assert max(calls_of_turn) <= 4 * 2
    one.link.forget_backlog()


async def test_clock_that_is_set_back_turns_no_order_around(rig: Rig) -> None:
    disk, one, two = two_paths(rig)
    now = time.time_ns()
    tags = [one.write(0, "before", at=now + 3600 * 10**9), one.write(0, "after", at=now)]
    other = two.write(1, "other", at=now + 3600 * 10**9)
    await one.good(*tags)
    await two.good(other)
    assert disk.content(0, 2) == sectors("after", "other")


async def test_stale_frames_are_dropped_and_counted(rig: Rig) -> None:
    disk, one, two = two_paths(rig)
    now = time.time_ns()
    one.write(0, "stale", at=now - 5_100 * MS)
    fresh = one.write(1, "fresh", at=now - 4_000 * MS)
    await one.good(fresh)
    await rig.quiet()
    assert disk.of(Op.WRITE) == [(1, 1)]
    assert one.link.counters.drops["stale"] == 1
    assert two.link.counters.drops["stale"] == 0
    assert [(mac, stray.reason) for mac, stray in one.link.strays.items()] == [(one.mac, "stale")]
    assert two.link.strays.items() == []


async def test_twin_of_a_request_in_flight_is_absorbed(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.hold(Op.WRITE)
    tag = host.write(0, "w")
    await until(lambda: disk.faults.held)
    host.write(0, "w", tag=tag)
    await rig.quiet()
    disk.release()
    await host.good(tag)
    await rig.quiet()
    assert len(host.link.sent) == len(disk.seen) == 1
    assert disk.device.counters.absorbed == 1
    assert dict(disk.device.initiators.items())[MAC_A].absorbed == 1


async def test_twin_of_a_request_that_waits_is_absorbed(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.hold(Op.WRITE)
    host.write(0, "first")
    tag = host.read(0)
    host.read(0, tag=tag)
    await until(lambda: disk.faults.held)
    host.read(0, tag=tag)
    await rig.quiet()
    disk.release()
    assert (await host.answer(tag)).data == sectors("first")
    await rig.quiet()
    assert len(host.link.sent) == 2
    assert disk.device.counters.absorbed == 2


async def test_twin_after_the_reply_is_executed_again(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    for count in (1, 2, 3):
        host.write(0, "w", tag=0x77)
        await until(lambda count=count: len(host.link.sent) == count)
    assert len(disk.of(Op.WRITE)) == 3
    assert disk.device.counters.absorbed == 0


async def test_only_the_same_request_of_the_same_host_by_the_same_link_is_a_twin(rig: Rig) -> None:
    disk, one, two = two_paths(rig)
    stranger = Host(one.port, MAC_B)
    disk.hold()
    one.read(0, tag=0x77)
    one.read(1, tag=0x77)
    one.read(0, 2, tag=0x77)
    one.ata(READ_EXT, 0, 1, tag=0x77)
    one.ata(WRITE, 0, 1, sectors("w"), tag=0x77)
    two.read(0, tag=0x77)
    stranger.read(0, tag=0x77)
    await rig.quiet()
    assert disk.device.in_flight + disk.device.waiting == 7
    assert disk.device.counters.absorbed == 0
    disk.release()
    await until(lambda: disk.device.in_flight + disk.device.waiting == 0)
    assert len(one.link.sent) == 6
    assert len(two.link.sent) == 1


async def test_twin_by_a_link_that_was_opened_anew_gets_its_own_reply(rig: Rig) -> None:
    """The first one's reply was lost with the old link."""
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.hold(Op.WRITE)
    tag = host.write(0, "w")
    await until(lambda: disk.faults.held)
    rig.engine.close_link(port)
    port = rig.port()
    rig.engine.set_ports(disk.device, [port])
    host = Host(port, MAC_A)
    host.write(0, "w", tag=tag)
    await rig.quiet()
    disk.release()
    await host.good(tag)
    assert disk.device.counters.absorbed == 0


async def test_a_backlog_of_one_link_delays_no_device_of_another(rig: Rig) -> None:
    """It delays those that both links serve, since something older may be in it."""
    ports = rig.port(1), rig.port(2)
    rig.disk(ports[0], name="flooded", slot=1)
    rig.disk(*ports, name="both", slot=2)
    rig.disk(ports[1], name="free", slot=3)
    flood = Host(ports[0], MAC_A, slot=1)
    both, free = (Host(ports[1], MAC_B, slot=slot) for slot in (2, 3))
    now_ns = time.time_ns() - MS
    free_tag = free.read(0, at=now_ns + 1)
    both_tag = both.read(0, at=now_ns + 1)
    for number in range(BACKLOG_FRAMES):
        flood.read(number, at=now_ns)
    await free.good(free_tag)
    assert flood.link.backlog_frames > 0
    await both.good(both_tag)
    assert flood.link.backlog_frames == 0
