"""The native engine is the portable one's twin: the same frames lead to the same replies, counters
and disk, byte for byte. Both engines run on real packet sockets and real files."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pytest

from ggaoe.backend.file import FileSpec, open_file
from ggaoe.engine.base import Device, Engine, Hooks
from ggaoe.engine.counters import DeviceCounters
from ggaoe.engine.portable import PortableEngine
from ggaoe.net.link import LinkSettings
from ggaoe.net.netlink import list_interfaces
from ggaoe.proto.frame import ETHERTYPE
from ggaoe.proto.rules import EVERYBODY, Rule, Rules
from ggaoe.proto.target import Settings, Target, TargetState
from ggaoe.sched.queue import Policy
from helpers import needs
from helpers.netns import Namespace, veth
from unit.backend.stores import MEMORY_DIRECTORY
from unit.proto.host import MAC_TARGET, ata_argument, config_argument, only, request

native = pytest.importorskip("ggaoe.engine.native", reason="the native engine is not built")

SIZE_SECTORS = 512
SHELF, SLOT = 3, 7
OPEN_SHELF = 4
"""Of a device that answers every host."""
HOSTS = [bytes.fromhex(f"02000000aa{number:02x}") for number in range(4)]
STRANGER = bytes.fromhex("02000000bb01")
SETTINGS = Settings(SHELF, SLOT, "serial", "model", "firmware", 16, accept=only(*HOSTS))
MTU_BYTES = 9000
BURST_FRAMES = 40
DEADLINE_S = 30.0

READS = (0x20, 0x24, 0x25, 0xC8)
WRITES = (0x30, 0x34, 0x35, 0xCA)
VERIFIES = (0x40, 0x42)
OTHERS = (0xE7, 0xEA, 0x40, 0x42, 0xEC, 0xE5, 0xEF, 0xB0, 0x00, 0xE0)


@dataclass(frozen=True)
class Way:
    """How the native engine reaches the network and the disk."""

    name: str
    direct_io: bool
    io_engine: str = "auto"
    ring_bytes: int = 1 << 20
    in_memory: bool = False
    """On a file system that has no RWF_NOWAIT."""


WAYS = (
    Way("buffered, ring", False),
    Way("buffered, socket", False, ring_bytes=0),
    Way("aio, socket", True, "aio", ring_bytes=0),
    Way("uring, ring", True, "uring"),
    Way("threads, ring", True, "threads"),
    Way("tmpfs, ring", False, in_memory=True),
)


@dataclass
class Outcome:
    """All that is to be the same."""

    replies: list[bytes] = field(default_factory=list)
    disk: bytes = b""
    counters: dict[str, object] = field(default_factory=dict)
    initiators: dict[bytes, tuple[int, ...]] = field(default_factory=dict)
    seen: dict[bytes, list[object]] = field(default_factory=dict)
    strays: dict[bytes, tuple[object, ...]] = field(default_factory=dict)


@pytest.fixture
def cable() -> Iterator[tuple[Namespace, Namespace]]:
    needs.requires_root()
    needs.requires_namespaces()
    with Namespace() as target, Namespace() as host:
        veth(target, "t0", host, "h0", MTU_BYTES)
        target.ip(f"link set t0 address {MAC_TARGET.hex(':')}")
        yield target, host


def frames(chance: random.Random, count: int) -> list[bytes]:
    """Requests of every kind, most of them sound, on few sectors so that many overlap."""
    made = []
    for number in range(count):
        tag = 0x1000 + number
        source = chance.choice(HOSTS) if chance.random() < 0.97 else STRANGER
        kind = chance.random()
        sector = chance.randrange(SIZE_SECTORS if chance.random() < 0.5 else 24)
        sectors = chance.choice((1, 1, 2, 2, 3, 8, 16, 17, 0, 18, 255))
        if kind < 0.4:
            argument = ata_argument(chance.choice(READS), sector, sectors)
        elif kind < 0.8:
            sectors = min(sectors, 17)
            content = struct.pack(">Q", tag) * (SECTOR_WORDS * sectors)
            argument = ata_argument(chance.choice(WRITES), sector, sectors) + content
            if chance.random() < 0.05:
                argument = argument[: chance.randrange(len(argument))]
        elif kind < 0.9:
            opcode = chance.choice(OTHERS)
            argument = ata_argument(
                opcode, sector, sectors if opcode in VERIFIES else min(sectors, 1)
            )
        elif kind < 0.95:
            made.append(
                request(1, config_argument(0), source=source, tag=tag, slot=SLOT, shelf=SHELF)
            )
            continue
        else:
            raw = request(0, chance.randbytes(chance.randrange(80)), source=source, tag=tag)
            made.append(raw[: chance.randrange(14, len(raw) + 1)])
            continue
        slot = 0xFF if chance.random() < 0.03 else SLOT
        made.append(request(0, argument, source=source, tag=tag, slot=slot, shelf=SHELF))
    return made


SECTOR_WORDS = 64


class Wire:
    """The hosts' end of the cable: all of them at once, so it takes frames to any address."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(ETHERTYPE))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind((interface, ETHERTYPE))
        self._socket.setblocking(False)
        self._replies: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def _receive(self) -> None:
        with suppress(BlockingIOError):
            while True:
                frame, address = self._socket.recvfrom(MTU_BYTES + 100)
                if address[2] != socket.PACKET_OUTGOING:
                    self._replies.append(frame)

    def has_reply_to(self, frame: bytes) -> bool:
        self._receive()
        return any(reply[20:24] == frame[20:24] for reply in self._replies)

    def take(self) -> list[bytes]:
        """What has been received since the last call."""
        self._receive()
        replies, self._replies = self._replies, []
        return replies

    def close(self) -> None:
        self._socket.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the loop itself is to turn
            await asyncio.sleep(0)


@asynccontextmanager
async def serving(
    engine_type: type[Engine],
    namespace: Namespace,
    path: Path,
    way: Way,
    settings: Settings,
) -> AsyncIterator[Device]:
    engine = engine_type(Hooks(changed=lambda *_: None, conflict=lambda *_: None))
    engine.io_engine(way.io_engine)
    engine.start()
    with namespace.entered():
        interface = next(found for found in list_interfaces() if found.name == "t0")
        port = engine.open_link(interface, LinkSettings(ring_buffer_bytes=way.ring_bytes))
    target = Target(settings, TargetState(mask=tuple(HOSTS[:3])))
    device = engine.add_device("disk", target, Policy(queue_length=16), trace_io=False)
    backend = await open_file(FileSpec(path=path, direct_io=way.direct_io))
    target.size_sectors = backend.size_bytes // 512
    engine.attach(device, backend)
    engine.set_ports(device, [port])
    is_open = Target(replace(SETTINGS, shelf=OPEN_SHELF, accept=EVERYBODY))
    engine.set_ports(engine.add_device("open", is_open, Policy(), trace_io=False), [port])
    try:
        yield device
    finally:
        backend = await engine.remove_device(device, None)
        assert backend is not None
        await backend.close()
        engine.close()


async def play(
    engine_type: type[Engine], cable: tuple[Namespace, Namespace], path: Path, seed: int, way: Way,
    settings: Settings,
) -> Outcome:  # fmt: skip
    chance = random.Random(seed)
    await asyncio.to_thread(path.write_bytes, chance.randbytes(SIZE_SECTORS * 512))
    outcome = Outcome()
    target, host = cable
    with host.entered():
        wire = Wire("h0")
    async with serving(engine_type, target, path, way, settings) as device:
        requests = frames(chance, 400)
        for at in range(0, len(requests), BURST_FRAMES):
            burst = requests[at : at + BURST_FRAMES]
            # Answered at once, and so after everything before it has been received.
            last = request(1, config_argument(0), tag=at, slot=SLOT, shelf=OPEN_SHELF)
            for frame in [*burst, last]:
                wire.send(frame)
            await until(lambda: wire.has_reply_to(last))  # noqa: B023
            await until(lambda: device.in_flight + device.waiting == 0)
            outcome.replies += wire.take()
        counters = device.counters
        timed = {"batches", "vectors", "merged_requests", "in_flight_sum", "commits", "waits",
                 "overlaps", "read_ns", "write_ns", "flush_ns",
                 "read_latency", "write_latency", "flush_latency"}  # fmt: skip
        outcome.counters = {
            each.name: getattr(counters, each.name)
            for each in fields(DeviceCounters)
            if each.name not in timed
        }
        for mac, initiator in device.initiators.items():
            outcome.initiators[mac] = (
                initiator.read_requests, initiator.read_bytes, initiator.write_requests,
                initiator.write_bytes, initiator.other_requests, initiator.errors,
                initiator.absorbed, initiator.in_flight,
            )  # fmt: skip
        for mac in (*HOSTS, STRANGER):
            frames_seen = [*device.sightings.of(mac), device.last_io(mac)]
            outcome.seen[mac] = [seen and replace(seen, time_s=0.0) for seen in frames_seen]
        for port in device.ports:
            for mac, stray in port.link.strays.items():
                outcome.strays[mac] = stray[1:]
    outcome.replies = sorted(outcome.replies + wire.take())  # a reply leaves after its request
    wire.close()
    outcome.disk = await asyncio.to_thread(path.read_bytes)
    return outcome


@pytest.mark.parametrize("write_cache", [False, True], ids=["durable", "write cache"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
@pytest.mark.parametrize("seed", range(3))
async def test_same_frames_same_outcome(
    cable: tuple[Namespace, Namespace], tmp_path: Path, seed: int, way: Way, write_cache: bool
) -> None:
    print(f"seed {seed}")
    settings = replace(SETTINGS, write_cache=write_cache)
    oracle = await same(cable, tmp_path, seed, way, settings)
    assert len(oracle.replies) > 200


@pytest.mark.parametrize("seed", range(8))
async def test_same_under_lists_for_each_operation(
    cable: tuple[Namespace, Namespace], tmp_path: Path, seed: int
) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    settings = replace(
        SETTINGS,
        **{name: rules(chance) for name in ("deny", "discover", "read", "write", "change")},
    )
    await same(cable, tmp_path, seed, WAYS[seed % 2], settings)


def rules(chance: random.Random) -> Rules:
    """For everybody, or first some hosts and then others."""
    if chance.random() < 0.3:
        return EVERYBODY
    made = tuple(
        Rule("", chance.random() < 0.5, frozenset(chance.sample(HOSTS, k=chance.randrange(3))))
        for _ in range(chance.randrange(4))
    )
    return Rules(made, others=chance.random() < 0.7)


async def same(
    cable: tuple[Namespace, Namespace], directory: Path, seed: int, way: Way, settings: Settings
) -> Outcome:
    """Both engines' outcome, which is the same."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DIRECTORY if way.in_memory else directory) as name:
        place = Path(name)
        oracle = await play(PortableEngine, cable, place / "portable", seed, way, settings)
        twin = await play(native.NativeEngine, cable, place / "native", seed, way, settings)
    assert twin.replies == oracle.replies
    assert twin.disk == oracle.disk
    assert twin.counters == oracle.counters
    assert twin.initiators == oracle.initiators
    assert twin.seen == oracle.seen
    assert twin.strays == oracle.strays != {}
    return oracle
