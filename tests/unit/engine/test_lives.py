"""Links and stores come and go while requests are under way: nothing leaks, nothing is late."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from dataclasses import replace

import pytest

from ggaoe.backend.faults import Short
from ggaoe.engine import base
from ggaoe.engine.base import CLAIM_TAG, Clock, Engine
from ggaoe.net.link import Interface, Link, LinkSettings
from ggaoe.net.readable import Readable
from ggaoe.proto.ata import AtaError, Op
from ggaoe.proto.frame import Error
from ggaoe.sched.queue import Policy
from ggaoe.testing.engine import link_of
from unit.engine.conftest import Leases
from unit.engine.rig import DEADLINE_S, SECTOR, Host, Rig, interface, sectors, until
from unit.proto.host import ANY_SLOT, MAC_A, MAC_B, SHELF, SLOT, config_argument, only, request

# --- links -----------------------------------------------------------------------------------


async def test_port_closes_with_requests_in_flight_and_waiting(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(queue_length=2)), Host(port, MAC_A)
    disk.hold()
    host.write(0, "started")
    host.read(2)
    await until(lambda: disk.device.in_flight == 2)
    host.write(4, "waiting")
    host.read(6)
    await until(lambda: disk.device.waiting == 2)
    rig.engine.close_link(port)
    rig.engine.close_link(port)
    disk.release()
    await until(lambda: disk.device.in_flight + disk.device.waiting == 0)
    assert disk.content(0) == sectors("started")
    assert not host.link.sent
    assert not host.link.is_open


async def test_port_closes_with_frames_and_replies_held(rig: Rig) -> None:
    """Frames that wait for their turn, and replies that wait for room."""
    ports = rig.port(1), rig.port(2)
    disk = rig.disk(*ports)
    one, two = Host(ports[0], MAC_A), Host(ports[1], MAC_A)
    one.link.room_frames = two.link.room_frames = 0
    for number in range(100):
        one.write(number, "w")
    two.read(0)
    await until(lambda: len(disk.seen) and disk.device.in_flight == 0)
    for number in range(300):
        one.write(number, "w", at=1)
        two.write(number, "w")
    await asyncio.sleep(0)
    for port in ports:
        rig.engine.close_link(port)
    rig.engine.send(ports[0], bytes(60))
    await rig.quiet()
    assert not one.link.sent


async def test_a_link_closes_while_others_wait_for_its_last_frame(rig: Rig) -> None:
    """Its requests may still be on their way to Python, and to several devices."""
    ports = rig.port(1), rig.port(2)
    rig.disk(*ports)
    one, two = Host(ports[0], MAC_A), Host(ports[1], MAC_A)
    one.verify(0)
    one.write(0, "w", slot=ANY_SLOT)
    one.read(0, slot=ANY_SLOT)
    await until(lambda: not one.link.backlog_frames)
    rig.engine.close_link(ports[0])
    await two.good(two.write(0, "a"), two.read(0))


async def test_other_links_of_a_device_serve_on(rig: Rig) -> None:
    ports = rig.port(1), rig.port(2)
    disk = rig.disk(*ports)
    one, two = Host(ports[0], MAC_A), Host(ports[1], MAC_A)
    disk.hold()
    one.write(0, "one")
    await until(lambda: disk.faults.held)
    read = two.read(0)
    rig.engine.close_link(ports[0])
    assert disk.device.ports == {ports[1]}
    disk.release()
    assert (await two.answer(read)).data == sectors("one")


async def test_link_opens_again_with_a_smaller_mtu(rig: Rig) -> None:
    port = rig.port(mtu_bytes=9000)
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.hold()
    host.read(0, 17)
    await until(lambda: disk.faults.held)
    rig.engine.close_link(port)
    port = rig.port(mtu_bytes=1500)
    rig.engine.set_ports(disk.device, [port])
    host = Host(port, MAC_A)
    disk.release()
    host.read(0, 17)
    await host.good(host.read(0, 2))
    await rig.quiet()
    assert len(host.link.sent) == 1
    assert disk.device.counters.drops == {"mtu": 1}
    assert disk.device.target.mtu_bytes_min == 1500


@pytest.mark.parametrize("fits_elsewhere", [False, True])
async def test_reads_under_way_when_the_mtu_is_lowered_are_rejected_after_a_while(
    engine_class: type[Engine], caplog: pytest.LogCaptureFixture, fits_elsewhere: bool
) -> None:
    """No reply can carry them: an initiator would send them again until it gives up the device."""
    passed_ns = 0
    rig = Rig(engine_class, Clock(lambda: 10**12 + passed_ns, time.time_ns))
    rig.engine.close_link(rig.port(mtu_bytes=9000))
    port = rig.port(mtu_bytes=1500)
    ports = [port, rig.port(2, mtu_bytes=9000)] if fits_elsewhere else [port]
    disk, host = rig.disk(*ports), Host(port, MAC_A)
    fate_of = {}
    for passed_s in (0, 0.9, 1.1, 14.9, 15.1, 100, 101.1):
        passed_ns = round(passed_s * 1e9)
        tags = [host.read(0, 17), host.read(17, 17)]
        await host.good(host.read(0, 2), host.verify(0, 17))
        await rig.quiet()
        fates = {host.answers[tag].registers if tag in host.answers else None for tag in tags}
        (fate_of[passed_s],) = fates
    rejected = (0x41, AtaError.ABRT)
    dropped_s = {0, 0.9, 100} | ({1.1, 14.9, 101.1} if fits_elsewhere else set())
    assert fate_of == {at_s: None if at_s in dropped_s else rejected for at_s in fate_of}
    warnings = [record.getMessage() for record in caplog.records]
    text = f"disk: rejecting 2 reads of {MAC_A.hex(':')}: eth1 has an MTU of 1500 now, and no reply"
    assert len(warnings) == (1 if fits_elsewhere else 2)
    assert all(warning.startswith(text) for warning in warnings)
    assert disk.device.counters.drops == {"mtu": 2 * len(dropped_s)}
    assert set(disk.of(Op.READ)) == {(0, 2)}
    await rig.close()


async def test_a_read_that_does_not_fit_is_carried_by_another_interface(rig: Rig) -> None:
    rig.engine.close_link(rig.port(1, mtu_bytes=9000))
    ports = rig.port(1, mtu_bytes=1500), rig.port(2, mtu_bytes=9000)
    rig.disk(*ports)
    one, two = Host(ports[0], MAC_A), Host(ports[1], MAC_A)
    dropped = one.read(0, 17)
    await one.good(one.read(0, 2))
    await two.good(two.read(0, 17))
    assert dropped not in one.answers


async def test_an_interface_comes_back_with_a_smaller_mtu(rig: Rig) -> None:
    """As another interface to the kernel; its hosts, who know it by its address, have to learn."""
    first = rig.port(1, mtu_bytes=9000)
    disk = rig.disk(first)
    rig.engine.close_link(first)
    again = replace(interface(2, 1500), mac=first.path.mac)
    port = rig.engine.open_link(again, LinkSettings())
    rig.engine.set_ports(disk.device, [port])
    host = Host(port, MAC_A)
    host.read(0, 17)
    await host.good(host.read(0, 2))
    await rig.quiet()
    assert len(host.link.sent) == 1


async def test_mtu_too_small_is_refused(rig: Rig) -> None:
    with pytest.raises(ValueError, match="MTU 1059 is too small: two sectors need 1060"):
        rig.port(mtu_bytes=1059)
    assert not rig.engine.ports


async def test_link_that_cannot_be_watched_is_closed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rig.engine.name == "native":
        pytest.skip("the core watches links without a descriptor of its own")
    opened: list[Link] = []
    open_link = rig.engine._open_link

    def note(what: Interface, settings: LinkSettings) -> Link:
        opened.append(open_link(what, settings))
        return opened[-1]

    def refuse(*_: object) -> None:
        raise OSError(24, os.strerror(24))

    monkeypatch.setattr(rig.engine, "_open_link", note)
    monkeypatch.setattr(Readable, "__init__", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        rig.engine.open_link(interface(), LinkSettings())
    assert not rig.engine.ports
    monkeypatch.undo()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0].fileno())
    rig.port()


async def test_set_ports_moves_a_device_and_its_address(rig: Rig) -> None:
    ports = rig.port(1), rig.port(2)
    disk = rig.disk(ports[0])
    disk.device.target.settings = replace(disk.device.target.settings, slot=SLOT + 1)
    rig.engine.refresh(disk.device)
    rig.engine.set_ports(disk.device, [ports[1]])
    assert ports[0].devices == {}
    assert ports[1].devices == {(SHELF, SLOT + 1): disk.device}


# --- stores ----------------------------------------------------------------------------------


async def test_detach_drops_what_waits_and_finishes_what_has_started(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(queue_length=2), write_cache=False), Host(port, MAC_A)
    disk.hold(Op.WRITE)
    started = [host.write(0, "s"), host.write(2, "s")]
    await until(lambda: disk.device.in_flight == 2)
    dropped = [host.write(0, "behind"), host.write(4, "waiting"), host.read(6)]
    await until(lambda: disk.device.waiting == 3)
    detaching = asyncio.create_task(rig.engine.detach(disk.device, None))
    await rig.quiet()
    late = host.write(8, "late")
    assert (await host.answer(late)).error == 3
    assert not detaching.done()
    disk.release()
    await host.good(*started)
    assert await detaching is disk.faults
    await rig.quiet()
    assert not host.answers.keys() & set(dropped)
    assert disk.content(0, 9) == sectors("s", "", "s", *[""] * 6)
    assert disk.device.counters.drops == {"not_serving": 3}
    assert (disk.device.in_flight, disk.device.waiting) == (0, 0)


async def test_a_suspended_device_takes_in_requests_and_starts_them_with_the_next_store(
    rig: Rig,
) -> None:
    """In order of arrival, by the granules of the new one, and as far as that goes."""
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(queue_length=2), write_cache=False), Host(port, MAC_A)
    disk.hold(Op.WRITE)
    started = [host.write(0, "s"), host.write(2, "s")]
    await until(lambda: disk.device.in_flight == 2)
    waiting = [host.write(0, "behind"), host.write(4, "waiting"), host.read(0)]
    await until(lambda: disk.device.waiting == 3)
    rig.engine.suspend(disk.device)
    detaching = asyncio.create_task(rig.engine.detach(disk.device, None))
    await rig.quiet()
    waiting += [host.write(7, "late"), host.read(4, 2), host.verify(4), host.flush()]
    beyond = host.write(8, "beyond")
    await until(lambda: disk.device.waiting == 8)
    assert not detaching.done()
    disk.release()
    await host.good(*started)
    assert await detaching is disk.faults
    await rig.quiet()
    assert (disk.device.in_flight, disk.device.waiting) == (0, 8)
    assert not host.answers.keys() & {*waiting, beyond}
    assert disk.content(0) == sectors("s")
    disk.faults.granule_bytes = 4096
    disk.faults.size_bytes = disk.memory.size_bytes = 8 * SECTOR
    rig.attach(disk)
    await host.good(*waiting)
    assert (await host.answer(beyond)).registers == (0x41, AtaError.IDNF)
    assert host.answers[waiting[2]].data == sectors("behind")
    assert host.answers[waiting[4]].data == sectors("waiting", "")
    assert disk.content(0, 9) == sectors("behind", "", "s", "", "waiting", "", "", "late", "")
    assert not disk.device.counters.drops


async def test_a_suspended_device_that_is_withdrawn_is_not_available(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    rig.engine.suspend(disk.device)
    assert await rig.engine.detach(disk.device, None) is disk.faults
    dropped = host.write(0, "dropped")
    await until(lambda: disk.device.waiting == 1)
    fence = asyncio.create_task(rig.engine.fence(disk.device))
    await rig.quiet()
    assert not fence.done()
    rig.engine.withdraw(disk.device)
    async with asyncio.timeout(DEADLINE_S):
        assert await fence
    assert (await host.answer(host.read(0))).error == Error.UNAVAILABLE
    rig.engine.suspend(disk.device)  # there is nothing to wait for
    assert (await host.answer(host.read(0))).error == Error.UNAVAILABLE
    rig.attach(disk)
    assert (await host.answer(host.read(0))).data == sectors("")
    assert dropped not in host.answers


async def test_what_waits_can_be_dropped_while_the_device_serves(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(queue_length=2), write_cache=False), Host(port, MAC_A)
    disk.hold(Op.WRITE)
    started = [host.write(0, "s"), host.write(2, "s")]
    await until(lambda: disk.device.in_flight == 2)
    dropped = [host.write(0, "behind"), host.write(4, "waiting"), host.read(6)]
    await until(lambda: disk.device.waiting == 3)
    fence = asyncio.create_task(rig.engine.fence(disk.device))
    await rig.quiet()
    rig.engine.drop_waiting(disk.device)
    later = [host.write(2, "later"), host.read(0)]
    await until(lambda: disk.device.waiting == 2)
    assert not fence.done()
    disk.release()
    assert await fence
    await host.good(*started, *later)
    await rig.quiet()
    assert not host.answers.keys() & set(dropped)
    assert disk.content(0, 5) == sectors("s", "", "later", "", "")
    assert disk.device.counters.drops == {"not_serving": 3}
    assert (disk.device.in_flight, disk.device.waiting) == (0, 0)


async def test_a_fence_passes_where_all_that_it_waits_for_is_dropped(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(merge_delay_ns=3600 * 10**9)), Host(port, MAC_A)
    host.write(0, "waiting")
    await until(lambda: disk.device.waiting == 1)
    fence = asyncio.create_task(rig.engine.fence(disk.device))
    await rig.quiet()
    assert not fence.done()
    rig.engine.drop_waiting(disk.device)
    async with asyncio.timeout(DEADLINE_S):
        assert await fence


async def test_detach_lets_a_failed_vector_be_repeated(rig: Rig) -> None:
    """Its members have started: they are finished, not dropped."""
    port = rig.port()
    disk, host = rig.disk(port, write_cache=False), Host(port, MAC_A)
    disk.strike(Short(512), Op.WRITE, times=1)
    disk.hold(Op.WRITE)
    tags = [host.write(number, "w") for number in range(3)]
    await until(lambda: len(disk.seen) == 1)
    detaching = asyncio.create_task(rig.engine.detach(disk.device, None))
    await until(lambda: disk.faults.held)
    disk.release()
    await detaching
    await host.good(*tags)


async def test_what_fails_while_links_change_and_the_device_drains_is_not_beyond_its_end(
    rig: Rig,
) -> None:
    ports = rig.port(1), rig.port(2)
    disk, host = rig.disk(*ports), Host(ports[0], MAC_A)
    disk.hold(Op.READ)
    tag = host.read(0)
    await until(lambda: disk.faults.held)
    detaching = asyncio.create_task(rig.engine.detach(disk.device, None))
    await asyncio.sleep(0)
    rig.engine.set_ports(disk.device, ports[:1])
    (transfer,), disk.faults.held = disk.faults.held, []
    transfer.result = -errno.EIO
    disk.faults.complete([transfer])
    assert (await host.answer(tag)).registers == (0x41, AtaError.UNC)
    await detaching
    await until(lambda: disk.device.target.is_failing)


async def test_attach_after_detach_serves_again(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    await host.good(host.write(0, "w"))
    for _ in range(3):
        assert await rig.engine.detach(disk.device, None) is disk.faults
        assert await rig.engine.detach(disk.device, None) is None
        rig.attach(disk)
        assert (await host.answer(host.read(0))).data == sectors("w")


async def test_what_came_before_a_store_is_not_done_after_what_came_with_it(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    await rig.engine.detach(disk.device, None)
    before = host.write(0, "before")
    await until(lambda: not host.link.backlog_frames)
    rig.attach(disk)
    await host.good(host.write(0, "after"))
    await rig.quiet()
    assert disk.content(0) == sectors("after")
    if before in host.answers:
        assert host.answers[before].error == Error.UNAVAILABLE


async def test_store_that_hangs_is_given_up_and_may_answer_late(rig: Rig, leases: Leases) -> None:
    port = rig.port()
    disk, host = rig.disk(port, write_cache=False), Host(port, MAC_A)
    disk.hold()
    tags = [host.write(0, "w"), host.read(2)]
    await until(lambda: len(disk.faults.held) == 2)
    fence = asyncio.create_task(rig.engine.fence(disk.device))
    await asyncio.sleep(0)
    assert await rig.engine.detach(disk.device, 0.001) is disk.faults
    assert await fence is False
    leases.given_up = 2 if rig.engine.name == "portable" else 0  # the core's are none of these
    disk.release()
    await rig.quiet()
    assert not host.answers.keys() & set(tags)
    assert (disk.device.in_flight, disk.device.waiting) == (0, 0)
    assert dict(disk.device.initiators.items())[MAC_A].in_flight == 0


async def test_two_may_wait_for_one_detaching(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.hold()
    host.write(0, "w")
    await until(lambda: disk.faults.held)
    patient = asyncio.create_task(rig.engine.detach(disk.device, None))
    hasty = asyncio.create_task(rig.engine.detach(disk.device, DEADLINE_S))
    await rig.quiet()
    disk.release()
    assert sorted([await patient is disk.faults, await hasty is disk.faults]) == [False, True]


async def test_removed_device_is_forgotten_before_it_has_drained(rig: Rig) -> None:
    """Whoever binds devices to ports meanwhile must not put it back."""
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.hold()
    started = host.write(0, "w")
    await until(lambda: disk.faults.held)
    removing = asyncio.create_task(rig.engine.remove_device(disk.device, None))
    await asyncio.sleep(0)
    assert not rig.engine.devices
    assert not port.devices
    host.read(0)
    disk.release()
    await host.good(started)
    await removing
    assert port.link.counters.drops["address"] == 1


async def test_name_can_be_used_again_while_the_old_device_drains(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.hold()
    host.write(0, "w")
    await until(lambda: disk.faults.held)
    removing = asyncio.create_task(rig.engine.remove_device(disk.device, None))
    await asyncio.sleep(0)
    new = rig.disk(port, slot=SLOT + 1)
    disk.release()
    await removing
    assert rig.engine.devices == {"disk": new.device}
    newer = Host(port, MAC_A, SLOT + 1)
    await newer.good(newer.read(0))


async def test_fence_waits_for_those_before_it_and_for_nobody_else(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, policy=Policy(queue_length=2), write_cache=False), Host(port, MAC_A)
    assert await rig.engine.fence(disk.device) is True
    disk.hold(Op.WRITE)
    for number in range(3):
        host.write(2 * number, "w")
    await until(lambda: disk.device.waiting == 1)
    fence = asyncio.create_task(rig.engine.fence(disk.device))
    await asyncio.sleep(0)
    late = host.write(100, "late")
    await rig.quiet()
    for _ in range(2):
        disk.faults.release(1)
        await rig.quiet()
        assert not fence.done()
    disk.faults.release(1)
    assert await fence is True
    assert late not in host.answers
    disk.release()
    await host.good(late)


async def test_fence_passes_when_detaching_drops_what_it_waits_for(rig: Rig) -> None:
    port = rig.port()
    policy = Policy(merge_delay_ns=3600 * 10**9)
    disk, host = rig.disk(port, policy=policy), Host(port, MAC_A)
    host.write(0, "w")
    await until(lambda: disk.device.waiting == 1)
    fence = asyncio.create_task(rig.engine.fence(disk.device))
    await asyncio.sleep(0)
    await rig.engine.detach(disk.device, None)
    assert await fence is True
    assert not disk.seen


# --- conflicts -------------------------------------------------------------------------------


async def test_another_target_at_our_address_is_reported_once(rig: Rig) -> None:
    ports = rig.port(1), rig.port(2)
    disk = rig.disk(*ports)
    link = link_of(ports[0])

    def claim(mac: bytes, slot: int = SLOT, command: int = 1) -> bytes:
        return request(command, config_argument(0), source=mac, slot=slot, version_flags=0x18)

    for _ in range(3):
        link.deliver(claim(MAC_B))
    link.deliver(claim(MAC_B, SLOT + 1))
    link.deliver(claim(MAC_B, command=0))
    link.deliver(claim(ports[1].path.mac))
    link_of(ports[1]).deliver(claim(MAC_B))
    await rig.quiet()
    assert [(port, header.source) for port, header in rig.conflicts] == [(ports[0], MAC_B)]
    assert link.counters.drops["conflict"] == 3
    link.deliver(claim(MAC_A))
    await until(lambda: len(rig.conflicts) == 2)
    assert rig.engine.conflicts_with(SHELF, SLOT).keys() == {MAC_A, MAC_B}
    assert not link.sent
    assert not disk.seen


async def test_another_target_that_was_gone_is_reported_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = rig.port()
    rig.disk(port)
    claim = request(1, config_argument(0), source=MAC_B, version_flags=0x18)
    link_of(port).deliver(claim)
    await until(lambda: len(rig.conflicts) == 1)
    monkeypatch.setattr(base, "CONFLICT_S", 0.0)
    assert not rig.engine.conflicts_with(SHELF, SLOT)
    link_of(port).deliver(claim)
    await until(lambda: len(rig.conflicts) == 2)


async def test_a_reply_for_an_address_that_is_not_served_is_handed_on(rig: Rig) -> None:
    """The server may be about to serve it. A port that serves it is no other target."""
    ports = rig.port(1), rig.port(2)
    rig.disk(ports[0])
    for source, slot in ((MAC_B, SLOT + 1), (ports[0].path.mac, SLOT), (ports[0].path.mac, 7)):
        claim = request(1, config_argument(0), source=source, slot=slot, version_flags=0x18)
        link_of(ports[1]).deliver(claim)
    await until(lambda: len(rig.answered) == 2)
    await rig.quiet()
    assert [(port, one.source, one.slot) for port, one in rig.answered] == [
        (ports[1], MAC_B, SLOT + 1),
        (ports[1], ports[0].path.mac, 7),
    ]
    assert not rig.conflicts


@pytest.mark.parametrize(("slot", "is_wish"), [(SLOT, True), (0xFF, False)])
async def test_a_target_that_asks_is_answered_and_is_no_initiator(
    rig: Rig, slot: int, is_wish: bool
) -> None:
    port = rig.port()
    disk = rig.disk(port)
    link_of(port).deliver(request(1, config_argument(0), source=MAC_B, slot=slot, tag=CLAIM_TAG))
    await until(lambda: link_of(port).sent)
    assert [one.source for _, one in rig.wished] == [MAC_B] * is_wish
    assert not disk.device.initiators.items()
    # A change is none of its business, with whatever tag it comes.
    argument = config_argument(4, b"text")
    link_of(port).deliver(request(1, argument, source=MAC_B, tag=CLAIM_TAG))
    await rig.quiet()
    assert not rig.changes
    hidden = rig.disk(port, name="hidden", slot=SLOT + 1, accept=only(MAC_A))
    sent = len(link_of(port).sent)
    link_of(port).deliver(
        request(1, config_argument(0), source=MAC_B, slot=SLOT + 1, tag=CLAIM_TAG)
    )
    await rig.quiet()
    assert len(link_of(port).sent) == sent
    assert not hidden.device.initiators.items()
