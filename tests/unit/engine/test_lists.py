"""Lists for each operation hold on both engines, at once where they change, and false sources get
no more answers than a rate allows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from ggaoe.engine import limit
from ggaoe.engine.limit import Bucket, SourceLimit
from ggaoe.proto.ata import Op
from ggaoe.proto.rules import EVERYBODY, Rules
from ggaoe.sched.throttle import Rate
from ggaoe.testing.engine import link_of
from unit.engine.rig import Disk, Host, Rig, until
from unit.proto.host import (
    ANY_SLOT,
    IDENTIFY,
    MAC_A,
    MAC_B,
    MAC_C,
    all_but,
    config_argument,
    only,
)

ABORTED = (0x41, 0x04)
CHECK_POWER = 0xE5
LINKS, FRAMES_PER_LINK = 8, 420
"""Ten turns of them, of which Python takes one link's share each."""


def permit(rig: Rig, disk: Disk, **lists: Rules) -> None:
    """As a reload does it."""
    target = disk.device.target
    target.settings = replace(target.settings, **lists)
    rig.engine.refresh(disk.device)


async def aborted(host: Host, tag: int) -> None:
    assert (await host.answer(tag)).registers == ABORTED


async def test_read_and_write_are_permitted_one_by_one(rig: Rig) -> None:
    port = rig.port()
    disk = rig.disk(port, read=all_but(MAC_C), write=only(MAC_A, MAC_C))
    both, reader, writer = (Host(port, mac) for mac in (MAC_A, MAC_B, MAC_C))
    await both.good(both.read(0), both.write(0, "w"), both.flush(), both.verify(0))
    await reader.good(reader.read(0), reader.verify(1))
    for tag in (reader.write(0, "x"), reader.flush()):
        await aborted(reader, tag)
    await writer.good(writer.write(8, "y"), writer.flush())
    for tag in (writer.read(0), writer.verify(0)):
        await aborted(writer, tag)
    assert disk.of(Op.WRITE) == [(0, 1), (8, 1)]
    assert disk.device.counters.ata_errors == 4


@pytest.mark.parametrize("closed", ["read", "write"])
async def test_lists_change_in_place(rig: Rig, closed: str) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)

    def ask() -> int:
        return host.read(0) if closed == "read" else host.write(0, "w")

    await host.good(ask())
    for lists in (only(MAC_B), all_but(MAC_A), only()):
        permit(rig, disk, **{closed: lists})
        await aborted(host, ask())
        permit(rig, disk, **{closed: EVERYBODY})
        await host.good(ask())


async def test_whoever_may_not_discover_hears_nothing(rig: Rig) -> None:
    port = rig.port()
    disk = rig.disk(port, discover=only(MAC_B))
    stranger, friend = Host(port, MAC_A), Host(port, MAC_B)
    unheard = [
        stranger.send(1, config_argument(0)),
        stranger.send(1, config_argument(3, b"text")),
        stranger.send(1, config_argument(0), version_flags=0x20),
        stranger.send(9),
        stranger.send(0),
        stranger.ata(IDENTIFY),
        stranger.ata(CHECK_POWER),
        stranger.verify(0, version_flags=0x20),
    ]
    await friend.answer(friend.send(1, config_argument(0)))
    await stranger.good(stranger.read(0))
    assert not set(unheard) & stranger.answers.keys()
    assert disk.device.counters.drops == {"discover_list": len(unheard)}


# --- rates ------------------------------------------------------------------------------------


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(rate_per_s=8, burst=3)
    assert [bucket.take(5.0) for _ in range(5)] == [True, True, True, False, False]
    assert [bucket.take(5.25) for _ in range(3)] == [True, True, False]
    assert [bucket.take(5.3125) for _ in range(2)] == [False, False]
    assert [bucket.take(5.375) for _ in range(2)] == [True, False]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_a_bucket_is_full_again_after_a_while() -> None:
    bucket = Bucket(rate_per_s=8, burst=2)
    assert bucket.is_full(0.0)
    bucket.take(0.0)
    bucket.take(0.0)
    assert [bucket.is_full(now_s) for now_s in (0.0, 0.125, 0.25)] == [False, False, True]


def take(limited: SourceLimit, macs: str, now_s: float) -> str:
    """y or n for each of `macs`, which is named by a letter."""
    return "".join("ny"[limited.take(b"\2\0\0\0\0" + mac.encode(), now_s)] for mac in macs)


def test_no_number_of_sources_gets_around_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "SOURCES_MAX", 2)
    monkeypatch.setattr(limit, "SOURCE_BURST", 2)
    monkeypatch.setattr(limit, "SOURCE_RATE_PER_S", 1)
    limited = SourceLimit()
    assert take(limited, "aaabbb", 0.0) == "yynyyn"
    assert take(limited, "cdefgab", 0.0) == "yynnnnn", "newcomers share one bucket"
    assert take(limited, "cacbc", 1.0) == "yynyn"
    assert take(limited, "bc", 3.0) == "yy", "in the place of a, whose bucket was full again"
    assert take(limited, "ccab", 3.0) == "ynyy", "and a is a newcomer now"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """No source gets more than 3 answers for a while."""
    monkeypatch.setattr(limit, "SOURCE_BURST", 3)
    monkeypatch.setattr(limit, "SOURCE_RATE_PER_S", 1e-6)


@pytest.mark.usefixtures("few")
async def test_a_source_that_asks_too_often_is_not_answered(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    port = rig.port()
    disk = rig.disk(port, write=all_but(MAC_A))
    victim, other = Host(port, MAC_A), Host(port, MAC_B)
    with caplog.at_level(logging.WARNING, "ggaoe.engine"):
        tags = [victim.send(1, config_argument(0)), victim.ata(IDENTIFY), victim.write(0, "w")]
        tags += [victim.send(command) for command in (9, 0)] + [victim.ata(IDENTIFY)]
        await until(lambda: disk.device.counters.drops["rate_limited"] == 3)
    await rig.quiet()
    assert victim.answers.keys() == set(tags[:3])
    assert dict(disk.device.initiators.items())[MAC_A].drops == {"rate_limited": 3}
    (told,) = caplog.records
    assert "02:00:00:00:00:0a" in told.getMessage()

    await other.good(other.ata(IDENTIFY))
    await victim.good(*(victim.read(number) for number in range(20)))
    assert disk.device.counters.other_requests == 4


async def test_reads_of_all_devices_at_once_are_limited(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the largest answers to the smallest question, and no host needs them."""
    monkeypatch.setattr(limit, "WILDCARD_RATE", Rate(1, 6))
    port = rig.port()
    disks = [rig.disk(port, name=f"disk{slot}", slot=slot) for slot in (1, 2)]
    host = Host(port, MAC_A, slot=ANY_SLOT)
    for _ in range(5):
        host.read(0)
    await until(lambda: link_of(port).counters.drops["rate_limited"] == 2)
    await until(lambda: len(link_of(port).sent) == 6)
    assert [len(disk.of(Op.READ)) for disk in disks] == [3, 3]
    assert dict(link_of(port).strays.items())[MAC_A].reason == "rate_limited"


async def test_a_link_has_a_limit_for_all_sources(rig: Rig) -> None:
    port = rig.port()
    port.limit = Bucket(rate_per_s=1e-6, burst=5)
    disk = rig.disk(port)
    hosts = [Host(port, bytes([2, 0, 0, 0, 1, number])) for number in range(8)]
    for host in hosts:
        host.ata(IDENTIFY)
    await until(lambda: disk.device.counters.drops["rate_limited"] == 3)
    assert link_of(port).counters.drops["rate_limited"] == 3
    await until(lambda: len(link_of(port).sent) == 5)
    await hosts[7].good(hosts[7].read(0))


async def test_a_storm_of_discovery_stays_within_the_limits(rig: Rig) -> None:
    port = rig.port()
    disks = [rig.disk(port, name=f"disk{slot}", slot=slot) for slot in range(1, 9)]
    hosts = [Host(port, bytes([2, 0, 0, 0, 1, number])) for number in range(20)]
    for host in hosts:
        host.send(1, config_argument(0), slot=ANY_SLOT, shelf=0xFFFF)
        for disk in disks:
            host.ata(IDENTIFY, slot=disk.device.target.settings.slot)
    await until(lambda: len(link_of(port).sent) == 2 * 20 * 8)
    assert not any(disk.device.counters.drops for disk in disks)


@pytest.mark.usefixtures("few")
async def test_a_crowd_that_asks_too_often_is_told_of_as_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limit, "SOURCES_MAX", 1)
    port = rig.port()
    disk = rig.disk(port)
    hosts = [Host(port, bytes([2, 0, 0, 0, 1, number])) for number in range(6)]
    with caplog.at_level(logging.WARNING, "ggaoe.engine"):
        for host in hosts:
            host.ata(IDENTIFY)
        await until(lambda: disk.device.counters.drops["rate_limited"] == 2)
    assert "many hosts" in caplog.text
    assert link_of(port).counters.drops["rate_limited"] == 0


# --- what is refused is in nobody's way -------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda host: host.write(0, "a"),
        lambda host: host.verify(0),
        lambda host: host.read(0, slot=ANY_SLOT),
    ],
    ids=["write", "verify", "wildcard"],
)
async def test_what_was_refused_when_it_came_is_not_done_later(
    rig: Rig, ask: Callable[[Host], int]
) -> None:
    """Requests that came behind it may have been done by then."""
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    target = disk.device.target
    target.state = replace(target.state, mask=(MAC_B,))
    rig.engine.refresh(disk.device)
    tag = ask(host)
    await until(lambda: not host.link.backlog_frames)
    target.state = replace(target.state, mask=())
    rig.engine.refresh(disk.device)
    await rig.quiet()
    assert tag not in host.answers
    assert not disk.seen
    assert sum(disk.device.counters.drops.values()) == 1
    await host.good(host.write(0, "b"))


REFUSALS: dict[str, dict[str, Rules]] = {
    "accept": {"accept": only(MAC_A)},
    "deny": {"deny": all_but(MAC_B)},
    "read, write": {"read": all_but(MAC_B), "write": only(MAC_A)},
    "discover": {"discover": only(MAC_A), "read": only(MAC_A), "write": only(MAC_A)},
}
each_refusal = pytest.mark.parametrize("lists", REFUSALS.values(), ids=REFUSALS.keys())


@each_refusal
async def test_what_is_refused_stops_nobody(rig: Rig, lists: dict[str, Rules]) -> None:
    """All that is permitted of what came together is submitted together."""
    port = rig.port()
    disk = rig.disk(port, **lists)
    friend, stranger = Host(port, MAC_A), Host(port, MAC_B)
    tags = []
    for number in range(10):
        stranger.verify(0)
        stranger.read(0, slot=ANY_SLOT)
        stranger.write(0, "w", slot=ANY_SLOT)
        stranger.flush(slot=ANY_SLOT)
        tags.append(friend.read(2 * number))
    await friend.good(*tags)
    assert disk.device.counters.batches == 1


@each_refusal
async def test_what_is_refused_takes_nobodys_place(rig: Rig, lists: dict[str, Rules]) -> None:
    """Frames come faster than they are looked at, as all links have some at once."""
    ports = [rig.port(index) for index in range(1, LINKS + 1)]
    rig.disk(*ports, **lists)
    waiting = rig.disk(name="waiting", slot=1)
    await rig.engine.detach(waiting.device, None)
    rig.engine.set_ports(waiting.device, ports)
    permit(rig, waiting, **lists)
    friend, now_ns = Host(ports[0], MAC_A), time.time_ns()
    strangers = [Host(port, MAC_B) for port in ports]
    for number in range(FRAMES_PER_LINK // 4):
        for stranger in strangers:
            stranger.read(number, at=now_ns)
            stranger.write(number, "w", at=now_ns)
            stranger.read(number, at=now_ns, slot=1)
            if lists.keys() & {"accept", "deny", "discover"}:
                stranger.send(1, config_argument(0), at=now_ns, slot=1)
    tags = [friend.verify(0, at=now_ns), friend.read(0, at=now_ns)]
    asked = friend.send(1, config_argument(0), at=now_ns)
    await friend.good(*tags)
    await friend.answer(asked)


@each_refusal
async def test_what_is_refused_is_answered_all_the_same(rig: Rig, lists: dict[str, Rules]) -> None:
    port = rig.port()
    disk = rig.disk(port, **lists)
    stranger = Host(port, MAC_B)
    tags = [stranger.read(0), stranger.write(0, "w"), stranger.verify(0), stranger.flush()]
    if lists.keys() == {"read", "write"}:
        for tag in tags:
            await aborted(stranger, tag)
    else:
        await until(lambda: sum(disk.device.counters.drops.values()) == len(tags))
        assert not stranger.answers
