"""What hosts do to a target in one input of a fuzzer, and what an engine makes of it.

An input is a byte that chooses the disks' options and a sequence of deliveries, each of a control
byte, a length of two bytes and that many bytes of frame. Frames of one burst find the stores
holding every transfer, so that what is active at once does not depend on the machine's speed.
Knows frames by offsets only, and uses none of the code that it judges.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from errno import EIO
from typing import Any, NamedTuple

from fuzz.make_corpus import HOST, OTHER, SHELF, SLOT, TARGET
from ggaoe.backend.faults import Fail, Hold, Rule, Short
from ggaoe.engine.base import Engine
from ggaoe.proto.ata import Op
from ggaoe.proto.rules import EVERYBODY
from ggaoe.proto.target import Change, Reply
from ggaoe.sched.queue import Policy
from ggaoe.testing.engine import link_of
from unit.engine.rig import SECTOR, Disk, Rig, until
from unit.proto.host import only

FRAMES_MAX = 48
BURST_FRAMES_MAX = 12
TURNS_PER_FRAME = 6
"""A frame that the compiled core leaves to Python, with the answer that its successors wait for."""
SIZE_SECTORS = 64
MTU_BYTES = (1500, 9000)
STRANGER = bytes.fromhex("02000000bb01")
BAD_SECTORS = range(60, 64)
PADDING_BYTES = (0, 36 + 512, 36 + 2 * 512, 36 + 17 * 512)
WRITES_LBA28, WRITES_LBA48 = (0x30, 0xCA), (0x34, 0x35)
TIMED = {"batches", "vectors", "merged_requests", "retries", "in_flight_sum", "commits", "waits",
         "overlaps", "read_ns", "write_ns", "flush_ns",
         "read_latency", "write_latency", "flush_latency"}  # fmt: skip
"""Counters that say how the work was cut into pieces; what fails or falls short is retried once for
each of those that a vector had."""


class Delivery(NamedTuple):
    """A frame that arrives at port 0 or 1; after one with `ends_burst` everything is finished."""

    port: int
    frame: bytes
    ends_burst: bool


class Options(NamedTuple):
    """How the first disk is set up; the second one is read-only, durable and has access lists."""

    write_cache: bool
    queue_length: int
    granule_bytes: int
    fails: bool
    is_short: bool
    is_masked: bool
    is_write_listed: bool

    @classmethod
    def of(cls, bits: int) -> Options:
        return cls(
            write_cache=bool(bits & 1),
            queue_length=2 if bits & 2 else 64,
            granule_bytes=4096 if bits & 4 else 512,
            fails=bool(bits & 8),
            is_short=bool(bits & 16),
            is_masked=bool(bits & 32),
            is_write_listed=bool(bits & 64),
        )


def encode(*frames: bytes, options: int = 1, ends_burst: bool = True) -> bytes:
    """The input that delivers `frames` as they are to port 0."""
    control = 0x30 | (2 if ends_burst else 0)
    records = [struct.pack("<BH", control, len(frame)) + frame for frame in frames]
    return bytes([options]) + b"".join(records)


def deliveries(data: bytes) -> list[Delivery]:
    """The frames of an input, at most FRAMES_MAX."""
    found: list[Delivery] = []
    at, in_burst = 1, 0
    while at + 3 <= len(data) and len(found) < FRAMES_MAX:
        control, length = struct.unpack_from("<BH", data, at)
        body = data[at + 3 : at + 3 + length]
        at += 3 + length
        source = (HOST, OTHER, STRANGER, None)[control >> 4 & 3]
        frame = bytearray(body if source is None else TARGET + source + b"\x88\xa2" + body)
        padding = PADDING_BYTES[control >> 6] - len(frame)
        if padding > 0:
            frame += bytes(padding)
        _stamp(frame, len(found) + 1)
        in_burst += 1
        ends = bool(control & 2) or in_burst == BURST_FRAMES_MAX
        in_burst = 0 if ends else in_burst
        found.append(Delivery(control & 1, bytes(frame), ends))
    if found:
        found[-1] = found[-1]._replace(ends_burst=True)
    return found


def _stamp(frame: bytearray, number: int) -> None:
    """Make each sector of an ATA frame's data say which frame it came in."""
    if len(frame) > 19 and frame[19] == 0:
        for at in range(36, len(frame) - 7, SECTOR):
            struct.pack_into(">Q", frame, at, number)


@dataclass
class Outcome:
    """All that an engine is to do the same as any other; `replies` by burst and port."""

    replies: list[list[list[bytes]]] = field(default_factory=list)
    disks: list[bytes] = field(default_factory=list)
    counted: dict[str, Any] = field(default_factory=dict)


async def play(engine_class: type[Engine], data: bytes) -> Outcome:
    """Deliver everything, burst by burst; checks what holds of every engine."""
    session = _Session(engine_class, Options.of(data[0] if data else 0))
    burst: list[Delivery] = []
    for delivery in deliveries(data):
        burst.append(delivery)
        if delivery.ends_burst:
            await session.run(burst)
            burst = []
    return await session.end()


class _Session:
    def __init__(self, engine_class: type[Engine], options: Options) -> None:
        self.options = options
        self.rig = Rig(engine_class)
        self.ports = [self.rig.port(number + 1, mtu) for number, mtu in enumerate(MTU_BYTES)]
        self.links = [link_of(port) for port in self.ports]
        policy = Policy(queue_length=options.queue_length)
        self.disks = [
            self._disk(
                0,
                policy,
                options.granule_bytes,
                write_cache=options.write_cache,
                write=only(HOST) if options.is_write_listed else EVERYBODY,
            ),
            self._disk(1, policy, 512, accept=only(HOST, OTHER), read=only(HOST), read_only=True),
        ]
        if options.fails:
            rule = Rule(Fail(EIO), (Op.READ, Op.WRITE, Op.VERIFY), BAD_SECTORS.start * SECTOR)
            self.disks[0].faults.plans.append(rule)
        if options.is_short:
            self.disks[0].faults.plans.append(Rule(Short(SECTOR), (Op.READ, Op.WRITE)))
        if options.is_masked:
            target = self.disks[0].device.target
            target.state = replace(target.state, mask=(HOST,))
            self.rig.engine.refresh(self.disks[0].device)
        self.delivered: list[Delivery] = []
        self.outcome = Outcome()

    def _disk(self, number: int, policy: Policy, granule_bytes: int, **settings: object) -> Disk:
        disk = self.rig.disk(
            *self.ports, name=f"disk{number}", policy=policy, slot=SLOT + number,
            size_sectors=SIZE_SECTORS, granule_bytes=granule_bytes,
            **{"write_cache": False, **settings},
        )  # fmt: skip
        target = disk.device.target
        target.settings = replace(target.settings, shelf=SHELF)
        self.rig.engine.refresh(disk.device)
        self.rig.engine.set_ports(disk.device, self.ports)
        return disk

    async def run(self, burst: Sequence[Delivery]) -> None:
        hold = Rule(Hold())
        for disk in self.disks:
            disk.faults.plans.insert(1, hold)
        for delivery in burst:
            self.links[delivery.port].deliver(delivery.frame)
        self.delivered += burst
        await until(lambda: not any(link.backlog_frames for link in self.links))
        for _ in range(TURNS_PER_FRAME * len(burst)):
            await asyncio.sleep(0)
        await self.rig.quiet()
        self.check_bounds(len(burst))
        for disk in self.disks:
            disk.faults.plans.remove(hold)
            disk.faults.release()
        await self.finish()
        for device, port, header, frame in self.rig.changes:
            outcome = device.target.receive(header, frame, port.path)
            if isinstance(outcome, Change):
                device.target.state = outcome.state
                self.rig.engine.refresh(device)
                if outcome.fence:
                    assert await self.rig.engine.fence(device)
            if isinstance(outcome, Change | Reply):
                self.rig.engine.send(port, outcome.frame)
        self.rig.changes.clear()
        await self.finish()
        self.take_replies()

    async def finish(self) -> None:
        devices = [disk.device for disk in self.disks]
        await until(lambda: not any(device.in_flight + device.waiting for device in devices))
        await self.rig.quiet()

    def take_replies(self) -> None:
        replies = []
        for number, link in enumerate(self.links):
            replies.append(sorted(link.sent))
            link.sent.clear()
            for reply in replies[-1]:
                check_lawful(reply, self.ports[number].path.mac, number, self.delivered)
        self.outcome.replies.append(replies)

    def check_bounds(self, frames: int) -> None:
        for disk in self.disks:
            device = disk.device
            assert device.in_flight <= device.policy.queue_length
            assert device.in_flight + device.waiting <= frames
            assert len(list(device.initiators.items())) <= len(self.delivered)

    async def end(self) -> Outcome:
        outcome = self.outcome
        for disk in self.disks:
            device = disk.device
            outcome.disks.append(disk.content(0, SIZE_SECTORS))
            counters = asdict(device.counters)
            for _, initiator in device.initiators.items():
                assert initiator.in_flight == 0
            outcome.counted[device.name] = (
                {key: value for key, value in counters.items() if key not in TIMED},
                sorted(mac for mac, _ in device.initiators.items()),
                device.target.state,
                device.target.is_failing,
            )
        for port, link in zip(self.ports, self.links, strict=True):
            drops = {reason: count for reason, count in link.counters.drops.items() if count}
            outcome.counted[port.name] = (link.counters.rx_frames, link.counters.tx_frames, drops)
        outcome.counted["conflicts"] = sorted(header for _, header in self.rig.conflicts)
        check_disk(outcome, self.delivered, self.options)
        assert outcome.disks[1] == bytes(SIZE_SECTORS * SECTOR), "the second disk is read-only"
        await self.rig.close()
        return outcome


def check_lawful(reply: bytes, mac: bytes, port: int, delivered: Sequence[Delivery]) -> None:
    """The reply's length, addresses, flags and registers are those of the protocol."""
    assert 60 <= len(reply) <= MTU_BYTES[port] + 14
    assert reply[6:14] == mac + b"\x88\xa2"
    assert reply[16:18] == SHELF.to_bytes(2, "big")
    assert reply[18] in (SLOT, SLOT + 1)
    assert 0 <= reply[15] <= 6
    assert reply[14] == (0x1C if reply[15] else 0x18)
    assert any(
        asked.port == port
        and asked.frame[6:12] == reply[0:6]
        and asked.frame[19:24] == reply[19:24]
        and not asked.frame[14] & 0x08
        and not asked.frame[6] & 1
        for asked in delivered
    ), "nobody asked for it"
    if reply[19] == 0 and not reply[15]:
        assert reply[27] in (0x40, 0x41)
        assert (reply[27] == 0x41) == (reply[25] != 0)
        assert len(reply) == 60 or (len(reply) - 36) % SECTOR == 0


def write_of(delivery: Delivery, options: Options) -> tuple[int, bytes] | None:
    """(sector, data) where the frame is a valid write to the first disk, as offsets say."""
    port, frame, _ = delivery
    if not 36 <= len(frame) <= MTU_BYTES[port] + 14:
        return None
    if frame[12:14] != b"\x88\xa2" or frame[14] & 0xF8 != 0x10 or frame[6] & 1:
        return None
    if frame[16:19] != SHELF.to_bytes(2, "big") + bytes([SLOT]) or frame[19] != 0:
        return None
    if options.is_write_listed and frame[6:12] != HOST:
        return None
    if frame[27] in WRITES_LBA28:
        sector = int.from_bytes(frame[28:32], "little") & 0x0FFFFFFF
    elif frame[27] in WRITES_LBA48:
        sector = int.from_bytes(frame[28:34], "little")
    else:
        return None
    sectors = frame[26]
    data = frame[36 : 36 + sectors * SECTOR]
    if not sectors or len(data) < sectors * SECTOR or sector + sectors > SIZE_SECTORS:
        return None
    return sector, data


def check_disk(outcome: Outcome, delivered: Sequence[Delivery], options: Options) -> None:
    """Each sector of the first disk is empty or from a valid write, and no older than the newest
    one that was acknowledged."""
    asked = Counter((each.port, each.frame[6:12], each.frame[20:24]) for each in delivered)
    done = {
        (port, reply[0:6], reply[20:24])
        for burst in outcome.replies
        for port, replies in enumerate(burst)
        for reply in replies
        if reply[14] == 0x18 and reply[19] == 0 and reply[27] == 0x40
    }
    candidates: list[list[bytes]] = [[bytes(SECTOR)] for _ in range(SIZE_SECTORS)]
    for delivery in delivered:
        found = write_of(delivery, options)
        if found is None:
            continue
        sector, data = found
        key = (delivery.port, delivery.frame[6:12], delivery.frame[20:24])
        is_done = asked[key] == 1 and key in done
        for number in range(len(data) // SECTOR):
            content = data[number * SECTOR :][:SECTOR]
            if is_done:
                candidates[sector + number] = [content]
            else:
                candidates[sector + number].append(content)
    for sector in range(SIZE_SECTORS):
        content = outcome.disks[0][sector * SECTOR :][:SECTOR]
        assert content in candidates[sector], f"sector {sector}"
