"""Power cuts: what was acknowledged is on the medium, whatever its cache has lost.

One run of verified load leaves a record of every write and flush; the state of the medium after a
power cut follows from it for as many points as there is time for. A point is a number of events,
and an acknowledgement is noted with the number of events when it was received: so every state with
at least as many has to hold what was acknowledged. In the end the power is really cut, and the
restarted daemon shows what is left.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from ggaoe.proto.frame import SECTOR_BYTES
from helpers.needs import requires_program
from helpers.netns import wait_until
from integration.scene import DEADLINE_S, MIB, Daemon, Scene, device
from torture.budget import OVERHEAD_S, seeded, torture_s
from torture.ledger import FINDINGS_MAX, Finding, Ledger, Load, Write
from torture.recorder import Recorder, power_cuts

SECONDS = 1.0
ROUND_WRITES = 500
"""Acknowledged between two real power cuts."""
ROUND_CUTS = 100
"""Imagined ones meanwhile."""
DISK_BYTES = 1 * MIB
SLOW_FLUSH_US = 3000

pytestmark = pytest.mark.timeout(torture_s(SECONDS) + OVERHEAD_S)


class SlowFlushDaemon(Daemon):
    """Every fdatasync of it returns late: what is written meanwhile is not covered by it."""

    # -D: the daemon itself is our child, and signals reach it.
    wrapper = (
        *("strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"),
        *("-e", "trace=fdatasync", "-e", f"inject=fdatasync:delay_exit={SLOW_FLUSH_US}"),
    )


@dataclass(frozen=True)
class Layout:
    """How the daemon does I/O on the recorded file: `options` of its device, and what lies between:
    a loop device has the blocks of 512 bytes that real disks have, a file of FUSE has 4096."""

    options: dict[str, Any]
    is_loop: bool = False
    daemon: type[Daemon] = Daemon
    engines: tuple[str, ...] = ("native", "portable")
    defaults: str = ""


LAYOUTS = {
    "direct": Layout({"direct_io": True}),
    "buffered": Layout({"direct_io": False}),
    "slow-flush": Layout({"direct_io": False}, daemon=SlowFlushDaemon),
    "loop": Layout({"direct_io": True}, is_loop=True, daemon=SlowFlushDaemon),
    "loop-uring": Layout(
        {"direct_io": True},
        is_loop=True,
        daemon=SlowFlushDaemon,
        engines=("native",),
        defaults="[defaults]\nio-engine = uring\n",
    ),
}


@dataclass
class Rig:
    """A daemon on a recorded file, its power supply, and the books."""

    scene: Scene
    recorder: Recorder
    layout: Layout
    options: dict[str, Any]
    rng: random.Random
    daemon: Daemon = field(init=False)
    ledger: Ledger = field(default_factory=lambda: Ledger(DISK_BYTES // SECTOR_BYTES))
    cuts: int = 0
    cached_writes: int = 0
    events: int = 0

    def __post_init__(self) -> None:
        for program in self.layout.daemon.wrapper[:1]:
            requires_program(program)
        self.daemon = self.layout.daemon(self.scene.target, self.scene.directory)
        self.scene.logs.append(self.daemon.log)

    def power_on(self) -> None:
        path, namespace = str(self.recorder.path), self.scene.target
        if self.layout.is_loop:
            requires_program("losetup")
            path = namespace.run("losetup", "--find", "--show", path).strip()
        section = device(**{**self.layout.options, **self.options, "path": path})
        self.daemon.configure(self.layout.defaults, section)
        self.daemon.start()
        if self.layout.is_loop:
            # It goes by itself when nobody has it open any more.
            namespace.run("losetup", "--detach", path)

    def cut_power(self) -> None:
        """The daemon is gone, and so is what the medium's cache held."""
        self.daemon.kill()
        if self.layout.is_loop:
            wait_until(self._is_detached, DEADLINE_S, "the loop device is free")
        self.recorder.cut_power(self.rng)
        self.ledger.begin_anew()

    def _is_detached(self) -> bool:
        return str(self.recorder.path) not in self.scene.target.run("losetup", "--list")

    def findings(self, promised_at: Callable[[Write], int], seed: int) -> list[Finding]:
        """What a judge finds at seeded points of the record, and at its end."""
        rng = random.Random(seed)
        record, medium = self.recorder.record, self.recorder.medium()
        points = sorted(rng.choices(range(len(record)), k=ROUND_CUTS - 1))
        images = power_cuts(medium, record, [*points, len(record)], rng)
        found: list[Finding] = []
        for _, findings in self.ledger.judge(images, promised_at):
            found += findings
            self.cuts += 1
            self.cached_writes += medium.cached_writes
        self.events += len(record)
        assert medium.races == 0
        return found


@contextmanager
def rig(scene: Scene, layout: Layout, **options: Any) -> Iterator[Rig]:
    rng = seeded()
    path = scene.directory / "disk"
    with Recorder(scene.target, path, DISK_BYTES, rng.randrange(1 << 32)) as recorder:
        one = Rig(scene, recorder, layout, options, rng)
        one.power_on()
        yield one


def shown(findings: list[Finding]) -> str:
    return "\n".join(map(str, findings[:FINDINGS_MAX]))


@pytest.mark.parametrize("scene", [9000], indirect=True)
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_what_was_acknowledged_survives(scene: Scene, engine: str, layout: str) -> None:
    if engine not in LAYOUTS[layout].engines:
        pytest.skip(f"the {engine} engine has no such way")
    with rig(scene, LAYOUTS[layout]) as one:
        end_s = time.monotonic() + torture_s(SECONDS)
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            load = Load(remote, one.ledger, one.rng, lambda: len(one.recorder.record), overlap=True)
            rounds = 0
            while True:
                async with load.running():
                    await load.more(ROUND_WRITES)
                assert remote.counters.resent == 0
                found = one.findings(lambda write: write.acknowledged_at, rounds)
                assert not found, shown(found)
                await asyncio.to_thread(one.cut_power)
                await asyncio.to_thread(one.power_on)
                await load.read_all()
                rounds += 1
                if time.monotonic() > end_s:
                    break
        assert one.daemon.stop() == 0
    print(
        f"{engine} {layout}: {load.writes} writes, {load.reads} reads, {one.events} events,"
        f" {one.cuts} cuts with {one.cached_writes / one.cuts:.1f} writes to lose each,"
        f" {rounds} restarts"
    )
    assert one.cached_writes > 0


@pytest.mark.parametrize("scene", [9000], indirect=True)
async def test_a_write_cache_loses_what_was_not_flushed(scene: Scene, engine: str) -> None:
    """And so the judge can see a loss, which is what the other tests rely on."""
    with rig(scene, LAYOUTS["direct"], write_cache=True) as one:
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            load = Load(remote, one.ledger, one.rng, lambda: len(one.recorder.record), overlap=True)
            async with load.running():
                for _ in range(10):
                    await load.more(ROUND_WRITES // 10)
                    await load.flush()
        assert one.daemon.stop() == 0
    lost = one.findings(lambda write: write.acknowledged_at, 0)
    found = one.findings(lambda write: write.flushed_at, 0)
    print(f"{engine}: {len(lost)} sectors lost in {ROUND_CUTS} cuts, {len(found)} flushed ones")
    assert lost
    assert not found, shown(found)
