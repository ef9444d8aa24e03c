"""A device's life: opening, changing, reopening and closing, whatever comes in between."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ggaoe.backend.base import Backend
from ggaoe.backend.faults import Fail, FaultBackend, Hold, Rule
from ggaoe.backend.file import FileSpec, open_file
from ggaoe.backend.memory import MemoryBackend
from ggaoe.config import DeviceConfig
from ggaoe.engine.base import Device, Hooks
from ggaoe.engine.limit import Bucket
from ggaoe.engine.sightings import Fate
from ggaoe.errors import BackendError, StateError
from ggaoe.net.link import LinkSettings
from ggaoe.proto.ata import Op
from ggaoe.proto.target import TargetState
from ggaoe.sched.throttle import NO_LIMITS, Limits, Rate
from ggaoe.server import export as export_module
from ggaoe.server.export import Export, State
from ggaoe.server.state import StateStore
from ggaoe.testing.engine import PortableOnMemory
from helpers.configs import device_config
from unit.engine.rig import SECTOR, Host, interface, sectors, until
from unit.proto.host import (
    IDENTIFY,
    MAC_A,
    MAC_B,
    SHELF,
    SLOT,
    config_argument,
    mask_argument,
    reserve_argument,
)

SIZE_BYTES = 1 << 20


class Opener:
    """Stands in for `open_file`: stores in memory, of which every one is known."""

    def __init__(self) -> None:
        self.opened: list[FaultBackend] = []
        self.paths: list[str] = []
        self.closed: list[Backend] = []
        self.refusal: Exception | None = None

    async def __call__(self, spec: FileSpec) -> Backend:
        await asyncio.sleep(0)
        if self.refusal is not None:
            raise self.refusal
        backend = FaultBackend(MemoryBackend(SIZE_BYTES))
        self.opened.append(backend)
        self.paths.append(str(spec.path))

        async def close() -> None:
            await asyncio.sleep(0)
            self.closed.append(backend)

        backend.close = close  # type: ignore[method-assign]
        return backend

    @property
    def store(self) -> FaultBackend:
        """The store that was opened last."""
        return self.opened[-1]


class World:
    """One engine with one port, and exports that it has."""

    def __init__(self, directory: Path) -> None:
        self.exports: dict[str, Export] = {}
        self.announced: list[Device] = []
        self.states = StateStore(directory)
        self.engine = PortableOnMemory(
            Hooks(
                changed=lambda device, *change: self.exports[device.name].change(*change),
                conflict=lambda *_: None,
            )
        )
        self.port = self.engine.open_link(interface(), LinkSettings())

    def export(self, config: DeviceConfig) -> Export:
        made = Export(self.engine, self.states, config, self.announced.append)
        self.exports[config.name] = made
        self.engine.set_ports(made.device, [self.port])
        return made

    async def serving(self, config: DeviceConfig) -> tuple[Export, Host]:
        made = self.export(config)
        await until(lambda: made.state is State.SERVING)
        return made, Host(self.port, MAC_A)

    async def quiet(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(export_module, "RETRY_S_MIN", 0.001)
    monkeypatch.setattr(export_module, "SIZE_POLL_S", 0.001)
    world = World(tmp_path)
    yield world
    for made in world.exports.values():
        await made.close(None)
    world.engine.close()


@pytest.fixture
def opener(monkeypatch: pytest.MonkeyPatch) -> Opener:
    opener = Opener()
    monkeypatch.setattr(export_module, "open_file", opener)
    return opener


def disk_config(path: str = "/disk", **options: object) -> DeviceConfig:
    fields = {"queue_length": 16, "write_cache": True, **options}
    return device_config("disk", path, (SHELF, SLOT), **fields)


async def hold_a_write(export: Export, host: Host) -> int:
    """A write that the store does not finish; its tag."""
    backend = export.backend
    assert isinstance(backend, FaultBackend)
    backend.plans = [Rule(Hold(), (Op.WRITE,))]
    tag = host.write(0, "held")
    await until(lambda: backend.held)
    return tag


async def test_waits_for_its_backing_and_says_why(world: World, opener: Opener) -> None:
    opener.refusal = BackendError("/disk: No such file or directory: check the path")
    made = world.export(disk_config())
    await made.first_attempt.wait()
    assert (made.state, made.reason) == (State.WAITING, str(opener.refusal))
    host = Host(world.port, MAC_A)
    assert (await host.answer(host.read(0))).error == 3
    opener.refusal = None
    await until(lambda: made.state is State.SERVING)
    await host.good(host.read(0))
    assert made.reason is None


async def test_requests_wait_for_a_reopening(world: World, opener: Opener) -> None:
    made, host = await world.serving(disk_config(queue_length=2))
    held = await hold_a_write(made, host)
    old = opener.store
    behind = host.write(0, "behind")
    await until(lambda: made.device.waiting)
    reopening = asyncio.create_task(made.reopen(disk_config("/new")))
    await until(lambda: made.state is State.DRAINING)
    page = (await host.answer(host.ata(IDENTIFY))).data
    assert int.from_bytes(page[200:208], "little") == SIZE_BYTES // SECTOR
    assert (await host.answer(host.send(1, config_argument(0)))).error is None
    late = [host.read(0), host.flush()]
    await until(lambda: made.device.waiting == 3)
    old.release()
    await reopening
    await until(lambda: made.state is State.SERVING)
    await host.good(held, behind, *late)
    assert opener.paths == ["/disk", "/new"]
    assert opener.closed == [old]
    assert isinstance(old.inner, MemoryBackend)
    assert old.inner.data[:SECTOR] == sectors("held")
    assert host.answers[late[0]].data == sectors("behind")
    assert not made.device.counters.drops


@pytest.mark.parametrize("fails", [False, True])
async def test_requests_wait_no_longer_for_a_store_that_is_away(
    world: World, opener: Opener, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """It cannot be opened, or takes longer than any reopening should."""
    made, host = await world.serving(disk_config(queue_length=2))
    held = await hold_a_write(made, host)
    dropped = host.write(0, "behind")
    await until(lambda: made.device.waiting)
    if fails:
        opener.refusal = BackendError("/new: No such file or directory: check the path")
    else:
        monkeypatch.setattr(export_module, "REOPENING_S_MAX", 0)
    reopening = asyncio.create_task(made.reopen(disk_config("/new")))
    await until(lambda: made.state is State.DRAINING)
    if fails:
        opener.store.release()
        await host.good(held)
    await until(lambda: not made.device.waiting)
    assert (await host.answer(host.read(0))).error == 3
    opener.refusal = None
    opener.store.release()
    await reopening
    await until(lambda: made.state is State.SERVING)
    assert (await host.answer(host.read(0))).data == sectors("")
    await host.good(held)
    assert dropped not in host.answers
    assert made.device.counters.drops == {"not_serving": 1}


async def test_what_waits_is_not_written_where_reopening_forbids_it(
    world: World, opener: Opener
) -> None:
    made, host = await world.serving(disk_config(queue_length=2))
    held = await hold_a_write(made, host)
    dropped = host.write(0, "behind")
    await until(lambda: made.device.waiting)
    reopening = asyncio.create_task(made.reopen(disk_config("/new", read_only=True)))
    await until(lambda: made.state is State.DRAINING)
    assert (await host.answer(host.write(0, "late"))).registers == (0x41, 0x04)
    opener.store.release()
    await reopening
    await until(lambda: made.state is State.SERVING)
    await host.good(held)
    assert (await host.answer(host.read(0))).data == sectors("")
    assert dropped not in host.answers


async def test_last_of_several_reopenings_counts(world: World, opener: Opener) -> None:
    made, host = await world.serving(disk_config())
    await hold_a_write(made, host)
    first = asyncio.create_task(made.reopen(disk_config("/first")))
    await world.quiet()
    second = asyncio.create_task(made.reopen(disk_config("/second", queue_length=8)))
    await world.quiet()
    opener.store.release()
    await asyncio.gather(first, second)
    await until(lambda: made.state is State.SERVING)
    await world.quiet()
    assert opener.paths == ["/disk", "/second"]
    assert made.config == disk_config("/second", queue_length=8)
    assert made.device.policy.queue_length == 8


async def test_options_changed_while_it_drains_are_kept(world: World, opener: Opener) -> None:
    made, host = await world.serving(disk_config())
    await hold_a_write(made, host)
    reopening = asyncio.create_task(made.reopen(disk_config("/new")))
    await world.quiet()
    made.apply(disk_config("/new", queue_length=8))
    opener.store.release()
    await reopening
    await until(lambda: made.state is State.SERVING)
    assert made.config.queue_length == made.device.policy.queue_length == 8


@pytest.mark.parametrize("reopens", [False, True])
async def test_who_stops_it_is_told_when_the_store_may_go(
    world: World, opener: Opener, reopens: bool
) -> None:
    made, host = await world.serving(disk_config())
    tag = await hold_a_write(made, host)
    if reopens:  # it has got the store, and closes it
        reopening = asyncio.create_task(made.reopen(disk_config("/new")))
        await world.quiet()
    opener.store.plans.append(Rule(Hold(), (Op.FLUSH,), 0, None, None))
    closing = asyncio.create_task(made.close(None, flush=True))
    await world.quiet()
    assert made.unfinished is not None
    assert "has not finished 1 request: do not take it away" in made.unfinished
    opener.store.release()
    await until(lambda: [held.op for held in opener.store.held] == [Op.FLUSH])
    assert tag in host.answers
    assert not opener.closed
    assert "has not finished all of its data" in made.unfinished
    opener.store.release()
    await closing
    assert made.closed.is_set()
    assert made.unfinished is None
    assert opener.closed == opener.opened
    if reopens:
        await reopening


async def test_who_stops_it_is_told_that_its_data_is_not_safe(
    world: World, opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = await world.serving(disk_config())
    opener.store.plans.append(Rule(Fail(errno.EIO), (Op.FLUSH,), 0, None, None))
    await made.close(None, flush=True)
    assert made.unfinished == (
        "what was written last may be lost: flush failed: Input/output error"
    )
    assert made.unfinished in caplog.text
    assert opener.closed == opener.opened


@pytest.mark.parametrize("hangs", [False, True])
async def test_closing_ends_a_reopening(world: World, opener: Opener, hangs: bool) -> None:
    made, host = await world.serving(disk_config())
    await hold_a_write(made, host)
    reopening = asyncio.create_task(made.reopen(disk_config("/new")))
    await world.quiet()
    closing = asyncio.create_task(made.close(0.001 if hangs else None))
    if not hangs:
        await world.quiet()
        opener.store.release()
    await asyncio.gather(reopening, closing)
    await world.quiet()
    assert opener.paths == ["/disk"]
    assert opener.closed == opener.opened
    assert not world.engine.devices
    opener.store.release()
    await world.quiet()


async def test_lock_is_free_after_closing_at_any_moment_of_opening(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE_BYTES))
    spec = FileSpec(path=path, name="disk", direct_io=False)
    for turns in range(12):
        made = world.export(disk_config(str(path)))
        for _ in range(turns):
            await asyncio.sleep(0)
        await made.close(None)

        async def is_free() -> bool:
            try:
                backend = await open_file(spec)
            except BackendError:
                return False
            await backend.close()
            return True

        async with asyncio.timeout(30):
            while not await is_free():  # noqa: ASYNC110 - the loop itself is to turn
                await asyncio.sleep(0)


async def test_limits_are_put_in_force_and_fewer_buffers_announced(
    world: World, opener: Opener
) -> None:
    made, _ = await world.serving(disk_config())
    assert made.device.policy.limits == NO_LIMITS
    world.announced.clear()
    limited = disk_config(iops_limit=20, initiator_bandwidth_limit_bytes_per_s=1 << 20)
    made.apply(limited)
    limits = Limits(iops=Rate(20, 2), initiator_bandwidth=Rate(1 << 20, (1 << 20) // 10))
    assert made.device.policy.limits == limits
    assert made.device.target.settings.buffer_count == 2
    assert world.announced == [made.device]
    made.apply(replace(limited, iops_burst=7))
    assert made.device.policy.limits == limits._replace(iops=Rate(20, 7))
    assert world.announced == [made.device]


async def test_size_changes_are_noticed_and_announced(world: World, opener: Opener) -> None:
    made, host = await world.serving(disk_config())
    memory = opener.store.inner
    assert isinstance(memory, MemoryBackend)
    memory.data.extend(bytes(SIZE_BYTES))
    world.announced.clear()
    await until(lambda: world.announced)
    assert made.device.target.size_sectors == 2 * SIZE_BYTES // SECTOR
    page = (await host.answer(host.ata(IDENTIFY))).data
    assert int.from_bytes(page[200:208], "little") == 2 * SIZE_BYTES // SECTOR
    await host.good(host.read(SIZE_BYTES // SECTOR))
    del memory.data[SECTOR:]
    await until(lambda: made.device.target.size_sectors == 1)
    assert (await host.answer(host.read(1))).registers == (0x41, 0x10)
    await host.good(host.read(0))


async def test_size_that_cannot_be_read_changes_nothing(
    world: World, opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    made, host = await world.serving(disk_config())

    async def fail() -> int:
        raise OSError(errno.EIO, "Input/output error")

    opener.store.refresh_size_bytes = fail  # type: ignore[method-assign]
    await until(lambda: caplog.records)
    assert caplog.records[0].getMessage() == "disk: its size cannot be read: Input/output error"
    await host.good(host.read(0))
    assert made.state is State.SERVING


# --- changes by hosts ------------------------------------------------------------------------


async def test_changes_are_stored_before_they_are_answered(world: World, opener: Opener) -> None:
    made, host = await world.serving(disk_config())
    tags = [
        host.send(1, config_argument(3, b"mine")),
        host.send(2, mask_argument(1, (1, MAC_A))),
        host.send(3, reserve_argument(1, MAC_A)),
    ]
    for tag in tags:
        assert (await host.answer(tag)).error is None
    assert list(host.answers) == tags
    expected = TargetState(config_string=b"mine", mask=(MAC_A,), reserved=(MAC_A,))
    assert await world.states.load("disk") == expected == made.device.target.state


async def test_second_of_two_contenders_is_refused(world: World, opener: Opener) -> None:
    """Both were admissible when they arrived."""
    _, host = await world.serving(disk_config())
    other = Host(world.port, MAC_B)
    mine = host.send(1, config_argument(3, b"mine"))
    theirs = other.send(1, config_argument(3, b"theirs"))
    assert (await host.answer(mine)).error is None
    refused = await other.answer(theirs)
    assert (refused.error, refused.config_string) == (4, b"mine")


async def test_reservation_is_answered_when_others_have_finished(
    world: World, opener: Opener
) -> None:
    made, host = await world.serving(disk_config())
    held = await hold_a_write(made, host)
    owner = Host(world.port, MAC_B)
    tag = owner.send(3, reserve_argument(1, MAC_B))
    await until(lambda: made.device.target.state.reserved)
    assert (await host.answer(host.write(1, "late"))).error == 6
    await world.quiet()
    assert tag not in owner.answers
    opener.store.release()
    await host.good(held)
    assert (await owner.answer(tag)).reserved == [MAC_B]


async def test_reservation_does_not_wait_for_what_limits_delay(
    world: World, opener: Opener
) -> None:
    made, host = await world.serving(disk_config(bandwidth_limit_bytes_per_s=1))
    await host.good(host.write(0, "done"))
    late = [host.write(number, "late") for number in range(1, 4)]
    await until(lambda: made.device.waiting == len(late))
    owner = Host(world.port, MAC_B)
    tag = owner.send(3, reserve_argument(1, MAC_B))
    assert (await owner.answer(tag)).reserved == [MAC_B]
    made.apply(disk_config())
    assert (await host.answer(host.write(4, "late"))).error == 6
    assert (await owner.answer(owner.read(0, 2))).data == sectors("done", "")
    await world.quiet()
    assert not host.answers.keys() & set(late)


async def test_reservation_is_not_answered_where_a_write_may_still_land(
    world: World, opener: Opener
) -> None:
    made, host = await world.serving(disk_config())
    await hold_a_write(made, host)
    owner = Host(world.port, MAC_B)
    tag = owner.send(3, reserve_argument(1, MAC_B))
    await until(lambda: made.device.target.state.reserved)
    await made.close(0.001)
    await world.quiet()
    assert tag not in owner.answers
    (sighting,) = made.device.sightings.of(MAC_B)
    assert (sighting.fate, sighting.cause) == (Fate.DROPPED, "not_serving")


async def test_change_that_cannot_be_stored_is_not_in_force(
    world: World, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, host = await world.serving(disk_config())

    async def fail(*_: object) -> None:
        raise StateError("state file: No space left on device")

    monkeypatch.setattr(world.states, "save", fail)
    assert (await host.answer(host.send(1, config_argument(3, b"mine")))).error == 3
    assert made.device.target.state == TargetState()


async def test_changes_that_wait_are_bounded(
    world: World, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "CHANGES_WAITING_MAX", 3)
    made, host = await world.serving(disk_config())
    tags = [host.send(1, config_argument(4, b"%d" % number)) for number in range(5)]
    for tag in tags[:3]:
        assert (await host.answer(tag)).error is None
    assert made.device.counters.drops == {"changes_waiting": 2}
    assert made.device.target.state.config_string == b"2"


async def test_changes_have_a_rate_of_all_devices_together(world: World, opener: Opener) -> None:
    world.states._changes = Bucket(rate_per_s=0, burst=2)
    made, host = await world.serving(disk_config())
    for number in (1, 2):
        reply = await host.answer(host.send(1, config_argument(4, b"%d" % number)))
        assert reply.error is None
    # What changes nothing costs no write, and is always answered.
    assert (await host.answer(host.send(1, config_argument(4, b"2")))).error is None
    host.send(1, config_argument(4, b"3"))
    await until(lambda: made.device.counters.drops)
    assert made.device.counters.drops == {"rate_limited": 1}
    assert made.device.target.state.config_string == b"2"
    await made.set_state(config_string=b"the administrator's")
    assert (await world.states.load("disk")).config_string == b"the administrator's"


async def test_changes_under_way_are_finished_at_the_end(world: World, opener: Opener) -> None:
    made, host = await world.serving(disk_config())
    tag = host.send(1, config_argument(3, b"mine"))
    await until(lambda: made._changes)
    await made.close(None)
    assert (await host.answer(tag)).error is None
    assert (await world.states.load("disk")).config_string == b"mine"
