"""Limits in an engine: who is slowed, who is not, and that nothing is lost or late."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ggaoe.backend.file import FileSpec, open_file
from ggaoe.proto.ata import Op
from ggaoe.proto.target import TargetState
from ggaoe.sched.queue import Policy
from ggaoe.sched.throttle import Limits, Rate
from unit.engine.rig import SECTOR, Disk, Host, Rig, sectors, until
from unit.proto.host import MAC_A, MAC_B

ENDLESS = Rate(1, 1)
"""In bytes: each sector takes minutes."""
SOON = Rate(200, 1)


def change(rig: Rig, disk: Disk, limits: Limits) -> None:
    disk.device.policy = Policy(limits=limits)
    rig.engine.refresh(disk.device)


def throttled(disk: Disk, mac: bytes) -> tuple[int, int]:
    """Requests that limits have delayed: of the device, and of one host."""
    own = dict(disk.device.initiators.items())[mac]
    return disk.device.counters.throttled, own.throttled


async def test_what_is_more_than_the_rate_waits_and_is_answered(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(limits=Limits(iops=SOON))), Host(port, MAC_A)
    tags = [host.read(2 * number) for number in range(4)]
    await host.good(*tags)
    assert throttled(disk, MAC_A) == (3, 3)
    assert disk.device.counters.drops == {}


async def test_a_limit_that_is_taken_away_live_lets_all_go(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    change(rig, disk, Limits(bandwidth=ENDLESS))
    tags = [host.write(number, f"{number}") for number in range(5)]
    await host.good(tags[0])
    await rig.quiet()
    assert (disk.device.in_flight, disk.device.waiting) == (0, 4)
    assert disk.seen == [(Op.WRITE, 0, 1)]
    change(rig, disk, Limits())
    await host.good(*tags)
    assert throttled(disk, MAC_A) == (4, 4)
    assert disk.content(0, 5) == sectors("0", "1", "2", "3", "4")


async def test_a_limit_of_each_initiator_slows_nobody_else(rig: Rig) -> None:
    port = rig.port()
    limits = Limits(initiator_bandwidth=ENDLESS)
    disk = rig.disk(port, policy=Policy(limits=limits))
    greedy, modest = Host(port, MAC_A), Host(port, MAC_B)
    tags = [greedy.read(2 * number) for number in range(3)]
    await greedy.good(tags[0])
    await modest.good(modest.read(100))
    flush = modest.flush()
    await modest.good(flush)
    assert disk.device.waiting == 2
    change(rig, disk, Limits())
    await greedy.good(*tags)
    assert throttled(disk, MAC_A) == (2, 2)
    assert throttled(disk, MAC_B) == (2, 0)


async def test_a_long_wait_does_not_hide_a_short_one(rig: Rig) -> None:
    port = rig.port()
    limits = Limits(initiator_iops=SOON, initiator_bandwidth=ENDLESS)
    disk = rig.disk(port, policy=Policy(limits=limits))
    one, two = Host(port, MAC_A), Host(port, MAC_B)
    await one.good(one.read(0))
    one.read(2)
    await rig.quiet()
    await two.good(two.flush(), two.flush())
    assert disk.device.waiting == 1


async def test_what_a_limit_delays_is_never_carried_out_after_a_stop(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(limits=Limits(bandwidth=ENDLESS))), Host(port, MAC_A)
    await host.good(host.write(0, "a"))
    late = [host.write(number, "late") for number in range(4)]
    await until(lambda: disk.device.waiting == 4)
    await rig.engine.detach(disk.device, None)
    assert disk.device.counters.drops == {"not_serving": 4}
    rig.attach(disk)
    change(rig, disk, Limits())
    await host.good(host.read(0))
    assert disk.of(Op.WRITE) == [(0, 1)]
    assert not host.answers.keys() & set(late)


async def test_twins_of_what_is_delayed_are_absorbed(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(limits=Limits(bandwidth=ENDLESS))), Host(port, MAC_A)
    await host.good(host.write(0, "a"))
    tag = host.write(0, "b")
    host.write(0, "b", tag=tag)
    overlapping = host.read(0)
    await until(lambda: disk.device.counters.absorbed == 1 and disk.device.waiting == 2)
    change(rig, disk, Limits())
    await host.good(tag)
    assert (await host.answer(overlapping)).data == sectors("b")


async def test_a_fence_waits_for_what_is_delayed(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(limits=Limits(bandwidth=ENDLESS))), Host(port, MAC_A)
    await host.good(host.write(0, "a"))
    tag = host.write(0, "b")
    await until(lambda: disk.device.waiting == 1)
    fence = asyncio.create_task(rig.engine.fence(disk.device))
    await rig.quiet()
    assert not fence.done()
    change(rig, disk, Limits())
    assert await fence
    await host.good(tag)


async def test_beyond_the_budget_the_newest_is_refused_and_nothing_older(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(limits=Limits(iops=SOON))), Host(port, MAC_A)
    disk.device.policy = Policy(limits=Limits(bandwidth=ENDLESS))
    rig.engine.refresh(disk.device)
    tags = await host.read_many(number % 4000 for number in range(9000))
    refused = disk.device.counters.drops["queue_full"]
    assert 0 < refused < len(tags)
    change(rig, disk, Limits())
    await host.good(*tags[:-refused])
    await rig.quiet()
    assert not host.answers.keys() & set(tags[-refused:])


async def test_what_a_limit_delays_never_makes_a_store_that_has_shrunk_grow(
    rig: Rig, tmp_path: Path
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(64 * SECTOR))
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(limits=Limits(bandwidth=ENDLESS))), Host(port, MAC_A)
    await rig.engine.detach(disk.device, None)
    backend = await open_file(FileSpec(path=path, direct_io=False))
    disk.device.target.size_sectors = 64
    rig.engine.attach(disk.device, backend)
    await host.good(host.write(0, "a"))
    beyond = [host.write(40, "b"), host.read(48), host.verify(56)]
    inside = host.write(8, "c")
    await until(lambda: disk.device.waiting == 4)
    with path.open("r+b") as file:
        file.truncate(32 * SECTOR)
    disk.device.target.size_sectors = await backend.refresh_size_bytes() // SECTOR
    change(rig, disk, Limits())
    await host.good(inside)
    for tag in beyond:
        assert (await host.answer(tag)).registers == (0x41, 0x10)
    assert path.stat().st_size == 32 * SECTOR
    await rig.engine.detach(disk.device, None)
    await backend.close()


async def test_what_waits_of_hosts_that_are_locked_out_is_dropped_and_nothing_else(
    rig: Rig,
) -> None:
    port = rig.port()
    disk = rig.disk(port, policy=Policy(limits=Limits(bandwidth=ENDLESS)))
    owner, other = Host(port, MAC_A), Host(port, MAC_B)
    disk.hold(Op.WRITE)
    started = other.write(0, "started")
    await until(lambda: disk.faults.held)
    kept = [owner.write(0, "first"), owner.write(1, "second")]
    dropped = [other.write(1, "x"), other.read(0), other.write(2, "x")]
    behind = [owner.write(2, "third"), owner.read(1)]
    await until(lambda: disk.device.waiting == 7)
    disk.device.target.state = TargetState(reserved=(MAC_A,))
    rig.engine.refresh(disk.device)
    rig.engine.drop_locked_out(disk.device)
    assert (disk.device.in_flight, disk.device.waiting) == (1, 4)
    assert disk.device.counters.drops == {"reserved": 3}
    change(rig, disk, Limits())
    disk.release()
    await other.good(started)
    await owner.good(*kept, *behind)
    assert owner.answers[behind[1]].data == sectors("second")
    await rig.quiet()
    assert not other.answers.keys() & set(dropped)
    assert disk.content(0, 3) == sectors("first", "second", "third")
