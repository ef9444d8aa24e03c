"""A host that is refused is told of: once for each reason, whether by silence or by an error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from ggaoe.engine import limit
from unit.engine.rig import Host, Rig, sectors, until
from unit.proto.host import IDENTIFY, MAC_A, MAC_B, config_argument, only, reserve_argument

SET = 3
"""Config command: set the string (AoE r11, Query Config)."""
UNKNOWN = 0x11
"""No opcode that a disk of ours has."""


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[tuple[str, str, str]]]]:
    """(peer, interface, text) of every event about a host that is refused."""
    with caplog.at_level(logging.INFO, "ggaoe.engine"):
        yield lambda: [
            (record.peer, record.interface, record.getMessage())  # type: ignore[attr-defined]
            for record in caplog.records
            if getattr(record, "event", None) == "host-refused"
        ]


Told = Callable[[], list[tuple[str, str, str]]]


@pytest.mark.parametrize(
    ("reason", "settings", "ask"),
    [
        ("read_list", {"read": only(MAC_B)}, lambda host: host.read(0)),
        ("write_list", {"write": only(MAC_B)}, lambda host: host.write(0, "w")),
        ("write_list", {"write": only(MAC_B)}, lambda host: host.flush()),
        (
            "change_list",
            {"change": only(MAC_B)},
            lambda host: host.send(1, config_argument(SET, b"x")),
        ),
        ("read_only", {"read_only": True}, lambda host: host.write(0, "w")),
        ("sector_count", {}, lambda host: host.read(0, 9)),
        ("reservation", {}, lambda host: host.read(0)),
        ("reservation", {}, lambda host: host.write(0, "w")),
        ("reservation", {}, lambda host: host.send(3, reserve_argument(1, MAC_A))),
    ],
)
async def test_an_error_that_is_for_the_host(
    rig: Rig, told: Told, reason: str, settings: dict[str, Any], ask: Callable[[Host], int]
) -> None:
    port = rig.port()
    disk, host = rig.disk(port, **settings), Host(port, MAC_A)
    if reason == "reservation":
        disk.device.target.state = replace(disk.device.target.state, reserved=(MAC_B,))
        rig.engine.refresh(disk.device)
    for _ in range(3):
        await host.answer(ask(host))
    peer = "02:00:00:00:00:0a"
    text = f"disk: {peer} is refused, {reason}: to see why: ggaoectl why {peer} disk"
    assert told() == [(peer, "eth1", text)]
    seen = dict(disk.device.initiators.items())[MAC_A]
    assert (seen.errors, seen.refusals) == (3, {reason: 3})


async def test_each_reason_and_each_host_is_told_of(rig: Rig, told: Told) -> None:
    port = rig.port()
    disk = rig.disk(port, read_only=True, accept=only(MAC_A, MAC_B))
    one, two, stranger = Host(port, MAC_A), Host(port, MAC_B), Host(port, b"\2\0\0\0\0\x0d")
    for host in (one, two, one):
        await host.answer(host.write(0, "w"))
        await host.answer(host.read(0, 9))
    stranger.read(0)
    await until(lambda: disk.device.counters.drops)
    reasons = [text.split("refused, ")[1].split(":")[0] for _, _, text in told()]
    assert sorted(reasons) == sorted(["read_only", "sector_count"] * 2 + ["access_list"])


async def test_what_is_no_refusal_of_a_host(rig: Rig, told: Told) -> None:
    port = rig.port()
    rig.disk(port)
    host = Host(port, MAC_A)
    await host.good(host.read(0), host.write(0, "w"), host.flush(), host.ata(IDENTIFY))
    for tag in (host.ata(UNKNOWN), host.read(1 << 20), host.write(0, sectors("w"), slot=255)):
        assert (await host.answer(tag)).registers[0] == 0x41
    assert told() == []


async def test_many_hosts_are_not_many_lines(
    rig: Rig, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit, "NEWS_RATE_PER_S", 0)
    monkeypatch.setattr(limit, "NEWS_BURST", 6)
    port = rig.port()
    rig.disk(port, read_only=True)
    for number in range(20):
        host = Host(port, bytes([2, 0, 0, 0, 1, number]))
        await host.answer(host.write(0, "w"))
    assert len(told()) == 3
