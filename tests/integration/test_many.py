"""What the operator sees of a target with many devices and many hosts."""

from __future__ import annotations

import json

import pytest

from ggaoe.cli.ggaoectl import MESSAGE_BYTES_MAX
from ggaoe.proto.frame import SLOT_ANY, Command
from ggaoe.proto.query import Ccmd, pack_config
from helpers.netns import wait_until
from integration.scene import DEADLINE_S, Scene, device

pytestmark = pytest.mark.one_engine

DEVICES, HOSTS = 100, 60
"""So that even what is told of the hosts of all devices in one line would be too long for it."""


def test_answers_may_be_longer_than_a_message(scene: Scene) -> None:
    names = [f"disk{slot}" for slot in range(DEVICES)]
    sections = [
        device(name, slot, path=scene.disk(name, 1 << 16).name) for slot, name in enumerate(names)
    ]
    hosts = [f"02:00:00:00:01:{number:02x}" for number in range(HOSTS)]
    with scene.wire() as wire, scene.serving(*sections, device("gone", 200)) as daemon:
        question = pack_config(Ccmd.READ)
        for tag, host in enumerate(hosts, 1):
            source = bytes.fromhex(host.replace(":", ""))
            frame = wire.request(Command.CONFIG, question, tag, slot=SLOT_ANY, source=source)
            wire.send(frame)
        daemon.ctl("stop", "gone")

        def known() -> int:
            initiators = daemon.ask("stats")["initiators"]
            return sum(map(len, initiators.values()))

        wait_until(lambda: known() == DEVICES * HOSTS, DEADLINE_S, "every device knows all")
        stats = daemon.ctl("--json", "stats")
        assert len(json.dumps(stats.json)) > MESSAGE_BYTES_MAX
        assert list(stats.json["devices"]) == names
        for name in names:
            assert set(stats.json["initiators"][name]) >= set(hosts)
        listed = daemon.ask("list")
        assert [row["name"] for row in listed["devices"]] == [*names, "gone"]
        shown = daemon.ask("show", "daemon", "*")
        assert len(json.dumps(shown)) > MESSAGE_BYTES_MAX
        assert [row["name"] for row in shown["devices"]] == [*names, "gone"]
        assert shown["daemon"]["pid"] > 0
        lines = daemon.ctl("stats").stdout.splitlines()
        assert len([line for line in lines if hosts[7] in line]) == DEVICES
        top = daemon.ctl("--json", "top", "--count", "1", "0.1").json
        assert set(top["initiators"][names[-1]]) >= set(hosts)
        monitor = daemon.ctl("--json", "monitor", "--count", "1", "0.1").json
        assert list(monitor["devices"]) == names
        assert set(monitor["initiators"][names[-1]]) >= set(hosts)
        assert daemon.ctl("show-macmask").stdout.count("\n") == DEVICES + 1
        why = daemon.ask("why", hosts[0], "disk*")
        assert [row["name"] for row in why["devices"]] == names
