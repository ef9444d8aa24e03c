"""An engine between links and disks in memory, and hosts that speak to it in frames.

Frames are written out by hand (`unit.proto.host`). Nothing sleeps: `until` polls the loop with a
deadline, and `Rig.quiet` lets it turn often enough for everything that can happen to have happened.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable

from ggaoe.backend.base import Transfer
from ggaoe.backend.faults import Fault, FaultBackend, Hold, Rule
from ggaoe.backend.memory import MemoryBackend
from ggaoe.engine.base import SYSTEM_CLOCK, Clock, Device, Engine, Hooks, Port
from ggaoe.net.link import Interface, LinkSettings
from ggaoe.proto.ata import Op
from ggaoe.proto.frame import Header
from ggaoe.proto.target import Settings, Target
from ggaoe.sched.queue import Policy
from ggaoe.testing.engine import link_of
from ggaoe.testing.link import MemoryLink
from unit.proto.host import FLUSH, READ, SHELF, SLOT, VERIFY, WRITE, Answer, ata_argument, request

SECTOR = 512
SIZE_SECTORS = 4096
DEADLINE_S = 30.0
BATCH_FRAMES = 500
QUIET_TURNS = 20
"""A frame needs one turn to be read, and every transfer that follows from it two."""

_tags = itertools.count(0x1000)


def mac_of(index: int) -> bytes:
    """The MAC of interface `index`."""
    return bytes([2, 0, 0, 0, 0xFE, index])


def interface(index: int = 1, mtu_bytes: int = 1500) -> Interface:
    return Interface(index, f"eth{index}", mac_of(index), mtu_bytes, is_up=True)


def sectors(*contents: str) -> bytes:
    """One sector for each of `contents`, filled with it."""
    return b"".join(
        (content.encode() * SECTOR)[:SECTOR] if content else bytes(SECTOR) for content in contents
    )


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition` holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the loop itself is to turn
            await asyncio.sleep(0)


class Disk:
    """A device and its store; `seen` is what the store was given, as (op, sector, sectors)."""

    def __init__(self, device: Device, size_sectors: int, granule_bytes: int) -> None:
        self.device = device
        self.memory = MemoryBackend(size_sectors * SECTOR)
        self.memory.granule_bytes = granule_bytes
        self.faults = FaultBackend(self.memory, self._note)
        self.seen: list[tuple[Op, int, int]] = []

    def _note(self, transfer: Transfer) -> None:
        place = transfer.offset_bytes // SECTOR, transfer.length_bytes // SECTOR
        self.seen.append((transfer.op, *place))

    def of(self, op: Op) -> list[tuple[int, int]]:
        """(sector, sectors) of the transfers of `op` that the store was given."""
        return [(sector, count) for seen, sector, count in self.seen if seen is op]

    def strike(self, fault: Fault, *ops: Op, at: int = 0, sectors: int | None = None,
               times: int | None = None) -> None:  # fmt: skip
        """From now on `fault` for each transfer of `ops` that touches these sectors."""
        end_bytes = None if sectors is None else (at + sectors) * SECTOR
        self.faults.plans.append(Rule(fault, ops or tuple(Op), at * SECTOR, end_bytes, times))

    def hold(self, *ops: Op, times: int | None = None) -> None:
        """From now on transfers of `ops` wait for `release`."""
        self.strike(Hold(), *ops, times=times)

    def release(self, count: int | None = None) -> None:
        """Let held transfers go on, and hold no more where all are released."""
        if count is None:
            self.heal()
        self.faults.release(count)

    def heal(self) -> None:
        """No fault from now on."""
        del self.faults.plans[1:]

    def content(self, sector: int, count: int = 1) -> bytes:
        return bytes(self.memory.data[sector * SECTOR : (sector + count) * SECTOR])

    def fill(self, sector: int, data: bytes) -> None:
        self.memory.data[sector * SECTOR : sector * SECTOR + len(data)] = data


class Host:
    """An initiator behind one port; each method sends a frame and returns its tag."""

    def __init__(self, port: Port, mac: bytes, slot: int = SLOT) -> None:
        self.port = port
        self.link = link_of(port)
        self.mac = mac
        self.slot = slot
        self._answers: dict[int, Answer] = {}
        self._frames_known = 0

    def send(
        self, command: int, argument: bytes = b"", *, tag: int | None = None, at: int | None = None,
        **fields: int,
    ) -> int:  # fmt: skip
        """`at`: the arrival time stamp; `fields` as `unit.proto.host.request` has them."""
        tag = next(_tags) if tag is None else tag
        fields = {"slot": self.slot, **fields}
        self.link.deliver(request(command, argument, source=self.mac, tag=tag, **fields), at)
        return tag

    def ata(self, opcode: int, sector: int = 0, count: int = 1, data: bytes = b"",
            **how: int) -> int:  # fmt: skip
        return self.send(0, ata_argument(opcode, sector, count) + data, **how)

    def read(self, sector: int, count: int = 1, **how: int) -> int:
        return self.ata(READ, sector, count, **how)

    async def read_many(self, wanted: Iterable[int]) -> list[int]:
        """A read for each of many sectors, which are all received before one is too old for it."""
        received, tags = self.link.counters.rx_frames, []
        for sector in wanted:
            tags.append(self.read(sector))
            if len(tags) % BATCH_FRAMES == 0:
                await until(lambda: self.link.counters.rx_frames == received + len(tags))
        await until(lambda: self.link.counters.rx_frames == received + len(tags))
        return tags

    def verify(self, sector: int, count: int = 1, **how: int) -> int:
        return self.ata(VERIFY, sector, count, **how)

    def write(self, sector: int, data: bytes | str, **how: int) -> int:
        """`data` as bytes, or the content of one sector."""
        content = sectors(data) if isinstance(data, str) else data
        return self.ata(WRITE, sector, len(content) // SECTOR, content, **how)

    def flush(self, **how: int) -> int:
        return self.ata(FLUSH, 0, 0, **how)

    @property
    def answers(self) -> dict[int, Answer]:
        """What this host has been sent, by tag; the newest of each."""
        new = [Answer(frame) for frame in self.link.sent[self._frames_known :]]
        self._frames_known += len(new)
        self._answers |= {answer.tag: answer for answer in new if answer.destination == self.mac}
        return self._answers

    async def answer(self, tag: int) -> Answer:
        await until(lambda: tag in self.answers)
        return self.answers[tag]

    async def good(self, *tags: int) -> None:
        """Wait for the answers to `tags`: all are successes."""
        for tag in tags:
            answer = await self.answer(tag)
            assert (answer.error, answer.registers) == (None, (0x40, 0)), hex(tag)


class Rig:
    """One engine; `changes`, `conflicts`, `answered` and `wished` are what its hooks were told."""

    def __init__(self, engine_class: type[Engine], clock: Clock = SYSTEM_CLOCK) -> None:
        self.changes: list[tuple[Device, Port, Header, bytes]] = []
        self.conflicts: list[tuple[Port, Header]] = []
        self.answered: list[tuple[Port, Header]] = []
        self.wished: list[tuple[Port, Header]] = []
        self.disks: list[Disk] = []
        self.engine = engine_class(
            Hooks(
                changed=lambda *change: self.changes.append(change),
                conflict=lambda *conflict: self.conflicts.append(conflict),
                answered=lambda *answer: self.answered.append(answer),
                wished=lambda *wish: self.wished.append(wish),
            ),
            clock,
        )

    def port(self, index: int = 1, mtu_bytes: int = 1500) -> Port:
        return self.engine.open_link(interface(index, mtu_bytes), LinkSettings())

    def disk(
        self,
        *ports: Port,
        name: str = "disk",
        policy: Policy | None = None,
        slot: int = SLOT,
        size_sectors: int = SIZE_SECTORS,
        granule_bytes: int = SECTOR,
        write_cache: bool = True,
        trace_io: bool = False,
        **settings: object,
    ) -> Disk:
        """A device that is served by `ports`; with a write cache unless said otherwise."""
        target = Target(
            Settings(SHELF, slot, name, "disk", "1", 64, write_cache=write_cache, **settings)  # type: ignore[arg-type]
        )
        device = self.engine.add_device(name, target, policy or Policy(), trace_io=trace_io)
        disk = Disk(device, size_sectors, granule_bytes)
        self.disks.append(disk)
        self.engine.set_ports(device, ports)
        self.attach(disk)
        return disk

    def attach(self, disk: Disk) -> None:
        disk.device.target.size_sectors = disk.faults.size_bytes // SECTOR
        self.engine.attach(disk.device, disk.faults)

    async def quiet(self) -> None:
        """Everything that can happen without outside help has happened."""
        for _ in range(QUIET_TURNS):
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Finish everything, and nobody may be left in flight."""
        for link in self.links():
            link.room_frames = None
        for disk in self.disks:
            disk.release()
            await self.engine.remove_device(disk.device, DEADLINE_S)
            assert disk.device.in_flight == disk.device.waiting == 0
            for _, initiator in disk.device.initiators.items():
                assert initiator.in_flight == 0
        await self.quiet()
        self.engine.close()
        assert not self.engine.ports
        assert not self.engine.devices

    def links(self) -> Iterable[MemoryLink]:
        return [link_of(port) for port in self.engine.ports.values()]
