"""Hosts are told of a device without asking: when, by which interface, and who."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from ggaoe.proto import access
from ggaoe.proto.frame import BROADCAST, Command
from ggaoe.proto.query import Ccmd, pack_config
from helpers.netns import veth, wait_until
from integration.scene import (
    DEADLINE_S,
    DISK_BYTES,
    DISK_SECTORS,
    Received,
    Scene,
    Wire,
    device,
    round_trip,
)

DISK = device()
QUERY = pack_config(Ccmd.READ)
OTHER_HOSTS = [bytes.fromhex(f"02000000000{number}") for number in range(1, 4)]


def advertised(frames: Iterable[Received]) -> Counter[tuple[int, int]]:
    """How often each address was advertised."""
    return Counter(got.address for got in frames if got.is_advertisement)


def wait_for_advertisement(wire: Wire, **fields: object) -> Received:
    """The first one whose config argument has `fields`."""
    return wire.wait_for(
        lambda got: (
            got.is_advertisement
            and all(getattr(got.config, name) == value for name, value in fields.items())
        ),
        f"an advertisement with {fields}",
    )


def wait_for_lead(wire: Wire, ahead: tuple[int, int], behind: tuple[int, int]) -> None:
    """Until one address has been advertised more often than the other, which is due to nothing that
    both have in common, such as the repetitions after a start (but one may be ahead by chance)."""
    frames: list[Received] = []

    def leads() -> bool:
        # What was sent together has come once a reply to what we ask now is there.
        wire.send(wire.request(Command.CONFIG, QUERY, tag=77, shelf=behind[0], slot=behind[1]))
        frames.extend(wire.collect(lambda got: any(one.header.tag == 77 for one in got)))
        count = advertised(frames)
        return count[ahead] > count[behind]

    wait_until(leads, DEADLINE_S, f"{ahead} advertised more often than {behind}")


def test_the_start_is_advertised_and_repeated_once_each_time(scene: Scene) -> None:
    scene.disk()
    with scene.wire() as wire, scene.serving(device(queue_length=33)):
        frames = wire.collect(lambda got: advertised(got)[0, 1] >= 2)
        arrivals_ns = [got.arrival_ns for got in frames if got.is_advertisement]
        for earlier_ns, later_ns in itertools.pairwise(arrivals_ns):
            assert later_ns - earlier_ns > 500_000_000, arrivals_ns
        first = next(got for got in frames if got.is_advertisement)
        assert first.header.destination == BROADCAST
        assert first.header.source == scene.target.mac("far0")
        assert not first.header.is_error
        assert len(first.frame) == 60
        assert (first.config.buffer_count, first.config.sectors, first.config.ccmd) == (33, 2, 0)


def test_mtu_changes_are_advertised(scene: Scene) -> None:
    scene.disk()
    with scene.wire() as wire, scene.serving(DISK):
        wait_for_advertisement(wire, sectors=2)
        for mtu_bytes, sectors in ((9000, 17), (1500, 2), (4200, 8)):
            scene.target.ip(f"link set far0 mtu {mtu_bytes}")
            for _ in range(2):  # the first may be lost, as the switch sees the link go and come
                wait_for_advertisement(wire, sectors=sectors)


def link_up(scene: Scene) -> None:
    scene.target.ip("link set far1 down")
    scene.target.ip("link set far1 up")


def other_mtu(scene: Scene) -> None:
    scene.target.ip("link set far1 mtu 9000")


@pytest.mark.parametrize("change", [link_up, other_mtu])
def test_a_change_of_one_interface_is_advertised_there(
    scene: Scene, change: Callable[[Scene], None]
) -> None:
    """Not only by a repetition that was due anyhow, which the other interface carries, too."""
    scene.disk()
    veth(scene.host, "near1", scene.target, "far1")
    with (
        scene.wire("near0") as unchanged,
        scene.wire("near1") as changed,
        scene.serving(DISK) as daemon,
    ):
        for wire in (unchanged, changed):
            wire.wait_for(lambda got: got.is_advertisement)
        change(scene)
        wait_until(
            lambda: daemon.log_text().count("far1: serving") == 2, DEADLINE_S, "far1 opened again"
        )
        changed.pending()
        unchanged.pending()
        here = there = 0

        def leads() -> bool:
            nonlocal here, there
            here += advertised(changed.pending())[0, 1]
            there += advertised(unchanged.pending())[0, 1]
            return here >= there + 2

        wait_until(leads, DEADLINE_S, "far1 advertised more often than far0")


@pytest.mark.one_engine
def test_an_added_device_is_advertised(scene: Scene) -> None:
    scene.disk()
    scene.disk("more")
    with scene.wire() as wire, scene.serving(DISK) as daemon:
        daemon.reconfigure(DISK, device("more", 2))
        frames = wire.collect(lambda got: advertised(got)[0, 2] >= 2)
        assert advertised(frames)[0, 1] <= 3


def test_growth_is_advertised_and_served(scene: Scene) -> None:
    disk = scene.disk()
    scene.disk("same")
    with scene.wire() as wire, scene.serving(DISK, device("same", 2)) as daemon:
        wire.collect(lambda got: {(0, 1), (0, 2)} <= advertised(got).keys())
        wire.send(wire.read(DISK_SECTORS, 1, tag=1))
        assert wire.wait_for_reply(1).frame[25] == 0x10  # no such sector yet
        with disk.open("r+b") as file:
            file.truncate(2 * DISK_BYTES)
        daemon.wait_for_log("aoe-revalidate e0.1")
        wait_for_lead(wire, (0, 1), (0, 2))
        wire.send(wire.read(DISK_SECTORS, 1, tag=2))
        assert wire.wait_for_reply(2).frame[27] == 0x40
        assert daemon.listed("disk")["size_bytes"] == 2 * DISK_BYTES


@pytest.mark.one_engine
def test_a_queue_length_is_advertised_when_it_changes(scene: Scene) -> None:
    scene.disk()
    scene.disk("same")
    same = device("same", 2)
    with scene.wire() as wire, scene.serving(device(queue_length=20), same) as daemon:
        wait_for_advertisement(wire, buffer_count=20)
        daemon.reconfigure(device(queue_length=30), same)
        wait_for_lead(wire, (0, 1), (0, 2))
        wire.send(wire.request(Command.CONFIG, QUERY, tag=1))
        assert wire.wait_for_reply(1).config.buffer_count == 30


@pytest.mark.one_engine
def test_permitted_hosts_are_told_one_by_one(scene: Scene) -> None:
    scene.disk()
    first, second, denied = OTHER_HOSTS
    lists = f"accept = {first.hex(':')}, {second.hex(':')}, {denied.hex(':')}\n"
    with (
        scene.wire() as wire,
        scene.serving(DISK, lists, f"deny = {denied.hex(':')}\n") as daemon,
    ):
        frames = wire.collect(lambda got: advertised(got)[0, 1] >= 4)
        told = Counter(got.header.destination for got in frames if got.is_advertisement)
        assert told == {first: 2, second: 2}

        daemon.reconfigure(DISK, lists, "broadcast = true\n")
        wire.wait_for(lambda got: got.is_advertisement and got.header.destination == BROADCAST)
        daemon.reconfigure(DISK)
        wire.pending()
        frames = wire.collect(lambda got: advertised(got)[0, 1] >= 2)
        assert {got.header.destination for got in frames if got.is_advertisement} == {BROADCAST}


@pytest.mark.one_engine
def test_a_mask_list_says_who_is_told(scene: Scene) -> None:
    scene.disk()
    with scene.wire() as wire, scene.serving(device(queue_length=20)) as daemon:
        edit = access.pack_mask(
            access.Mcmd.EDIT,
            tuple(access.Directive(access.Dcmd.ADD, mac) for mac in (wire.mac, OTHER_HOSTS[0])),
        )
        wire.send(wire.request(Command.MASK, edit, tag=1))
        wire.wait_for_reply(1)
        daemon.reconfigure(device(queue_length=30))
        frames = wire.collect(lambda got: advertised(got)[0, 1] >= 2)
        told = {got.header.destination for got in frames if got.is_advertisement}
        assert told == {wire.mac, OTHER_HOSTS[0]}


@pytest.mark.one_engine
def test_a_list_that_admits_nobody_is_told_to_nobody(scene: Scene) -> None:
    scene.disk()
    scene.disk("open")
    with (
        scene.wire() as wire,
        scene.serving(DISK, "accept = nobody\n", device("open", 2), "[acls]\nnobody =\n"),
    ):
        frames = wire.collect(lambda got: advertised(got)[0, 2] >= 2)
        assert advertised(frames).keys() == {(0, 2)}


@pytest.mark.one_engine
def test_an_interval_repeats_for_ever_until_it_is_taken_away(scene: Scene) -> None:
    scene.disk()
    every_second = "[defaults]\nadvertise-interval = 1\n"
    with scene.wire() as wire, scene.serving(every_second, DISK) as daemon:
        # The start alone gives four in all the time that `collect` has patience.
        wire.collect(lambda got: advertised(got)[0, 1] >= 5)
        daemon.reconfigure(DISK)
        assert "advertise-interval" in daemon.log_text()
        assert daemon.ask("reload")["changes"] == []


@pytest.mark.parametrize("scene", [1500, 4200, 9000], indirect=True)
async def test_the_sector_count_of_an_mtu_is_used_and_works(scene: Scene) -> None:
    disk = scene.disk()
    with scene.serving(DISK):
        async with scene.initiator() as initiator:
            (found,) = await initiator.discover(1.0)
            assert found.sectors == {1500: 2, 4200: 8, 9000: 17}[scene.mtu_bytes]
            await round_trip(initiator, disk)


async def test_loopback_carries_its_large_frames(scene: Scene) -> None:
    disk = scene.disk()
    with scene.serving(device(interfaces="lo")):
        async with scene.initiator("lo", namespace=scene.target) as initiator:
            (found,) = await initiator.discover(1.0)
            assert found.sectors == 127
            await round_trip(initiator, disk)
