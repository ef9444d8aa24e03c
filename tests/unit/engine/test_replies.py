"""One frame in, the right frame out, byte for byte where it matters."""

from __future__ import annotations

import random

import pytest

from ggaoe.engine.base import sectors_of
from ggaoe.proto.ata import Op
from ggaoe.testing.engine import link_of
from unit.engine.rig import SECTOR, Host, Rig, mac_of, sectors
from unit.proto.host import (
    ANY_SHELF,
    ANY_SLOT,
    FLUSH_EXT,
    IDENTIFY,
    MAC_A,
    MAC_B,
    MAC_TARGET,
    READ_EXT,
    SHELF,
    SLOT,
    WRITE_EXT,
    ata_argument,
    config_argument,
    only,
    request,
    reserve_argument,
)


async def test_read_is_header_and_data_exactly(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.fill(7, sectors("x", "y"))
    answer = await host.answer(host.read(7, 2, tag=0x80C0FFEE))
    assert answer.frame == (
        MAC_A
        + mac_of(1)
        + b"\x88\xa2\x18\x00"
        + SHELF.to_bytes(2, "big")
        + bytes([SLOT, 0])
        + b"\x80\xc0\xff\xee"
        + bytes([0, 0, 0, 0x40, 7, 0, 0, 0, 0, 0, 0, 0])
        + sectors("x", "y")
    )


@pytest.mark.parametrize("mtu_bytes", [1060, 1500, 4200, 9000, 65536])
async def test_as_many_sectors_as_are_advertised(rig: Rig, mtu_bytes: int) -> None:
    port = rig.port(mtu_bytes=mtu_bytes)
    disk, host = rig.disk(port), Host(port, MAC_A)
    count = sectors_of(port)
    data = sectors(*(str(number) for number in range(count)))
    await host.good(host.ata(WRITE_EXT, 1 << 3, count, data))
    answer = await host.answer(host.ata(READ_EXT, 1 << 3, count))
    assert len(answer.frame) == 36 + SECTOR * count
    assert answer.data == data == disk.content(8, count)


async def test_replies_without_data_are_padded_with_zeros(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    tags = [host.write(3, "w"), host.verify(3), host.flush(), host.ata(FLUSH_EXT)]
    await host.good(*tags)
    for tag in tags:
        answer = await host.answer(tag)
        assert len(answer.frame) == 60
        assert answer.data == bytes(24)
    assert disk.content(3) == sectors("w")


async def test_verify_reads_from_the_store_and_moves_no_data(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    await host.good(host.verify(100, 255))
    assert disk.seen == [(Op.VERIFY, 100, 255)]


async def test_what_follows_a_request_is_not_echoed(rig: Rig) -> None:
    """Linux probes with the payload of a write, aoecfg always sends 1056 bytes."""
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    disk.fill(0, sectors("d"))
    read = await host.answer(host.ata(0x20, 0, 1, sectors("p", "q")))
    assert read.frame[36:] == sectors("d")
    written = host.ata(0x30, 5, 1, sectors("new", "more"))
    await host.good(written)
    assert disk.content(5, 2) == sectors("new", "")


async def test_wildcard_read_is_answered_by_every_device_with_its_address(rig: Rig) -> None:
    port = rig.port()
    one, two = rig.disk(port, slot=1), rig.disk(port, name="other", slot=2)
    one.fill(0, sectors("one"))
    two.fill(0, sectors("two"))
    host = Host(port, MAC_A)
    host.read(0, shelf=ANY_SHELF, slot=ANY_SLOT)
    await rig.quiet()
    frames = link_of(port).sent
    assert sorted((frame[16:19], frame[36:]) for frame in frames) == [
        (b"\x01\x02\x01", sectors("one")),
        (b"\x01\x02\x02", sectors("two")),
    ]


async def test_wildcard_write_is_executed_nowhere(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    answer = await host.answer(host.write(0, "w", slot=ANY_SLOT))
    assert answer.registers == (0x41, 0x04)
    assert not disk.seen


async def test_refusals_do_not_reach_the_store(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port, read_only=True), Host(port, MAC_A)
    answers = [
        await host.answer(tag)
        for tag in (
            host.write(0, "w"),
            host.read(4095, 2),
            host.ata(0x20, 0, 0),
            host.read(0, 3),
            host.ata(0x30, 0, 2, sectors("short")),
        )
    ]
    assert [answer.registers for answer in answers] == [
        (0x41, 0x04),
        (0x41, 0x10),
        (0x41, 0x04),
        (0x41, 0x04),
        (0x41, 0x04),
    ]
    assert not disk.seen
    assert disk.device.counters.ata_errors == 5


async def test_commands_without_transfer_are_answered_at_once(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    identify = await host.answer(host.ata(IDENTIFY))
    assert len(identify.frame) == 36 + SECTOR
    config = await host.answer(host.send(1, config_argument(0)))
    assert config.address == (SHELF, SLOT)
    unknown = await host.answer(host.send(9))
    assert unknown.error == 1
    version = await host.answer(host.send(0, ata_argument(0x20), version_flags=0x20))
    assert version.error == 5
    assert disk.device.counters.other_requests == 4
    assert disk.device.counters.aoe_errors == 2
    assert not disk.seen


async def test_changes_go_to_the_server_unanswered(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    tag = host.send(3, reserve_argument(1, MAC_B))
    await rig.quiet()
    assert not host.answers
    ((device, changed_port, header, frame),) = rig.changes
    assert (device, changed_port, header.tag) == (disk.device, port, tag)
    assert frame[24:] == reserve_argument(1, MAC_B)


async def test_a_device_without_a_store_is_not_available(rig: Rig) -> None:
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    await rig.engine.detach(disk.device, None)
    for tag in (host.read(0), host.write(0, "w"), host.flush(), host.ata(IDENTIFY)):
        assert (await host.answer(tag)).error == 3
    assert (await host.answer(host.send(1, config_argument(0)))).error is None
    assert not disk.seen


DROPPED = {
    "malformed": (
        b"",
        b"\xff" * 23,
        request(0, ata_argument(0x20)).replace(b"\x88\xa2", b"\x08\x00"),
    ),
    "source": (
        request(0, ata_argument(0x20), source=mac_of(1)),
        request(0, ata_argument(0x20), source=b"\x01\x00\x5e\x00\x00\x01"),
        request(0, ata_argument(0x20), source=b"\xff" * 6),
    ),
    "address": (
        request(0, ata_argument(0x20), shelf=SHELF + 1),
        request(0, ata_argument(0x20), slot=SLOT + 1),
        request(0, ata_argument(0x20), shelf=ANY_SHELF, slot=SLOT + 1),
    ),
}


@pytest.mark.parametrize("reason", DROPPED)
async def test_bad_frames_are_dropped_and_counted(rig: Rig, reason: str) -> None:
    port = rig.port()
    disk = rig.disk(port)
    for frame in DROPPED[reason]:
        link_of(port).deliver(frame)
    await rig.quiet()
    assert port.link.counters.drops[reason] == len(DROPPED[reason])
    assert sum(port.link.counters.drops.values()) == len(DROPPED[reason])
    assert not link_of(port).sent
    assert not disk.seen


async def test_lists_drop_and_count_by_device_and_host(rig: Rig) -> None:
    port = rig.port()
    disk = rig.disk(port, accept=only(MAC_B))
    Host(port, MAC_A).read(0)
    friend = Host(port, MAC_B)
    await friend.good(friend.read(0))
    assert disk.device.counters.drops == {"access_list": 1}
    assert dict(disk.device.initiators.items())[MAC_A].drops == {"access_list": 1}
    assert len(disk.seen) == 1


async def test_responses_are_never_answered(rig: Rig) -> None:
    port = rig.port()
    rig.disk(port)
    for command in range(4):
        link_of(port).deliver(request(command, bytes(12), version_flags=0x18))
    await rig.quiet()
    assert not link_of(port).sent


async def test_random_bytes_never_raise(rig: Rig) -> None:
    """A seed for each position: the header is right up to there, the rest is noise."""
    port = rig.port()
    disk = rig.disk(port)
    whole = request(0, ata_argument(0x34, 0, 1), slot=SLOT) + sectors("w")
    for seed in range(400):
        chance = random.Random(seed)
        right = chance.randrange(14, 48)
        noise = chance.randbytes(chance.randrange(0, 1100))
        link_of(port).deliver((MAC_TARGET + MAC_A + whole[12:])[:right] + noise)
    await rig.quiet()
    host = Host(port, MAC_B)
    await host.good(host.read(0))
    assert disk.device.in_flight == 0
