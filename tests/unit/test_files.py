"""Giving a file to another user, in a directory where that user may put another in its place."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ggaoe.files import give


@pytest.fixture
def user() -> pwd.struct_passwd:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return pwd.getpwnam("nobody")


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def test_what_was_just_made_is_given(tmp_path: Path, user: pwd.struct_passwd) -> None:
    bound(tmp_path / "ctl")
    (tmp_path / "state").mkdir()
    for name in ("ctl", "state"):
        give(tmp_path / name, user.pw_uid, user.pw_gid)
        status = (tmp_path / name).lstat()
        assert (status.st_uid, status.st_gid) == (user.pw_uid, user.pw_gid)


def link_to_a_socket(secret: Path, path: Path) -> None:
    bound(secret)
    path.symlink_to(secret)


def second_name_of_a_socket(secret: Path, path: Path) -> None:
    bound(secret)
    path.hardlink_to(secret)


def link_to_a_directory(secret: Path, path: Path) -> None:
    secret.mkdir()
    path.symlink_to(secret)


def directory_in_use(secret: Path, path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("of root")
    secret.symlink_to(path)


def second_name_of_a_file(secret: Path, path: Path) -> None:
    secret.write_text("of root")
    path.hardlink_to(secret)


@pytest.mark.parametrize(
    "put",
    [
        link_to_a_socket,
        second_name_of_a_socket,
        link_to_a_directory,
        directory_in_use,
        second_name_of_a_file,
    ],
)
def test_what_is_in_its_place_keeps_its_owner(
    tmp_path: Path, user: pwd.struct_passwd, put: Callable[[Path, Path], None]
) -> None:
    secret, path = tmp_path / "secret", tmp_path / "given"
    put(secret, path)
    give(path, user.pw_uid, user.pw_gid)
    assert secret.stat().st_uid == os.geteuid()
