"""Engines whose links are in memory: frames go in and come out in the test's own process.

Knows which engines there are; owns nothing. A test takes a port's link with `link_of`.
"""

from __future__ import annotations

from ggaoe.engine.base import Engine, Port
from ggaoe.engine.portable import PortableEngine
from ggaoe.net.link import Interface, Link, LinkSettings
from ggaoe.testing.link import MemoryLink


class PortableOnMemory(PortableEngine):
    """The portable engine on links in memory."""

    def _open_link(self, interface: Interface, settings: LinkSettings) -> Link:
        return MemoryLink(interface, settings)


ENGINES_ON_MEMORY: dict[str, type[Engine]] = {PortableOnMemory.name: PortableOnMemory}
"""By the engines' names: what a behaviour test is parametrised with."""

try:
    from ggaoe.testing.native import NativeOnMemory
except ImportError:
    pass  # not built
else:
    ENGINES_ON_MEMORY[NativeOnMemory.name] = NativeOnMemory


def link_of(port: Port) -> MemoryLink:
    """The link in memory on which `port` serves."""
    assert isinstance(port.link, MemoryLink)
    return port.link
