"""What links may use of memory where their configuration names no size."""

from __future__ import annotations

import pytest

from ggaoe.config.model import InterfaceConfig
from ggaoe.net.plain import SEND_BUFFER_BYTES
from ggaoe.server import interfaces
from ggaoe.server.interfaces import LinkMemory, link_settings

LINKS_MAX = 256


def link(ring_kib: int | str = "auto", buffer_kib: int = 0) -> InterfaceConfig:
    return InterfaceConfig("eth0", None, ring_kib, buffer_kib, 0)  # type: ignore[arg-type]


def test_few_links_have_all_they_can_use() -> None:
    assert LinkMemory.of([link()] * 16) == (interfaces.RING_BYTES_MAX, SEND_BUFFER_BYTES)


@pytest.mark.parametrize("count", [1, 16, 17, 64, 65, 250, LINKS_MAX])
def test_many_links_share(count: int) -> None:
    memory = LinkMemory.of([link()] * count)
    assert memory.ring_bytes * count <= interfaces.RINGS_BYTES_MAX
    assert memory.send_buffer_bytes * count <= interfaces.SEND_BUFFERS_BYTES_MAX
    assert interfaces.RING_BYTES_MIN <= memory.ring_bytes <= interfaces.RING_BYTES_MAX
    assert interfaces.SEND_BUFFER_BYTES_MIN <= memory.send_buffer_bytes <= SEND_BUFFER_BYTES


def test_what_is_configured_is_taken_from_the_others() -> None:
    links = [link(200 << 10, 16 << 10), *[link()] * 56]
    memory = LinkMemory.of(links)
    assert memory == ((56 << 20) // 56, (16 << 20) // 56)
    settings = [link_settings(one, memory) for one in links]
    assert settings[0].ring_buffer_bytes == 200 << 20
    assert settings[0].send_buffer_bytes == 16 << 20
    assert {one.ring_buffer_bytes for one in settings[1:]} == {1 << 20}
    assert link_settings(link(0), memory).ring_buffer_bytes == 0


def test_links_that_come_one_after_the_other_are_bounded() -> None:
    rings_bytes = buffers_bytes = 0
    for _ in range(LINKS_MAX):
        memory = LinkMemory.of([link()], rings_bytes, buffers_bytes)
        rings_bytes += memory.ring_bytes
        buffers_bytes += memory.send_buffer_bytes
    least = LINKS_MAX * interfaces.RING_BYTES_MIN
    assert rings_bytes <= interfaces.RINGS_BYTES_MAX + least
    least = LINKS_MAX * interfaces.SEND_BUFFER_BYTES_MIN
    assert buffers_bytes <= interfaces.SEND_BUFFERS_BYTES_MAX + least
