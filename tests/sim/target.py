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
from ggaoe.proto.target import TargetState
from ggaoe.server.export import Export
from ggaoe.server.state import StateStore, decode, encode
from helpers.configs import device_config
from sim.wire import SHELF, SLOT

SLOW_S = 0.01

CONFIG = device_config("sim", "/sim", (SHELF, SLOT))


class SimStates(StateStore):
    """One device's state as a process sees it, which takes its time; `content` outlives it."""

    def __init__(self, chance: random.Random, content: bytes = encode(TargetState())) -> None:
        super().__init__(Path("/states"))
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
    """A device whose store is opened by `opener`, which raises BackendError; `withdrawn` is called
    when requests wait no longer for a store."""

    def __init__(
        self, engine: Engine, states: StateStore, config: DeviceConfig,
        announce: Callable[[Device], None], opener: Callable[[], Awaitable[Backend]],
        withdrawn: Callable[[], None],
    ) -> None:  # fmt: skip
        self._opener = opener
        self._withdrawn = withdrawn
        super().__init__(engine, states, config, announce)

    def _withdraw(self) -> None:
        super()._withdraw()
        self._withdrawn()

    async def _open(self) -> Backend:
        return await self._opener()
