"""`InterfaceWatcher` in the test's own namespace; `LinkTable` on bytes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggaoe.net.link import Interface
from ggaoe.net.netlink import InterfaceWatcher, LinkTable, list_interfaces
from helpers.needs import requires_namespaces
from helpers.netns import Namespace, bridge, veth

DEADLINE_S = 10.0


class Recorder:
    """What a watcher in `namespace` has told, and a way to wait for it."""

    def __init__(self, namespace: Namespace) -> None:
        self.there: dict[str, Interface] = {}
        self.calls = 0
        self._changed = asyncio.Event()
        with namespace.entered():
            self.watcher = InterfaceWatcher(self._on_change, self._on_gone)

    def _on_change(self, interface: Interface) -> None:
        for name, known in list(self.there.items()):
            if known.index == interface.index:
                del self.there[name]
        self.there[interface.name] = interface
        self.calls += 1
        self._changed.set()

    def _on_gone(self, interface: Interface) -> None:
        del self.there[interface.name]
        self.calls += 1
        self._changed.set()

    async def until(self, condition: Callable[[dict[str, Interface]], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition(self.there):
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    requires_namespaces()
    with Namespace() as namespace:
        yield namespace


@pytest.fixture
def recorder(namespace: Namespace) -> Iterator[Recorder]:
    recorder = Recorder(namespace)
    yield recorder
    recorder.watcher.close()


def test_list_needs_no_privilege() -> None:
    loopback = next(found for found in list_interfaces() if found.is_loopback)
    assert loopback.name == "lo"


def test_list_tells_what_the_kernel_knows(namespace: Namespace) -> None:
    veth(namespace, "near0", namespace, "far0", 4200)
    namespace.ip("link set far0 down")
    with namespace.entered():
        found = {interface.name: interface for interface in list_interfaces()}
    assert set(found) >= {"lo", "near0", "far0"}
    assert found["lo"].is_loopback
    assert found["lo"].is_up
    assert found["lo"].mtu_bytes == 65536
    assert found["near0"].mac == namespace.mac("near0")
    assert found["near0"].mtu_bytes == 4200
    assert found["near0"].is_ethernet
    # near0 is up, but has no carrier while its peer is down.
    assert not found["near0"].is_up
    assert not found["far0"].is_up


def test_list_of_many_interfaces_is_complete(namespace: Namespace) -> None:
    count = 200
    namespace.run(
        "sh", "-c", f"for n in $(seq {count}); do echo link add d$n type bridge; done | ip -batch -"
    )
    with namespace.entered():
        names = {interface.name for interface in list_interfaces()}
    assert names >= {f"d{number}" for number in range(1, count + 1)}


async def test_start_tells_all_there_is(namespace: Namespace, recorder: Recorder) -> None:
    veth(namespace, "near0", namespace, "far0")
    recorder.watcher.start()
    assert {"lo", "near0", "far0"} <= set(recorder.there)
    assert set(recorder.watcher.interfaces.values()) == set(recorder.there.values())


async def test_life_of_an_interface(namespace: Namespace, recorder: Recorder) -> None:
    recorder.watcher.start()
    veth(namespace, "near0", namespace, "far0")
    await recorder.until(lambda there: "near0" in there and there["near0"].is_up)
    index = recorder.there["near0"].index
    namespace.ip("link set near0 mtu 9000")
    await recorder.until(lambda there: there["near0"].mtu_bytes == 9000)
    namespace.ip("link set near0 address 02:00:00:00:00:07")
    await recorder.until(lambda there: there["near0"].mac == b"\x02\0\0\0\0\x07")
    namespace.ip("link set far0 down")
    await recorder.until(lambda there: not there["near0"].is_up)
    namespace.ip("link set far0 up")
    await recorder.until(lambda there: there["near0"].is_up)
    namespace.ip("link set near0 name other0")
    await recorder.until(lambda there: "other0" in there)
    assert "near0" not in recorder.there
    assert recorder.there["other0"].index == index
    namespace.ip("link del other0")
    await recorder.until(lambda there: "other0" not in there and "far0" not in there)


async def test_leaving_a_bridge_is_not_going_away(namespace: Namespace, recorder: Recorder) -> None:
    veth(namespace, "near0", namespace, "far0")
    bridge(namespace, "br0", ["near0"])
    recorder.watcher.start()
    namespace.ip("link set near0 nomaster")
    namespace.ip("link set near0 mtu 1400")
    await recorder.until(lambda there: "near0" not in there or there["near0"].mtu_bytes == 1400)
    assert "near0" in recorder.there


async def test_lost_events_are_made_up_for(namespace: Namespace, recorder: Recorder) -> None:
    veth(namespace, "near0", namespace, "far0")
    recorder.watcher.start()
    # More events than the socket holds, while the loop does not run.
    toggles = "".join(f"link set lo mtu {60000 + n % 2}\n" for n in range(3000))
    script = f"{toggles}link del near0\nlink add late0 type bridge\n"
    namespace.run("sh", "-c", f"ip -batch - <<'END'\n{script}END\n")
    await recorder.until(lambda there: "near0" not in there and "late0" in there)
    assert recorder.there["lo"].mtu_bytes == 60001


async def test_closed_watcher_is_silent(namespace: Namespace, recorder: Recorder) -> None:
    recorder.watcher.start()
    recorder.watcher.close()
    recorder.watcher.close()
    calls = recorder.calls
    with namespace.entered():
        second = Recorder(namespace)
    second.watcher.start()
    namespace.ip("link add late0 type bridge")
    await second.until(lambda there: "late0" in there)
    second.watcher.close()
    assert recorder.calls == calls


def message(kind: int, body: bytes, flags: int = 0, sequence: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    return (struct.pack("=HH", 4 + len(value), kind) + value).ljust(
        (4 + len(value) + 3) & ~3, b"\0"
    )


def link_body(index: int, name: bytes, mtu_bytes: int = 1500, hardware: int = 1) -> bytes:
    return (
        struct.pack("=BxHiII", 0, hardware, index, 0x10041, 0)
        + attribute(3, name + b"\0")
        + attribute(4, struct.pack("=I", mtu_bytes))
        + attribute(1, b"\x02\0\0\0\0\x01")
    )


@pytest.mark.parametrize(
    ("kind", "data", "vlan_id"),
    [
        (b"vlan\0", attribute(1, b"\x64\0"), 100),
        (b"vlan\0", attribute(2, bytes(8)) + attribute(1, b"\x05\0"), 5),
        (b"vlan\0", attribute(1, b"\x05"), None),
        (b"veth\0", attribute(1, b"\x64\0"), None),
    ],
)
def test_a_vlan_has_its_number(kind: bytes, data: bytes, vlan_id: int | None) -> None:
    table = LinkTable()
    information = attribute(18 | 0x8000, attribute(1, kind) + attribute(2 | 0x8000, data))
    ((found, _),) = table.feed(message(16, link_body(1, b"eth1.5") + information))
    assert found.vlan_id == vlan_id


@pytest.mark.parametrize(("attributes", "index"), [(attribute(10, b"\x07\0\0\0"), 7), (b"", None)])
def test_a_part_of_a_bond_knows_it(attributes: bytes, index: int | None) -> None:
    ((found, _),) = LinkTable().feed(message(16, link_body(1, b"eth1") + attributes))
    assert found.master_index == index


def test_interrupted_dump_removes_nothing_and_asks_again() -> None:
    table = LinkTable()
    assert len(list(table.feed(message(16, link_body(1, b"eth0"))))) == 1
    table.begin_dump(5)
    assert list(table.feed(message(3, b"\0\0\0\0", flags=0x10, sequence=5))) == []
    assert table.dumping is None
    assert table.dump_again
    table.begin_dump(6)
    assert not table.dump_again
    assert [(gone.name, there) for gone, there in table.feed(message(3, b"", sequence=6))] == [
        ("eth0", False)
    ]


def test_end_of_another_dump_is_not_ours() -> None:
    table = LinkTable()
    table.begin_dump(5)
    assert list(table.feed(message(3, b"", sequence=4))) == []
    assert table.dumping == 5


@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_bytes_raise(garbage: bytes, cut: int) -> None:
    table = LinkTable()
    good = message(16, link_body(1, b"eth0"))
    list(table.feed(garbage))
    list(table.feed(good[:cut] + garbage))
    list(table.feed(message(16, garbage)))
    list(table.feed(message(17, garbage)))
    list(table.feed(message(16, link_body(2, b"eth1")[:cut])))
    table.interfaces.clear()
    assert [interface.name for interface, _ in table.feed(good + garbage)][:1] == ["eth0"]
