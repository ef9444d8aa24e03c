"""Every test of an engine's behaviour runs on every engine; buffers and exceptions are watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from ggaoe.engine.base import Engine
from ggaoe.net.buffers import BufferPool, Lease
from ggaoe.testing.engine import ENGINES_ON_MEMORY
from unit.engine.rig import Rig


class Leases:
    """The pool buffers on loan, in all pools; `given_up` are expected never to come back."""

    def __init__(self) -> None:
        self.on_loan: set[Lease] = set()
        self.given_up = 0


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leases]:
    """Every buffer comes back exactly once."""
    watched = Leases()
    borrow, give_back = BufferPool.borrow, BufferPool.give_back

    def watched_borrow(pool: BufferPool) -> Lease:
        lease = borrow(pool)
        watched.on_loan.add(lease)
        return lease

    def watched_give_back(pool: BufferPool, lease: Lease) -> None:
        watched.on_loan.remove(lease)
        give_back(pool, lease)

    monkeypatch.setattr(BufferPool, "borrow", watched_borrow)
    monkeypatch.setattr(BufferPool, "give_back", watched_give_back)
    yield watched
    assert len(watched.on_loan) == watched.given_up


@pytest.fixture(params=ENGINES_ON_MEMORY)
def engine_class(request: pytest.FixtureRequest) -> type[Engine]:
    return ENGINES_ON_MEMORY[request.param]


@pytest.fixture
async def rig(engine_class: type[Engine], leases: Leases) -> AsyncIterator[Rig]:
    loop = asyncio.get_running_loop()
    escaped: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: escaped.append(context))
    rig = Rig(engine_class)
    yield rig
    await rig.close()
    assert not escaped
