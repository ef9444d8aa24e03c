"""The filter, run here instead of in the kernel; and its numbers against the system's headers."""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path

import pytest

from ggaoe.server.seccomp import CALLS, program

ALLOWED = 0x7FFF0000
X86_64, AARCH64 = 0xC000003E, 0xC00000B7
HEADERS = {
    0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    1: Path("/usr/include/asm-generic/unistd.h"),
}
# In the generic header these have names for 32 and 64 bits.
RENAMED = {"fstatat": "newfstatat"}


def verdict(architecture: int, column: int, number: int, *arguments: int, real: int = 0) -> int:
    """What the filter returns for a call: classic BPF, as far as the filter uses it."""
    lines = program(architecture, column)
    data = {0: number, 4: real or architecture}
    data |= {16 + 8 * index: value & 0xFFFFFFFF for index, value in enumerate(arguments)}
    accumulator = at = 0
    while True:
        code, if_true, if_false, operand = lines[at]
        at += 1
        match code:
            case 0x20:
                accumulator = data.get(operand, 0)
            case 0x54:
                accumulator &= operand
            case 0x15:
                at += if_true if accumulator == operand else if_false
            case 0x06:
                return operand
            case _:
                raise AssertionError(f"unknown code {code:#x}")


def refusal(error: int) -> int:
    return 0x00050000 | error


@pytest.mark.parametrize(("architecture", "column"), [(X86_64, 0), (AARCH64, 1)])
def test_every_number_is_decided_by_the_list(architecture: int, column: int) -> None:
    listed = {numbers[column]: name for name, numbers in CALLS.items()}
    conditional = {"socket", "socketpair", "clone", "clone3", "prctl", "tgkill", "ioctl"}
    for number in range(1024):
        name = listed.get(number)
        if name not in conditional:
            expected = ALLOWED if name else refusal(errno.EPERM)
            assert verdict(architecture, column, number) == expected, (number, name)


def test_calls_of_another_architecture_are_refused() -> None:
    read = CALLS["read"][0] or 0
    assert verdict(X86_64, 0, read) == ALLOWED
    assert verdict(X86_64, 0, read, real=0x40000003) == refusal(errno.EPERM)
    assert verdict(X86_64, 0, read | 0x40000000) == refusal(errno.EPERM)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("socket", (socket.AF_PACKET, 3, 0), ALLOWED),
        ("socket", (socket.AF_UNIX, 2, 0), ALLOWED),
        ("socket", (socket.AF_UNIX, 2 | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0), ALLOWED),
        ("socket", (socket.AF_UNIX, 1, 0), refusal(errno.EPERM)),
        ("socket", (socket.AF_UNIX, 1 | socket.SOCK_CLOEXEC, 0), refusal(errno.EPERM)),
        ("socket", (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0), refusal(errno.EPERM)),
        ("socketpair", (socket.AF_UNIX, 1, 0), ALLOWED),
        ("socketpair", (socket.AF_PACKET, 3, 0), refusal(errno.EPERM)),
        ("socket", (socket.AF_NETLINK, 3, 0), ALLOWED),
        ("socket", (socket.AF_NETLINK, 3, socket.NETLINK_ROUTE + 12), refusal(errno.EPERM)),
        ("socket", (socket.AF_INET, 1, 0), refusal(errno.EPERM)),
        ("socket", (socket.AF_VSOCK, 1, 0), refusal(errno.EPERM)),
        ("clone", (0x003D0F00,), ALLOWED),  # pthread_create
        ("clone", (0x003D0F00 | 0x10000000,), refusal(errno.EPERM)),
        ("clone", (0x01200011,), refusal(errno.EPERM)),  # fork
        ("clone", (0x00020000,), refusal(errno.EPERM)),
        ("clone3", (), refusal(errno.ENOSYS)),
        ("prctl", (15,), ALLOWED),
        ("prctl", (22,), refusal(errno.EPERM)),
        ("tgkill", (os.getpid(),), ALLOWED),
        ("tgkill", (1,), refusal(errno.EPERM)),
        ("ioctl", (0, 0x5401), ALLOWED),
        ("ioctl", (0, 0x5412), refusal(errno.EPERM)),
        ("ioctl", (0, 0x541C), refusal(errno.EPERM)),
    ],
)
@pytest.mark.parametrize(("architecture", "column"), [(X86_64, 0), (AARCH64, 1)])
def test_arguments(
    architecture: int, column: int, name: str, arguments: tuple[int, ...], expected: int
) -> None:
    number = CALLS[name][column]
    assert number is not None
    assert verdict(architecture, column, number, *arguments) == expected


@pytest.mark.parametrize("column", HEADERS)
def test_numbers_are_those_of_the_system(column: int) -> None:
    header = HEADERS[column]
    if not header.exists():
        pytest.skip(f"needs {header}: apt-get install linux-libc-dev")
    found = {
        RENAMED.get(name, name): int(number)
        for name, number in re.findall(
            r"^#define __NR(?:3264)?_(\w+)\s+(\d+)\s*$", header.read_text(), re.MULTILINE
        )
    }
    for name, numbers in CALLS.items():
        assert found.get(name) == numbers[column], name
