"""What is served by HTTP, of a daemon with many devices and hosts, and without any network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest

from ggaoe.server.app import Daemon
from ggaoe.server.verbs import Verbs
from unit.server.daemons import DEVICES

metrics = pytest.importorskip("ggaoe.server.metrics", reason="needs prometheus-client")
status = pytest.importorskip("ggaoe.server.status", reason="needs h11")

HOSTS = 100


@pytest.fixture
def daemon(daemon: Daemon) -> Daemon:
    """With devices that each host has seen."""
    for export in daemon.exports.values():
        for number in range(HOSTS):
            mac = b"\2\0\0\0\0" + bytes([number])
            export.device.initiators.seen(mac, "eth1", 100.0 + number).other_requests = 1
    return daemon


def use(daemon: Daemon, name: str) -> None:
    """Each host reads from a device."""
    for _, counters in daemon.exports[name].device.initiators.items():
        counters.read_requests = 3


async def turns(making: Awaitable[Any]) -> tuple[Any, int]:
    """The result, and how often the event loop went round for others meanwhile."""
    count = 0

    async def others() -> None:
        nonlocal count
        while True:
            count += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    result = await making
    task.cancel()
    return result, count


async def shown(daemon: Daemon) -> tuple[dict[str, Any], int]:
    """/status.json, and the turns that it took."""
    routes = status.routes(daemon, Verbs(daemon).handlers())
    response, count = await turns(routes["/status.json"]())
    return json.loads(response.body), count


async def test_others_have_their_turns_meanwhile(daemon: Daemon) -> None:
    use(daemon, "disk0")
    use(daemon, "disk1")
    _, count = await turns(metrics.text(daemon))
    assert count >= DEVICES + 2 * HOSTS / metrics.HOSTS_AT_ONCE
    _, count = await shown(daemon)
    assert count >= DEVICES


async def test_who_only_looks_has_no_series(daemon: Daemon) -> None:
    use(daemon, "disk3")
    daemon.exports["disk2"].device.initiators.items()[0][1].errors = 1
    text = (await metrics.text(daemon)).decode()
    lines = [line for line in text.splitlines() if line.startswith("ggaoe_initiator_info{")]
    assert len(lines) == HOSTS + 1
    assert {line.partition(",")[0] for line in lines} == {
        'ggaoe_initiator_info{device="disk2"',
        'ggaoe_initiator_info{device="disk3"',
    }


async def test_what_has_not_happened_yet_is_zero(daemon: Daemon) -> None:
    text = (await metrics.text(daemon)).decode()
    assert 'ggaoe_device_drops_total{device="disk0",reason="queue_full"} 0.0' in text


async def test_each_family_is_in_one_piece(daemon: Daemon) -> None:
    use(daemon, "disk0")
    use(daemon, "disk4")
    lines = (await metrics.text(daemon)).decode().splitlines()
    kinds = [line for line in lines if line.startswith("# TYPE ")]
    assert len(kinds) == len(set(kinds)) > 40
    assert sum(line.startswith("# HELP ") for line in lines) == len(kinds)
    assert lines[-1]


async def test_the_start_was_when_it_was(daemon: Daemon) -> None:
    def start(text: bytes) -> list[str]:
        name = "ggaoe_start_time_seconds "
        return [line for line in text.decode().splitlines() if line.startswith(name)]

    before = start(await metrics.text(daemon))
    daemon.started_s -= 1  # as if the clock of the wall had been set meanwhile
    assert start(await metrics.text(daemon)) == before != []


async def test_of_many_hosts_the_page_gets_those_at_work(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = await shown(daemon)
    assert {len(hosts) for hosts in found["stats"]["initiators"].values()} == {HOSTS}
    monkeypatch.setattr(status, "HOSTS_MAX", HOSTS + 1)
    use(daemon, "disk3")
    found, _ = await shown(daemon)
    assert found["stats"]["hosts"] == DEVICES * HOSTS
    assert len(found["stats"]["initiators"]["disk3"]) == HOSTS
    others = [
        mac
        for name in ("disk0", "disk1", "disk2", "disk4")
        for mac in found["stats"]["initiators"][name]
    ]
    assert others == [f"02:00:00:00:00:{HOSTS - 1:02x}"], "the one that was seen last"
