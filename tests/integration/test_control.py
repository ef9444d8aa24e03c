"""ggaoectl and the daemon that it is made for."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat

import pytest

from ggaoe import __version__
from ggaoe.proto.frame import SECTOR_BYTES, Command
from integration.scene import DISK_BYTES, Scene, device

DISK = device()


async def test_counters_count_what_was_done(scene: Scene) -> None:
    scene.disk()
    host = scene.host.mac("near0").hex(":")
    with scene.serving(DISK, device("gone", 2)) as daemon:
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            await remote.write(0, bytes(64 * SECTOR_BYTES))
            await remote.read(0, 32)
            await remote.verify(0, 8)
        stats = daemon.ask("stats")
        disk, ours = stats["devices"]["disk"], stats["initiators"]["disk"][host]
        for counted in (disk, ours):
            assert (counted["write_requests"], counted["read_requests"]) == (32, 16)
            assert counted["write_bytes"] == 64 * SECTOR_BYTES
            assert counted["read_bytes"] == 32 * SECTOR_BYTES
            assert counted["in_flight"] == 0
        assert disk["verify_requests"] == 1
        assert disk["waiting"] == 0
        assert (disk["ata_errors"], disk["aoe_errors"], disk["drops"]) == (0, 0, {})
        assert ours["interface"] == "far0"
        link = stats["interfaces"]["far0"]
        assert link["rx_frames"] >= 32 + 16 + 2
        assert link["tx_frames"] >= 32 + 16 + 2
        assert link["rx_bytes"] >= 64 * SECTOR_BYTES
        for name in ("disk", "far0", host):
            assert name in daemon.ctl("stats").stdout

        assert daemon.ask("clear-stats", "disk") == {"cleared": ["disk"]}
        assert daemon.counters()["write_requests"] == 0
        assert daemon.ask("stats", "far0")["interfaces"]["far0"]["rx_frames"] >= 50
        assert sorted(daemon.ask("clear-stats")["cleared"]) == ["disk", "far0", "gone"]
        assert daemon.ask("stats", "far0")["interfaces"]["far0"]["rx_frames"] == 0


def test_list_and_show_tell_what_is_served(scene: Scene) -> None:
    scene.disk()
    with scene.serving(DISK, device("gone", 2)) as daemon:
        row = daemon.listed("disk")
        assert row == {
            "name": "disk",
            "address": "e0.1",
            "shelf": 0,
            "slot": 1,
            "state": "serving",
            "reason": None,
            "size_bytes": DISK_BYTES,
            "path": f"{scene.directory}/disk",
            "uuid": None,
            "read_only": False,
            "interfaces": ["far0"],
            "failures": {"count": 0, "last": None, "age_s": None},
        }
        link = daemon.interface("far0")
        assert link is not None
        assert (link["mtu_bytes"], link["sectors"], link["serving"]) == (1500, 2, True)
        assert link["mac"] == scene.target.mac("far0").hex(":")
        (detail,) = daemon.ask("show", "disk")["devices"]
        assert row.items() <= detail.items()
        assert (detail["queue_length"], detail["accept"], detail["mask"]) == (64, None, [])
        table = daemon.ctl("list")
        assert table.status == 0
        for word in ("disk", "e0.1", "serving", "gone", "waiting", "No such file", "far0"):
            assert word in table.stdout
        assert "e0.1" in daemon.ctl("show", "d*").stdout


@pytest.mark.one_engine
def test_exit_codes(scene: Scene) -> None:
    scene.disk()
    daemon = scene.daemon(DISK)
    assert daemon.ctl("list").status == 3
    daemon.start()
    assert daemon.ctl("list").status == 0
    assert daemon.ctl("show", "nothing").status == 1
    assert daemon.ctl("show", "disk", "nothing").status == 4
    assert daemon.ctl("show").status == 2
    assert daemon.stop() == 0
    assert daemon.ctl("list").status == 3


@pytest.mark.one_engine
def test_monitor_shows_rates(scene: Scene) -> None:
    scene.disk()
    with scene.serving(DISK) as daemon:
        outcome = daemon.ctl("--json", "monitor", "--count", "2", "0.1")
        assert outcome.status == 0
        lines = [json.loads(line) for line in outcome.stdout.splitlines()]
        assert len(lines) == 2
        assert all("disk" in json.dumps(line) for line in lines)
        table = daemon.ctl("monitor", "--count", "1", "0.1", "disk")
        assert table.status == 0
        assert "disk" in table.stdout


@pytest.mark.one_engine
def test_version_and_permissions(scene: Scene) -> None:
    scene.disk()
    with scene.serving(DISK) as daemon:
        version = daemon.ask("version")
        assert version["version"] == __version__
        assert version["config"] == str(daemon.config)
        status = (scene.directory / "ctl").stat()
        assert stat.S_IMODE(status.st_mode) == 0o600


@pytest.mark.one_engine
async def test_clients_that_neither_send_nor_read_do_not_disturb(scene: Scene) -> None:
    scene.disk()
    with scene.serving(DISK) as daemon:
        silent = []
        try:
            for _ in range(8):
                one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                silent.append(one)
                one.connect(str(scene.directory / "ctl"))
                one.send(b'{"jsonrpc": "2.0", "id": 1, "method": "list"}\n{"half')
            assert daemon.ctl("list").status == 0
            async with scene.initiator() as initiator:
                await (await initiator.open(0, 1)).read(0, 8)
            assert daemon.stop() == 0
        finally:
            for one in silent:
                one.close()


@pytest.mark.one_engine
def test_events_tell_what_happens(scene: Scene) -> None:
    disk = scene.disk()
    stranger = "02:00:00:00:00:aa"
    with scene.serving(device("disk", accept=stranger)) as daemon:
        with scene.wire() as wire:
            wire.send(wire.request(Command.CONFIG, bytes(8), 1))
            daemon.wait_for_log("is refused, access_list")
        os.truncate(disk, 2 * DISK_BYTES)
        daemon.wait_for_log("size changed")
        events = daemon.ask("events", "--recent")["events"]
        kinds = [event["event"] for event in events]
        assert kinds[:3] == ["interface-serving", "device-serving", "started"]
        assert {"host-seen", "host-refused", "device-resized"} <= set(kinds)
        refused = events[kinds.index("host-refused")]
        assert refused["peer"] == scene.host.mac("near0").hex(":")
        assert (refused["device"], refused["interface"]) == ("disk", "far0")
        lines = daemon.ctl("events", "--count", "3").stdout.splitlines()
        assert len(lines) == 3
        assert "device-serving" in lines[1]


async def test_trace_shows_what_passes(scene: Scene) -> None:
    scene.disk()
    capture = scene.directory / "capture.pcapng"
    with scene.serving(DISK) as daemon:
        async with scene.initiator() as initiator:
            remote = await initiator.open(0, 1)
            for options in ((), ("--pcap", str(capture))):
                tracing = asyncio.create_task(
                    asyncio.to_thread(daemon.ctl, "trace", "disk", "--seconds", "1.5", *options)
                )
                while not tracing.done():
                    await remote.write(8, bytes(2 * SECTOR_BYTES))
                    await remote.read(8, 2)
                outcome = await tracing
                lines = outcome.stdout.splitlines()
                if not options:
                    assert f"{len(lines)} frames" in outcome.stderr
                    assert any(" ok, " in line for line in lines)
                    assert any(" WRITE_SECTORS_EXT 8+2" in line for line in lines)
                    assert any(" READ_SECTORS_EXT 8+2" in line for line in lines)
                else:
                    assert lines == []
        again = daemon.ctl("trace", "disk", "--pcap", str(capture))
        assert again.status == 2
        assert "name a file that is not there yet" in again.stderr
    shown = scene.run("tshark", "-r", str(capture), "-Y", "aoe").stdout.splitlines()
    frames = int(outcome.stderr.split()[0])
    assert len(shown) == frames > 0
