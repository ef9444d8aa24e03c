"""The file of a listening socket: its mode, and what an attacker in its directory gains."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from ggaoe.server.socketfile import SocketFile


@pytest.mark.parametrize("umask", [0, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path, mode: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        file = SocketFile(tmp_path / "ctl", mode, "control-socket")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ctl").lstat().st_mode) == mode
    file.remove()
    file.socket.close()
    assert not (tmp_path / "ctl").exists()


def test_what_has_replaced_the_file_keeps_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may write to the directory wins every race here: the link is there once bind returns."""
    secret = tmp_path / "secret"
    secret.write_text("of root")
    secret.chmod(0o600)

    class Raced(socket.socket):
        def bind(self, address: object) -> None:
            super().bind(address)
            path = Path(str(address))
            path.unlink()
            path.symlink_to(secret)

    monkeypatch.setattr(socket, "socket", Raced)
    file = SocketFile(tmp_path / "ctl", 0o666, "metrics")
    file.socket.close()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
