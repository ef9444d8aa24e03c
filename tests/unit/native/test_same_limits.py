"""Limits on the compiled core are those of `sched.queue`: played the same requests at the same
times, both start the same ones, and want to be asked again at the same time."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from ggaoe.proto.ata import Op
from ggaoe.sched.commit import GroupCommit
from ggaoe.sched.queue import Arrival, DeviceQueue, Policy
from ggaoe.sched.request import Request
from ggaoe.sched.throttle import NO_LIMITS, Limits, Rate, rate
from unit.proto.host import (
    FLUSH,
    MAC_TARGET,
    READ_EXT,
    SHELF,
    SLOT,
    VERIFY_EXT,
    WRITE_EXT,
    ata_argument,
    request,
)
from unit.sched.making import MS, SECTOR

core = pytest.importorskip("ggaoe.engine.native.core", reason="the native engine is not built")

SOURCES = [bytes([2, 0, 0, 0, 0, number]) for number in range(1, 6)]
OPS = (
    (Op.READ, READ_EXT),
    (Op.READ, READ_EXT),
    (Op.WRITE, WRITE_EXT),
    (Op.FLUSH, FLUSH),
    (Op.VERIFY, VERIFY_EXT),
)
SECTORS = 64
FRAME_SECTORS_MAX = 8
VERIFY_SECTORS_MAX = 48
"""It may ask for more than a frame holds."""
PAYLOAD_BYTES = FRAME_SECTORS_MAX * SECTOR
NO_RATE = Rate(0, 0)
STALE_AGE_NS = 60_000_000_000
WALL_NS = 10**18
LISTS = 8
LIST_RESERVED = 3
STEPS = 400


class Twins:
    """One queue, twice. The store does what is started when it is told to."""

    def __init__(self, policy: Policy, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now_ns = 5_000_000_000
        self.queue = DeviceQueue(policy)
        self.commit = GroupCommit()
        self.core = core.Core(STALE_AGE_NS, False)
        self.link = self.core.open_link(
            -1, 1, MAC_TARGET, FRAME_SECTORS_MAX, PAYLOAD_BYTES, None, NO_RATE, NO_RATE
        )
        self.device = core.CoreDevice(self.core)
        self.admit()
        self.device.resize(SECTORS * SECTOR)
        self.device.attach_to_python(SECTOR, 0)
        self.link.route([((SHELF, SLOT), self.device)])
        self.set_policy(policy)
        self.sent = 0
        self.running: dict[int, Request] = {}
        self.handles: list[tuple[int, int, list[int]]] = []
        """Of transfers: handle, bytes, tags of the members."""
        self.wait_ns = -1
        self.throttled = 0

    def admit(self, locked_out: Sequence[bytes] = ()) -> None:
        lists: list[tuple[Sequence[bytes], bool]] = [((), True)] * LISTS
        lists[LIST_RESERVED] = (locked_out, True)
        self.device.admit(SHELF, SLOT, lists, False, True, True)

    def lock_out(self, sources: Sequence[bytes]) -> None:
        """For a moment."""
        self.admit(sources)
        dropped = self.queue.drop_unstarted(lambda source: source in sources)
        assert self.device.drop_waiting(True) == len(dropped)
        self.admit()

    def set_policy(self, policy: Policy) -> None:
        self.queue.policy = policy
        self.device.limit(*self.limits_of(policy))
        self.device.throttle(policy.limits)

    @staticmethod
    def limits_of(policy: Policy) -> tuple[int, int, int]:
        return policy.queue_length, policy.max_delay_ns, policy.merge_delay_ns

    def arrive(self) -> None:
        op, opcode = self.chance.choice(OPS)
        sectors_max = VERIFY_SECTORS_MAX if op is Op.VERIFY else FRAME_SECTORS_MAX
        sectors = 0 if op is Op.FLUSH else self.chance.randint(1, sectors_max)
        sector = self.chance.randrange(SECTORS - sectors) if sectors else 0
        source = self.chance.choice(SOURCES)
        tag, self.sent = self.sent, self.sent + 1
        data = bytes(sectors * SECTOR) if op is Op.WRITE else b""
        argument = ata_argument(opcode, sector, sectors)
        # Each has a time of its own, which orders what starts together.
        self.link.deliver(request(0, argument + data, source=source, tag=tag), WALL_NS + tag)
        twin = Request(op, sector, sectors, source, tag, WALL_NS + tag, 1024)
        assert self.queue.arrive(twin, self.now_ns) in (Arrival.READY, Arrival.BEHIND)

    def finish(self) -> bool:
        """Some transfer ends; whether there was one."""
        if not self.handles:
            return False
        handle, length, tags = self.handles.pop(self.chance.randrange(len(self.handles)))
        self.core.complete([(handle, length)])
        done = [self.running[tag] for tag in tags] if tags else self.commit.done()
        for member in done:
            del self.running[int(str(member.key))]
            self.queue.finish(member)
        return True

    def turn(self, *, after_completion: bool = False) -> None:
        """Both start what may start, which is the same."""
        vectors = self.queue.take(self.now_ns, after_completion=after_completion)
        fresh = [member for vector in vectors for member in vector.members]
        self.throttled += sum(member.throttled for member in fresh)
        self.device.limit(*self.limits_of(self.queue.policy))  # so that it looks, too
        self.wait_ns = self.core.turn(self.now_ns, WALL_NS + self.sent)
        slow, transfers, _ = self.core.take()
        assert not slow
        expected = []
        for vector in vectors:
            if vector.op is Op.FLUSH:
                self.commit.join(vector.members[0])
            else:
                tags = [int(str(member.key)) for member in vector.members]
                expected.append((vector.op, vector.offset_bytes, vector.length_bytes, tags))
        if self.commit.start():
            expected.append((Op.FLUSH, 0, 0, []))
        began = [(Op(op), offset, length) for _, _, op, offset, length, _ in transfers]
        assert began == [each[:3] for each in expected]
        for transfer, (_, _, length, tags) in zip(transfers, expected, strict=True):
            self.handles.append((transfer[1], length, tags))
        self.running |= {int(str(member.key)): member for member in fresh}
        assert self.device.load == (self.queue.in_flight, self.queue.waiting)

    def check_wake(self) -> None:
        wake_ns = self.queue.wake_ns
        if wake_ns is not None:
            assert self.wait_ns == max(0, wake_ns - self.now_ns)

    def step(self) -> None:
        kind = self.chance.random()
        if kind < 0.4:
            for _ in range(self.chance.choice((1, 1, 2, 7))):
                self.arrive()
            self.turn()
        elif kind < 0.7:
            if self.finish():
                self.turn(after_completion=True)
        elif kind < 0.98:
            wake_ns = self.queue.wake_ns
            late_ns = self.chance.choice((0, 0, 1, MS // 3, 4 * MS, 30 * MS))
            self.now_ns = max(self.now_ns, wake_ns or 0) + late_ns
            self.turn()
        elif kind < 0.99:
            self.device.stop()
            assert self.device.drop_waiting(False) == len(self.queue.drop_unstarted())
            self.device.attach_to_python(SECTOR, 0)
            self.turn()
        elif kind < 0.995:
            self.lock_out(self.chance.sample(SOURCES, 2))
            self.turn()
        else:
            self.set_policy(some_policy(self.chance))
            self.turn()

    def finish_all(self) -> None:
        while self.queue.active:
            if self.finish():
                self.turn(after_completion=True)
            else:
                wake_ns = self.queue.wake_ns
                assert wake_ns is not None
                self.now_ns = wake_ns
                self.turn()
            self.check_wake()

    def close(self) -> None:
        self.device.stop()
        self.core.close_link(self.link)
        self.device.detach()
        self.core.close()


RATES = (
    Limits(iops=rate(1000)),
    Limits(iops=Rate(777, 3)),
    Limits(bandwidth=Rate(1_000_003, 5000)),
    Limits(initiator_iops=Rate(300, 2)),
    Limits(initiator_bandwidth=Rate(333_333, 1)),
    Limits(Rate(2000, 7), Rate(3_000_000, 8192), Rate(500, 2), Rate(900_001, 4096)),
    Limits(iops=Rate(1_000_000_000, 1_000_000_000), bandwidth=Rate(1 << 35, 1 << 32)),
)


def some_policy(chance: random.Random) -> Policy:
    return Policy(
        queue_length=chance.choice((2, 5, 64)),
        max_delay_ns=0,
        merge_delay_ns=chance.choice((0, 0, MS)),
        limits=chance.choice((*RATES, NO_LIMITS)),
    )


@pytest.mark.parametrize("seed", range(60))
def test_the_core_keeps_limits_as_the_queue_does(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    policy = Policy(chance.choice((2, 64)), 0, limits=RATES[seed % len(RATES)])
    twins = Twins(policy, seed)
    for _ in range(STEPS):
        twins.step()
        twins.check_wake()
    twins.finish_all()
    counters, queue_full, _ = twins.device.counters()
    assert (counters["throttled"], queue_full) == (twins.throttled, 0)
    by_source = [values["throttled"] for _, _, _, _, values, _ in twins.device.initiators()]
    assert sum(by_source) == twins.throttled
    twins.close()


def test_limits_are_felt() -> None:
    """Of the test above: its worlds are not too idle for limits."""
    twins = Twins(Policy(64, 0, limits=RATES[1]), 1)
    for _ in range(STEPS):
        twins.step()
    twins.finish_all()
    assert twins.throttled > 50
    twins.close()
