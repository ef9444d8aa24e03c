"""A load on one remote disk: so many requests at a time, one after the other or all over it.

Owns which blocks are asked for and what is measured. Must not know how it is shown.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from ggaoe.client.device import RemoteDevice
from ggaoe.client.latency import Latencies
from ggaoe.errors import ClientError
from ggaoe.proto.frame import SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What to do, and for how long."""

    is_random: bool = False
    is_write: bool = False
    depth: int = 16
    """Blocks asked for at a time; each is as many frames as it needs."""
    block_bytes: int = 4096
    duration_s: float = 10.0
    seed: int = 0


@dataclass(slots=True)
class LoadResult:
    """What has happened so far; may be read while the load runs."""

    started_s: float = 0.0
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    """Processor time of this process; near `elapsed_s`, it is what the speed is limited by."""
    blocks: int = 0
    flush_s: float = 0.0
    """What the flush after the writes took; not part of `elapsed_s`."""
    latencies: Latencies = field(default_factory=Latencies)


class Load:
    """Runs `spec` on `device`, once. Blocks that are still awaited when the time is over are
    waited for and counted. Writes put random bytes all over the disk."""

    def __init__(self, device: RemoteDevice, spec: LoadSpec) -> None:
        self.result = LoadResult()
        self._device = device
        self._spec = spec
        self._random = random.Random(spec.seed)
        self._block = self._random.randbytes(spec.block_bytes) if spec.is_write else b""
        self._blocks = 0
        self._next = 0

    async def run(self) -> LoadResult:
        """ClientError as soon as a request fails; `result` has what was done before."""
        spec, result = self._spec, self.result
        self._blocks = (await self._device.identify()).size_bytes // spec.block_bytes
        if not self._blocks:
            raise ClientError(f"{self._device.name} has no room for a block of {spec.block_bytes}")
        result.started_s = time.monotonic()
        cpu_s = time.process_time()
        end_s = result.started_s + spec.duration_s
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(spec.depth):
                    tasks.create_task(self._work(end_s))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            result.elapsed_s = time.monotonic() - result.started_s
            result.cpu_s = time.process_time() - cpu_s
        if spec.is_write:
            flush_s = time.monotonic()
            await self._device.flush()
            result.flush_s = time.monotonic() - flush_s
        return result

    async def _work(self, end_s: float) -> None:
        spec, device, result = self._spec, self._device, self.result
        sectors = spec.block_bytes // SECTOR_BYTES
        begin_s = time.monotonic()
        while begin_s < end_s:
            sector = self._take_block() * sectors
            if spec.is_write:
                await device.write(sector, self._block)
            else:
                await device.read(sector, sectors)
            now_s = time.monotonic()
            result.latencies.add(now_s - begin_s)
            result.blocks += 1
            begin_s = now_s

    def _take_block(self) -> int:
        if self._spec.is_random:
            return self._random.randrange(self._blocks)
        block = self._next
        self._next = (block + 1) % self._blocks
        return block
