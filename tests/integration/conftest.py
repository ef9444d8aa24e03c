"""Every test has a scene; on one loop only, since the daemon, not the client, is what is tested."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.needs import requires_namespaces
from helpers.netns import Namespace, veth
from integration.scene import Scene


@pytest.hookimpl(tryfirst=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """A host and a target, joined by near0 and far0; parametrise it indirectly with the MTU."""
    requires_namespaces()
    mtu_bytes = getattr(request, "param", 1500)
    with Namespace() as host, Namespace() as target:
        veth(host, "near0", target, "far0", mtu_bytes)
        scene = Scene(host, target, tmp_path, mtu_bytes)
        try:
            yield scene
        finally:
            scene.print_logs()


@pytest.fixture
def open_scene(scene: Scene) -> Iterator[Scene]:
    """The scene in a directory that every user can enter."""
    directory = Path(tempfile.mkdtemp(prefix="ggaoe-test-"))
    directory.chmod(0o755)
    try:
        yield replace(scene, directory=directory)
    finally:
        shutil.rmtree(directory)
