"""What the bench measures and what is to be reached: the one table of cases, and that of goals.

A new case, a new goal, or another setting of a target is a line here. Must not know: how a target
is started, how anything is measured or printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SECTOR_BYTES = 512


@dataclass(frozen=True)
class Storage:
    """Where a case's blocks are, and how each target is told to reach them."""

    cached: bool  # the file is in the page cache and locked there; otherwise it is on the disk only
    vblade: tuple[str, ...]  # options of the command
    ggaoe: str  # lines of [defaults]


CACHED = Storage(True, (), "direct-io = false\nwrite-cache = true\n")
DIRECT = Storage(False, ("-d",), "direct-io = true\nwrite-cache = true\n")
DURABLE_CACHED = Storage(True, ("-s",), "direct-io = false\nwrite-cache = false\n")
DURABLE_DIRECT = Storage(False, ("-s",), "direct-io = true\nwrite-cache = false\n")

GGAOE = ("vblade", "ggaoe", "ggaoe-sleeping", "ggaoe-portable")
REFLECTED = (*GGAOE, "ggaoe-socket", "reflector-sleeping", "reflector-polling")
BARE = (*GGAOE, "ggaoe-uring", "fio-uring", "fio-libaio")
WIRED = ("vblade", "ggaoe", "ggaoe-unit", "ggaoe-portable", "reflector-sleeping")


@dataclass(frozen=True)
class Case:
    """One load, and the targets that get it; `depth` is per device."""

    key: str
    title: str
    storage: Storage
    targets: tuple[str, ...]
    mtu_bytes: int
    sectors: int
    depth: int
    write_percent: int
    devices: int = 1
    interfaces: int = 1
    wire_mbit_per_s: int = 0
    """0: a bare veth pair, on which every frame arrives within the call that sends it."""


def _cached_cases() -> Iterator[Case]:
    for mtu_bytes, sectors in ((1500, 2), (9000, 16)):
        for word, write_percent in (("read", 0), ("write", 100)):
            for depth in (32, 1):
                kib = sectors * SECTOR_BYTES // 1024
                yield Case(
                    f"{word}-{kib}k-d{depth}",
                    f"random {word}, {sectors} sectors, MTU {mtu_bytes}, depth {depth}",
                    CACHED,
                    REFLECTED,
                    mtu_bytes,
                    sectors,
                    depth,
                    write_percent,
                )


WIRES_MBIT_PER_S = {"1g": 1000, "2.5g": 2500, "5g": 5000, "10g": 10000}
WIRE_FILLED_MBIT_PER_S = 5000  # beyond it, one processor's work per frame is the limit


def _wire_cases() -> Iterator[Case]:
    for word, mbit_per_s in WIRES_MBIT_PER_S.items():
        yield Case(
            f"wire-{word}",
            f"random read, 16 sectors, MTU 9000, depth 32, wire of {mbit_per_s / 1000:g} Gbit/s",
            CACHED,
            WIRED,
            9000,
            16,
            32,
            0,
            wire_mbit_per_s=mbit_per_s,
        )


CASES = (
    *_cached_cases(),
    *_wire_cases(),
    Case("direct-read", "direct read, 8 KiB, depth 32", DIRECT, BARE, 9000, 16, 32, 0),
    Case("direct-write", "direct write, 8 KiB, depth 32", DIRECT, BARE, 9000, 16, 32, 100),
    Case(
        "durable-write",
        "durable write, 8 KiB, depth 32, direct (vblade -s: cached)",
        DURABLE_DIRECT,
        GGAOE,
        9000,
        16,
        32,
        100,
    ),
    Case(
        "durable-write-cached",
        "durable write, 8 KiB, depth 32, through the page cache",
        DURABLE_CACHED,
        GGAOE,
        9000,
        16,
        32,
        100,
    ),
    Case("mixed-1", "half writes, 1 KiB, one device, depth 32", CACHED, REFLECTED, 1500, 2, 32, 50),
    Case(
        "mixed-64",
        "half writes, 1 KiB, 64 devices on 4 interfaces, depth 4 each",
        CACHED,
        REFLECTED,
        1500,
        2,
        4,
        50,
        devices=64,
        interfaces=4,
    ),
)

GUEST_MTUS_BYTES = (1500, 9000)


@dataclass(frozen=True)
class GuestSetup:
    """MTU and place of the file with which the kernel initiator is measured."""

    mtu_bytes: int
    on_tmpfs: bool = False  # the file; otherwise it is in --directory, and in the page cache

    def key(self, case: str) -> str:
        """The key of a case, as in `guest-1500-random-read-4k-depth-1`."""
        place = "guest-tmpfs" if self.on_tmpfs else "guest"
        return f"{place}-{self.mtu_bytes}-{case.replace(' ', '-')}"

    def title(self, case: str) -> str:
        place = ", file on tmpfs" if self.on_tmpfs else ""
        return f"kernel initiator, {case}, MTU {self.mtu_bytes}{place}"


GUEST_SETUPS = (*(GuestSetup(mtu_bytes) for mtu_bytes in GUEST_MTUS_BYTES), GuestSetup(9000, True))


@dataclass(frozen=True)
class Goal:
    """`ours` divided by `base` (each a case's key and a target) is to be within low..high.

    Without a base the figure itself is. `metric` is one of the figures of a round.
    """

    text: str
    metric: str
    ours: tuple[str, str]
    base: tuple[str, str] | None
    low: float = 0.0
    high: float = float("inf")


def _against_vblade() -> Iterator[Goal]:
    for key, text, low in (
        ("read-1k-d32", "random read, 2 sectors, MTU 1500, depth 32", 1.5),
        ("write-1k-d32", "random write, the same", 1.7),
        ("read-8k-d32", "random read, 16 sectors, MTU 9000, depth 32", 1.6),
        ("write-8k-d32", "random write, the same", 1.7),
    ):
        yield Goal(text, "iops", (key, "ggaoe"), (key, "vblade"), low=low)
    for kib in (1, 8):
        for word in ("read", "write"):
            key = f"{word}-{kib}k-d1"
            text = f"depth 1, {word}, {kib} KiB, "
            ours, base = (key, "ggaoe"), (key, "vblade")
            yield Goal(text + "busy-poll", "iops", ours, base, low=2.5)
            yield Goal(text + "busy-poll, p99", "p99_us", ours, base, high=1.0)
            sleeping = (key, "ggaoe-sleeping")
            yield Goal(text + "no busy-poll", "iops", sleeping, base, low=1.0)
    for kib in (1, 8):
        for word in ("read", "write"):
            key = f"{word}-{kib}k-d32"
            text = f"CPU per request, {word}, {kib} KiB, depth 32"
            yield Goal(text, "cpu_us", (key, "ggaoe"), (key, "vblade"), high=0.65)


def _against_ceilings() -> Iterator[Goal]:
    for kib in (1, 8):
        for word in ("read", "write"):
            key = f"{word}-{kib}k-d32"
            text = f"share of the reflector, {word}, {kib} KiB, depth 32, both "
            for ours, way in (("ggaoe-sleeping", "sleeping"), ("ggaoe", "polling")):
                yield Goal(text + way, "iops", (key, ours), (key, f"reflector-{way}"), low=0.8)
    for word in ("read", "write"):
        key = f"direct-{word}"
        text = f"direct I/O, {word}, 8 KiB, depth 32, "
        yield Goal(text + "of vblade -d", "iops", (key, "ggaoe"), (key, "vblade"), low=4.0)
        yield Goal(text + "of fio io_uring", "iops", (key, "ggaoe"), (key, "fio-uring"), low=0.9)


def _wire_goals() -> Iterator[Goal]:
    for word, mbit_per_s in WIRES_MBIT_PER_S.items():
        key = f"wire-{word}"
        text = f"wire of {mbit_per_s / 1000:g} Gbit/s, random read, 8 KiB, depth 32"
        for ours, way in (("ggaoe", ""), ("ggaoe-unit", ", as in the unit")):
            yield Goal(text + way, "iops", (key, ours), (key, "vblade"), low=1.0)
        if mbit_per_s <= WIRE_FILLED_MBIT_PER_S:
            yield Goal(text + ", share of the wire", "wire_share", (key, "ggaoe"), None, low=0.95)


def _guest_goals() -> Iterator[Goal]:
    for setup in GUEST_SETUPS:
        for depth, low in ((1, 1.2), (32, 1.0)):
            for word in ("read", "write"):
                case = f"random {word} 4k depth {depth}"
                key, text = setup.key(case), setup.title(case)
                yield Goal(text, "iops", (key, "ggaoe"), (key, "vblade"), low=low)
                if depth == 1:
                    # The guest now and then sleeps through an answer until its next tick, whoever
                    # answers: at depth 1 that spoils the rate, and not the median.
                    median = text + ", median latency"
                    ours, base = (key, "ggaoe"), (key, "vblade")
                    yield Goal(median, "p50_us", ours, base, high=round(1 / low, 2))


GOALS = (
    *_against_vblade(),
    *_against_ceilings(),
    *_wire_goals(),
    *(
        Goal(f"{text}, of vblade -s", "iops", (key, "ggaoe"), (key, "vblade"), low=4.0)
        for key, text in (
            ("durable-write", "durable writes, depth 32"),
            ("durable-write-cached", "the same through the page cache"),
        )
    ),
    *_guest_goals(),
    Goal(
        "64 devices on 4 interfaces: total, of one device's",
        "iops",
        ("mixed-64", "ggaoe"),
        ("mixed-1", "ggaoe"),
        low=0.9,
    ),
    Goal(
        "64 devices on 4 interfaces: least of a fair share",
        "least_share",
        ("mixed-64", "ggaoe"),
        None,
        low=0.5,
    ),
)
