"""What keeps a host from a device, and what to do: each check, on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from ggaoe.backend.faults import Fail
from ggaoe.config import DeviceConfig
from ggaoe.engine import limit, unfit
from ggaoe.engine.base import Engine, Port
from ggaoe.net.link import Interface
from ggaoe.net.strays import Stray
from ggaoe.proto.ata import Op
from ggaoe.proto.rules import Rule, Rules
from ggaoe.proto.target import TargetState
from ggaoe.server.inquiry import inquire
from ggaoe.server.interfaces import FormerAddress
from ggaoe.server.why import Check, Subject, Verdict, checks
from ggaoe.testing.engine import ENGINES_ON_MEMORY
from ggaoe.units import format_mac
from helpers.configs import device_config
from unit.engine.rig import Disk, Host, Rig, interface, until
from unit.proto.host import (
    IDENTIFY,
    MAC_A,
    MAC_B,
    MAC_C,
    SHELF,
    SLOT,
    all_but,
    config_argument,
    only,
    request,
)

NAMES = [
    "interface", "MTU", "VLAN", "address", "access lists", "mask list", "reservation", "device",
    "limits",
]  # fmt: skip
NOW_S = 1e9
"""Far beyond what has happened."""
A, B = format_mac(MAC_A), format_mac(MAC_B)


@pytest.fixture(params=ENGINES_ON_MEMORY)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    engine_class: type[Engine] = ENGINES_ON_MEMORY[request.param]
    rig = Rig(engine_class)
    yield rig
    await rig.close()


def config(**options: object) -> DeviceConfig:
    return device_config("disk", "/srv/disk", (SHELF, SLOT), **options)


async def subject(rig: Rig, disk: Disk | None, **facts: object) -> Subject:
    """As the daemon puts it together, of a device that serves unless `facts` say otherwise."""
    of = Subject(
        await inquire(rig.engine, MAC_A, NOW_S),
        config(),
        "serving",
        None,
        disk.device if disk is not None else None,
        [interface(port.link.index) for port in rig.engine.ports.values()],
        {},
        {},
        {},
    )
    return replace(of, **facts)  # type: ignore[arg-type]


async def found(rig: Rig, disk: Disk | None, **facts: object) -> dict[str, Check]:
    answer = {check.check: check for check in checks(await subject(rig, disk, **facts))}
    assert list(answer) == NAMES
    for check in answer.values():
        assert check.remedy is not None or check.verdict is not Verdict.NOT_OK, check
    return answer


def only_fault(answer: dict[str, Check]) -> Check:
    (fault,) = [check for check in answer.values() if check.verdict is Verdict.NOT_OK]
    return fault


async def query(host: Host) -> None:
    await host.answer(host.send(1, config_argument(0)))


async def test_all_is_well(rig: Rig) -> None:
    disk = rig.disk(port := rig.port())
    host = Host(port, MAC_A)
    await query(host)
    await host.good(host.write(0, b"x" * 1024))
    answer = await found(rig, disk)
    assert {check.verdict for check in answer.values()} == {Verdict.OK}
    assert all(check.remedy is None for check in answer.values())
    assert "announces 2 sectors" in answer["MTU"].text
    assert "up to 1060 bytes" in answer["MTU"].text
    assert answer["VLAN"].text == "eth1 is untagged"


async def test_a_host_that_asks_for_devices_and_uses_none(rig: Rig) -> None:
    """As Linux does where it has given up a disk that is open."""
    disk = rig.disk(port := rig.port())
    host = Host(port, MAC_A)
    await query(host)
    assert (await found(rig, disk))["device"].verdict is Verdict.OK
    await query(host)
    check = (await found(rig, disk))["device"]
    assert check.verdict is Verdict.UNKNOWN
    assert "not identified or used this one" in check.text
    assert "down,closewait: aoe-revalidate e258.3" in (check.remedy or "")
    await host.answer(host.ata(IDENTIFY))
    assert (await found(rig, disk))["device"].verdict is Verdict.OK


async def test_a_host_that_was_never_heard(rig: Rig) -> None:
    ports = rig.port(1), rig.port(2)
    disk = rig.disk(ports[0])
    rig.disk(ports[1], name="other", slot=SLOT + 1)
    await query(Host(ports[1], MAC_B, SLOT + 1))
    answer = await found(rig, disk)
    for name in ("interface", "MTU", "VLAN", "address"):
        assert answer[name].verdict is Verdict.UNKNOWN
    assert answer["interface"].text == "never heard on eth1; other hosts: 1 on eth2"
    remedy = answer["interface"].remedy
    assert remedy is not None
    for word in (A, "aoe-discover", "aoe_iflist", "cable", "VLAN", "eth1"):
        assert word in remedy


async def test_a_host_that_is_heard_elsewhere(rig: Rig) -> None:
    ports = rig.port(1), rig.port(2)
    disk = rig.disk(ports[0])
    rig.disk(ports[1], name="other", slot=SLOT + 1)
    await query(Host(ports[1], MAC_A, SLOT + 1))
    fault = only_fault(await found(rig, disk))
    assert (fault.check, fault.verdict) == ("interface", Verdict.NOT_OK)
    assert fault.remedy is not None
    assert "add eth2 to interfaces of disk" in fault.remedy


@pytest.mark.parametrize(
    ("wanted", "unserved", "text", "remedy"),
    [
        (
            [Interface(1, "eth1", MAC_B, 1500, is_up=False)],
            {"eth1": "link is down"},
            "eth1: link is down",
            "ip link set eth1 up",
        ),
        ([], {"eth7": "does not exist"}, "eth7: does not exist", "correct interfaces of disk"),
        ([], {}, "there is none", "correct interfaces of disk"),
    ],
)
async def test_no_interface_serves_it(
    rig: Rig, wanted: list[Interface], unserved: dict[str, str], text: str, remedy: str
) -> None:
    fault = only_fault(await found(rig, rig.disk(), wanted=wanted, unserved=unserved))
    assert fault.check == "interface"
    assert fault.text == f"no interface serves the device: {text}"
    assert (fault.remedy or "").startswith(remedy)


@pytest.mark.parametrize("is_served", [True, False])
async def test_another_target_has_its_address(rig: Rig, is_served: bool) -> None:
    """What helps is said of that target, and not of interfaces, which are as they should be."""
    if is_served:
        disk = rig.disk(port := rig.port())
        await query(Host(port, MAC_A))
    else:
        disk = rig.disk()
    unserved = {} if is_served else {"eth1": f"{B} replies for it"}
    answer = await found(rig, disk, state="conflict", reason="why", unserved=unserved)
    faults = [check for check in answer.values() if check.verdict is Verdict.NOT_OK]
    assert [check.check for check in faults] == ["device"] if is_served else ["interface", "device"]
    assert answer["device"].text == "conflict: why"
    for check in faults:
        assert (check.remedy or "").startswith("stop the other target")


async def test_more_sectors_than_fit(rig: Rig) -> None:
    disk = rig.disk(port := rig.port())
    host = Host(port, MAC_A)
    await host.answer(host.read(0, 17))
    fault = only_fault(await found(rig, disk))
    assert fault.check == "MTU"
    assert "17 sectors in one frame on eth1; eth1 has 1500, and announces 2" in fault.text
    assert "ip link set eth1 mtu 8740" in (fault.remedy or "")
    await host.good(host.read(0, 2))  # it has learnt
    assert (await found(rig, disk))["MTU"].verdict is Verdict.OK


async def test_a_mtu_that_has_shrunk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.engine.close_link(rig.port(mtu_bytes=9000))
    disk = rig.disk(port := rig.port())
    host = Host(port, MAC_A)
    host.read(0, 16)
    await until(lambda: disk.device.last_frames(MAC_A))
    fault = only_fault(await found(rig, disk))
    assert fault.check == "MTU"
    assert "was lowered, and no frame has room for it: dropped, and rejected if it comes" in (
        fault.text
    )
    assert "stop I/O before lowering an MTU; if it was not meant: ip link set eth1 mtu 8228" in (
        fault.remedy or ""
    )
    monkeypatch.setattr(unfit, "DROPPED_S", 0.0)
    await host.answer(host.read(0, 16))
    assert "has room for it: rejected; eth1" in only_fault(await found(rig, disk)).text


def stray(port: Port, reason: str, time_s: float = 1.0, **fields: int) -> None:
    head = request(1, config_argument(0), **fields)
    port.link.strays.add(Stray(time_s, 1600, head, reason))


@pytest.mark.parametrize(
    ("reason", "check", "text", "remedy"),
    [
        ("vlan", "VLAN", "the tag of a VLAN that has no interface here", "tcpdump -eni eth1 vlan"),
        ("truncated", "MTU", "1600 bytes was longer than eth1 takes", "link set eth1 mtu 1586"),
        ("foreign_host", "address", "for 02:00:00:00:00:fe, and eth1 has", "aoe-discover"),
        ("address", "address", "asked for e258.9 on eth1", "ggaoectl set disk shelf=258 slot=9"),
    ],
)
async def test_frames_that_come_to_no_device(
    rig: Rig, reason: str, check: str, text: str, remedy: str
) -> None:
    disk = rig.disk(port := rig.port())
    stray(port, reason, slot=9)
    answer = await found(rig, disk)
    assert only_fault(answer).check == check
    assert text in answer[check].text
    assert remedy in (answer[check].remedy or "")
    assert answer["interface"].verdict is Verdict.OK
    await query(Host(port, MAC_A))  # later, it is right
    assert (await found(rig, disk))[check].verdict is Verdict.OK


async def test_an_address_that_changed_long_ago_is_no_reason(rig: Rig) -> None:
    disk = rig.disk(port := rig.port())
    await query(Host(port, MAC_A))
    recent, old = FormerAddress("eth1", NOW_S - 1), FormerAddress("eth1", NOW_S - 60)
    elsewhere = FormerAddress("eth2", NOW_S - 1)
    fault = only_fault(await found(rig, disk, former_addresses={MAC_C: recent}))
    assert f"changed from {format_mac(MAC_C)} to {format_mac(port.path.mac)} 1 s ago" in fault.text
    for former in (old, elsewhere):
        answer = await found(rig, disk, former_addresses={MAC_C: former})
        assert answer["address"].text == "it has asked for e258.3, or for all"


async def test_a_vlans_interface_is_called_so(rig: Rig) -> None:
    disk = rig.disk(port := rig.port())
    await query(Host(port, MAC_A))
    answer = await found(rig, disk, wanted=[replace(interface(), vlan_id=5)])
    assert answer["VLAN"] == Check("VLAN", Verdict.OK, "eth1 is VLAN 5")


async def test_a_duplicate_address(rig: Rig) -> None:
    disk = rig.disk(rig.port())
    fault = only_fault(await found(rig, disk, conflicts={MAC_B: 12.0}))
    assert fault.text == f"other targets have replied for e258.3: {B} 12 s ago"


@pytest.mark.parametrize(
    ("option", "rules", "text", "remedy"),
    [
        ("accept", only(MAC_B), "everything, by accept: not in the list",
         f"set disk 'accept=only, {A}'"),
        ("deny", all_but(MAC_A), "everything, by deny: !but", "take !but out of deny of disk"),
        ("write", all_but(MAC_A), "write: !but", "take !but out of write of disk"),
        ("discover", Rules((), others=False), "discover: empty list", f"set disk 'discover={A}'"),
        ("read", Rules((Rule("x", True, frozenset({MAC_B})),), others=False),
         "read: not in the list", f"set disk 'read=x, {A}'"),
    ],
)  # fmt: skip
async def test_lists(rig: Rig, option: str, rules: Rules, text: str, remedy: str) -> None:
    disk = rig.disk(rig.port())
    fault = only_fault(await found(rig, disk, config=config(**{option: rules})))
    assert (fault.check, fault.text) == ("access lists", f"it is refused {text}")
    assert remedy in (fault.remedy or "")


async def test_every_list_is_told_and_the_first_is_remedied(rig: Rig) -> None:
    lists = {"write": all_but(MAC_A), "change": only(MAC_B), "accept": only(MAC_A)}
    answer = await found(rig, rig.disk(rig.port()), config=config(**lists))
    assert answer["access lists"].text == "it is refused write: !but; change: not in the list"
    del lists["write"], lists["change"]
    answer = await found(rig, rig.disk(rig.port(2), name="b", slot=9), config=config(**lists))
    assert answer["access lists"].text == "nothing is refused (accept: only)"


async def test_what_hosts_have_set(rig: Rig) -> None:
    disk = rig.disk(rig.port())
    target = disk.device.target
    target.state = TargetState(mask=(MAC_B, MAC_C))
    fault = only_fault(await found(rig, disk))
    assert (fault.check, B in fault.text) == ("mask list", True)
    assert "ggaoectl clear-macmask disk" in (fault.remedy or "")
    target.state = TargetState(mask=(MAC_A,), reserved=(MAC_B,))
    fault = only_fault(await found(rig, disk))
    assert fault.text == f"held by {B}: others may not read or write"
    assert "ggaoectl clear-reserve disk" in (fault.remedy or "")
    target.state = TargetState(reserved=(MAC_A,))
    assert (await found(rig, disk))["reservation"] == Check(
        "reservation", Verdict.OK, "it holds it"
    )


async def test_a_device_that_is_stopped(rig: Rig) -> None:
    fault = only_fault(await found(rig, None, state="stopped", reason="stopped by the operator"))
    assert (fault.text, fault.remedy) == ("stopped: stopped by the operator", "ggaoectl start disk")


async def test_a_device_that_waits(rig: Rig) -> None:
    disk = rig.disk(rig.port())
    disk.device.target.size_sectors = None
    fault = only_fault(await found(rig, disk, state="waiting", reason="No such file"))
    assert (fault.check, fault.text) == ("device", "waiting: No such file")


async def test_what_the_device_refuses(rig: Rig) -> None:
    disk = rig.disk(port := rig.port(), read_only=True)
    host = Host(port, MAC_A)
    await host.answer(host.write(0, "x"))
    answer = await found(rig, disk, config=config(read_only=True))
    assert only_fault(answer).text == "serving 2 MiB, read-only: it has tried to write"
    await host.answer(host.read(1 << 20))
    assert "aoe-revalidate e258.3" in (only_fault(await found(rig, disk)).remedy or "")
    disk.strike(Fail(5), Op.READ)
    await host.answer(host.read(0))
    assert "Input/output error" in only_fault(await found(rig, disk)).text
    disk.heal()
    await host.good(host.read(0))
    assert (await found(rig, disk))["device"].verdict is Verdict.OK


async def test_limits(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = rig.disk(port := rig.port())
    limited = config(iops_limit=100)
    assert (await found(rig, disk, config=limited))["limits"].text == (
        "iops 100/s: 0 of its requests were delayed"
    )
    monkeypatch.setattr(limit, "SOURCE_BURST", 1)
    monkeypatch.setattr(limit, "SOURCE_RATE_PER_S", 0)
    host = Host(port, MAC_A)
    for _ in range(3):
        host.send(1, config_argument(0))
    await until(lambda: disk.device.counters.drops["rate_limited"] == 2)
    fault = only_fault(await found(rig, disk))
    assert (fault.check, fault.text[:9]) == ("limits", "2 of its ")


async def test_ages_are_readable(rig: Rig) -> None:
    inquiry = await inquire(rig.engine, MAC_A, NOW_S)
    ages = (3.4, 300, 4 * 3600, 10 * 86_400)
    assert [inquiry.ago(NOW_S - age) for age in ages] == [
        "3 s ago", "5 min ago", "4 h ago", "10 days ago",
    ]  # fmt: skip
