"""Every case of a small world, on the compiled core: all kinds of requests, all places, every order
in which they can arrive and finish.

The core is driven turn by turn, without an engine around it; the store is this test. The rule is
that of `unit.sched.test_exhaustive`: a request has started exactly when no older one that it
conflicts with is still there. Of cases that only differ in which sector is which, one is played.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from ggaoe.proto.ata import Op
from unit.proto.host import MAC_TARGET, READ_EXT, SHELF, SLOT, WRITE_EXT, ata_argument, request
from unit.sched.lives import every_life
from unit.sched.making import SECTOR
from unit.sched.small_world import Kind, cases, further_scopes, overlaps_of

core = pytest.importorskip("ggaoe.engine.native.core", reason="the native engine is not built")

SCOPE_VARIABLE = "GGAOE_TEST_CORE_SCOPE"
"""Names further scopes: 4x3 takes half a minute, 4x4 some."""
OPCODES = {Op.READ: READ_EXT, Op.WRITE: WRITE_EXT}
SECTORS = 4
PAYLOAD_BYTES = SECTORS * SECTOR
NO_RATE = (0, 0)
STALE_AGE_NS = 60_000_000_000
ORIGIN_SECTORS = 14
"""So that the core keeps the first two sectors and the others in different cells."""
QUEUE_LENGTH = 64
LISTS = 8
"""Access lists of a device; all are empty here."""


class Bench:
    """A core with one link and one device, whose transfers this test carries out."""

    def __init__(self) -> None:
        self.core = core.Core(STALE_AGE_NS, False)
        self.link = self.core.open_link(
            -1, 1, MAC_TARGET, SECTORS, PAYLOAD_BYTES, None, NO_RATE, NO_RATE
        )
        self.device = core.CoreDevice(self.core)
        self.device.admit(SHELF, SLOT, [((), True)] * LISTS, False, True, True)
        self.device.resize(SECTORS * SECTOR)
        self.device.limit(QUEUE_LENGTH, 0, 0)
        self.device.attach_to_python(SECTOR, ORIGIN_SECTORS * SECTOR)
        self.link.route([((SHELF, SLOT), self.device)])

    def turn(self) -> list[tuple[int, int, list[Kind]]]:
        """What starts now: (handle, bytes, the requests of the vector) each."""
        self.core.turn(time.monotonic_ns(), time.time_ns())
        slow, transfers, _ = self.core.take()
        assert not slow, "every frame here is flawless"
        started = []
        for _, handle, op, offset_bytes, length_bytes, buffers in transfers:
            members = []
            at = offset_bytes // SECTOR
            for buffer in buffers:
                members.append((Op(op), at, len(buffer) // SECTOR))
                at += len(buffer) // SECTOR
            assert at * SECTOR == offset_bytes + length_bytes
            started.append((handle, length_bytes, members))
        return started

    def close(self) -> None:
        assert self.device.load == (0, 0)
        self.device.stop()
        self.device.detach()
        self.core.close_link(self.link)
        self.core.close()


def frame_of(kind: Kind, number: int) -> bytes:
    op, sector, sectors = kind
    argument = ata_argument(OPCODES[op], sector, sectors)
    data = bytes(sectors * SECTOR) if op is Op.WRITE else b""
    return request(0, argument + data, tag=number)


class Life:
    """One history, told by which of the possible events happens at each step: the next request
    arrives, or a vector that has started finishes (each)."""

    def __init__(self, bench: Bench, kinds: Sequence[Kind], frames: Sequence[bytes]) -> None:
        self.bench = bench
        self.kinds = kinds
        self.frames = frames
        self.overlaps = overlaps_of(kinds)
        self.arrived = 0
        self.started: set[int] = set()
        self.gone = 0
        self.running: list[tuple[int, int, list[Kind]]] = []

    def choices(self) -> int:
        return (self.arrived < len(self.kinds)) + len(self.running)

    def step(self, choice: int) -> None:
        if self.arrived < len(self.kinds) and choice == 0:
            self.bench.link.deliver(self.frames[self.arrived], time.time_ns())
            self.arrived += 1
            members: list[Kind] = []
        else:
            choice -= self.arrived < len(self.kinds)
            handle, length_bytes, members = self.running.pop(choice)
            self.bench.core.complete([(handle, length_bytes)])
        fresh = self.bench.turn()
        answered = [int.from_bytes(reply[20:24], "big") for reply in self.bench.link.sent()]
        assert Counter(self.kinds[number] for number in answered) == Counter(members)
        for number in answered:
            assert number in self.started
            assert not self.gone >> number & 1
            self.gone |= 1 << number
        expected = {
            number
            for number in range(self.arrived)
            if number not in self.started and not self.overlaps[number] & ~self.gone
        }
        begun = Counter(kind for _, _, members in fresh for kind in members)
        assert begun == Counter(self.kinds[number] for number in expected)
        self.started |= expected
        self.running += fresh


def lives(bench: Bench, kinds: Sequence[Kind]) -> Iterator[Life]:
    """Every life; the core is as empty at the end of each as at its beginning."""
    frames = [frame_of(kind, number) for number, kind in enumerate(kinds)]
    return every_life(lambda: Life(bench, kinds, frames))


@pytest.mark.parametrize(
    ("requests", "sectors"), [(1, 4), (2, 4), (3, 4), (4, 2), *further_scopes(SCOPE_VARIABLE)]
)
@pytest.mark.timeout(7200)
def test_the_core_lives_through_every_history(requests: int, sectors: int) -> None:
    bench = Bench()
    started_s = time.monotonic()
    played = ended = 0
    for kinds in cases(requests, sectors):
        for life in lives(bench, kinds):
            assert life.gone == (1 << requests) - 1
            assert bench.device.load == (0, 0)
            ended += 1
        played += 1
    bench.close()
    took_s = time.monotonic() - started_s
    print(
        f"{requests} requests, {sectors} sectors: {played} cases, {ended} histories, {took_s:.0f} s"
    )
    assert ended >= played >= 2**requests
