"""`Initiator` over veth pairs, with a target of the test's own that misbehaves as told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from ggaoe.client import (
    AtaCommandError,
    Initiator,
    MaskEditError,
    NoAnswerError,
    RefusedError,
    RemoteDevice,
    Timing,
)
from ggaoe.errors import ClientError
from ggaoe.net.filters import Role
from ggaoe.net.netlink import list_interfaces
from ggaoe.net.plain import PlainLink
from ggaoe.net.readable import Readable
from ggaoe.proto.access import MaskError, Mcmd, pack_mask_error
from ggaoe.proto.ata import OP_OF_OPCODE, Identity, Op, Opcode, identify_page, lba_sector
from ggaoe.proto.frame import (
    ATA_HEADER_BYTES,
    HEADER_BYTES,
    SECTOR_BYTES,
    Command,
    Error,
    Header,
    pack_advertisement,
    pack_response,
    pack_taskfile,
    padded,
    unpack_header,
    unpack_taskfile,
)
from ggaoe.proto.query import Ccmd, pack_config
from helpers.needs import requires_namespaces
from helpers.netns import Namespace, veth

DEADLINE_S = 20.0
SHELF, SLOT = 7, 3
SECTORS = 4096
QUICK = Timing(first_timeout_s=0.05, timeout_min_s=0.02, timeout_max_s=0.2, deadline_s=15.0)
HASTY = Timing(first_timeout_s=0.02, timeout_min_s=0.02, timeout_max_s=0.1, deadline_s=1.0)

Replies = list[bytes]


class Scripted:
    """A disk in memory behind one link; `disturb` makes of each good reply what is sent."""

    def __init__(self, link: PlainLink, disk: bytearray) -> None:
        self.link = link
        self.disk = disk
        self.requests: list[tuple[Header, bytes]] = []
        self.buffer_count = 16
        self.lba48 = True
        self.error: Error | None = None
        self.status = 0x40
        self.disturb: Callable[[Header, bytes], Replies] = lambda _, reply: [reply]
        self._readable = Readable(asyncio.get_running_loop(), link.fileno(), self._on_readable)

    def close(self) -> None:
        self._readable.close()
        self.link.close()

    def count(self, command: int) -> int:
        return sum(header.command == command for header, _ in self.requests)

    def advertise(self, destination: bytes) -> None:
        head = pack_advertisement(destination, self.link.mac, SHELF, SLOT)
        self.link.send([[padded(head + self._config(Ccmd.READ))]])

    def _on_readable(self) -> None:
        for frame in self.link.receive(64):
            whole = bytes(frame)
            frame.release()
            header = unpack_header(whole)
            if header is None or header.is_response:
                continue
            if header.shelf not in (SHELF, 0xFFFF) or header.slot not in (SLOT, 0xFF):
                continue
            self.requests.append((header, whole))
            reply = self._answer(header, whole)
            self.link.send([[one] for one in self.disturb(header, reply)])

    def _answer(self, header: Header, whole: bytes) -> bytes:
        error = self.error if header.command != Command.CONFIG else None
        head = pack_response(header, self.link.mac, SHELF, SLOT, error)
        if header.command == Command.CONFIG:
            return padded(head + self._config(whole[29] & 0xF))
        if header.command == Command.ATA:
            return padded(head + self._ata(whole))
        return padded(head + whole[HEADER_BYTES:])

    def _config(self, ccmd: int) -> bytes:
        return pack_config(ccmd, b"label", self.buffer_count, 1, 2)

    def _ata(self, whole: bytes) -> bytes:
        taskfile = unpack_taskfile(whole)
        sector = lba_sector(taskfile.command, taskfile.lba)
        span = slice(sector * SECTOR_BYTES, (sector + taskfile.sectors) * SECTOR_BYTES)
        data = b""
        op = OP_OF_OPCODE.get(taskfile.command)
        if taskfile.command == Opcode.IDENTIFY_DEVICE:
            page = bytearray(identify_page(Identity("s", "m", "f"), SECTORS))
            if not self.lba48:
                page[166:168] = page[172:174] = b"\0\x40"
            data = bytes(page)
        elif op == Op.READ:
            data = bytes(self.disk[span])
        elif op == Op.WRITE:
            self.disk[span] = whole[ATA_HEADER_BYTES:][: taskfile.sectors * SECTOR_BYTES]
        return pack_taskfile(0, 0x04, 0, self.status, taskfile.lba) + data


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    requires_namespaces()
    with Namespace() as namespace:
        for number in range(2):
            veth(namespace, f"near{number}", namespace, f"far{number}")
        yield namespace


@pytest.fixture
async def targets(namespace: Namespace) -> AsyncIterator[list[Scripted]]:
    """One on each of two links, with the same disk."""
    disk = bytearray(os.urandom(SECTORS * SECTOR_BYTES))
    with namespace.entered():
        interfaces = {interface.name: interface for interface in list_interfaces()}
        made = [
            Scripted(PlainLink(interfaces[f"far{number}"], role=Role.TARGET), disk)
            for number in range(2)
        ]
    yield made
    for target in made:
        target.close()


def initiator_in(namespace: Namespace, *interfaces: str, timing: Timing = QUICK) -> Initiator:
    with namespace.entered():
        return Initiator(interfaces or ["near0"], timing)


@pytest.fixture
async def device(namespace: Namespace, targets: list[Scripted]) -> AsyncIterator[RemoteDevice]:
    async with asyncio.timeout(DEADLINE_S), initiator_in(namespace) as initiator:
        yield await initiator.open(SHELF, SLOT)


async def test_discovery_finds_each_way(namespace: Namespace, targets: list[Scripted]) -> None:
    async with initiator_in(namespace, "near0", "near1") as initiator:
        found = await initiator.discover(0.5)
    assert [(one.shelf, one.slot, one.interface, one.mac) for one in found] == [
        (SHELF, SLOT, f"near{number}", targets[number].link.mac) for number in range(2)
    ]
    assert {one.config_string for one in found} == {b"label"}
    assert {(one.buffer_count, one.sectors, one.firmware) for one in found} == {(16, 2, 1)}


async def test_discovery_ignores_other_addresses(
    namespace: Namespace, targets: list[Scripted]
) -> None:
    async with initiator_in(namespace) as initiator:
        assert await initiator.discover(0.1, SHELF + 1, SLOT) == []


async def test_read_gives_what_write_took(device: RemoteDevice, targets: list[Scripted]) -> None:
    data = os.urandom(333 * SECTOR_BYTES)
    await device.write(100, data)
    assert targets[0].disk[100 * SECTOR_BYTES : 433 * SECTOR_BYTES] == data
    assert await device.read(100, 333) == data
    assert await device.read(0, 0) == b""


async def test_tags_are_in_user_space_and_unique(
    device: RemoteDevice, targets: list[Scripted]
) -> None:
    await device.read(0, 64)
    tags = [header.tag for header, _ in targets[0].requests if header.command == Command.ATA]
    assert len(set(tags)) == len(tags) > 32
    assert all(tag >> 31 for tag in tags)


async def test_loss_and_duplicates_are_made_up_for(
    device: RemoteDevice, targets: list[Scripted]
) -> None:
    seen: dict[bytes, int] = {}

    def disturb(header: Header, reply: bytes) -> Replies:
        # Of each request the first copy's reply is lost, and others come twice.
        key = reply[HEADER_BYTES:]
        seen[key] = seen.get(key, 0) + 1
        return [] if seen[key] == 1 and header.tag % 3 == 0 else [reply, reply]

    targets[0].disturb = disturb
    data = os.urandom(60 * SECTOR_BYTES)
    await device.write(0, data)
    assert await device.read(0, 60) == data
    assert device.counters.resent > 0
    assert device.counters.late > 0


async def test_late_reply_ends_the_request(device: RemoteDevice, targets: list[Scripted]) -> None:
    held: list[bytes] = []

    def disturb(_: Header, reply: bytes) -> Replies:
        # Each request is answered one copy late.
        held.append(reply)
        return held[-2:-1]

    targets[0].disturb = disturb
    first = targets[0].disk[: 2 * SECTOR_BYTES]
    assert await device.ata(Opcode.READ_SECTORS_EXT, 0, 2, read_bytes=2 * SECTOR_BYTES)
    assert await device.ata(Opcode.READ_SECTORS_EXT, 0, 2, read_bytes=2 * SECTOR_BYTES)
    assert (await device.read(0, 2)) == first


async def test_garbage_is_passed_over(device: RemoteDevice, targets: list[Scripted]) -> None:
    def disturb(header: Header, reply: bytes) -> Replies:
        foreign_tag = reply[:20] + (header.tag ^ 1 << 30).to_bytes(4) + reply[24:]
        foreign_slot = reply[:18] + b"\x44" + reply[19:]
        other_command = reply[:19] + b"\x02" + reply[20:]
        wrong = bytes(len(reply) - HEADER_BYTES)
        return [
            reply[:14] + reply[14:20],
            reply[:HEADER_BYTES],
            reply[:35],
            reply[: max(36, len(reply) - 1)] if len(reply) > 60 else reply[:30],
            foreign_tag[:HEADER_BYTES] + wrong,
            foreign_slot[:HEADER_BYTES] + wrong,
            other_command[:HEADER_BYTES] + wrong,
            reply,
        ]

    targets[0].disturb = disturb
    assert await device.read(5, 20) == targets[0].disk[5 * SECTOR_BYTES : 25 * SECTOR_BYTES]
    assert device.counters.malformed > 0
    assert device.counters.late > 0


async def test_short_replies_are_accepted(device: RemoteDevice, targets: list[Scripted]) -> None:
    targets[0].disturb = lambda _, reply: [reply[:ATA_HEADER_BYTES]]
    await device.ata(Opcode.FLUSH_CACHE_EXT)
    assert device.counters.answered == 1


@pytest.mark.parametrize("code", list(Error))
async def test_aoe_errors_have_names(
    device: RemoteDevice, targets: list[Scripted], code: Error
) -> None:
    targets[0].error = code
    with pytest.raises(RefusedError, match=rf"e7\.3 refuses: .*AoE error {code:d}") as caught:
        await device.identify()
    assert caught.value.code == code


async def test_ata_error_has_registers_and_sector(
    device: RemoteDevice, targets: list[Scripted]
) -> None:
    await device.identify()
    targets[0].status = 0x41
    with pytest.raises(
        AtaCommandError, match=r"READ_SECTORS_EXT at sector \d+: command refused"
    ) as caught:
        await device.read(10, 8)
    assert (caught.value.status, caught.value.error) == (0x41, 0x04)
    assert 10 <= caught.value.sector < 18
    # What was still waiting is not sent any more, and the device goes on.
    targets[0].status = 0x40
    assert len(await device.read(0, 8)) == 8 * SECTOR_BYTES


async def test_mask_error_names_the_directive(
    device: RemoteDevice, targets: list[Scripted]
) -> None:
    body = pack_mask_error(Mcmd.EDIT, MaskError.FULL, 1)
    targets[0].disturb = lambda _, reply: [padded(reply[:HEADER_BYTES] + body)]
    with pytest.raises(MaskEditError, match="directive 1: the list is full"):
        await device.edit_mask([(1, bytes(6)), (1, b"\x02" * 6)])


async def test_silence_is_an_error_that_says_what_was_tried(
    namespace: Namespace, targets: list[Scripted]
) -> None:
    async with initiator_in(namespace, timing=HASTY) as initiator:
        device = await initiator.open(SHELF, SLOT)
        targets[0].disturb = lambda *_: []
        with pytest.raises(NoAnswerError, match=r"e7\.3 does not answer ATA .*near0 to ") as caught:
            await device.identify()
        assert f"{targets[0].count(Command.ATA)} sent" in str(caught.value)
        assert targets[0].count(Command.ATA) > 1


async def test_nobody_there(namespace: Namespace, targets: list[Scripted]) -> None:
    async with initiator_in(namespace) as initiator:
        with pytest.raises(NoAnswerError, match=r"e9\.9 does not answer: .* near0"):
            await initiator.open(9, 9, 0.1)


async def test_config_test_without_match_is_silence(
    device: RemoteDevice, targets: list[Scripted]
) -> None:
    reply = await device.query(Ccmd.TEST, b"label")
    assert reply is not None
    assert reply.text == b"label"
    targets[0].disturb = lambda *_: []
    assert await device.query(Ccmd.TEST, b"other", silence_s=0.1) is None


async def test_config_test_is_silence_however_patient_its_requests_are(
    namespace: Namespace, targets: list[Scripted]
) -> None:
    async with initiator_in(namespace, timing=HASTY) as initiator:
        device = await initiator.open(SHELF, SLOT)
        targets[0].disturb = lambda *_: []
        assert await device.query(Ccmd.TEST, b"label", silence_s=HASTY.deadline_s * 2) is None


async def test_what_a_flood_of_answers_leaves_is_bounded(
    namespace: Namespace, targets: list[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ggaoe.client.initiator.FOUND_MAX", 5)
    monkeypatch.setattr("ggaoe.client.device.PATHS_MAX", 3)

    def disturb(header: Header, reply: bytes) -> Replies:
        if header.command != Command.CONFIG:
            return [reply]
        macs = [bytes([2, 0, 0, 0, 0, number]) for number in range(9)]
        return [reply] + [
            reply[:6] + mac + reply[12:18] + bytes([slot]) + reply[19:]
            for mac in macs
            for slot in (SLOT, SLOT + 1)
        ]

    targets[0].disturb = disturb
    async with asyncio.timeout(DEADLINE_S), initiator_in(namespace) as initiator:
        device = await initiator.open(SHELF, SLOT, multipath=True)
        found = await initiator.discover(1.0)
        assert len(found) == 5
        assert len(device.paths) == 3


async def test_ping_is_not_repeated(device: RemoteDevice, targets: list[Scripted]) -> None:
    assert 0.0 < await device.ping() < DEADLINE_S
    asked = targets[0].count(Command.CONFIG)
    targets[0].disturb = lambda *_: []
    with pytest.raises(NoAnswerError):
        await device.ping(0.1)
    assert targets[0].count(Command.CONFIG) == asked + 1


async def test_28_bit_disk_gets_28_bit_commands(
    device: RemoteDevice, targets: list[Scripted]
) -> None:
    targets[0].lba48 = False
    assert not (await device.identify()).lba48
    assert await device.read(0x10, 4) == targets[0].disk[16 * SECTOR_BYTES : 20 * SECTOR_BYTES]
    opcodes = {whole[27] for header, whole in targets[0].requests if header.command == Command.ATA}
    assert opcodes == {Opcode.IDENTIFY_DEVICE, Opcode.READ_SECTORS}
    with pytest.raises(ClientError, match="28-bit"):
        await device.read(1 << 28, 1)


async def test_window_follows_the_buffer_count(
    device: RemoteDevice, targets: list[Scripted]
) -> None:
    waiting: set[bytes] = set()

    def disturb(_: Header, reply: bytes) -> Replies:
        waiting.add(reply[28:34])
        return []

    await device.identify()
    targets[0].buffer_count = 4
    before = device.paths[0].buffer_count
    targets[0].advertise(b"\xff" * 6)
    await until(lambda: device.paths[0].buffer_count != before)
    targets[0].disturb = disturb
    reading = asyncio.create_task(device.read(0, 40))
    await until(lambda: targets[0].count(Command.ATA) > 8)
    assert len(waiting) == 4
    targets[0].disturb = lambda _, reply: [reply]
    assert await reading == targets[0].disk[: 40 * SECTOR_BYTES]


async def test_multipath_uses_every_way_and_survives_the_loss_of_one(
    namespace: Namespace, targets: list[Scripted]
) -> None:
    async with asyncio.timeout(DEADLINE_S), initiator_in(namespace, "near0", "near1") as initiator:
        device = await initiator.open(SHELF, SLOT, multipath=True)
        await until(lambda: len(device.paths) == 2)
        assert await device.read(0, 64) == targets[0].disk[: 64 * SECTOR_BYTES]
        assert all(target.count(Command.ATA) >= 8 for target in targets)
        targets[1].disturb = lambda *_: []
        assert await device.read(0, 32) == targets[0].disk[: 32 * SECTOR_BYTES]
        assert device.counters.resent > 0


async def test_one_path_unless_wanted(namespace: Namespace, targets: list[Scripted]) -> None:
    async with initiator_in(namespace, "near0", "near1") as initiator:
        device = await initiator.open(SHELF, SLOT)
        await initiator.discover(0.1)
        assert len(device.paths) == 1
        assert await initiator.open(SHELF, SLOT) is device


async def test_cancelled_read_leaves_nothing_behind(
    device: RemoteDevice, targets: list[Scripted]
) -> None:
    await device.identify()
    arrived = asyncio.Event()

    def disturb(_: Header, __: bytes) -> Replies:
        arrived.set()
        return []

    targets[0].disturb = disturb
    reading = asyncio.create_task(device.read(0, 100))
    await arrived.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    targets[0].disturb = lambda _, reply: [reply]
    assert await device.read(7, 1) == targets[0].disk[7 * SECTOR_BYTES : 8 * SECTOR_BYTES]


async def test_close_fails_what_is_under_way(namespace: Namespace, targets: list[Scripted]) -> None:
    initiator = initiator_in(namespace)
    async with initiator:
        device = await initiator.open(SHELF, SLOT)
        targets[0].disturb = lambda *_: []
        reading = asyncio.create_task(device.read(0, 10))
        await asyncio.sleep(0)
    with pytest.raises(ClientError, match="closed"):
        await reading
    with pytest.raises(ClientError, match="closed"):
        await device.identify()
    initiator.close()


def test_unusable_interfaces_are_named(namespace: Namespace) -> None:
    with namespace.entered():
        with pytest.raises(ClientError, match=r"no interface absent0: there are .*near0"):
            Initiator(["absent0"])
        namespace.ip("link add down0 type bridge")
        try:
            with pytest.raises(ClientError, match="down0 is down"):
                Initiator(["down0"])
        finally:
            namespace.ip("link del down0")
        namespace.ip("tuntap add mode tun name tun0")
        try:
            namespace.ip("link set tun0 up")
            with pytest.raises(ClientError, match="tun0 is no Ethernet interface"):
                Initiator(["tun0"])
        finally:
            namespace.ip("link del tun0")
        twice = Initiator(["near0", "near1", "near0"])
        assert twice.interfaces == ["near0", "near1"]
        twice.close()
        opened = Initiator()
        assert {"near0", "near1", "far0", "far1"} <= set(opened.interfaces)
        assert "lo" not in opened.interfaces
        opened.close()
