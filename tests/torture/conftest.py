"""Torture tests play in the scene of the integration tests, and each runs on every engine."""

from __future__ import annotations

import pytest

from ggaoe.engine.select import ENGINES
from integration.conftest import pytest_asyncio_loop_factories, scene

__all__ = ["engine", "pytest_asyncio_loop_factories", "scene"]


@pytest.fixture(params=["native", "portable"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engine of whatever daemon the test starts."""
    name: str = request.param
    if name not in ENGINES:
        pytest.skip(f"needs the {name} engine: install with a C compiler")
    monkeypatch.setenv("GGAOE_ENGINE", name)
    return name
