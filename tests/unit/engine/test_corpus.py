"""Every frame of the corpus, whole, cut and damaged, leads to the same on every engine."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from typing import Any

import pytest

from fuzz.make_corpus import DIRECTORY, SHELF, SLOT
from ggaoe.engine.base import Engine
from ggaoe.testing.engine import ENGINES_ON_MEMORY, link_of
from unit.engine.rig import Rig, until

CORPUS = sorted(DIRECTORY.glob("*.bin"))
COPIES = 12
FRAME_BYTES_MAX = 1514
TIMED = {"batches", "vectors", "merged_requests", "in_flight_sum", "commits", "waits", "overlaps",
         "read_ns", "write_ns", "flush_ns",
         "read_latency", "write_latency", "flush_latency"}  # fmt: skip


def variants(seed: int) -> list[bytes]:
    """The corpus, and of each frame some copies that are cut off or have some bits turned over."""
    chance = random.Random(seed)
    found = []
    for path in CORPUS:
        frame = path.read_bytes()
        found.append(frame[:FRAME_BYTES_MAX])
        for _ in range(COPIES):
            damaged = bytearray(frame[:FRAME_BYTES_MAX])
            if damaged and chance.random() < 0.3:
                del damaged[chance.randrange(len(damaged)) :]
            for _ in range(chance.choice((0, 1, 1, 2, 8))):
                if damaged:
                    # Mostly in the head, where it matters.
                    damaged[chance.randrange(min(len(damaged), 40))] ^= 1 << chance.randrange(8)
            found.append(bytes(damaged))
    return found


async def outcome(engine_class: type[Engine], frames: list[bytes]) -> dict[str, Any]:
    """One frame after the other: what it is answered, and what is left at the end."""
    rig = Rig(engine_class)
    port = rig.port()
    disk = rig.disk(port, size_sectors=64)
    settings = replace(disk.device.target.settings, shelf=SHELF, slot=SLOT)
    disk.device.target.settings = settings
    rig.engine.refresh(disk.device)
    rig.engine.set_ports(disk.device, [port])
    link = link_of(port)
    replies = []
    for number, frame in enumerate(frames):
        link.deliver(frame)
        await until(lambda: link.counters.rx_frames == number + 1)  # noqa: B023
        await rig.quiet()
        await until(lambda: disk.device.in_flight + disk.device.waiting == 0)
        replies.append(sorted(link.sent))
        link.sent.clear()
    counters = asdict(disk.device.counters)
    found = {
        "replies": replies,
        "drops": {reason: count for reason, count in link.counters.drops.items() if count},
        "counters": {key: value for key, value in counters.items() if key not in TIMED},
        "hosts": sorted(mac for mac, _ in disk.device.initiators.items()),
        "changes": [(header, frame) for _, _, header, frame in rig.changes],
        "conflicts": [header for _, header in rig.conflicts],
        "disk": disk.content(0, 64),
    }
    await rig.close()
    return found


@pytest.mark.skipif(len(ENGINES_ON_MEMORY) < 2, reason="the native engine is not built")
@pytest.mark.parametrize("seed", range(8))
async def test_every_engine_does_the_same(seed: int) -> None:
    print("seed", seed)
    frames = variants(seed)
    oracle, *others = [await outcome(one, frames) for one in ENGINES_ON_MEMORY.values()]
    assert sum(map(len, oracle["replies"])) > len(CORPUS)
    for other in others:
        for number, frame in enumerate(frames):
            assert other["replies"][number] == oracle["replies"][number], frame.hex()
        assert other == oracle
