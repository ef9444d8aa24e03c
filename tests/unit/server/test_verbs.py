"""What the control socket's verbs answer, asked of them directly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from ggaoe.errors import ControlError
from ggaoe.server.app import Daemon
from ggaoe.server.verbs import Verbs


async def _all_of(items: AsyncGenerator[object, None]) -> list[object]:
    return [item async for item in items]


async def test_of_two_traces_that_begin_at_once_the_second_is_refused(daemon: Daemon) -> None:
    trace = Verbs(daemon).handlers()["trace"]
    params = {"names": ["disk0"], "seconds": 0.05}
    first, second = await trace(params), await trace(params)
    assert isinstance(first, AsyncGenerator)
    assert isinstance(second, AsyncGenerator)
    tracing = asyncio.ensure_future(_all_of(first))
    await asyncio.sleep(0)
    with pytest.raises(ControlError, match="being traced already"):
        await anext(second)
    assert daemon.exports["disk0"].device.is_watched()
    await tracing
    assert not daemon.exports["disk0"].device.is_watched()
