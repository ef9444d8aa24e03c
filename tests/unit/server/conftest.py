"""Tests of the daemon's parts get a whole one on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ggaoe.engine.select import ENGINES
from ggaoe.server.app import Daemon
from unit.server.daemons import waiting_daemon


@pytest.fixture(params=ENGINES)
async def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Daemon]:
    async with waiting_daemon(request.param, tmp_path) as made:
        yield made
