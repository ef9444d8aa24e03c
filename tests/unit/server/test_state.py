"""The state directory: what is remembered of automatic slots."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggaoe.config import slots
from ggaoe.errors import StateError
from ggaoe.server.state import StateStore


async def test_slots_are_stored(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    await store.save_slots({1: {"a": 0}})
    assert slots.read(tmp_path) == {1: {"a": 0}}


async def test_slots_that_cannot_be_read_are_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / slots.FILE_NAME
    store = StateStore(tmp_path)
    path.write_bytes(b"torn")
    with pytest.raises(StateError, match="restore it, since without it devices may get other"):
        await store.save_slots({1: {"a": 0}})
    assert path.read_bytes() == b"torn"
    path.unlink()
    path.mkdir()
    with pytest.raises(StateError, match="cannot be read: Is a directory: give user root access"):
        await store.save_slots({1: {"a": 0}})
