"""The ring of io_uring is good for reading and writing, and for nothing else."""

from __future__ import annotations

import ctypes
import errno
from pathlib import Path

import pytest

core = pytest.importorskip("ggaoe.engine.native.core", reason="the native engine is not built")

IO_URING_REGISTER = 427
"""The same number on every architecture."""
PROBE, FILES_UPDATE, PERSONALITY = 8, 6, 9  # linux/io_uring.h
STALE_AGE_NS = 60_000_000_000


def rings() -> set[int]:
    """Descriptors of io_uring that this process has."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        try:
            if "io_uring" in str(path.readlink()):
                found.add(int(path.name))
        except FileNotFoundError:  # the directory's own
            continue
    return found


def register(fd: int, operation: int, argument: object, count: int) -> int:
    """The errno of one io_uring_register(2), or 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_long(IO_URING_REGISTER)
    result = libc.syscall(number, fd, operation, argument, ctypes.c_long(count))
    return ctypes.get_errno() if result < 0 else 0


def test_the_ring_is_restricted() -> None:
    before = rings()
    engine = core.Core(STALE_AGE_NS, False)
    refusal = engine.open_uring()
    if refusal is not None:
        engine.close()
        pytest.skip(f"needs io_uring: {refusal}")
    (ring,) = rings() - before
    probe = ctypes.create_string_buffer(16 + 8 * 256)
    assert register(ring, PROBE, probe, 256) == errno.EACCES
    assert register(ring, PERSONALITY, None, 0) == errno.EACCES
    # Of what the engine uses it is said what is wrong with it.
    assert register(ring, FILES_UPDATE, None, 0) == errno.EINVAL
    engine.close()
    assert rings() == before
