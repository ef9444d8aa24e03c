"""The parts of a target that the simulation puts in place of the machine's: where a device's state
is kept, and how its store is opened. All else is the real one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from ggaoe.backend.base import Backend
from ggaoe.config import DeviceConfig
from ggaoe.engine.base import Device, Engine
from ggaoe.proto.rules import EVERYBODY
from ggaoe.proto.target import TargetState
from ggaoe.server.export import Export
from ggaoe.server.state import StateStore, decode, encode
from sim.wire import SHELF, SLOT

SLOW_S = 0.01

CONFIG = DeviceConfig(
    name="sim",
    path=Path("/sim"),
    uuid=None,
    shelf=SHELF,
    auto=True,
    slot=SLOT,
    offset_bytes=0,
    length_bytes=None,
    exact_size=True,
    read_only=False,
    accept=EVERYBODY,
    deny=EVERYBODY,
    discover=EVERYBODY,
    read=EVERYBODY,
    write=EVERYBODY,
    change=EVERYBODY,
    broadcast=False,
    interfaces=(),
    queue_length=64,
    direct_io=False,
    write_cache=False,
    max_delay_s=0.0,
    merge_delay_s=0.0,
    iops_limit=0,
    iops_burst=0,
    bandwidth_limit_bytes_per_s=0,
    bandwidth_burst_bytes=0,
    initiator_iops_limit=0,
    initiator_bandwidth_limit_bytes_per_s=0,
    trace_io=False,
)


class SimStates(StateStore):
    """One device's state as a process sees it, which takes its time; `content` outlives it."""

    def __init__(self, chance: random.Random, content: bytes = encode(TargetState())) -> None:
        self._chance = chance
        self._is_stopped = False
        self.content = content

    async def load(self, name: str) -> TargetState:
        await asyncio.sleep(SLOW_S * self._chance.random())
        return decode(self.content)

    async def save(self, name: str, state: TargetState) -> None:
        await asyncio.sleep(SLOW_S * self._chance.random())
        if self._is_stopped:
            raise asyncio.CancelledError
        self.content = encode(state)
        await asyncio.sleep(SLOW_S * self._chance.random())

    def stop(self) -> None:
        """The process is gone: what it has not stored by now it never will."""
        self._is_stopped = True


class SimExport(Export):
    """A device whose store is opened by `opener`, which raises BackendError."""

    def __init__(
        self, engine: Engine, states: StateStore, config: DeviceConfig,
        announce: Callable[[Device], None], opener: Callable[[], Awaitable[Backend]],
    ) -> None:  # fmt: skip
        self._opener = opener
        super().__init__(engine, states, config, announce)

    async def _open(self) -> Backend:
        return await self._opener()
