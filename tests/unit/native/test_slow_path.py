"""What the core leaves to Python keeps nobody waiting: while Python does nothing at all, requests
to every device start, whatever has come before them."""

from __future__ import annotations

import os
import random
from operator import lt
from pathlib import Path

import pytest

from ggaoe.proto.frame import Command
from ggaoe.sched.throttle import Meter, Rate
from unit.proto.host import (
    ANY_SHELF,
    ANY_SLOT,
    MAC_A,
    MAC_B,
    MAC_TARGET,
    READ_EXT,
    SHELF,
    SLOT,
    VERIFY_EXT,
    ata_argument,
    request,
)
from unit.sched.making import SECTOR

core = pytest.importorskip("ggaoe.engine.native.core", reason="the native engine is not built")

SECTORS = 8
DEVICE_SECTORS = 4096
NOW_NS, WALL_NS = 5_000_000_000, 10**18
STALE_AGE_NS = 60_000_000_000
LISTS = 8
VERIFIES = 60
PIECES = -(-255 // SECTORS)
"""Of a VERIFY of 255 sectors."""
ANY_NUMBER = Rate()
WILDCARDS = {"plain": (SHELF, SLOT), "slot": (SHELF, ANY_SLOT), "both": (ANY_SHELF, ANY_SLOT)}


class Bench:
    """A core with one link and two devices, SLOT and SLOT + 1, whose transfers never end."""

    def __init__(self, wildcards: Rate = ANY_NUMBER, refused: Rate = ANY_NUMBER) -> None:
        self.core = core.Core(STALE_AGE_NS, False)
        self.link = self.core.open_link(
            -1, 1, MAC_TARGET, SECTORS, SECTORS * SECTOR, None, wildcards, refused
        )
        self.devices = [core.CoreDevice(self.core) for _ in range(2)]
        for slot, device in enumerate(self.devices, start=SLOT):
            device.admit(SHELF, slot, [((), True)] * LISTS, False, True, True)
            device.limit(1 << 15, 0, 0)
            device.resize(DEVICE_SECTORS * SECTOR)
            device.attach_to_python(SECTOR, 0)
        self.link.route(
            [((SHELF, slot), device) for slot, device in enumerate(self.devices, start=SLOT)]
        )
        self.tag = 0

    def send(
        self, command: int, argument: bytes, shelf: int = SHELF, slot: int = SLOT,
        source: bytes = MAC_A,
    ) -> None:  # fmt: skip
        self.tag += 1
        frame = request(command, argument, shelf=shelf, slot=slot, tag=self.tag, source=source)
        self.link.deliver(frame, WALL_NS + self.tag)

    def turn(self, now_ns: int = NOW_NS) -> None:
        self.core.turn(now_ns, WALL_NS + self.tag)

    @property
    def loads(self) -> list[tuple[int, int]]:
        """Of each device the requests that have started, and those that wait."""
        return [device.load for device in self.devices]

    @property
    def started(self) -> list[int]:
        return [started for started, _ in self.loads]

    def close(self) -> None:
        for device in self.devices:
            device.give_up()
        self.core.close_link(self.link)
        self.core.close()


@pytest.mark.parametrize("where", WILDCARDS.values(), ids=WILDCARDS.keys())
@pytest.mark.parametrize("command", [*Command, 9], ids=str)
def test_requests_start_whatever_came_before_them(command: int, where: tuple[int, int]) -> None:
    """Every opcode, and every kind of the other commands."""
    bench = Bench()
    for number in range(256):
        if command == Command.ATA:
            argument = ata_argument(number, 2 * number)
        else:
            argument = bytes([number] * 6) + bytes(6)
        bench.send(command, argument, *where)
        before = bench.started
        for slot in (SLOT, SLOT + 1):
            bench.send(Command.ATA, ata_argument(READ_EXT, 1000 + number), slot=slot, source=MAC_B)
        bench.turn()
        assert all(map(lt, before, bench.started)), f"{number:02x}"
    bench.close()


@pytest.mark.parametrize("seed", range(4))
def test_wildcards_have_the_bucket_of_the_portable_engine(seed: int) -> None:
    chance = random.Random(seed)
    rate = Rate(chance.choice((3, 1000)), chance.choice((1, 2, 50)))
    bench, twin = Bench(wildcards=rate), Meter(rate)
    now_ns, dropped = NOW_NS, 0
    for _ in range(400):
        now_ns += chance.choice((0, 0, 1, 10**6, 10**9))
        slot = chance.choice((ANY_SLOT, SLOT))
        bench.send(Command.ATA, ata_argument(VERIFY_EXT), ANY_SHELF, slot)
        before = [started + waiting for started, waiting in bench.loads]
        bench.turn(now_ns)
        count = 2 if slot == ANY_SLOT else 1
        if twin.free_ns(count, now_ns) > now_ns:
            count, dropped = 0, dropped + 1
        else:
            twin.use(count)
        after = [started + waiting for started, waiting in bench.loads]
        assert sum(after) - sum(before) == count
    _, drops = bench.link.counters()
    assert drops["rate_limited"] == dropped > 0
    bench.close()


def test_of_refused_requests_python_has_no_more_than_it_can_answer() -> None:
    bench = Bench(refused=Rate(10, 5))
    taken = 0
    for number in range(100):
        bench.send(Command.ATA, ata_argument(READ_EXT, DEVICE_SECTORS))
        bench.turn(NOW_NS + number * 10**7)  # a second in all
        taken += len(bench.core.take()[0])
    assert taken == 5 + 9
    assert bench.link.counters()[1]["slow_path_full"] == 100 - taken
    bench.close()


def test_a_flood_of_verify_takes_turns(tmp_path: Path) -> None:
    """Each asks for much, all of which is in memory: the leader must not do it all at once."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(DEVICE_SECTORS * SECTOR))
    bench = Bench()
    device = core.CoreDevice(bench.core)
    device.admit(SHELF, SLOT + 2, [((), True)] * LISTS, False, True, True)
    device.limit(1 << 15, 0, 0)
    device.resize(DEVICE_SECTORS * SECTOR)
    bench.link.route([((SHELF, SLOT + 2), device)])
    with path.open("r+b") as file:
        try:
            os.preadv(file.fileno(), [bytearray(SECTOR)], 0, os.RWF_NOWAIT)
        except OSError:
            pytest.skip("needs a file system that knows RWF_NOWAIT")
        device.attach(file.fileno(), 0, False, False, SECTOR, 0)
        for number in range(VERIFIES):
            bench.send(Command.ATA, ata_argument(VERIFY_EXT, number, 255), slot=SLOT + 2)
        bench.turn()
        assert bench.link.sent() == []
        bench.send(Command.ATA, ata_argument(READ_EXT), slot=SLOT + 2, source=MAC_B)
        bench.turn()
        (reply,) = bench.link.sent()
        assert reply[:6] == MAC_B
        turns = 0
        while device.load != (0, 0):
            bench.turn()
            turns += 1
        assert turns == PIECES - 2
        assert len(bench.link.sent()) == VERIFIES
        device.stop()
        device.detach()
    bench.close()
