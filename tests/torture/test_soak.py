"""Mixed, verified load on several devices and interfaces for as long as one likes, with a reload or
a flap now and then: at the end, memory, descriptors and latencies are what they were."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from ggaoe.backend.workers import THREADS_MAX
from ggaoe.client import RemoteDevice, Timing
from helpers.netns import veth
from integration.load import Load, running
from integration.scene import DISK_SECTORS, Daemon, Scene, device
from torture.budget import OVERHEAD_S, seeded, torture_s
from torture.vitals import Vitals

SECONDS = 5.0
pytestmark = pytest.mark.timeout(torture_s(SECONDS) + OVERHEAD_S)

RESENDING = Timing(timeout_max_s=0.4, deadline_s=2.0)
PROBES = 40
"""Requests, one after the other, of which each sample's latencies are made."""
SAMPLES_MIN = 9
LATENCY_RATIO_MAX = 3.0
"""How many times its first median a last median may be, on a machine that others use, too."""
BASE_OF_SECOND_HOST = 1024
THREADS_LATE_MAX = 3 * (2 * THREADS_MAX + 1)
"""Worker threads of three devices, for reads, for writes and for a flush: each starts when there is
work for it, which a short run may see late."""


@dataclass
class Sample:
    """The daemon at one moment, and how quickly it answered."""

    at_s: float
    vitals: Vitals
    rounds: int
    microseconds: list[float] = field(default_factory=list)

    @property
    def median_us(self) -> float:
        return statistics.median(self.microseconds)

    def __str__(self) -> str:
        worst_us = sorted(self.microseconds)[-1 - len(self.microseconds) // 100]
        return (
            f"{self.at_s:7.1f} s: {self.rounds} rounds, {self.vitals.rss_mib:.1f} MiB,"
            f" {self.vitals.descriptors} descriptors, {self.vitals.threads} threads,"
            f" p50 {self.median_us:.0f} us, p99 {worst_us:.0f} us"
        )


def sections(rng: random.Random) -> list[str]:
    """The three devices, with other options than before where that costs no request."""
    return [
        device("direct", 1, queue_length=rng.choice((16, 64, 300))),
        device("buffered", 2, direct_io=False, merge_delay=rng.choice((0, "100us"))),
        device("cached", 3, write_cache=True, interfaces="far1", trace_io=False),
    ]


async def measure(remote: RemoteDevice, sample: Sample, rng: random.Random) -> None:
    for _ in range(PROBES):
        started_s = time.perf_counter()
        await remote.read(rng.randrange(DISK_SECTORS), 1)
        sample.microseconds.append((time.perf_counter() - started_s) * 1e6)


async def disturb(scene: Scene, daemon: Daemon, rng: random.Random) -> str:
    """What happens now and then in a month."""
    if rng.random() < 0.5:
        await asyncio.to_thread(daemon.reconfigure, *sections(rng))
        return "reload"
    namespace, name = rng.choice(((scene.target, "far1"), (scene.host, "near1")))
    await asyncio.to_thread(namespace.ip, f"link set {name} down")
    await asyncio.to_thread(namespace.ip, f"link set {name} up")
    return f"flap of {name}"


async def test_soak(scene: Scene) -> None:
    rng = seeded()
    seconds = torture_s(SECONDS)
    veth(scene.host, "near1", scene.target, "far1")
    disks = {
        slot: scene.disk(name) for slot, name in ((1, "direct"), (2, "buffered"), (3, "cached"))
    }
    samples: list[Sample] = []
    with scene.serving(*sections(rng)) as daemon:
        async with AsyncExitStack() as stack:
            loads = []
            for number, interface in enumerate(("near0", "near1")):
                initiator = scene.initiator(interface, timing=RESENDING)
                await stack.enter_async_context(initiator)
                for slot in (1 + number, 2 + number):
                    remote = await initiator.open(0, slot)
                    seed, base = rng.randrange(1 << 32), number * BASE_OF_SECOND_HOST
                    loads.append(Load(remote, disks[slot], base, seed, asks_anew=True, workers=8))
            prober = await stack.enter_async_context(scene.initiator("near0", timing=RESENDING))
            probed = await prober.open(0, 1)
            async with running(*loads):
                began_s = time.monotonic()
                while time.monotonic() < began_s + seconds or len(samples) < SAMPLES_MIN:
                    await asyncio.sleep(seconds / 50)
                    rounds = sum(load.rounds for load in loads)
                    vitals = Vitals.of(daemon.running.pid)
                    sample = Sample(time.monotonic() - began_s, vitals, rounds)
                    await measure(probed, sample, rng)
                    samples.append(sample)
                    print(sample)
                    if len(samples) % 5 == 0:
                        print(await disturb(scene, daemon, rng))
        print(f"{sum(load.remote.counters.resent for load in loads)} resent")
        assert "Traceback" not in daemon.log_text()
    judge(samples)


def judge(samples: list[Sample]) -> None:
    """The last third is like the first."""
    third = len(samples) // 3
    first, last = samples[:third], samples[-third:]
    last[-1].vitals.assert_no_leak_since(max(sample.vitals for sample in first))
    threads = max(sample.vitals.threads for sample in first)
    assert last[-1].vitals.threads <= threads + THREADS_LATE_MAX
    if os.environ.get("GGAOE_TORTURE"):
        before, after = (
            statistics.median(sample.median_us for sample in part) for part in (first, last)
        )
        print(f"median latency {before:.0f} us at first, {after:.0f} us at last")
        assert after <= LATENCY_RATIO_MAX * before
