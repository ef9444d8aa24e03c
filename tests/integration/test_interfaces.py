"""Which interface serves which device, while interfaces come, change and go."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest

from ggaoe.client import NoAnswerError
from ggaoe.engine.select import ENGINES
from ggaoe.proto.frame import Command
from ggaoe.proto.query import Ccmd, pack_config
from ggaoe.server.interfaces import RING_BYTES_MIN, RINGS_BYTES_MAX
from helpers.netns import bridge, veth, wait_until
from integration.scene import DEADLINE_S, Daemon, Scene, Wire, device, round_trip

DISK = device()
QUERY = pack_config(Ccmd.READ)


def answers(wire: Wire, tag: int, shelf: int = 0xFFFF, slot: int = 0xFF) -> set[tuple[int, int]]:
    """Who answers a config query there. A wrong address draws an error in the same breath, from
    the one device that everybody has, so that the end of the answers is known."""
    wire.send(wire.request(Command.CONFIG, QUERY, tag, shelf=shelf, slot=slot))
    wire.send(wire.request(Command.CONFIG, QUERY, tag + 1))
    frames = wire.collect(lambda got: any(one.header.tag == tag + 1 for one in got))
    return {one.address for one in frames if one.header.tag == tag}


def test_each_device_is_served_by_the_interfaces_it_names(scene: Scene) -> None:
    for name in ("disk", "second", "none"):
        scene.disk(name)
    veth(scene.host, "near1", scene.target, "far1")
    sections = (
        device(interfaces="far[01]"),
        device("second", 2, interfaces="far1"),
        device("none", 3, interfaces="other*"),
    )
    with (
        scene.serving(*sections) as daemon,
        scene.wire("near0") as near0,
        scene.wire("near1") as near1,
    ):
        assert answers(near0, 1) == {(0, 1)}
        assert answers(near1, 1) == {(0, 1), (0, 2)}
        assert daemon.listed("disk")["interfaces"] == ["far0", "far1"]
        assert daemon.listed("second")["interfaces"] == ["far1"]
        row = daemon.listed("none")
        assert (row["interfaces"], row["state"]) == ([], "no-interface")
        reason = "no interface matches other*; there are far0, far1"
        assert row["reason"] == reason
        told = f"warning: none (e0.3): not served: {reason}"
        assert daemon.log_text().count(told) == 1
        assert daemon.ask("reload")["applied"]
        assert daemon.log_text().count(told) == 2
        changed = daemon.ask("set", "second", "interfaces=oth?r")
        text = "second is not served: no interface matches oth?r; there are far0, far1"
        assert changed["warnings"] == [text]
        assert daemon.interface("lo") is None


def test_an_address_is_that_of_the_first_device_even_before_it_is_there(scene: Scene) -> None:
    """Hosts must not find one disk after another: no order of start and reload changes it."""
    for name in ("first", "second"):
        scene.disk(name)
    sections = device("first", interfaces="far*", auto=False), device("second", interfaces="*r0")
    with scene.serving(*sections) as daemon:
        row = daemon.listed("second")
        assert (row["interfaces"], row["state"]) == ([], "no-interface")
        assert row["reason"] == "e0.1 on far0 is that of a device before it in the configuration"
        daemon.ask("start", "first")
        assert daemon.listed("first")["interfaces"] == ["far0"]
        assert daemon.listed("second")["interfaces"] == []
        told = (
            "second: not served on far0: first, which the configuration has first, has e0.1 there"
        )
        assert told in daemon.log_text()


async def test_two_interfaces_are_two_paths_to_one_disk(scene: Scene) -> None:
    disk = scene.disk()
    veth(scene.host, "near1", scene.target, "far1")
    with scene.serving(DISK) as daemon:
        async with scene.initiator("near0", "near1") as initiator:
            remote = await initiator.open(0, 1, multipath=True)
            while len(remote.paths) < 2:
                await initiator.discover(0.1)
            await round_trip(initiator, disk)
        stats = daemon.ask("stats")
        macs = {scene.host.mac(name).hex(":") for name in ("near0", "near1")}
        assert stats["initiators"]["disk"].keys() == macs
        assert all(one["write_requests"] for one in stats["initiators"]["disk"].values())


async def test_an_interface_that_appears_later_is_served(scene: Scene) -> None:
    disk = scene.disk()
    with scene.serving(device(interfaces="late*")) as daemon:
        assert daemon.interface("late0") is None
        veth(scene.host, "near1", scene.target, "late0", 9000)
        daemon.wait_for_interface("late0", serving=True)
        async with scene.initiator("near1") as initiator:
            await round_trip(initiator, disk)


def test_a_renamed_interface_is_followed(scene: Scene) -> None:
    scene.disk()
    scene.disk("second")
    sections = (device(), device("second", 2, interfaces="eth*"))
    with scene.serving(*sections) as daemon, scene.wire() as wire:
        assert answers(wire, 1) == {(0, 1)}
        scene.target.ip("link set far0 down")
        scene.target.ip("link set far0 name eth7")
        scene.target.ip("link set eth7 up")
        daemon.wait_for_interface("eth7", serving=True)
        assert daemon.interface("far0") is None
        assert daemon.listed("disk")["interfaces"] == []
        wire.send(wire.request(Command.CONFIG, QUERY, 3, slot=2))
        assert wire.wait_for_reply(3).address == (0, 2)


async def test_down_up_and_gone(scene: Scene) -> None:
    disk = scene.disk()
    with scene.serving(DISK) as daemon:
        for name, namespace in (("far0", scene.target), ("near0", scene.host)):
            namespace.ip(f"link set {name} down")
            daemon.wait_for_interface("far0", serving=False)
            row = daemon.interface("far0")
            assert row is not None
            assert row["reason"] == "link is down"
            namespace.ip(f"link set {name} up")
            daemon.wait_for_interface("far0", serving=True)
            wait_until(partial(scene.host.has_carrier, "near0"), DEADLINE_S, "carrier of near0")
            async with scene.initiator() as initiator:
                await round_trip(initiator, disk)
        scene.target.ip("link del far0")
        daemon.wait_for_interface("far0", serving=False)
        assert daemon.interface("far0") is None
        row = daemon.listed("disk")
        reason = "no interface matches far*; there is no other"
        assert (row["state"], row["reason"]) == ("no-interface", reason)
        veth(scene.host, "near0", scene.target, "far0")
        daemon.wait_for_interface("far0", serving=True)
        async with scene.initiator() as initiator:
            await round_trip(initiator, disk)


@pytest.mark.one_engine
def test_a_named_interface_that_is_missing_is_told(scene: Scene) -> None:
    scene.disk()
    with scene.serving(DISK) as daemon:
        daemon.reconfigure(device(interfaces="far0, eth7"))
        row = daemon.interface("eth7")
        assert row is not None
        assert row["reason"] == "does not exist"
        assert "eth7 does not exist" in daemon.log_text()
        assert "eth7" in daemon.ctl("list").stdout
        veth(scene.host, "near1", scene.target, "eth7")
        daemon.wait_for_interface("eth7", serving=True)
        scene.target.ip("link del eth7")
        daemon.wait_for_interface("eth7", serving=False)


@pytest.mark.one_engine
def test_an_mtu_that_is_too_small_is_said(scene: Scene) -> None:
    scene.disk()
    scene.target.ip("link set far0 mtu 1000")
    with scene.serving(DISK) as daemon, scene.wire() as wire:
        row = daemon.interface("far0")
        assert row is not None
        assert not row["serving"]
        assert "1000" in row["reason"]
        scene.target.ip("link set far0 mtu 1060")
        daemon.wait_for_interface("far0", serving=True)
        wire.send(wire.request(Command.CONFIG, QUERY, 1))
        assert wire.wait_for_reply(1).config.sectors == 2


def test_a_configured_mtu_is_a_ceiling_that_a_reload_moves(scene: Scene) -> None:
    scene.disk()
    for name, namespace in (("far0", scene.target), ("near0", scene.host)):
        namespace.ip(f"link set {name} mtu 9000")
    with scene.serving(DISK, "[far0]\nmtu = 4200\n") as daemon, scene.wire() as wire:
        for tag, (mtu_bytes, sectors) in enumerate(((4200, 8), (1500, 2), (0, 17)), start=1):
            daemon.reconfigure(DISK, f"[far0]\nmtu = {mtu_bytes}\n")
            wire.send(wire.request(Command.CONFIG, QUERY, tag))
            assert wire.wait_for_reply(tag).config.sectors == sectors


def test_tagged_frames_are_dropped_on_the_parent(scene: Scene) -> None:
    scene.disk()
    with scene.serving(DISK) as daemon, scene.wire() as wire:
        frame = wire.request(Command.CONFIG, QUERY, 1)
        tag = bytes.fromhex("8100 0005")
        wire.send(frame[:12] + tag + frame[12:])
        wire.send(wire.request(Command.CONFIG, QUERY, 2))
        frames = wire.collect(lambda got: any(one.header.tag == 2 for one in got))
        assert not [one for one in frames if one.header.tag == 1]
        assert daemon.drops() == {"vlan": 1}


async def test_a_vlan_interface_is_an_interface(scene: Scene) -> None:
    disk = scene.disk()
    try:
        scene.host.ip("link add link near0 name near0.5 type vlan id 5")
    except subprocess.CalledProcessError:
        pytest.skip("needs a kernel with 802.1Q VLANs")
    scene.target.ip("link add link far0 name far0.5 type vlan id 5")
    scene.host.ip("link set near0.5 up")
    scene.target.ip("link set far0.5 up")
    scene.disk("below")
    below = device("below", 2, interfaces="far0")
    with scene.serving(device(interfaces="far0.5"), below) as daemon:
        daemon.wait_for_interface("far0.5", serving=True)
        async with scene.initiator("near0.5") as initiator:
            await round_trip(initiator, disk)
            with pytest.raises(NoAnswerError):
                await initiator.open(0, 2, timeout_s=0.5)
        async with scene.initiator("near0") as initiator:
            with pytest.raises(NoAnswerError):
                await initiator.open(0, 1, timeout_s=0.5)


def times_opened(daemon: Daemon) -> int:
    return daemon.log_text().count("far0: serving, ")


async def test_an_interface_that_becomes_a_part_of_another_is_opened_again(scene: Scene) -> None:
    """The kernel says another interface of a bond's frames: the filter has to know it."""
    disk = scene.disk()
    with scene.serving(DISK) as daemon:
        bridge(scene.target, "br0", ["far0"])
        wait_until(lambda: times_opened(daemon) == 2, DEADLINE_S, "link of a part of br0")
        scene.target.ip("link set far0 nomaster")
        wait_until(lambda: times_opened(daemon) == 3, DEADLINE_S, "link of its own")
        async with scene.initiator() as initiator:
            await round_trip(initiator, disk)


def test_a_reply_that_nobody_can_take_holds_up_nobody(scene: Scene) -> None:
    scene.disk()
    scene.target.ip("link set far0 mtu 9000")
    with scene.serving(DISK), scene.wire() as wire:
        wire.send(wire.read(0, 17, tag=1))  # whose reply is larger than the host's MTU
        wire.send(wire.read(0, 1, tag=2))
        assert len(wire.wait_for_reply(2).frame) == 36 + 512


@pytest.mark.skipif("native" not in ENGINES, reason="only the native engine has rings")
@pytest.mark.one_engine
async def test_many_interfaces_share_the_memory_of_rings(scene: Scene) -> None:
    """However many there are, and whether they come before the start or after it."""
    disk = scene.disk()
    batch = scene.directory / "links"

    def add(numbers: range) -> None:
        batch.write_text(
            "".join(
                f"link add many{number} mtu 9000 type veth peer name peer{number} mtu 9000\n"
                f"link set many{number} up\nlink set peer{number} up\n"
                for number in numbers
            )
        )
        scene.target.run("ip", "-batch", batch)

    def rings_bytes(daemon: Daemon) -> list[int]:
        maps = Path(f"/proc/{daemon.running.pid}/maps").read_text().splitlines()
        spans = [line.split()[0].split("-") for line in maps if "socket:[" in line]
        return [int(end, 16) - int(begin, 16) for begin, end in spans]

    def are_serving(daemon: Daemon, count: int) -> bool:
        return sum(row["serving"] for row in daemon.ask("list")["interfaces"]) == count

    add(range(32))
    sections = ("[defaults]\nengine = native\n", device(interfaces="many*, far0"))
    with scene.serving(*sections) as daemon:
        wait_until(lambda: are_serving(daemon, 33), DEADLINE_S, "33 interfaces serve")
        assert len(set(rings_bytes(daemon))) == 1
        assert RINGS_BYTES_MAX * 0.95 < sum(rings_bytes(daemon)) <= RINGS_BYTES_MAX
        add(range(32, 40))
        wait_until(lambda: are_serving(daemon, 41), DEADLINE_S, "41 interfaces serve")
        assert len(rings_bytes(daemon)) == 41
        assert sum(rings_bytes(daemon)) <= RINGS_BYTES_MAX + 8 * RING_BYTES_MIN
        async with scene.initiator() as initiator:
            await round_trip(initiator, disk)
