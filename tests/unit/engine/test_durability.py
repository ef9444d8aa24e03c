"""An acknowledged write is on stable storage, unless the administrator said otherwise."""

from __future__ import annotations

import errno
import time
from dataclasses import replace

import pytest

from ggaoe.backend.faults import Fail
from ggaoe.engine.base import Clock, Engine
from ggaoe.proto.ata import Op
from ggaoe.sched.commit import HOSTS_MAX, TOLD_S
from ggaoe.sched.queue import Policy
from unit.engine.rig import Host, Rig, sectors, until
from unit.proto.host import MAC_A, MAC_B, MAC_C

OTHERS = HOSTS_MAX + 40


async def test_write_waits_for_a_flush_that_began_after_it_ended(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, write_cache=False), Host(port, MAC_A)
    disk.hold(Op.WRITE, Op.FLUSH)
    tag = host.write(0, "a")
    await rig.quiet()
    assert disk.of(Op.FLUSH) == []
    disk.faults.release(1)
    await until(lambda: disk.of(Op.FLUSH))
    assert disk.content(0) == sectors("a")
    await rig.quiet()
    assert not host.answers
    disk.release()
    await host.good(tag)


async def test_writes_that_end_during_a_flush_share_the_next_one(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, write_cache=False), Host(port, MAC_A)
    disk.hold(Op.FLUSH)
    first = host.write(0, "a")
    await until(lambda: disk.of(Op.FLUSH))
    others = [host.write(sector, "b") for sector in range(10, 60, 2)]
    await rig.quiet()
    assert len(disk.of(Op.FLUSH)) == 1
    disk.faults.release(1)
    await host.good(first)
    await rig.quiet()
    assert not host.answers.keys() & set(others)
    assert len(disk.of(Op.FLUSH)) == 2
    disk.release()
    await host.good(*others)
    assert len(disk.of(Op.FLUSH)) == disk.device.counters.commits == 2


async def test_a_batch_shares_one_flush(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, write_cache=False), Host(port, MAC_A)
    await host.good(*[host.write(sector, "b") for sector in range(0, 80, 2)])
    assert disk.of(Op.FLUSH) == [(0, 0)]


async def test_reader_sees_nothing_that_a_power_cut_could_take_back(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, write_cache=False), Host(port, MAC_A)
    disk.hold(Op.FLUSH)
    host.write(0, "a")
    read = host.read(0)
    await until(lambda: disk.of(Op.FLUSH))
    await rig.quiet()
    assert disk.of(Op.READ) == []
    disk.release()
    assert (await host.answer(read)).data == sectors("a")


async def test_with_a_write_cache_writes_are_answered_at_once(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, write_cache=True), Host(port, MAC_A)
    await host.good(host.write(0, "a"))
    assert disk.of(Op.FLUSH) == []


@pytest.mark.parametrize("write_cache", [False, True])
async def test_flush_is_real(rig: Rig, write_cache: bool) -> None:
    port = rig.port()
    disk, host = rig.disk(port, write_cache=write_cache), Host(port, MAC_A)
    await host.good(host.write(0, "a"))
    before = len(disk.of(Op.FLUSH))
    disk.hold(Op.FLUSH)
    tag = host.flush()
    await rig.quiet()
    assert tag not in host.answers
    assert len(disk.of(Op.FLUSH)) == before + 1
    disk.release()
    await host.good(tag)


async def test_flush_during_a_flush_gets_one_of_its_own(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, write_cache=True), Host(port, MAC_A)
    disk.hold(Op.FLUSH)
    first = host.flush()
    await until(lambda: disk.of(Op.FLUSH))
    await host.good(host.write(0, "a"))
    second = host.flush()
    disk.faults.release(1)
    await host.good(first)
    await rig.quiet()
    assert second not in host.answers
    disk.release()
    await host.good(second)


async def test_failed_flush_fails_all_whom_it_covers_and_nobody_later(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, write_cache=False), Host(port, MAC_A)
    disk.strike(Fail(errno.EIO), Op.FLUSH, times=1)
    tags = [host.write(sector, "a") for sector in (0, 2, 4)] + [host.flush()]
    for tag in tags:
        assert (await host.answer(tag)).registers == (0x41, 0x04)
    await until(lambda: disk.device.target.is_failing)
    await host.good(host.write(0, "b"))


async def test_failed_flush_fails_writes_that_ended_or_ran_meanwhile(rig: Rig) -> None:
    """Their pages may have been among those that were lost; the next flush would not say so."""
    port = rig.port()
    disk, host = rig.disk(port, write_cache=False), Host(port, MAC_A)
    disk.strike(Fail(errno.EIO), Op.FLUSH, times=1)
    disk.hold(Op.WRITE, times=1)
    running = host.write(8, "r")
    await until(lambda: disk.faults.held)
    covered = host.write(0, "c")
    assert (await host.answer(covered)).registers == (0x41, 0x04)
    disk.release()
    assert (await host.answer(running)).registers == (0x41, 0x04)
    await host.good(host.write(8, "s"))


@pytest.mark.parametrize("write_cache", [False, True])
async def test_what_ran_while_a_flush_failed_is_answered_after_the_next(
    rig: Rig, write_cache: bool
) -> None:
    """Before, a host that reads back what failed could be shown what is lost a moment later."""
    port = rig.port()
    disk, host = rig.disk(port, write_cache=write_cache), Host(port, MAC_A)
    disk.strike(Fail(errno.EIO), Op.FLUSH, times=1)
    disk.hold(Op.WRITE, times=1)
    running = host.write(8, "r")
    await until(lambda: disk.faults.held)
    failed = host.flush()
    assert (await host.answer(failed)).registers == (0x41, 0x04)
    disk.hold(Op.FLUSH)
    before = len(disk.of(Op.FLUSH))
    disk.faults.release(1)
    await until(lambda: len(disk.of(Op.FLUSH)) == before + 1)
    await rig.quiet()
    assert running not in host.answers
    disk.release()
    assert (await host.answer(running)).registers == (0x41, 0x04)


async def test_failed_flush_fails_a_flush_that_has_arrived_and_not_started(rig: Rig) -> None:
    """What its host has written, by another address, may have been lost."""
    port = rig.port()
    disk = rig.disk(port, write_cache=True, policy=Policy(queue_length=1))
    one, two = Host(port, MAC_A), Host(port, MAC_B)
    await one.good(one.write(0, "b"))
    disk.strike(Fail(errno.EIO), Op.FLUSH, times=1)
    first, second = one.flush(), two.flush()
    assert (await one.answer(first)).registers == (0x41, 0x04)
    assert (await two.answer(second)).registers == (0x41, 0x04)
    await two.good(two.flush())


async def test_failed_flush_is_told_to_every_host_whose_writes_it_may_have_lost(
    engine_class: type[Engine],
) -> None:
    """The first that flushes hears of it, and the store would save nothing more for the others."""
    passed_ns = 0
    clock = Clock(lambda: time.monotonic_ns() + passed_ns, time.time_ns)
    rig = Rig(engine_class, clock)
    port = rig.port()
    disk = rig.disk(port, write_cache=True)
    one, two, three = Host(port, MAC_A), Host(port, MAC_B), Host(port, MAC_C)
    await one.good(one.write(0, "a"))
    await two.good(two.write(2, "b"))
    disk.strike(Fail(errno.EIO), Op.FLUSH, times=1)
    for host in (one, two, two):
        assert (await host.answer(host.flush())).registers == (0x41, 0x04)
    await three.good(three.flush(), three.write(4, "c"), three.flush())
    passed_ns = (TOLD_S + 1) * 1_000_000_000
    await two.good(two.flush())
    await rig.close()


@pytest.mark.parametrize("others_write", [False, True])
async def test_failed_flush_is_told_to_a_host_that_many_others_followed(
    rig: Rig, others_write: bool
) -> None:
    """However many come after it, and whatever these do: an engine remembers a number of hosts."""
    port = rig.port()
    disk = rig.disk(port, write_cache=True)
    one, two = Host(port, MAC_A), Host(port, MAC_B)
    others = [Host(port, bytes([2, 0, 0, 1, *divmod(number, 256)])) for number in range(OTHERS)]
    await one.good(one.write(0, "a"))
    for other in others:
        await other.good(other.write(2, "b") if others_write else other.read(2))
    disk.strike(Fail(errno.EIO), Op.FLUSH, times=1)
    for host in (two, one, one):
        assert (await host.answer(host.flush())).registers == (0x41, 0x04)
    if not others_write:
        await others[-1].good(others[-1].flush())
    for other in others:
        await other.good(other.read(2))
    assert (await one.answer(one.flush())).registers == (0x41, 0x04)


async def test_failed_flush_is_told_to_nobody_whose_writes_are_stable(rig: Rig) -> None:
    port = rig.port()
    disk = rig.disk(port, write_cache=True)
    one, two = Host(port, MAC_A), Host(port, MAC_B)
    await one.good(one.write(0, "a"))
    await two.good(two.flush())
    disk.strike(Fail(errno.EIO), Op.FLUSH, times=1)
    assert (await two.answer(two.flush())).registers == (0x41, 0x04)
    await one.good(one.flush())


async def test_failed_flush_is_told_behind_a_reopening(rig: Rig) -> None:
    port = rig.port()
    disk = rig.disk(port, write_cache=True)
    one, two = Host(port, MAC_A), Host(port, MAC_B)
    await two.good(two.write(0, "b"))
    disk.strike(Fail(errno.EIO), Op.FLUSH, times=1)
    assert (await one.answer(one.flush())).registers == (0x41, 0x04)
    await rig.engine.detach(disk.device, None)
    rig.attach(disk)
    assert (await two.answer(two.flush())).registers == (0x41, 0x04)


async def test_write_cache_switched_on_live_holds_for_what_completes_then(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, write_cache=False), Host(port, MAC_A)
    disk.hold(Op.WRITE)
    tag = host.write(0, "a")
    await until(lambda: disk.faults.held)
    disk.device.target.settings = replace(disk.device.target.settings, write_cache=True)
    rig.engine.refresh(disk.device)
    disk.release()
    await host.good(tag)
    assert disk.of(Op.FLUSH) == []
