"""Limits that the administrator sets, in the daemon: who waits, what is shown, a change live."""

from __future__ import annotations

from ggaoe.proto.frame import Command
from ggaoe.proto.query import Ccmd, pack_config
from helpers.netns import wait_until
from integration.scene import DEADLINE_S, Scene, Wire, device

OTHER_HOST = bytes.fromhex("020000000001")
REQUESTS = 400
"""More than the limit lets through before the deadline."""


def buffers(wire: Wire, tag: int) -> int:
    """What the device announces when it is asked."""
    wire.send(wire.request(Command.CONFIG, pack_config(Ccmd.READ), tag=tag))
    return wire.wait_for_reply(tag).config.buffer_count


def test_a_limited_host_waits_and_nobody_else(scene: Scene) -> None:
    scene.disk()
    limits = {"initiator_iops_limit": 10, "bandwidth_limit": "1GiB", "bandwidth_burst": "64MiB"}
    with scene.wire() as wire, scene.serving(device(queue_length=128, **limits)) as daemon:
        assert daemon.ask("show", "disk")["devices"][0]["limits"] == {
            "bandwidth": {"per_s": 1 << 30, "burst": 64 << 20},
            "initiator_iops": {"per_s": 10, "burst": 1},
        }
        assert buffers(wire, 10_000) == 2
        tags = range(1, REQUESTS + 1)
        wire.send(*(wire.read(8 * tag, 1, tag=tag) for tag in tags))
        wire.send(wire.read(0, 1, tag=10_001, source=OTHER_HOST))
        wire.wait_for_reply(10_001)
        assert daemon.counters()["waiting"] > 0
        daemon.reconfigure(device())
        wire.collect(lambda got: {one.header.tag for one in got} >= {REQUESTS})
        assert daemon.ask("show", "disk")["devices"][0]["limits"] == {}
        assert buffers(wire, 10_002) == 64
        wait_until(lambda: daemon.counters()["waiting"] == 0, DEADLINE_S, "nobody waits")
        counters = daemon.counters()
        assert counters["read_requests"] == REQUESTS + 1
        assert 0 < counters["throttled"] < REQUESTS
        hosts = daemon.ask("stats", "disk")["initiators"]["disk"]
        assert hosts[wire.mac.hex(":")]["throttled"] == counters["throttled"]
        assert hosts[OTHER_HOST.hex(":")]["throttled"] == 0


def test_a_stop_does_not_wait_for_limits(scene: Scene) -> None:
    scene.disk()
    options = device(iops_limit=10, iops_burst=1)
    with scene.wire() as wire, scene.serving(options) as daemon:
        wire.send(*(wire.read(8 * tag, 1, tag=tag) for tag in range(1, REQUESTS + 1)))
        wait_until(lambda: daemon.counters()["waiting"] > 0, DEADLINE_S, "some wait")
