"""What hosts have set of a device: it outlives the daemon, and it is in force."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ggaoe.client import Initiator, NoAnswerError, RefusedError, RemoteDevice, Timing
from ggaoe.proto.access import Dcmd
from ggaoe.proto.ata import Smart
from ggaoe.proto.frame import SECTOR_BYTES, Error
from ggaoe.proto.query import Ccmd
from helpers.netns import veth
from integration.scene import USUAL, Daemon, Scene, device

DISK = device()
TEXT = b"\0any \xff bytes\n"
IMPATIENT = Timing(deadline_s=0.5)


@pytest.fixture
def two_hosts(scene: Scene) -> Scene:
    """near0 and near1 are two hosts as far as their addresses tell."""
    veth(scene.host, "near1", scene.target, "far1")
    return scene


def end_by_sigterm(daemon: Daemon) -> None:
    assert daemon.stop() == 0


def end_by_sigkill(daemon: Daemon) -> None:
    daemon.kill()


@pytest.mark.one_engine
@pytest.mark.parametrize("end", [end_by_sigterm, end_by_sigkill])
async def test_what_hosts_have_set_survives(
    two_hosts: Scene, end: Callable[[Daemon], None]
) -> None:
    scene = two_hosts
    scene.disk()
    us, other = scene.host.mac("near0"), bytes.fromhex("020000000001")
    page = b"smart log" + bytes(SECTOR_BYTES - 9)
    daemon = scene.daemon(DISK)
    daemon.start()
    async with scene.initiator() as initiator:
        remote = await initiator.open(0, 1)
        await remote.query(Ccmd.SET, TEXT)
        await remote.edit_mask([(Dcmd.ADD, us), (Dcmd.ADD, other)])
        await remote.reserve([other, us])
        await remote.smart(Smart.WRITE_LOG, log=0x80, count=1, data=page)
        end(daemon)
        daemon.start()
        shown = daemon.ask("show", "disk")["devices"][0]
        assert bytes.fromhex(shown["config_string"]) == TEXT
        assert shown["mask"] == [us.hex(":"), other.hex(":")]
        assert shown["reserved"] == [other.hex(":"), us.hex(":")]
        config = await remote.query()
        assert config is not None
        assert config.text == TEXT
        assert await remote.read_mask() == (us, other)
        assert await remote.read_reservation() == (other, us)
        reply = await remote.smart(Smart.READ_LOG, log=0x80, count=1, read_bytes=SECTOR_BYTES)
        assert reply.data == page
    async with scene.initiator("near1", timing=IMPATIENT) as stranger:
        with pytest.raises(NoAnswerError):
            await stranger.open(0, 1)
    assert daemon.stop() == 0


async def two_devices(
    scene: Scene, ours: Initiator, theirs: Initiator
) -> tuple[RemoteDevice, RemoteDevice]:
    return await ours.open(0, 1), await theirs.open(0, 1)


async def test_a_reservation_locks_others_out(two_hosts: Scene) -> None:
    scene = two_hosts
    scene.disk()
    with scene.serving(DISK) as daemon:
        async with scene.initiator("near0") as ours, scene.initiator("near1") as theirs:
            holder, other = await two_devices(scene, ours, theirs)
            await holder.reserve([scene.host.mac("near0")])
            await holder.write(0, bytes(SECTOR_BYTES))
            await other.identify()
            assert await other.query() is not None
            assert await other.read_reservation() == (scene.host.mac("near0"),)
            for refused in (
                other.read(0, 1),
                other.write(0, bytes(SECTOR_BYTES)),
                other.flush(),
                other.reserve([scene.host.mac("near1")]),
            ):
                with pytest.raises(RefusedError) as refusal:
                    await refused
                assert refusal.value.code == Error.RESERVED

            await other.reserve([scene.host.mac("near1")], force=True)
            await other.read(0, 1)
            with pytest.raises(RefusedError):
                await holder.read(0, 1)

            assert daemon.ctl("show-reserve", "disk").stdout.count(scene.host.mac("near1").hex(":"))
            assert daemon.ctl("clear-reserve", "disk").status == 0
            assert await holder.read_reservation() == ()
            await holder.read(0, 1)
            await other.read(0, 1)


async def test_a_mask_list_hides_the_device(two_hosts: Scene) -> None:
    scene = two_hosts
    scene.disk()
    with scene.serving(DISK) as daemon:
        async with (
            scene.initiator("near0") as ours,
            scene.initiator("near1", timing=USUAL) as theirs,
        ):
            inside, outside = await two_devices(scene, ours, theirs)
            await outside.read(0, 1)
            await inside.edit_mask([(Dcmd.ADD, scene.host.mac("near0"))])
            await inside.read(0, 1)
            assert await theirs.discover(0.4) == []
            with pytest.raises(NoAnswerError):
                await outside.ping(0.2)
            # An editor that leaves itself out needs the administrator.
            await inside.edit_mask(
                [(Dcmd.ADD, bytes.fromhex("020000000001")), (Dcmd.DELETE, ours_mac(scene))]
            )
            with pytest.raises(NoAnswerError):
                await inside.ping(0.2)
            stats = daemon.ask("stats", "disk")
            hosts = stats["initiators"]["disk"]
            assert hosts[scene.host.mac("near1").hex(":")]["drops"]["mask_list"] >= 2
            assert stats["devices"]["disk"]["drops"]["mask_list"] >= 3

            assert daemon.ctl("clear-macmask", "disk").status == 0
            await inside.read(0, 1)
            await outside.read(0, 1)


def ours_mac(scene: Scene) -> bytes:
    return scene.host.mac("near0")


@pytest.mark.one_engine
async def test_clearing_is_for_the_named_devices_and_for_good(scene: Scene) -> None:
    names = {"a1": 1, "a2": 2, "b": 3}
    for name in names:
        scene.disk(name)
    sections = [device(name, slot) for name, slot in names.items()]
    daemon = scene.daemon(*sections)
    daemon.start()
    async with scene.initiator() as initiator:
        for slot in names.values():
            remote = await initiator.open(0, slot)
            await remote.query(Ccmd.FORCE, b"text %d" % slot)
            await remote.reserve([scene.host.mac("near0")])
    assert daemon.ask("clear-config", "a*") == {"cleared": ["a1", "a2"]}
    partly = daemon.ctl("clear-reserve", "b", "nothing")
    assert partly.status == 4
    assert "nothing" in partly.stderr
    expected_strings = {"a1": "", "a2": "", "b": b"text 3".hex()}
    assert daemon.ask("show-config")["devices"] == expected_strings
    daemon.kill()
    daemon.start()
    assert daemon.ask("show-config")["devices"] == expected_strings
    held = daemon.ask("show-reserve")["devices"]
    assert {name for name, macs in held.items() if macs} == {"a1", "a2"}
    assert daemon.ctl("clear-reserve").status == 2
    assert daemon.stop() == 0


@pytest.mark.one_engine
async def test_a_state_that_cannot_be_stored_is_not_in_force(scene: Scene) -> None:
    scene.disk()
    with scene.serving(DISK) as daemon:
        state = scene.directory / "state"
        state.rename(scene.directory / "elsewhere")
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            with pytest.raises(RefusedError) as refusal:
                await remote.query(Ccmd.SET, TEXT)
            assert refusal.value.code == Error.UNAVAILABLE
            config = await remote.query()
            assert config is not None
            assert config.text == b""
            refused = daemon.ctl("clear-config", "disk")
            assert refused.status == 0  # it is empty already, so there is nothing to store
            (scene.directory / "elsewhere").rename(state)
            await remote.query(Ccmd.SET, TEXT)
        assert "change by" in daemon.log_text()
