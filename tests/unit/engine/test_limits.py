"""Every bound holds, and within it nobody is starved."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggaoe.backend.file import FileSpec, open_file
from ggaoe.engine import portable
from ggaoe.engine.base import Port
from ggaoe.engine.portable import REQUEST_BYTES
from ggaoe.proto.ata import Op
from ggaoe.sched.queue import (
    WAITING_BYTES_PER_DEVICE_MIN,
    WAITING_BYTES_PER_SOURCE_MAX,
    WAITING_BYTES_TOTAL_MAX,
    WAITING_PER_BUFFER,
    WAITING_PER_SOURCE_MIN,
    Policy,
)
from helpers.needs import sanitizer
from unit.engine.conftest import Leases
from unit.engine.rig import SECTOR, SIZE_SECTORS, Host, Rig, sectors, until
from unit.proto.host import MAC_A, MAC_B, SLOT

GREEDY_REQUESTS = 900
"""More than one host may have waiting."""
VERIFIED = 400
"""Eight hosts may have so many waiting, each as long as it can be."""
VERIFY_SECTORS = 255
REPLIES_HELD_MAX_OF_NATIVE = 16384
"""It is compiled in."""


async def test_at_most_queue_length_requests_are_in_flight(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(queue_length=3)), Host(port, MAC_A)
    disk.hold()
    tags = [host.read(2 * number) for number in range(10)]
    await rig.quiet()
    assert len(disk.faults.held) == disk.device.in_flight == 3
    assert disk.device.waiting == 7
    disk.faults.release(1)
    await until(lambda: len(disk.seen) == 4)
    await rig.quiet()
    assert len(disk.faults.held) == disk.device.in_flight == 3
    disk.release()
    await host.good(*tags)
    assert disk.device.counters.waits == 7
    assert dict(disk.device.initiators.items())[MAC_A].waits == 7


@pytest.mark.parametrize("write_cache", [False, True])
async def test_writes_that_wait_for_their_flush_are_in_flight(rig: Rig, write_cache: bool) -> None:
    port = rig.port()
    policy = Policy(queue_length=2)
    disk, host = rig.disk(port, policy=policy, write_cache=write_cache), Host(port, MAC_A)
    disk.hold(Op.FLUSH)
    tags = [host.write(2 * number, "w") for number in range(4)]
    await rig.quiet()
    assert len(disk.of(Op.WRITE)) == (4 if write_cache else 2)
    disk.release()
    await host.good(*tags)


async def test_shorter_and_longer_queue_hold_at_once(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(queue_length=2)), Host(port, MAC_A)
    disk.hold()
    tags = [host.read(2 * number) for number in range(8)]
    await rig.quiet()
    disk.device.policy = Policy(queue_length=5)
    rig.engine.refresh(disk.device)
    await until(lambda: disk.device.in_flight == len(disk.faults.held) == 5)
    disk.device.policy = Policy(queue_length=2)
    rig.engine.refresh(disk.device)
    disk.faults.release(3)
    await rig.quiet()
    assert disk.device.in_flight == 2
    disk.faults.release(1)
    await until(lambda: len(disk.seen) == 6)
    disk.release()
    await host.good(*tags)


async def test_initiators_take_turns(rig: Rig) -> None:
    port = rig.port()
    disk = rig.disk(port, policy=Policy(queue_length=2, max_delay_ns=0))
    greedy, modest = Host(port, MAC_A), Host(port, MAC_B)
    disk.hold()
    for number in range(20):
        greedy.read(2 * number)
    await until(lambda: disk.device.waiting == 18)
    modest.read(1000)
    modest.read(2000)
    await until(lambda: disk.device.waiting == 20)
    disk.release()
    await until(lambda: len(disk.seen) == 22)
    order = [sector for _, sector, _ in disk.seen]
    assert order.index(1000) <= 4
    assert order.index(2000) <= 6


async def test_beyond_the_budget_the_newest_is_refused_and_counted(rig: Rig) -> None:
    port = rig.port()
    disk, greedy = rig.disk(port, policy=Policy(queue_length=2)), Host(port, MAC_A)
    other = Host(port, MAC_B)
    disk.hold()
    tags = await greedy.read_many(number % SIZE_SECTORS for number in range(GREEDY_REQUESTS))
    refused = disk.device.counters.drops["queue_full"]
    assert 0 < refused < len(tags)
    kept_too = other.read(100)
    await rig.quiet()
    disk.release()
    await greedy.good(*tags[:-refused])
    await other.good(kept_too)
    await rig.quiet()
    assert not greedy.answers.keys() & set(tags[-refused:])
    assert disk.device.counters.drops == {"queue_full": refused}
    assert dict(disk.device.initiators.items())[MAC_A].drops == {"queue_full": refused}
    assert disk.device.waiting == 0
    await greedy.good(greedy.read(12))


def many_hosts(port: Port, count: int, slot: int = SLOT) -> list[Host]:
    return [Host(port, bytes([2, 0, 0, 0, 7, number]), slot) for number in range(count)]


@pytest.mark.parametrize("queue_length", [2, 100])
async def test_an_initiator_has_so_many_requests_waiting(rig: Rig, queue_length: int) -> None:
    """Four times as many as are announced to it, or 256: an honest one has no more outstanding."""
    port = rig.port()
    disk = rig.disk(port, policy=Policy(queue_length=queue_length))
    greedy, other = Host(port, MAC_A), Host(port, MAC_B)
    disk.hold()
    waiting = max(WAITING_PER_SOURCE_MIN, WAITING_PER_BUFFER * queue_length)
    tags = [greedy.flush() for _ in range(waiting + queue_length + 7)]
    await until(lambda: disk.device.counters.drops["queue_full"] == 7)
    assert (disk.device.in_flight, disk.device.waiting) == (queue_length, waiting)
    kept_too = other.flush()
    await until(lambda: disk.device.waiting == waiting + 1)
    disk.release()
    await greedy.good(*tags[:-7])
    await other.good(kept_too)


async def test_what_waits_is_bounded_over_all_devices(rig: Rig) -> None:
    """Beyond that bound each device has a little room of its own."""
    port = rig.port()
    cost = REQUEST_BYTES + VERIFY_SECTORS * SECTOR
    disks = [
        rig.disk(port, name=f"disk{slot}", slot=slot, policy=Policy(merge_delay_ns=3600 * 10**9))
        for slot in range(6)
    ]
    for slot in range(len(disks)):
        for host in many_hosts(port, 8, slot):
            for _ in range(WAITING_BYTES_PER_SOURCE_MAX // cost):
                host.verify(0, VERIFY_SECTORS)
            received = port.link.counters.rx_frames + host.link.backlog_frames
            await until(lambda: port.link.counters.rx_frames == received)  # noqa: B023
    await rig.quiet()
    per_device = 8 * (WAITING_BYTES_PER_SOURCE_MAX // cost)
    left = WAITING_BYTES_TOTAL_MAX // cost - 4 * per_device
    own = WAITING_BYTES_PER_DEVICE_MIN // cost
    assert [disk.device.waiting for disk in disks] == [per_device] * 4 + [max(left, own), own]
    for disk in disks[:2]:
        rig.engine.drop_waiting(disk.device)
    host = Host(port, MAC_A, 5)
    host.verify(0, VERIFY_SECTORS)
    await until(lambda: disks[5].device.waiting == own + 1)


async def test_reads_that_wait_hold_no_buffers(rig: Rig, leases: Leases) -> None:
    """Whether they wait for another request or for room at the disk."""
    port = rig.port(mtu_bytes=9000)
    disk, host = rig.disk(port, policy=Policy(queue_length=2)), Host(port, MAC_A)

    def buffers() -> int:
        core = getattr(host.link, "core", None)
        return len(leases.on_loan) if core is None else core.frame_buffers

    disk.hold()
    wrote = host.write(8, "w")
    behind = [host.read(0, 17) for _ in range(100)]
    elsewhere = [host.read(100 + number, 16) for number in range(100)]
    await until(lambda: disk.device.waiting == 199)
    await rig.quiet()
    assert disk.device.in_flight == buffers() == 2
    disk.fill(100, sectors(*"abcdefghij"))
    disk.release()
    await host.good(wrote)
    expected = bytes(8 * SECTOR) + sectors("w") + bytes(8 * SECTOR)
    assert {(await host.answer(tag)).data for tag in behind} == {expected}
    for number, tag in enumerate(elsewhere):
        assert (await host.answer(tag)).data == disk.content(100 + number, 16)
    await rig.quiet()
    assert buffers() == 0


async def test_refused_writes_give_their_buffers_back(rig: Rig) -> None:
    """The fixture checks the buffers."""
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(queue_length=2)), Host(port, MAC_A)
    disk.hold()
    for number in range(SIZE_SECTORS // 2):
        host.write(2 * number, "w")
    await until(lambda: port.link.counters.rx_frames == SIZE_SECTORS // 2)
    assert disk.device.counters.drops["queue_full"] > 0
    assert disk.device.waiting > 0


async def test_adjacent_requests_are_merged(rig: Rig) -> None:
    port = rig.port()
    policy = Policy(max_delay_ns=3600 * 10**9)  # however long it takes to send them all
    disk, host = rig.disk(port, policy=policy), Host(port, MAC_A)
    writes = [host.write(number, f"{number}") for number in (3, 1, 0, 2)]
    reads = [host.read(number) for number in (102, 100, 101)]
    await host.good(*writes, *reads)
    assert sorted(disk.seen) == [(Op.READ, 100, 3), (Op.WRITE, 0, 4)]
    assert disk.content(0, 4) == sectors("0", "1", "2", "3")
    counters = disk.device.counters
    assert (counters.merged_requests, counters.vectors, counters.batches) == (5, 2, 1)
    assert counters.in_flight_sum == 7


async def test_merge_delay_holds_a_lone_request_until_its_time(rig: Rig) -> None:
    port = rig.port()
    policy = Policy(merge_delay_ns=300_000_000)
    disk, host = rig.disk(port, policy=policy), Host(port, MAC_A)
    first = host.write(0, "a")
    await rig.quiet()
    second = host.write(1, "b")
    await host.good(first, second)
    assert disk.seen == [(Op.WRITE, 0, 2)]


async def test_merge_delay_taken_away_live_starts_what_it_held(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(merge_delay_ns=3600 * 10**9)), Host(port, MAC_A)
    tag = host.write(0, "a")
    await rig.quiet()
    assert not disk.seen
    disk.device.policy = Policy()
    rig.engine.refresh(disk.device)
    await host.good(tag)


async def test_full_transmit_queue_holds_replies_in_order(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    host.link.room_frames = 2
    tags = [host.write(0, f"{number}") for number in range(10)]
    await until(lambda: disk.device.in_flight + disk.device.waiting == 0)
    await rig.quiet()
    assert len(host.link.sent) == 2
    assert host.link.counters.tx_held > 0
    host.link.room_frames = 3
    await until(lambda: len(host.link.sent) == 5)
    host.link.room_frames = None
    await until(lambda: len(host.link.sent) == 10)
    assert list(host.answers) == tags
    assert port.link.counters.drops["replies_held"] == 0


async def test_held_reads_keep_their_data(rig: Rig) -> None:
    """Their buffers must not go back, and to the next read, before they are sent."""
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.fill(0, sectors("a", "", "b"))
    host.link.room_frames = 0
    first = host.read(0)
    await until(lambda: len(disk.seen) == 1)
    second = host.read(2)
    await until(lambda: disk.device.in_flight == 0 and len(disk.seen) == 2)
    host.link.room_frames = None
    assert (await host.answer(second)).data == sectors("b")
    assert (await host.answer(first)).data == sectors("a")


async def test_beyond_the_replies_held_the_newest_is_dropped(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_max = REPLIES_HELD_MAX_OF_NATIVE
    if rig.engine.name == "portable":
        held_max = 4
        monkeypatch.setattr(portable, "REPLIES_HELD_MAX", held_max)
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(max_delay_ns=0)), Host(port, MAC_A)
    host.link.room_frames = 0
    tags: list[int] = []
    while len(tags) < held_max + 5:
        more = min(WAITING_PER_SOURCE_MIN, held_max + 5 - len(tags))
        tags += [host.read(2 * number) for number in range(more)]
        await until(lambda: disk.device.counters.read_requests == len(tags))  # noqa: B023
    assert port.link.counters.drops["replies_held"] == 5
    host.link.room_frames = None
    await until(lambda: len(host.link.sent) == held_max)
    await rig.quiet()
    assert list(host.answers) == tags[:held_max]


async def test_one_full_link_does_not_hold_up_the_other(rig: Rig) -> None:
    ports = rig.port(1), rig.port(2)
    rig.disk(*ports)
    one, two = Host(ports[0], MAC_A), Host(ports[1], MAC_A)
    one.link.room_frames = 0
    held = one.read(0)
    await two.good(*[two.read(number) for number in range(50)])
    assert not one.link.sent
    one.link.room_frames = None
    await one.good(held)


async def test_flood_on_one_device_leaves_another_alone(rig: Rig) -> None:
    port = rig.port()
    busy = rig.disk(port, slot=1, policy=Policy(queue_length=2))
    idle = rig.disk(port, slot=2, name="idle")
    flood, host = Host(port, MAC_A, slot=1), Host(port, MAC_A, slot=2)
    busy.hold()
    for number in range(500):
        flood.read(2 * number)
    await host.good(host.read(0))
    assert len(idle.seen) == 1
    assert busy.device.in_flight == 2


def peak_bytes(*, anew: bool = False) -> int:
    """The most memory that this process has had, since it was last asked `anew`."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


@pytest.mark.skipif(sanitizer(), reason="the sanitizer keeps what has been freed")
async def test_verifying_costs_no_memory_while_it_waits(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(512 * SECTOR))
    port = rig.port()
    disk = rig.disk(port, policy=Policy(merge_delay_ns=3600 * 10**9))
    hosts = many_hosts(port, 8)
    await rig.engine.detach(disk.device, None)
    backend = await open_file(FileSpec(path=path, direct_io=False))
    disk.device.target.size_sectors = 512
    rig.engine.attach(disk.device, backend)
    before_bytes = peak_bytes(anew=True)
    try:
        tags = [hosts[number % 8].verify(number % 256, 255) for number in range(VERIFIED)]
        await until(lambda: disk.device.waiting == VERIFIED)
        disk.device.policy = Policy()
        rig.engine.refresh(disk.device)
        for number, host in enumerate(hosts):
            await host.good(*tags[number::8])
        assert peak_bytes() - before_bytes < VERIFIED * 255 * SECTOR // 4
    finally:
        await rig.engine.detach(disk.device, None)
        await backend.close()
