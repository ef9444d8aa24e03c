"""Power cuts under the state directory: what hosts have set of a device is not lost either."""

from __future__ import annotations

import bisect
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ggaoe.proto.target import TargetState
from ggaoe.server.state import StateStore, decode
from integration.scene import MIB, Scene, device
from torture.budget import OVERHEAD_S, seeded, torture_s
from torture.changes import StateChanges, mac_of, text_of
from torture.filesystem import MAKE, look_inside, repair, requires_e2fsprogs
from torture.recorder import Medium, Recorder, power_cuts

SECONDS = 1.0
ROUND_S = 10.0
CUTS_PER_S = 20
FILE_SYSTEM_BYTES = 8 * MIB

pytestmark = pytest.mark.timeout(3 * torture_s(SECONDS) + OVERHEAD_S)


@contextmanager
def state_directory(scene: Scene, rng: random.Random) -> Iterator[Recorder]:
    """The daemon's state directory is an ext4 file system on a recorded disk."""
    path, mounted = scene.directory / "medium", scene.directory / "state"
    mounted.mkdir(exist_ok=True)
    with Recorder(scene.target, path, FILE_SYSTEM_BYTES, rng.randrange(1 << 32)) as recorder:
        scene.target.run(*MAKE.split(), path)
        scene.target.run("mount", "-o", "loop", path, mounted)
        scene.target.run("sync", "-f", mounted)
        try:
            yield recorder
        finally:
            scene.target.run("umount", mounted)


def check(directory: Path, us: bytes, change: int) -> None:
    """Everything that `change` has set, or a newer one, is in force; and nothing is half there."""
    path = StateStore(directory).path_of("disk")
    state = decode(path.read_bytes()) if path.exists() else TargetState()
    if change == 0:
        return
    newer = range(change, change + 2)
    assert state.config_string in [text_of(number) for number in newer]
    macs = [mac_of(number) for number in newer]
    assert state.reserved in [(us, mac) for mac in macs]
    assert {us} < set(state.mask) <= {us, *macs}


async def one_round(scene: Scene, rng: random.Random, seconds: float) -> tuple[int, int]:
    """(changes acknowledged, cuts)."""
    us = scene.host.mac("near0")
    with state_directory(scene, rng) as recorder:
        made_at = len(recorder.record)
        with scene.serving(device()):
            async with scene.initiator() as initiator:
                remote = await initiator.open(0, 1)
                changes = StateChanges(remote, us, lambda: len(recorder.record))
                end_s = time.monotonic() + seconds
                async with changes.running():
                    while time.monotonic() < end_s:
                        await changes.more()
    record, medium = recorder.record, Medium(bytes(FILE_SYSTEM_BYTES))
    cuts = max(2, int(seconds * CUTS_PER_S))
    points = sorted(rng.choices(range(made_at, len(record)), k=cuts))
    image, inside = scene.directory / "image", scene.directory / "inside"
    for point, content in power_cuts(medium, record, points, rng):
        image.write_bytes(content)
        repair(image)
        look_inside(image, inside)
        check(inside, us, bisect.bisect_right(changes.acknowledged, point))
    return len(changes.acknowledged), cuts


async def test_state_survives(scene: Scene, engine: str) -> None:
    requires_e2fsprogs()
    rng, seconds = seeded(), torture_s(SECONDS)
    end_s = time.monotonic() + seconds
    scene.disk()
    done = cuts = 0
    while True:
        figures = await one_round(scene, rng, min(seconds, ROUND_S))
        done, cuts = done + figures[0], cuts + figures[1]
        assert figures[0]
        if time.monotonic() > end_s:
            break
    print(f"{engine}: {done} changes of state, {cuts} cuts")
