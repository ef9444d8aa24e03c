"""The state directory: what is remembered of automatic slots."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ggaoe.config import slots
from ggaoe.errors import StateError
from ggaoe.proto.target import TargetState
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


def test_a_second_process_is_refused_and_learns_who_has_the_directory(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ggaoe.server.state import StateStore\n"
        "StateStore(Path(sys.argv[1])).lock()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    store = StateStore(tmp_path)
    store.lock()
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"{tmp_path}: in use by process {os.getpid()}; stop it" in second.stderr
    store.close()
    assert subprocess.run(command, check=False).returncode == 0
    store.lock()  # what that process left behind does not matter
    store.close()


async def test_a_link_in_the_place_of_a_new_state_is_not_followed(tmp_path: Path) -> None:
    """Another user may have it made, where the directory is not the daemon's alone."""
    victim, directory = tmp_path / "victim", tmp_path / "state"
    victim.write_text("of root")
    directory.mkdir()
    path = StateStore(directory).path_of("disk")
    path.with_name(f".{path.name}.new").symlink_to(victim)
    with pytest.raises(StateError, match="state file"):
        await StateStore(directory).save("disk", TargetState())
    assert victim.read_text() == "of root"
