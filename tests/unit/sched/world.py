"""A small world around a `DeviceQueue`: hosts, a faulty medium, and an adversary who decides.

`choose(n)` gives a number below n; whoever supplies it (Hypothesis, a seeded generator) is the
adversary: what arrives, when `take` is called, which transfer ends next and how. The world obeys
the engine's duties (settle, group commit, finish) and checks at every step what the queue promises.
Afterwards everything must equal an execution one by one, in order of arrival.

The medium writes whole granules: it reads what surrounds a write when the transfer begins, and
puts it back when it ends. Two writes of one granule at a time therefore destroy each other.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ggaoe.proto.ata import Op
from ggaoe.sched.commit import GroupCommit
from ggaoe.sched.merge import VECTOR_BYTES_MAX, VECTOR_MEMBERS_MAX, Vector, settle
from ggaoe.sched.queue import (
    WAITING_BYTES_MAX,
    WAITING_BYTES_PER_SOURCE_MAX,
    Arrival,
    DeviceQueue,
    Policy,
    Waiting,
)
from ggaoe.sched.request import Request
from ggaoe.sched.throttle import NO_LIMITS, Limits, Rate
from unit.sched.making import MS, SECTOR, conflict

Choose = Callable[[int], int]
SOURCES = [bytes([2, 0, 0, 0, 0, number]) for number in range(6)]
OPS = [Op.READ, Op.WRITE, Op.WRITE, Op.READ, Op.WRITE, Op.VERIFY, Op.FLUSH]
SIZES = [1024] * 6 + [0, 3 << 20, 16 << 20]
LIMITS = [
    NO_LIMITS,
    NO_LIMITS,
    Limits(iops=Rate(2000, 3), bandwidth=Rate(3_000_000, 2048)),
    Limits(initiator_iops=Rate(1500, 2), initiator_bandwidth=Rate(1_000_000, 1024)),
]
ERRORS = [errno.EIO, errno.ENOSPC]


class Load(Request):
    """A request with what the world knows of it; `written` sectors of a WRITE are on the medium."""

    def __init__(self, number: int, op: Op, place: tuple[int, int], source: bytes, key: object,
                 now_ns: int, size: int) -> None:  # fmt: skip
        super().__init__(op, *place, source, key, now_ns, size)
        self.number = number
        self.sector, self.sectors = place
        self.data = [0] * self.sectors
        self.written = 0
        self.moved_at = 0
        self.free_ns = -1
        self.error_number: int | None = None

    def content(self, at: int) -> int:
        return self.number << 8 | at + 1

    def __repr__(self) -> str:
        return f"#{self.number} {self.op.name} {self.sector}+{self.sectors}"


@dataclass
class Transfer:
    """One attempt of `vector` on the medium, or a flush (None), since step `began`."""

    vector: Vector | None
    began: int
    around: list[int]


class World:
    """See the module."""

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.granule, self.origin = [(1, 0), (8, 0), (8, 3)][choose(3)]
        self.sectors = (6, 24, 60)[choose(3)]
        self.policy = self.some_policy()
        self.durable = bool(choose(2))
        self.queue = DeviceQueue(self.policy, self.granule * SECTOR, self.origin * SECTOR)
        self.commit = GroupCommit()
        self.medium = [0] * (self.sectors + 3 * self.granule)
        self.now_ns = 1
        self.step_number = 0
        self.accepted: list[Load] = []
        self.active: list[Load] = []
        self.running: list[Load] = []
        self.transfers: list[Transfer] = []
        self.sent: list[Load] = []
        self.overtaken: dict[bytes, Counter[bytes]] = {}
        self.log = [f"granule {self.granule}+{self.origin}, {self.policy}, durable {self.durable}"]

    def some_policy(self) -> Policy:
        return Policy(
            queue_length=(2, 3, 5, 64)[self.choose(4)],
            max_delay_ns=(0, MS, 1000 * MS)[self.choose(3)],
            merge_delay_ns=(0, 0, 2 * MS)[self.choose(3)],
            limits=LIMITS[self.choose(len(LIMITS))],
        )

    # --- what may happen -------------------------------------------------------------------

    def step(self) -> None:
        events = [self.arrive, self.arrive, self.arrive, self.end_transfer, self.end_transfer]
        events += [self.take, self.pass_time, self.resend, self.end_transfer, self.rare]
        self.step_number += 1
        events[self.choose(len(events))]()
        self.look()

    def rare(self) -> None:
        match self.choose(12):
            case 0:
                self.drop()
            case 1:
                self.policy = self.queue.policy = self.some_policy()
                self.log.append(f"{self.policy}")
            case _:
                self.arrive()

    def pass_time(self) -> None:
        self.now_ns += (1, MS // 3, 3 * MS)[self.choose(3)]

    def arrive(self) -> None:
        op = OPS[self.choose(len(OPS))]
        sector = self.choose(self.sectors)
        sectors = 1 + self.choose(min(4, self.sectors - sector))
        if self.sent and self.choose(2):  # as a stream goes on
            last = self.sent[-1]
            if last.sector + last.sectors + 4 <= self.sectors:
                op, sector, sectors = last.op, last.sector + last.sectors, 1 + self.choose(4)
        place = (0, 0) if op is Op.FLUSH else (sector, sectors)
        source = SOURCES[self.choose(len(SOURCES))]
        size = SIZES[self.choose(len(SIZES))]
        number = len(self.sent)
        self.admit(Load(number, op, place, source, ("tag", number), self.now_ns, size))

    def resend(self) -> None:
        """A copy of something sent before, wherever that is by now."""
        if self.sent:
            old = self.sent[self.choose(len(self.sent))]
            place = (old.sector, old.sectors)
            size = old.waiting_bytes
            copy = Load(len(self.sent), old.op, place, old.source, old.key, self.now_ns, size)
            self.admit(copy)

    def admit(self, load: Load) -> None:
        expected = self.expected_arrival(load)
        self.sent.append(load)
        arrival = self.queue.arrive(load, self.now_ns)
        self.log.append(f"{load!r} of {load.source[5]}: {arrival.value}")
        assert arrival is expected
        if arrival in (Arrival.READY, Arrival.BEHIND):
            self.accepted.append(load)
            self.active.append(load)
            self.mark_free()

    def expected_arrival(self, load: Load) -> Arrival:
        if any(older.key == load.key for older in self.active):
            return Arrival.ABSORBED
        waiting = [older for older in self.active if older not in self.running]
        held = sum(older.waiting_bytes for older in waiting)
        held_of = sum(older.waiting_bytes for older in waiting if older.source == load.source)
        if (
            held + load.waiting_bytes > WAITING_BYTES_MAX
            or held_of + load.waiting_bytes > WAITING_BYTES_PER_SOURCE_MAX
        ):
            return Arrival.REFUSED
        return Arrival.READY if self.is_free(load, self.active) else Arrival.BEHIND

    def is_free(self, load: Load, older: list[Load]) -> bool:
        return not any(conflict(other, load, self.granule, self.origin) for other in older)

    def drop(self) -> None:
        waiting = [load for load in self.active if load not in self.running]
        dropped = self.queue.drop_unstarted()
        self.log.append(f"dropped {dropped}")
        assert dropped == waiting
        self.active = [load for load in self.active if load in self.running]
        self.accepted = [load for load in self.accepted if load not in waiting]
        self.overtaken.clear()

    # --- starting --------------------------------------------------------------------------

    def free(self) -> list[Load]:
        """Who may start, by the rule: nobody older that conflicts is still there."""
        return [
            load
            for at, load in enumerate(self.active)
            if load not in self.running and self.is_free(load, self.active[:at])
        ]

    def mark_free(self) -> None:
        for load in self.free():
            if load.free_ns < 0:
                load.free_ns = self.now_ns

    def take(self, *, after_completion: bool = False) -> None:
        free = self.free()
        room = max(0, self.policy.queue_length - len(self.running))
        wake_ns = self.queue.wake_ns
        vectors = self.queue.take(self.now_ns, after_completion=after_completion)
        fresh = [member for vector in vectors for member in vector.members]
        self.log.append(f"started {[vector.members for vector in vectors]}")
        for vector in vectors:
            self.check_shape(vector)
        limits = self.policy.limits
        assert len(fresh) == len(set(fresh))
        assert set(fresh) <= set(free)
        if limits != NO_LIMITS:
            self.check_limited(free, fresh, room)
        elif fresh:
            assert len(fresh) == min(len(free), room)
            assert after_completion or wake_ns is None or wake_ns <= self.now_ns
        elif free and room:
            assert not after_completion
            assert wake_ns is not None
            since_ns = min(load.free_ns for load in free)
            assert self.now_ns < wake_ns <= since_ns + self.policy.merge_delay_ns
        if limits.initiator_iops == Rate():
            self.check_turns(free, fresh)
        else:  # not everybody could start
            self.overtaken.clear()
        for load in fresh:
            assert isinstance(load, Load)
            self.running.append(load)
        for vector in vectors:
            self.begin(vector)
        self.begin_flush()

    def check_limited(self, free: list[Load], fresh: list[Request], room: int) -> None:
        """What limits keep back starts when there is time; how much, is tested elsewhere."""
        assert len(fresh) <= min(len(free), room)
        if len(fresh) < min(len(free), room):
            wake_ns = self.queue.wake_ns
            assert wake_ns is not None
            is_merging = not fresh and self.policy.merge_delay_ns
            assert self.now_ns < wake_ns or is_merging

    def check_shape(self, vector: Vector) -> None:
        assert vector.done_bytes == 0
        assert len(vector.members) <= VECTOR_MEMBERS_MAX
        if len(vector.members) > 1:
            assert vector.length_bytes <= VECTOR_BYTES_MAX
            assert vector.op in (Op.READ, Op.WRITE)
        end_bytes = vector.offset_bytes
        for member in vector.members:
            assert member.op is vector.op
            assert member.offset_bytes == end_bytes
            end_bytes += member.length_bytes

    def check_turns(self, free: list[Load], fresh: list[Request]) -> None:
        """Before a source that could start has its turn, each other one has at most one."""
        starts = Counter(load.source for load in fresh)
        could = {load.source for load in free}
        for source in SOURCES:
            if source not in could or source in starts:
                self.overtaken.pop(source, None)
                continue
            overtaken = self.overtaken.setdefault(source, Counter())
            overtaken.update(starts)
            assert max(overtaken.values(), default=0) <= 1

    # --- the medium ------------------------------------------------------------------------

    def cells(self, vector: Vector) -> range:
        """The medium's cells that `vector` still has to move."""
        first = vector.offset_bytes // SECTOR + self.origin
        return range(first, first + vector.length_bytes // SECTOR)

    def whole(self, vector: Vector) -> range:
        """`cells` with what surrounds them in their granules."""
        cells = self.cells(vector)
        return range(
            cells.start // self.granule * self.granule,
            -(-cells.stop // self.granule) * self.granule,
        )

    def begin(self, vector: Vector) -> None:
        if vector.op is Op.FLUSH:
            (load,) = vector.members
            assert isinstance(load, Load)
            load.moved_at = self.step_number
            self.commit.join(load)
            return
        around = [self.medium[cell] for cell in self.whole(vector)]
        self.transfers.append(Transfer(vector, self.step_number, around))

    def begin_flush(self) -> None:
        if self.commit.start():
            assert all(transfer.vector is not None for transfer in self.transfers)
            self.transfers.append(Transfer(None, self.step_number, []))

    def end_transfer(self) -> None:
        if not self.transfers:
            return
        self.step_number += 1
        transfer = self.transfers.pop(self.choose(len(self.transfers)))
        if transfer.vector is None:
            self.end_flush(transfer)
        else:
            self.end_attempt(transfer, transfer.vector)
        self.step_number += 1
        self.begin_flush()
        if self.choose(3) < 2:
            self.take(after_completion=True)

    def end_flush(self, transfer: Transfer) -> None:
        error_number = 0 if self.choose(8) else errno.EIO
        covered = self.commit.done()
        self.log.append(f"flushed {covered}: {error_number}")
        assert covered
        for load in covered:
            assert isinstance(load, Load)
            assert load.moved_at <= transfer.began
            self.finish(load, error_number)

    def end_attempt(self, transfer: Transfer, vector: Vector) -> None:
        result, moved = self.some_result(vector)
        cells = self.cells(vector)
        if vector.op is Op.WRITE:
            self.put(transfer, vector, moved)
        elif vector.op is Op.READ:
            sampled_late = self.choose(2)
            whole = self.whole(vector)
            seen = self.medium[whole.start : whole.stop] if sampled_late else transfer.around
            skipped = cells.start - whole.start
            self.get(vector, seen[skipped : skipped + moved])
        settled = settle(vector, result)
        self.log.append(f"{vector.members} from {vector.done_bytes}: {result} -> {settled}")
        for load, error_number in settled.finished:
            assert isinstance(load, Load)
            load.moved_at = self.step_number
            if error_number:
                assert len(vector.members) == 1
                assert error_number == (-result if result < 0 else errno.EIO)
            if self.durable and load.op is Op.WRITE and not error_number:
                self.commit.join(load)
            else:
                self.finish(load, error_number)
        for retry in settled.again:
            assert len(retry.members) == 1
            self.begin(retry)

    def some_result(self, vector: Vector) -> tuple[int, int]:
        """The result of an attempt, and how many sectors it really moved."""
        sectors = vector.length_bytes // SECTOR
        match self.choose(6):
            case 0:
                return -ERRORS[self.choose(len(ERRORS))], self.choose(sectors + 1)
            case 1:
                moved = self.choose(sectors)
                return moved * SECTOR + (0, 1, 511)[self.choose(3)], moved
            case _:
                return sectors * SECTOR, sectors

    def put(self, transfer: Transfer, vector: Vector, moved: int) -> None:
        if not moved:
            return
        whole = self.whole(vector)
        self.medium[whole.start : whole.stop] = transfer.around
        cells = self.cells(vector)
        position = vector.done_bytes // SECTOR
        for cell in cells[:moved]:
            load, at = locate(vector, position)
            self.medium[cell] = load.content(at)
            load.written = max(load.written, at + 1)
            position += 1

    def get(self, vector: Vector, seen: list[int]) -> None:
        for position, content in enumerate(seen, vector.done_bytes // SECTOR):
            load, at = locate(vector, position)
            load.data[at] = content

    def finish(self, load: Load, error_number: int) -> None:
        assert load.error_number is None
        load.error_number = error_number
        self.queue.finish(load)
        self.active.remove(load)
        self.running.remove(load)
        self.mark_free()

    # --- checks ----------------------------------------------------------------------------

    def look(self) -> None:
        """What holds at any moment."""
        queue = self.queue
        assert queue.in_flight == len(self.running)
        assert queue.waiting == len(self.active) - len(self.running)
        assert queue.active == self.active
        if queue.wake_ns is not None:
            assert self.policy.merge_delay_ns or self.policy.limits != NO_LIMITS
            assert self.free()
        for at, load in enumerate(self.running):
            assert self.is_free(load, self.running[:at])

    def finish_all(self) -> None:
        """Nothing more arrives; everything that was accepted must come to its end."""
        self.log.append("no more arrivals")
        while self.active:
            self.step_number += 1
            self.take()
            if self.transfers:
                self.end_transfer()
            else:
                wake_ns = self.queue.wake_ns
                assert wake_ns is not None
                assert wake_ns > self.now_ns
                self.now_ns = wake_ns
            self.look()
        self.check_content()
        self.check_empty()

    def check_content(self) -> None:
        """All of it equals an execution one by one in order of arrival."""
        medium = [0] * len(self.medium)
        for load in self.accepted:
            assert load.error_number is not None
            first = load.sector + self.origin
            if load.op is Op.WRITE:
                assert load.error_number or load.written == load.sectors
                for at in range(load.written):
                    medium[first + at] = load.content(at)
            elif load.op is Op.READ and load.error_number == 0:
                assert load.data == medium[first : first + load.sectors], load
        assert medium == self.medium

    def check_empty(self) -> None:
        """Nothing is left of anybody; the private tables are where a leak would grow unseen."""
        queue = self.queue
        assert (queue.in_flight, queue.waiting, queue.active, queue.wake_ns) == (0, 0, [], None)
        assert queue.take(self.now_ns) == []
        assert not self.commit.start()
        assert not queue._order._granules
        assert not queue._turns
        assert not queue._parked
        assert not queue._ready
        assert not queue._load_of
        assert queue._load == queue._total == Waiting()
        assert queue._ready_count == 0


def locate(vector: Vector, position: int) -> tuple[Load, int]:
    """The member that sector `position` of `vector` belongs to, and which of its own that is."""
    for member in vector.members:
        assert isinstance(member, Load)
        if position < member.sectors:
            return member, position
        position -= member.sectors
    raise AssertionError(f"{vector.members} has no sector {position}")
