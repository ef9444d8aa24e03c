"""Rules of time: which thread reads where nobody can tell what is in memory, and when to spin."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggaoe.backend.file import FileSpec, open_file
from unit.backend.stores import MEMORY_DIRECTORY, sparse_file
from unit.engine.rig import SECTOR, Host, Rig

core = pytest.importorskip("ggaoe.engine.native.core", reason="the native engine is not built")
memory = pytest.importorskip("ggaoe.testing.native")

MAC = bytes.fromhex("02000000aa01")
US, MS, S = 1_000, 1_000_000, 1_000_000_000
QUICK_NS = 2 * US
ROUND_TRIP_NS = 35 * US
FLASH_NS = 100 * US
DISK_NS = 8 * MS


class Reads:
    """The reads of one device, and how many the engine thread has made itself."""

    def __init__(self) -> None:
        self.debt_ns = 0
        self.offloads = False
        self.inline = 0

    def read(self, blocked_ns: int, *, alone: bool = False, stalls: bool = False) -> None:
        self.inline += not self.offloads
        stalled = stalls and not self.offloads
        self.debt_ns = core.read_debt(self.debt_ns, blocked_ns, alone, stalled)
        self.offloads = core.offloads_reads(self.debt_ns, self.offloads)

    def until_inline(self, blocked_ns: int = QUICK_NS, *, alone: bool = False) -> int:
        count = 0
        while self.offloads:
            self.read(blocked_ns, alone=alone)
            count += 1
        return count


def test_cached_reads_are_never_offloaded() -> None:
    reads = Reads()
    for _ in range(1000):
        reads.read(QUICK_NS)
    assert reads.inline == 1000


def test_a_few_slow_reads_among_many_do_no_harm() -> None:
    reads = Reads()
    for number in range(1000):
        reads.read(FLASH_NS if number % 20 == 0 else QUICK_NS)
    assert reads.inline == 1000


def test_a_round_trip_to_a_server_is_offloaded_only_beside_others() -> None:
    reads = Reads()
    for _ in range(1000):
        reads.read(ROUND_TRIP_NS, alone=True)
    assert reads.inline == 1000
    for _ in range(1000):
        reads.read(ROUND_TRIP_NS)
    assert reads.inline < 1030
    assert reads.until_inline(ROUND_TRIP_NS, alone=True) < 1500


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("blocked_ns", [FLASH_NS, DISK_NS])
def test_a_device_whose_reads_miss_is_offloaded_and_stays_so(blocked_ns: int, alone: bool) -> None:
    reads = Reads()
    for _ in range(100_000):
        reads.read(blocked_ns, alone=alone, stalls=blocked_ns > MS)
    assert reads.inline <= 7
    # However long it missed, it is back soon after what it reads is in memory.
    assert reads.until_inline() < (1500 if blocked_ns < MS else 60_000)


def test_a_disk_that_misses_seldom_stalls_others_seldom() -> None:
    """One read in a thousand waits for a disk: others lose less than a part in a hundred."""
    reads, stalls, time_ns = Reads(), 0, 0
    for number in range(200_000):
        misses = number % 1000 == 0
        stalls += misses and not reads.offloads
        time_ns += DISK_NS if misses else 10 * US
        reads.read(DISK_NS if misses else QUICK_NS, stalls=misses)
    assert 1 <= stalls * 2 * MS < time_ns / 100


def test_a_read_that_stalled_the_engine_thread_is_forgiven_late_but_surely() -> None:
    reads = Reads()
    reads.read(2 * MS, stalls=True)
    assert reads.until_inline() > 5000
    reads.read(3600 * S, stalls=True)
    assert reads.debt_ns == S
    assert reads.until_inline() < 100_000


@given(st.lists(st.tuples(st.integers(0, 10**15), st.booleans(), st.booleans())))
def test_the_debt_has_bounds(calls: list[tuple[int, bool, bool]]) -> None:
    reads = Reads()
    for blocked_ns, alone, stalls in calls:
        reads.read(blocked_ns, alone=alone, stalls=stalls)
        assert 0 <= reads.debt_ns <= S


def test_who_meets_nobody_spins_on() -> None:
    assert core.end_of_spin_rest(0, 5 * S, 5 * S + 20 * US) == 0
    assert core.end_of_spin_rest(S, 5 * S, 5 * S + 20 * US) == S


@given(st.integers(50 * US + 1, 10**15))
def test_who_meets_others_rests_a_hundred_times_as_long(away_ns: int) -> None:
    now_ns = 5 * S + away_ns
    assert core.end_of_spin_rest(0, 5 * S, now_ns) - now_ns == min(100 * away_ns, S)


async def test_cached_reads_start_no_thread_where_the_kernel_cannot_say() -> None:
    """tmpfs knows no RWF_NOWAIT; only flushes are for threads."""
    rig = Rig(memory.NativeOnMemory)
    port = rig.port()
    disk = rig.disk(port)
    host = Host(port, MAC)
    await rig.engine.detach(disk.device, None)
    with sparse_file(MEMORY_DIRECTORY, 64 * 4096) as path:
        path.write_bytes(b"".join(bytes([sector % 251]) * SECTOR for sector in range(512)))
        backend = await open_file(FileSpec(path, direct_io=False))
        disk.device.target.size_sectors = backend.size_bytes // SECTOR
        rig.engine.attach(disk.device, backend)
        before = threads()
        for sector in range(512):
            answer = await host.answer(host.read(sector))
            assert answer.data == bytes([sector % 251]) * SECTOR
        assert threads() <= before
        await host.good(host.write(3, "new"), host.flush())
        assert len(threads() - before) == 1
        await rig.close()
        await backend.close()


def threads() -> set[str]:
    return {entry.name for entry in Path("/proc/self/task").iterdir()}
