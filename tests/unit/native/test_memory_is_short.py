"""Where memory for frames is short, the core tries again in a while, and does not spin."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.needs import sanitizer
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


needs_a_limit = pytest.mark.skipif(sanitizer(), reason="the sanitizer ends where memory is short")


@needs_a_limit
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


@needs_a_limit
def test_a_read_that_finds_no_buffer_is_dropped() -> None:
    """Its host sends it again, while an error would be the file system's."""
    engine = core.Core(STALE_AGE_NS, False)
    link = engine.open_link(-1, 1, MAC_TARGET, 2, PAYLOAD_BYTES, None, NO_RATE, NO_RATE)
    device = core.CoreDevice(engine)
    device.admit(SHELF, SLOT, [((), True)] * 8, False, True, True)
    device.limit(1, 0, 0)
    device.resize(1 << 20)
    device.attach_to_python(512, 0)
    link.route([((SHELF, SLOT), device)])

    def carry_out() -> None:
        _, ((_, handle, *_),), _ = engine.take()
        engine.complete([(handle, 512)])
        engine.turn(NOW_NS, WALL_NS)

    def ask(*tags: int) -> None:
        for tag in tags:
            link.deliver(request(0, ata_argument(READ), shelf=SHELF, slot=SLOT, tag=tag), WALL_NS)
            engine.turn(NOW_NS, WALL_NS)

    link.room_frames = 0  # so that replies keep their buffers
    ask(1, 2, 3)
    with no_memory():
        carry_out()
        carry_out()
        assert device.load == (0, 0)
    link.room_frames = -1
    ask(3)
    carry_out()
    engine.turn(NOW_NS + STARVED_NS, WALL_NS)
    replies = link.sent()
    assert [(reply[23], reply[27]) for reply in replies] == [(1, 0x40), (2, 0x40), (3, 0x40)]
    assert device.counters()[1] == 1
    device.stop()
    device.detach()
    engine.close_link(link)
    engine.close()
