"""A whole daemon without any network, whose devices wait for their files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ggaoe.config import from_mapping
from ggaoe.server.app import Daemon
from ggaoe.server.export import Export

DEVICES = 5


@asynccontextmanager
async def waiting_daemon(engine: str, directory: Path) -> AsyncIterator[Daemon]:
    """Its devices are disk0 and so on; `directory` is empty."""
    (directory / "state").mkdir()
    options = {
        f"disk{number}": {"path": str(directory / "none"), "shelf": 0, "slot": number}
        for number in range(DEVICES)
    }
    config = from_mapping({"defaults": {"engine": engine}, "devices": options}, "here")
    daemon = Daemon(
        config, source=None, state_directory=directory / "state", control_socket=None, removed=()
    )
    for name, one in config.devices.items():
        daemon.exports[name] = Export(daemon.engine, daemon.store, one, lambda device: None)
    yield daemon
    for export in daemon.exports.values():
        await export.close(0)
    daemon.engine.close()
    daemon.interfaces.close()
    daemon.events.close()
