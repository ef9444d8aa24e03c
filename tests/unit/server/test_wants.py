"""Which interfaces a device is to be served on."""

from __future__ import annotations

import pytest

from ggaoe.net.link import Interface
from ggaoe.server.interfaces import wants
from helpers.configs import device_config

FOUND = (
    Interface(1, "lo", bytes(6), 65536, True, is_loopback=True),
    Interface(2, "eth0", bytes(6), 1500, True),
    Interface(3, "eth1", bytes(6), 9000, False),
    Interface(4, "tun0", b"", 1500, True, is_ethernet=False),
)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ((), "eth0 eth1"),
        (("*",), "eth0 eth1"),
        (("*0",), "eth0"),
        (("lo",), "lo"),
        (("tun0", "eth?"), "eth0 eth1 tun0"),
        (("l*", "tun*"), ""),
    ],
)
def test_patterns_are_for_ethernet(patterns: tuple[str, ...], expected: str) -> None:
    device = device_config("disk", "/disk", (0, 1), interfaces=patterns)
    assert [one.name for one in FOUND if wants(device, one)] == expected.split()
