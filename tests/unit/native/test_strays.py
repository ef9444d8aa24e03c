"""What the core has dropped stays with it until somebody asks: a flood must not have it copied."""

from __future__ import annotations

import pytest

from unit.engine.rig import Host, Rig, until
from unit.proto.host import MAC_A, MAC_B, request

native = pytest.importorskip("ggaoe.testing.native", reason="the native engine is not built")


async def test_a_frame_that_python_drops_has_nothing_collected() -> None:
    rig = Rig(native.NativeOnMemory)
    try:
        port = rig.port()
        rig.disk(port)
        Host(port, MAC_A).read(0, slot=77)
        await until(lambda: port.link.counters.drops["address"] == 1)
        port.link.deliver(request(0, source=MAC_B)[:20])
        await until(lambda: port.link.counters.drops["malformed"] == 1)
        ((_, _, head, reason),) = port.link.core.strays()
        assert (head[6:12], reason) == (MAC_A, "address")
    finally:
        await rig.close()
