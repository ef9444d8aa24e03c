"""Random requests over two links against a store that fails, falls short and answers in any order.

The judge replays the requests sector by sector in their order of arrival: what was acknowledged is
there, what failed may or may not be, and every read fits.
"""

from __future__ import annotations

import errno
import itertools
import random
import time
from dataclasses import dataclass

import pytest

from ggaoe.backend.base import Transfer
from ggaoe.backend.faults import Fault, Hold, seeded
from ggaoe.proto.ata import Op
from ggaoe.sched.queue import Policy
from unit.engine.rig import SECTOR, Disk, Host, Rig, until
from unit.proto.host import FLUSH, MAC_A, MAC_B, READ, VERIFY, WRITE, Answer

DISK_SECTORS = 48
REQUESTS = 240
OPCODES = [READ, READ, READ, WRITE, WRITE, WRITE, WRITE, VERIFY, FLUSH]


@dataclass
class Sent:
    """One request as it was sent, in order of arrival."""

    host: Host
    tag: int
    opcode: int
    sector: int
    count: int

    @property
    def content(self) -> bytes:
        """What a WRITE puts into each of its sectors."""
        return self.tag.to_bytes(4, "big") * (SECTOR // 4)

    @property
    def answer(self) -> Answer:
        return self.host.answers[self.tag]


def play(rig: Rig, chance: random.Random, seed: int) -> Disk:
    """A disk with a random policy and faults."""
    policy = Policy(
        queue_length=chance.choice((2, 3, 8, 64)),
        max_delay_ns=chance.choice((0, 1_000_000)),
        merge_delay_ns=chance.choice((0, 0, 100_000)),
    )
    disk = rig.disk(
        rig.port(1, chance.choice((1500, 4200))),
        rig.port(2),
        policy=policy,
        size_sectors=DISK_SECTORS,
        granule_bytes=chance.choice((512, 4096)),
        write_cache=chance.random() < 0.5,
    )

    def hold(_: Transfer) -> Fault | None:
        return Hold() if chance.random() < 0.3 else None

    disk.faults.plans += [hold, seeded(seed, 0.05, 0.1, errno.EIO)]
    return disk


def a_request(chance: random.Random, hosts: list[Host], tag: int) -> Sent:
    opcode = chance.choice(OPCODES)
    if opcode == FLUSH:
        return Sent(chance.choice(hosts), tag, opcode, 0, 0)
    count = chance.choice((1, 1, 2))
    return Sent(chance.choice(hosts), tag, opcode, chance.randrange(DISK_SECTORS - count), count)


def deliver(sent: Sent, arrival_ns: int) -> None:
    data = sent.content * sent.count if sent.opcode == WRITE else b""
    sent.host.ata(sent.opcode, sent.sector, sent.count, data, tag=sent.tag, at=arrival_ns)


def judge(history: list[Sent], disk: Disk) -> None:
    """Every read, and the disk at the end, agree with an execution in order of arrival."""
    possible = [{bytes(SECTOR)} for _ in range(DISK_SECTORS)]
    for sent in history:
        status, error = sent.answer.registers
        assert (status, error) in {(0x40, 0), (0x41, 0x04 if sent.opcode == WRITE else 0x40),
                                   (0x41, 0x04)}  # fmt: skip
        for at in range(sent.count):
            allowed = possible[sent.sector + at]
            if sent.opcode == WRITE and error:
                allowed.add(sent.content)
            elif sent.opcode == WRITE:
                possible[sent.sector + at] = {sent.content}
            elif sent.opcode == READ and not error:
                found = sent.answer.data[at * SECTOR :][:SECTOR]
                assert found in allowed, (sent.tag, sent.sector + at, found[:4], allowed)
                possible[sent.sector + at] = {found}
    for sector, allowed in enumerate(possible):
        assert disk.content(sector) in allowed, sector


@pytest.mark.parametrize("seed", range(40))
async def test_random_requests_agree_with_their_order_of_arrival(rig: Rig, seed: int) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    disk = play(rig, chance, seed)
    hosts = [Host(port, mac) for port in disk.device.ports for mac in (MAC_A, MAC_B)]
    hosts.sort(key=lambda host: (host.link.index, host.mac))
    arrivals = itertools.count(time.time_ns() - 1_000_000_000)
    history: list[Sent] = []
    for tag in range(1, REQUESTS + 1):
        sent = a_request(chance, hosts, tag)
        history.append(sent)
        for _ in range(chance.choice((1, 1, 1, 2))):
            # The copy comes right behind: absorbed or executed again, the effect is the same.
            deliver(sent, next(arrivals))
        if chance.random() < 0.1:
            await rig.quiet()
        if disk.faults.held and chance.random() < 0.3:
            chance.shuffle(disk.faults.held)
            disk.faults.release(chance.randrange(1, len(disk.faults.held) + 1))

    def all_answered() -> bool:
        disk.faults.release()
        return all(sent.tag in sent.host.answers for sent in history)

    await until(all_answered)
    await until(lambda: disk.device.in_flight + disk.device.waiting == 0)
    judge(history, disk)
    counters = disk.device.counters
    frames = sum(host.link.counters.rx_frames for host in hosts) // 2
    answers = sum(len(host.link.sent) for host in hosts) // 2
    assert frames == answers + counters.absorbed
    assert not counters.drops
    assert disk.of(Op.WRITE)
