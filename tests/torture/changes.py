"""Changes of what hosts can set of a device, each of which says which one it is.

Must not know: what happens to the target meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ggaoe.client import RemoteDevice
from ggaoe.proto.access import Dcmd
from ggaoe.proto.query import Ccmd
from integration.scene import DEADLINE_S


def text_of(change: int) -> bytes:
    """The config string of a change."""
    return b"change %d" % change


def mac_of(change: int) -> bytes:
    """The address that a change puts on the mask list, and reserves the device for."""
    return b"\x02\0" + change.to_bytes(4, "big")


@dataclass
class StateChanges:
    """Changes what hosts can set of a device, one after the other, and reads each back."""

    remote: RemoteDevice
    us: bytes
    clock: Callable[[], int] = lambda: 0
    changes: int = 0
    acknowledged: list[int] = field(default_factory=list)
    """The time at which each change, from number 1 on, was in force by all answers."""
    _one_more: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        is_stopping = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._work(is_stopping))
            yield
            is_stopping.set()

    async def more(self) -> None:
        """Wait for the next change."""
        self._one_more.clear()
        async with asyncio.timeout(DEADLINE_S):
            await self._one_more.wait()

    async def check(self) -> None:
        """What has been acknowledged last is in force. Nothing may be under way."""
        config = await self.remote.query()
        assert config is not None
        assert config.text == self._text
        assert await self.remote.read_reservation() == self._macs
        assert set(await self.remote.read_mask()) == set(self._macs)

    async def _work(self, is_stopping: asyncio.Event) -> None:
        while not is_stopping.is_set():
            old = self._macs[1]
            self.changes += 1
            await self.remote.query(Ccmd.FORCE, self._text)
            await self.remote.reserve(self._macs)
            directives = [(Dcmd.ADD, mac) for mac in self._macs]
            await self.remote.edit_mask([*directives, (Dcmd.DELETE, old)])
            await self.check()
            self.acknowledged.append(self.clock())
            self._one_more.set()

    @property
    def _text(self) -> bytes:
        return text_of(self.changes)

    @property
    def _macs(self) -> tuple[bytes, bytes]:
        return self.us, mac_of(self.changes)
