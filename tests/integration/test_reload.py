"""A reload in the middle of verified I/O: nothing is lost, and who is not meant does not notice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from ggaoe.client import AtaCommandError, NoAnswerError, RefusedError, RemoteDevice
from ggaoe.engine.select import ENGINES
from ggaoe.proto.ata import AtaError
from ggaoe.proto.frame import SECTOR_BYTES, Command, Error
from ggaoe.proto.query import Ccmd, pack_config
from helpers.netns import veth, wait_until
from integration.load import SECTORS, WORKERS, Load, running
from integration.scene import DEADLINE_S, DISK_SECTORS, USUAL, Daemon, Scene, Wire, device

STEADY = device("steady", 1)
BASE_OF_SECOND_HOST = WORKERS * SECTORS


@dataclass
class Stage:
    """A daemon with two devices and two hosts; `steady` must not notice what is done to `other`."""

    scene: Scene
    daemon: Daemon
    steady: list[Load]
    other: list[Load]

    @property
    def loads(self) -> list[Load]:
        return [*self.steady, *self.other]

    async def reconfigure(self, *sections: str) -> None:
        """By SIGHUP, while the loads run."""
        await asyncio.to_thread(self.daemon.reconfigure, STEADY, *sections)

    async def ask(self, *argv: str) -> dict[str, object]:
        answer: dict[str, object] = await asyncio.to_thread(self.daemon.ask, *argv)
        return answer


@pytest.fixture
async def stage(scene: Scene) -> AsyncIterator[Stage]:
    """Two hosts with a load on each of two devices: 256 requests in flight."""
    veth(scene.host, "near1", scene.target, "far1")
    disks = {name: scene.disk(name) for name in ("steady", "other")}
    with scene.serving(STEADY, device("other", 2)) as daemon:
        async with AsyncExitStack() as stack:
            loads: dict[int, list[Load]] = {1: [], 2: []}
            for number, interface in enumerate(("near0", "near1")):
                initiator = scene.initiator(interface)
                await stack.enter_async_context(initiator)
                for slot, disk in enumerate(disks.values(), start=1):
                    remote = await initiator.open(0, slot)
                    loads[slot].append(Load(remote, disk, number * BASE_OF_SECOND_HOST))
            stage = Stage(scene, daemon, loads[1], loads[2])
            yield stage
            for load in stage.steady:
                assert load.remote.counters.resent == 0
                assert load.unavailable == 0


async def hears_nothing(remote: RemoteDevice) -> None:
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(NoAnswerError):
            await remote.ping(0.2)


async def nothing_changes(stage: Stage) -> None:
    await stage.reconfigure(device("other", 2))
    assert (await stage.ask("reload"))["changes"] == []


async def queue_length(stage: Stage) -> None:
    for length in (2, 500, 64):
        await stage.reconfigure(device("other", 2, queue_length=length))
        for load in stage.other:
            await load.more()


async def delays_and_tracing(stage: Stage) -> None:
    options = {"merge_delay": "1ms", "max_delay": "5ms", "trace_io": True}
    await stage.reconfigure(device("other", 2, **options))
    for load in stage.other:
        await load.more()
    await stage.reconfigure(device("other", 2))


async def lists_that_still_admit_us(stage: Stage) -> None:
    hosts = ", ".join(stage.scene.host.mac(name).hex(":") for name in ("near0", "near1"))
    await stage.reconfigure(device("other", 2, accept="hosts"), f"[acls]\nhosts = {hosts}\n")
    for load in stage.other:
        await load.more()
    await stage.reconfigure(device("other", 2))


async def a_file_with_errors(stage: Stage) -> None:
    before = await stage.ask("show", "other")
    stage.daemon.configure(STEADY, device("other", slot="no", queue_lenght=3))
    refused = await asyncio.to_thread(stage.daemon.ctl, "reload")
    assert refused.status == 1
    text = stage.daemon.config.read_text().splitlines()
    for wrong in ("slot = no", "queue-lenght = 3"):
        place = f"{stage.daemon.config}:{text.index(wrong) + 1}:"
        assert any(line.startswith(place) for line in refused.stderr.splitlines())
    await asyncio.to_thread(stage.daemon.hang_up)
    assert "the old one stays" in stage.daemon.log_text()
    after = await stage.ask("show", "other")
    assert after["devices"][0]["queue_length"] == before["devices"][0]["queue_length"]  # type: ignore[index]


async def devices_come_and_go(stage: Stage) -> None:
    stage.scene.disk("third")
    third = device("third", 3)
    await stage.reconfigure(device("other", 2), third)
    assert stage.daemon.listed("third")["state"] == "serving"
    await stage.reconfigure(device("other", 2))
    assert len(stage.daemon.ask("list")["devices"]) == 2


UNNOTICED: list[Callable[[Stage], Awaitable[None]]] = [
    nothing_changes,
    queue_length,
    delays_and_tracing,
    lists_that_still_admit_us,
    a_file_with_errors,
    devices_come_and_go,
]


@pytest.mark.parametrize("change", UNNOTICED)
async def test_io_does_not_notice(stage: Stage, change: Callable[[Stage], Awaitable[None]]) -> None:
    async with running(*stage.loads):
        await change(stage)
    for load in stage.other:
        assert load.remote.counters.resent == 0
        assert load.unavailable == 0


@pytest.mark.parametrize(
    "changes",
    [
        [{"direct_io": False}, {"write_cache": True}, {"length": "3MiB"}],
        # Only by another name of the same file can what was written before be expected after.
        [{"path": "renamed"}],
    ],
    ids=["options", "path"],
)
async def test_a_device_is_drained_swapped_and_announced(
    stage: Stage, changes: list[dict[str, object]]
) -> None:
    """Its hosts wait for a moment, and never see an error."""
    disk = stage.scene.directory / "other"
    (stage.scene.directory / "renamed").hardlink_to(disk)
    async with stage.scene.initiator() as initiator:
        load = Load(await initiator.open(0, 2), disk)
        async with running(*stage.steady, load):
            for change in changes:
                with stage.scene.wire() as wire:
                    await stage.reconfigure(device("other", 2, **change))
                    await asyncio.to_thread(
                        wire.wait_for, lambda got: got.is_advertisement and got.address == (0, 2)
                    )
                assert stage.daemon.listed("other")["state"] == "serving"
                await load.more()
        assert (load.unavailable, load.remote.counters.resent) == (0, 0)


async def test_another_path_is_another_disk(stage: Stage) -> None:
    first = stage.scene.directory / "other"
    second = stage.scene.disk("second")
    async with running(*stage.steady):
        for load in stage.other:
            load.start()
        for load in stage.other:
            await load.more()
        for load in stage.other:
            await load.abandon()
        await stage.reconfigure(device("other", 2, path="second"))
        for load in stage.other:
            load.check_file()
        before = first.read_bytes()
        remote = stage.other[0].remote
        await remote.write(0, b"swapped!" * (SECTOR_BYTES // 8))
        assert first.read_bytes() == before
        assert second.read_bytes()[:8] == b"swapped!"


async def test_read_only_comes_and_goes(stage: Stage) -> None:
    remote = stage.other[0].remote
    async with running(*stage.steady):
        await remote.write(0, bytes(SECTOR_BYTES))
        await stage.reconfigure(device("other", 2, read_only=True))
        with pytest.raises(AtaCommandError) as refusal:
            await remote.write(0, bytes(SECTOR_BYTES))
        assert refusal.value.error == AtaError.ABRT
        await remote.read(0, 1)
        await stage.reconfigure(device("other", 2))
        await remote.write(0, bytes(SECTOR_BYTES))


async def test_a_removed_device_keeps_what_it_acknowledged(stage: Stage) -> None:
    async with running(*stage.steady):
        for load in stage.other:
            load.start()
        for load in stage.other:
            await load.more()
        await stage.reconfigure()
        assert "reload refused: " in stage.daemon.log_text()
        await stage.ask("reload", "--force")
        found = (stage.scene.directory / "other").read_bytes()
        for load in stage.other:
            load.check_file()
            await load.abandon()
            await hears_nothing(load.remote)
        await stage.reconfigure(device("other", 2))
        for load in stage.other:
            await load.remote.ping(DEADLINE_S)
    # What was sent while nobody served it has not been executed later.
    assert (stage.scene.directory / "other").read_bytes() == found


async def test_another_address_is_another_device(stage: Stage) -> None:
    async with running(*stage.steady):
        await stage.reconfigure(device("other", 9))
        await hears_nothing(stage.other[0].remote)
        async with stage.scene.initiator() as initiator:
            moved = await initiator.open(0, 9)
            assert await moved.read(0, 1) == bytes(SECTOR_BYTES)


async def test_a_host_is_shut_out_and_let_in_again(stage: Stage) -> None:
    inside, outside = (load.remote for load in stage.other)
    mac = stage.scene.host.mac("near1").hex(":")
    async with running(*stage.steady):
        await outside.read(0, 1)
        await stage.reconfigure(device("other", 2, deny=mac))
        await inside.read(0, 1)
        await hears_nothing(outside)
        await stage.reconfigure(device("other", 2, accept="nobody"), "[acls]\nnobody =\n")
        await hears_nothing(inside)
        await stage.reconfigure(device("other", 2))
        await inside.read(0, 1)
        await outside.read(0, 1)


async def test_an_interface_is_opened_again(scene: Scene) -> None:
    """What was on its way is lost, as on any network, and comes again."""
    disk = scene.disk()
    with scene.serving(device()) as daemon:
        async with scene.initiator(timing=USUAL) as initiator:
            load = Load(await initiator.open(0, 1), disk)
            async with running(load):
                for size_kib in (512, 256):
                    await asyncio.to_thread(
                        daemon.reconfigure,
                        device(),
                        f"[far0]\nreceive-buffer-size = {size_kib}\n",
                    )
                    assert "receive-buffer-size" in daemon.log_text()
                    await load.more()


@pytest.mark.one_engine
def test_reload_tells_what_it_does(scene: Scene) -> None:
    scene.disk("other")
    with scene.serving(device("other", 2)) as daemon:
        daemon.configure(device("other", 2, queue_length=9), "[defaults]\npid-file = pid2\n")
        dry = daemon.ask("reload", "--dry-run")
        assert not dry["applied"]
        assert daemon.ask("show", "other")["devices"][0]["queue_length"] == 64
        real = daemon.ask("reload")
        assert real["applied"]
        assert real["changes"] == dry["changes"]
        text = "\n".join(real["changes"])
        assert "queue-length 64 → 9" in text
        assert "needs a restart: pid-file" in text
        assert daemon.ask("show", "other")["devices"][0]["queue_length"] == 9
        assert not (scene.directory / "pid2").exists()
        daemon.config.unlink()
        missing = daemon.ctl("--socket", str(scene.directory / "ctl"), "reload")
        assert missing.status == 1
        assert "No such file" in missing.stderr
        assert daemon.running.poll() is None


async def test_a_device_that_takes_long_does_not_hold_up_the_others(scene: Scene) -> None:
    """The file of the one does not answer: the reload goes on, and a second one has the say. Its
    requests wait for a while, and are rejected then."""
    disk = scene.disk()
    for name in ("later", "last"):
        scene.disk(name)
    with scene.slow_disk() as slow:
        sections = {"path": "slow/disk", "direct_io": False}
        with scene.serving(device(), device("slow", 2, **sections)) as daemon:
            async with scene.initiator() as initiator, scene.initiator(timing=USUAL) as eager:
                load = Load(await initiator.open(0, 1), disk)
                remote = await initiator.open(0, 2)
                asking = await eager.open(0, 2)
                slow.hold()
                stuck = asyncio.create_task(remote.write(0, bytes(SECTOR_BYTES)))
                await asyncio.to_thread(
                    wait_until,
                    lambda: daemon.counters("slow")["in_flight"] == 1,
                    DEADLINE_S,
                    "a write that hangs",
                )
                async with running(load):
                    for path in ("later", "last"):
                        daemon.configure(device(), device("slow", 2, path=path))
                        daemon.running.signal(signal.SIGHUP)
                        await asyncio.to_thread(daemon.wait_for_log, f"→ {scene.directory}/{path}")
                        await asyncio.to_thread(daemon.wait_for_state, "slow", "draining")
                        with pytest.raises(RefusedError) as refusal:
                            await asking.read(0, 1)
                        assert refusal.value.code == Error.UNAVAILABLE
                    assert "slow: not reopened within 5 s" in daemon.log_text()
                    row = daemon.listed("slow")
                    assert (row["state"], row["reason"]) == ("draining", "finishing requests")
                    slow.release()
                    await stuck
                    await asyncio.to_thread(daemon.wait_for_state, "slow", "serving")
                    assert (await remote.identify()).size_sectors == DISK_SECTORS
                    shown = daemon.ask("show", "slow")["devices"][0]
                    assert shown["path"] == str(scene.directory / "last")
                    assert "waiting:" not in daemon.log_text()
                assert load.remote.counters.resent == 0


# --- what a reload forbids ---------------------------------------------------------------------

HELD: dict[str, object] = {"path": "slow/disk", "direct_io": False, "queue_length": 2}
THIRD = 8
NOBODY = "[acls]\nnobody =\n"
FORBIDS = {
    "write": {"write": "nobody"},
    "accept": {"accept": "nobody"},
    "interfaces": {"interfaces": "other*"},
}


def hang_three_writes(daemon: Daemon, wire: Wire) -> None:
    """Two have begun, the third one waits, to sector THIRD."""
    for tag, sector in enumerate((0, 16, THIRD), start=1):
        wire.send(wire.write(sector, bytes([tag]) * SECTOR_BYTES, tag))
    wait_until(lambda: daemon.counters()["waiting"] == 1, DEADLINE_S, "a write that waits")


def begin_reload(daemon: Daemon, *sections: str) -> None:
    """SIGHUP, and wait until the new configuration is in force."""
    daemon.configure(*sections)
    daemon.running.signal(signal.SIGHUP)
    daemon.wait_for_log("reload: change disk")
    daemon.ask("version")  # whatever follows without waiting has followed by now


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("forbids", list(FORBIDS))
def test_a_reload_waits_for_what_it_forbids(scene: Scene, engine: str, forbids: str) -> None:
    """Or else it would be done later: it is admitted, and waits behind a write that hangs."""
    defaults = f"[defaults]\nengine = {engine}\n"
    with (
        scene.slow_disk() as slow,
        scene.serving(defaults, device(**HELD)) as daemon,
        scene.wire() as wire,
    ):
        slow.hold()
        hang_three_writes(daemon, wire)
        begin_reload(daemon, defaults, device(**HELD, **FORBIDS[forbids]), NOBODY)
        assert "reload: done" not in daemon.log_text()
        slow.release()
        daemon.wait_for_log("reload: done")
        counters = daemon.counters()
        assert (counters["in_flight"], counters["waiting"]) == (0, 0)
        assert slow.path.read_bytes()[THIRD * SECTOR_BYTES] == 3


@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.parametrize("forbids", [{"write": "nobody"}, {"read_only": True}])
def test_what_a_reload_forbids_is_not_done_later(
    scene: Scene, engine: str, forbids: dict[str, object]
) -> None:
    """Where the store takes longer than the reload waits, what has not begun never does."""
    defaults = f"[defaults]\nengine = {engine}\n"
    with (
        scene.slow_disk() as slow,
        scene.serving(defaults, device(**HELD)) as daemon,
        scene.wire() as wire,
    ):
        slow.hold()
        hang_three_writes(daemon, wire)
        daemon.reconfigure(defaults, device(**HELD, **forbids), NOBODY)
        assert "reload: still finishing requests: 1 device" in daemon.log_text()
        assert daemon.counters()["waiting"] == 0
        slow.release()
        daemon.wait_for_state("disk", "serving")
        wire.send(wire.read(THIRD, 1, 4))  # comes after the write, were that still to come
        assert wire.wait_for_reply(4).frame[36] == 0


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_reload_waits_for_a_change_that_is_being_stored(scene: Scene, engine: str) -> None:
    """It was permitted when it came, and takes effect before the reload is done."""
    scene.disk()
    defaults = f"[defaults]\nengine = {engine}\nstate-directory = slow/state\n"
    with scene.slow_disk() as slow:
        (slow.path.parent / "state").mkdir()
        with scene.serving(defaults, device()) as daemon, scene.wire() as wire:
            slow.hold()
            wire.send(wire.request(Command.CONFIG, pack_config(Ccmd.SET, b"text"), 1))
            wire.send(wire.request(Command.CONFIG, pack_config(Ccmd.READ), 2))
            wire.wait_for_reply(2)
            begin_reload(daemon, defaults, device(change="nobody"), NOBODY)
            assert "reload: done" not in daemon.log_text()
            slow.release()
            daemon.wait_for_log("reload: done")
            assert daemon.ask("show-config")["devices"]["disk"] == b"text".hex()
            wire.wait_for_reply(1)
