"""Where memory for frames is short, the core tries again in a while, and does not spin."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unit.proto.host import MAC_TARGET, READ, SHELF, SLOT, ata_argument, request

core = pytest.importorskip("ggaoe.engine.native.core", reason="the native engine is not built")

PAYLOAD_BYTES = 1 << 28
"""More than there will be room for."""
NOW_NS, WALL_NS = 5_000_000_000, 10**18
STALE_AGE_NS = 60_000_000_000
STARVED_NS = 10_000_000
"""As STARVED_NS of structs.pxi."""
NO_RATE = (0, 0)


@contextmanager
def no_memory() -> Iterator[None]:
    """The process has hardly more memory than it uses already."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + PAYLOAD_BYTES // 2
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer ends where memory is short"
)
def test_the_leader_rests_where_memory_is_short() -> None:
    engine = core.Core(STALE_AGE_NS, False)
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with here, there:
        link = engine.open_link(
            here.fileno(), 1, MAC_TARGET, 2, PAYLOAD_BYTES, None, NO_RATE, NO_RATE
        )
        there.send(request(0, ata_argument(READ), shelf=SHELF, slot=SLOT))
        with no_memory():
            assert engine.turn(NOW_NS, WALL_NS) == STARVED_NS
            assert engine.turn(NOW_NS + 1, WALL_NS) == STARVED_NS - 1
        assert not link.counters()[0]["rx_frames"]
        engine.turn(NOW_NS + STARVED_NS, WALL_NS)
        assert link.counters()[0]["rx_frames"] == 1
        engine.close_link(link)
        engine.close()
