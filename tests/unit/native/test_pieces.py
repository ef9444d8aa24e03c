"""A VERIFY that the core carries out piece by piece, when its device is detached meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ggaoe.backend.base import Backend
from ggaoe.backend.file import FileSpec, open_file
from unit.engine.rig import DEADLINE_S, SECTOR, Disk, Host, Rig, until
from unit.proto.host import MAC_A

memory = pytest.importorskip("ggaoe.testing.native", reason="the native engine is not built")

SECTORS = 255


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Backend]:
    """A file that no transfer reaches at once: the core takes it for one that is open for direct
    I/O, and has worker threads read it."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(SECTORS * SECTOR))
    backend = await open_file(FileSpec(path, direct_io=False))
    access = backend.file_access()
    assert access is not None
    monkeypatch.setattr(backend, "file_access", lambda: replace(access, is_direct=True))
    yield backend
    await backend.close()


async def detach(rig: Rig, disk: Disk) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await rig.engine.detach(disk.device, None)


@pytest.mark.parametrize("suspended", [False, True], ids=["withdrawn", "suspended"])
async def test_detached_while_a_piece_is_in_flight(store: Backend, suspended: bool) -> None:
    """Nothing else happens that could make the engine look."""
    rig = Rig(memory.NativeOnMemory)
    port = rig.port()
    disk, host = rig.disk(port), Host(port, MAC_A)
    await detach(rig, disk)
    disk.device.target.size_sectors = SECTORS
    rig.engine.attach(disk.device, store)
    tag = host.verify(0, SECTORS)
    await until(lambda: disk.device.in_flight)
    if suspended:
        rig.engine.suspend(disk.device)
    await detach(rig, disk)
    assert (disk.device.in_flight, disk.device.waiting) == (0, 1 if suspended else 0)
    assert disk.device.counters.drops == ({} if suspended else {"not_serving": 1})
    disk.device.target.size_sectors = SECTORS
    rig.engine.attach(disk.device, store)
    await host.good(host.write(0, "new"))
    await rig.quiet()
    if suspended:
        await host.good(tag)
    assert (tag in host.answers) == suspended
    await rig.close()
