"""However many requests wait, and whatever they have in common, searches in the core stay short."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ggaoe.sched.queue import Policy
from unit.engine.rig import Host, Rig, until

native = pytest.importorskip("ggaoe.testing.native", reason="the native engine is not built")

HOSTS = 8
REQUESTS = 2000
SIZE_SECTORS = 1 << 30
CHAIN_MAX = 16
"""Of 2000 entries in 4096 chains at random, one chain in 10^15 is longer."""

CROWDS: dict[str, Callable[[int], tuple[int, int]]] = {
    "tags that end alike": lambda number: (number << 20, number * 1001),
    "consecutive tags": lambda number: (number, number * 1001),
    "places far apart": lambda number: (number, number << 18),
    "places side by side": lambda number: (number, number),
    "one place": lambda number: (number, 77),
}
"""(tag, sector) by number."""


@pytest.mark.parametrize("crowd", CROWDS)
async def test_searches_stay_short(crowd: str) -> None:
    rig = Rig(native.NativeOnMemory)
    port = rig.port()
    disk = rig.disk(port, policy=Policy(queue_length=2), size_sectors=8)
    disk.device.target.size_sectors = SIZE_SECTORS
    rig.engine.refresh(disk.device)
    disk.hold()
    hosts = [Host(port, bytes([2, 0, 0, number, 0, 0])) for number in range(HOSTS)]
    for number in range(REQUESTS):
        tag, sector = CROWDS[crowd](number)
        hosts[number % HOSTS].read(sector, tag=tag)
    await until(lambda: disk.device.waiting == REQUESTS - 2)
    assert disk.device.core.longest_chain <= CHAIN_MAX
    await rig.close()
