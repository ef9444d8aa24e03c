"""Claims on addresses among the processes of this machine, and how other programs are known."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ggaoe.server import claims
from ggaoe.server.claims import Address, Claims, Process, is_claimed

_numbers = itertools.count(1)


@pytest.fixture
def address() -> Address:
    """One that no daemon on this machine can have: there is no such interface."""
    return Address(1_000_000_000 + os.getpid() * 100 + next(_numbers), 1, 2)


@pytest.fixture
def ours() -> Iterator[Claims]:
    made = Claims()
    yield made
    made.close()


def holder(address: Address) -> subprocess.Popen[bytes]:
    """Another process that has the address; a reader of its output sees when."""
    code = (
        "import sys; from ggaoe.server.claims import Address, Claims\n"
        "claims = Claims(); taken = claims.take(Address(*map(int, sys.argv[1:])))\n"
        "print(taken, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, address)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"True\n"
    return process


def test_only_one_process_has_an_address_until_it_is_killed(ours: Claims, address: Address) -> None:
    with holder(address) as other:
        assert not ours.take(address)
        assert is_claimed(address)
        assert ours.take(address._replace(interface=address.interface - 50))
        assert ours.take(address._replace(slot=3))
        assert ours.holders([address])[address].pid == other.pid
        other.kill()
    assert ours.take(address)
    assert ours.take(address)
    ours.release(address)
    assert not is_claimed(address)


def test_who_waits_is_known_to_the_holder(ours: Claims, address: Address) -> None:
    assert ours.take(address)
    waiting = Claims()
    try:
        assert not waiting.take(address)
        waiting.want(address)
        waiting.want(address)
        assert ours.wanted() == {address: os.getpid()}
        assert not waiting.wanted()
        ours.release(address)
        assert waiting.take(address)
        assert not waiting.wanted()
    finally:
        waiting.close()


def test_without_descriptors_it_is_an_error(
    ours: Claims, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(OSError, match="Too many"):
        ours.take(address)


@pytest.mark.parametrize(
    ("arguments", "served"),
    [
        (("vblade", "7", "3", "eth1", "/x"), (7, 3)),
        (("/usr/sbin/vblade", "-b", "64", "-d", "-r", "0", "1", "eth1", "/x"), (0, 1)),
        (("vblade", "-rb", "64", "-m02:00:00:00:00:0b", "0", "1", "eth1", "/x"), (0, 1)),
        (("vblade", "-o8", "-l", "16", "0", "1", "eth1", "/x"), (0, 1)),
        (("vblade", "x", "1", "eth1", "/x"), None),
        (("vblade",), None),
        (("qaoed", "-c", "/etc/qaoed.conf"), None),
        ((), None),
    ],
)
def test_what_a_vblade_serves(arguments: tuple[str, ...], served: tuple[int, int] | None) -> None:
    assert Process(1, arguments).serves() == served


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("/usr/bin/python3", "/usr/bin/ggaoe", "-d"), "ggaoe, process 5"),
        (("python3.11", "-m", "ggaoe.cli.ggaoe", "export"), "ggaoe, process 5"),
        (("/usr/sbin/vblade", "0", "1"), "vblade, process 5"),
        (("python3",), "python3, process 5"),
        ((), "a program, process 5"),
    ],
)
def test_how_a_process_is_called(arguments: tuple[str, ...], name: str) -> None:
    assert Process(5, arguments).name == name


def test_aoetools_are_no_targets() -> None:
    assert Process(1, ("/usr/sbin/aoeping", "0", "1", "eth1")).is_initiator
    assert not Process(1, ("vblade", "0", "1")).is_initiator


def test_tables_that_cannot_be_read_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_NAMES", "_PACKETS"):
        monkeypatch.setattr(claims, name, claims._NAMES.with_name("missing"))
    made = Claims()
    assert (made.wanted(), made.foreign_sockets()) == ({}, [])
    made.close()
    made.close()
