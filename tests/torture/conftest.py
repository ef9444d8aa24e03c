"""Torture tests play in the scene of the integration tests, and each runs on every engine."""

from __future__ import annotations

import os

import pytest

from ggaoe.engine.select import ENGINES
from helpers.needs import requires_user_mode_linux
from integration.conftest import pytest_asyncio_loop_factories, scene
from interop.guest import Images

__all__ = ["engine", "pytest_asyncio_loop_factories", "scene"]


@pytest.fixture(params=["native", "portable"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engine of whatever daemon the test starts."""
    name: str = request.param
    if os.environ.get("GGAOE_ENGINE", name) != name:
        pytest.skip("GGAOE_ENGINE asks for the other engine")
    if name not in ENGINES:
        pytest.skip(f"needs the {name} engine: install with a C compiler")
    monkeypatch.setenv("GGAOE_ENGINE", name)
    return name


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """The file system of a guest, assembled once."""
    requires_user_mode_linux()
    return Images.assemble(tmp_path_factory.mktemp("guest"))
