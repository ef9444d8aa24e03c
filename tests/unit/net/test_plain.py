"""`PlainLink` on veth pairs and loopback interfaces of the test's own namespace."""

from __future__ import annotations

import asyncio
import ctypes
import select
import subprocess
import time
from collections.abc import Iterator

import pytest

from ggaoe.net.buffers import PAGE_BYTES
from ggaoe.net.filters import Role
from ggaoe.net.link import Frame, Interface, LinkSettings
from ggaoe.net.netlink import list_interfaces
from ggaoe.net.plain import PlainLink
from ggaoe.net.readable import Readable
from ggaoe.proto.frame import BROADCAST, ETHERTYPE, FLAG_RESPONSE, VERSION, Command
from helpers.needs import requires_namespaces
from helpers.netns import Namespace, veth, wait_until

DEADLINE_S = 10.0
MTU_BYTES = 9000


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    requires_namespaces()
    with Namespace() as namespace:
        veth(namespace, "near0", namespace, "far0", MTU_BYTES)
        yield namespace


@pytest.fixture
def opened(namespace: Namespace) -> Iterator[list[PlainLink]]:
    links: list[PlainLink] = []
    yield links
    for link in links:
        link.close()


@pytest.fixture
def near(namespace: Namespace, opened: list[PlainLink]) -> PlainLink:
    return open_link(namespace, opened, "near0", role=Role.ALL)


@pytest.fixture
def far(namespace: Namespace, opened: list[PlainLink]) -> PlainLink:
    return open_link(namespace, opened, "far0")


def interface_of(namespace: Namespace, name: str) -> Interface:
    with namespace.entered():
        return next(found for found in list_interfaces() if found.name == name)


def open_link(
    namespace: Namespace,
    opened: list[PlainLink],
    name: str,
    settings: LinkSettings | None = None,
    role: Role = Role.TARGET,
) -> PlainLink:
    interface = interface_of(namespace, name)
    with namespace.entered():
        link = PlainLink(interface, settings, role)
    opened.append(link)
    return link


def frame(
    destination: bytes,
    source: bytes,
    body: bytes = b"",
    command: int = Command.ATA,
    flags: int = 0,
    ethertype: int = ETHERTYPE,
) -> bytes:
    first = destination + source + ethertype.to_bytes(2)
    return (first + bytes([VERSION << 4 | flags, 0, 0, 0, 1, command])).ljust(24, b"\0") + body


def receive(link: PlainLink, count: int, frames_max: int = 1000) -> list[Frame]:
    frames: list[Frame] = []

    def enough() -> bool:
        frames.extend(link.receive(frames_max))
        return len(frames) >= count

    wait_until(enough, DEADLINE_S, f"{count} frames")
    return frames


def wait_for_carrier(namespace: Namespace, name: str) -> None:
    """The kernel drops what is sent until it has noticed, up to a second after the peer is up."""
    wait_until(lambda: namespace.has_carrier(name), DEADLINE_S, f"carrier of {name}")


def address_of(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def test_frames_arrive_in_order_and_whole(near: PlainLink, far: PlainLink) -> None:
    sent = [frame(far.mac, near.mac, bytes([n]) * (n * 400)) for n in range(20)]
    assert near.send([[whole[:30], memoryview(whole)[30:]] for whole in sent]) == len(sent)
    got = receive(far, len(sent))
    assert [bytes(one) for one in got] == sent
    assert [len(one) for one in got] == [len(whole) for whole in sent]
    assert (far.counters.rx_frames, near.counters.tx_frames) == (20, 20)
    assert far.counters.rx_bytes == near.counters.tx_bytes == sum(map(len, sent))


def test_frames_of_an_interface_above_are_not_of_this_one(
    namespace: Namespace, near: PlainLink, opened: list[PlainLink]
) -> None:
    """Else hosts of a VLAN would reach what is served on its parent; a macvlan is alike, and more
    kernels have it."""
    try:
        namespace.ip("link add link far0 name above0 type macvlan mode bridge")
    except subprocess.CalledProcessError:
        pytest.skip("needs a kernel with macvlan")
    namespace.ip("link set above0 up")
    wait_for_carrier(namespace, "above0")
    far, above = (open_link(namespace, opened, name) for name in ("far0", "above0"))
    sent = [frame(link.mac, near.mac) for link in (above, far)]
    near.send([[whole] for whole in sent])
    assert [bytes(one) for one in receive(above, 1)] == sent[:1]
    assert [bytes(one) for one in receive(far, 1)] == sent[1:]
    assert (above.counters.rx_frames, far.counters.rx_frames) == (1, 1)


def test_stamps_are_the_kernels_and_grow(near: PlainLink, far: PlainLink) -> None:
    # Not at once: Linux begins to stamp arrivals a moment after the first socket has asked for it,
    # and until then stamps what is read; and somebody may set the clock between our two looks.
    def are_stamped_on_arrival() -> bool:
        before_ns = time.time_ns()
        near.send([[frame(far.mac, near.mac)] for _ in range(10)])
        after_ns = time.time_ns()
        stamps = [one.arrival_ns for one in receive(far, 10)]
        return stamps == sorted(stamps) and before_ns <= stamps[0] <= stamps[-1] <= after_ns

    wait_until(are_stamped_on_arrival, DEADLINE_S, "frames stamped when they came, not when read")


def test_payload_is_aligned_and_lent(near: PlainLink, far: PlainLink) -> None:
    near.send([[frame(far.mac, near.mac, bytes(12) + b"a" * 1024)]])
    (first,) = receive(far, 1)
    assert first.payload == b"a" * 1024
    assert address_of(first.payload) % PAGE_BYTES == 0
    near.send([[frame(far.mac, near.mac, bytes(12) + b"b" * 1024)]])
    (second,) = receive(far, 1)
    assert first.payload == b"a" * 1024
    where = address_of(first.payload)
    first.release()
    second.release()
    near.send([[frame(far.mac, near.mac, bytes(12) + b"c" * 1024)] for _ in range(3)])
    assert where in [address_of(one.payload) for one in receive(far, 3)]


def test_the_longest_frame_fits(near: PlainLink, far: PlainLink) -> None:
    whole = frame(far.mac, near.mac).ljust(MTU_BYTES + 14, b"\x5a")
    near.send([[whole]])
    assert bytes(receive(far, 1)[0]) == whole


@pytest.mark.parametrize(
    ("role", "passing"),
    [
        (Role.TARGET, {"request", "query", "advertisement"}),
        (Role.INITIATOR, {"response", "advertisement"}),
        (Role.ALL, {"request", "query", "response", "advertisement"}),
    ],
)
def test_role_decides_what_wakes_us(
    namespace: Namespace, opened: list[PlainLink], near: PlainLink, role: Role, passing: set[str]
) -> None:
    far = open_link(namespace, opened, "far0", role=role)
    kinds = {
        "request": (Command.ATA, 0),
        "query": (Command.CONFIG, 0),
        "response": (Command.ATA, FLAG_RESPONSE),
        "advertisement": (Command.CONFIG, FLAG_RESPONSE),
    }
    sent = {
        name: frame(BROADCAST, near.mac, name.encode(), command, flags)
        for name, (command, flags) in kinds.items()
    }
    near.send([[whole] for whole in sent.values()])
    near.send([[frame(far.mac, near.mac, b"other", ethertype=0x88B5)]])
    assert {bytes(one) for one in receive(far, len(passing))} == {sent[name] for name in passing}
    assert far.receive(10) == []


def test_tagged_frames_are_dropped(near: PlainLink, far: PlainLink) -> None:
    tagged = frame(far.mac, near.mac, b"\x00\x07\x88\xa2" + bytes(40), ethertype=0x8100)
    near.send([[tagged[:14] + tagged[24:]], [frame(far.mac, near.mac, b"untagged")]])
    assert bytes(receive(far, 1)[0]).endswith(b"untagged")
    assert far.counters.drops["vlan"] == far.counters.dropped == 1
    ((source, stray),) = far.strays.items()
    assert (source, stray.reason, stray.length_bytes) == (near.mac, "vlan", 54)


def test_frames_of_other_hosts_are_dropped(
    namespace: Namespace, near: PlainLink, far: PlainLink
) -> None:
    namespace.ip("link set far0 promisc on")
    near.send([[frame(b"\x02\0\0\0\0\x77", near.mac)], [frame(far.mac, near.mac, b"ours")]])
    assert bytes(receive(far, 1)[0]).endswith(b"ours")
    namespace.ip("link set far0 promisc off")
    assert far.counters.drops["foreign_host"] == 1
    assert [(source, stray.reason) for source, stray in far.strays.items()] == [
        (near.mac, "foreign_host")
    ]
    assert far.counters.rx_frames == 1


def test_frames_longer_than_the_buffer_are_dropped(
    namespace: Namespace, opened: list[PlainLink], near: PlainLink
) -> None:
    # The link believes what it was told of the interface, which has changed since.
    interface = interface_of(namespace, "far0")
    small = Interface(interface.index, "far0", interface.mac, 1500, is_up=True)
    with namespace.entered():
        far = PlainLink(small)
    opened.append(far)
    long = frame(far.mac, near.mac).ljust(8192, b"\0")
    near.send([[long], [frame(far.mac, near.mac, b"short")]])
    assert bytes(receive(far, 1)[0]).endswith(b"short")
    assert far.counters.drops["truncated"] == 1


def test_receive_takes_no_more_than_asked(near: PlainLink, far: PlainLink) -> None:
    near.send([[frame(far.mac, near.mac, bytes([n]))] for n in range(5)])
    assert select.select([far], [], [], DEADLINE_S)[0]
    assert len(receive(far, 3, frames_max=3)) == 3
    assert len(receive(far, 2)) == 2
    assert far.receive(3) == []


def test_frame_that_can_never_be_sent_counts_as_drop(near: PlainLink, far: PlainLink) -> None:
    good = frame(far.mac, near.mac, b"good")
    assert near.send([[bytes(MTU_BYTES + 100)], [good]]) == 2
    assert bytes(receive(far, 1)[0]) == good
    assert near.counters.drops["tx_refused"] == 1
    assert near.counters.tx_frames == 1


def test_link_lives_through_down_and_up(
    namespace: Namespace, near: PlainLink, far: PlainLink
) -> None:
    namespace.ip("link set far0 down")
    assert far.receive(10) == []
    assert far.send([[frame(near.mac, far.mac)]]) == 1
    assert far.counters.drops["tx_refused"] == 1
    namespace.ip("link set far0 up")
    wait_for_carrier(namespace, "near0")
    near.send([[frame(far.mac, near.mac, b"again")]])
    assert bytes(receive(far, 1)[0]).endswith(b"again")


async def test_loop_still_wakes_for_frames_after_down_and_up(
    namespace: Namespace, near: PlainLink, far: PlainLink
) -> None:
    arrived: asyncio.Queue[Frame] = asyncio.Queue()
    went_down = asyncio.Event()

    def on_readable() -> None:
        frames = far.receive(100)
        for one in frames:
            arrived.put_nowait(one)
        if not frames:
            went_down.set()

    readable = Readable(asyncio.get_running_loop(), far.fileno(), on_readable)
    async with asyncio.timeout(DEADLINE_S):
        namespace.ip("link set far0 down")
        await went_down.wait()
        namespace.ip("link set far0 up")
        wait_for_carrier(namespace, "near0")
        near.send([[frame(far.mac, near.mac, b"again")]])
        assert bytes(await arrived.get()).endswith(b"again")
    readable.close()
    readable.close()


def test_full_queue_stops_sending(
    namespace: Namespace, opened: list[PlainLink], far: PlainLink
) -> None:
    near = open_link(namespace, opened, "near0", LinkSettings(send_buffer_bytes=4096))
    slow = "tc qdisc add dev near0 root tbf rate 400kbit burst 9100 limit 1mb"
    namespace.run("sh", "-c", slow)
    try:
        waiting = [[frame(far.mac, near.mac, bytes([n]) * 1000)] for n in range(100)]
        taken = near.send(waiting)
        assert 0 < taken < len(waiting)
        assert near.counters.tx_held == 1
        assert near.counters.tx_frames == taken
        assert select.select([], [near], [], DEADLINE_S)[1]
        assert near.send(waiting[taken : taken + 1]) == 1
    finally:
        namespace.run("sh", "-c", "tc qdisc del dev near0 root")


def test_a_frame_that_is_refused_for_good_holds_up_nobody(
    namespace: Namespace, opened: list[PlainLink]
) -> None:
    namespace.ip("link set far0 mtu 1500")
    try:
        near = open_link(namespace, opened, "near0")
        frames = [[frame(near.mac, near.mac, bytes(size))] for size in (4000, 100)]
        sent = 0

        def is_sent() -> bool:
            nonlocal sent
            sent += near.send(frames[sent:])
            return sent == len(frames)

        wait_until(is_sent, DEADLINE_S, "both frames are done with")
        assert near.counters.tx_frames == 1
        assert near.counters.drops["tx_refused"] == 1
        assert near.counters.tx_held > 0
    finally:
        namespace.ip("link set far0 mtu 9000")


def test_what_the_kernel_drops_is_counted(
    namespace: Namespace, opened: list[PlainLink], near: PlainLink
) -> None:
    far = open_link(namespace, opened, "far0", LinkSettings(receive_buffer_bytes=1 << 14))
    sent = near.send([[frame(far.mac, near.mac, bytes(4000))] for _ in range(200)])

    def all_accounted_for() -> bool:
        far.receive(sent)
        counters = far.refresh()
        return counters.rx_frames + counters.dropped_by_kernel == sent == 200

    wait_until(all_accounted_for, DEADLINE_S, "received + dropped = sent")
    assert far.counters.dropped_by_kernel > 0


def test_loopback_carries_jumbo_frames(namespace: Namespace, opened: list[PlainLink]) -> None:
    target = open_link(namespace, opened, "lo")
    initiator = open_link(namespace, opened, "lo", role=Role.INITIATOR)
    assert target.is_loopback
    assert target.mac == bytes(6)
    request = frame(target.mac, initiator.mac).ljust(target.mtu_bytes + 14, b"\x77")
    initiator.send([[request]])
    assert bytes(receive(target, 1)[0]) == request
    target.send([[frame(initiator.mac, target.mac, flags=FLAG_RESPONSE)]])
    assert len(receive(initiator, 1)) == 1
    # Neither sees what it sent itself.
    assert target.receive(10) == initiator.receive(10) == []


def test_configured_mtu_is_a_ceiling(namespace: Namespace, opened: list[PlainLink]) -> None:
    assert open_link(namespace, opened, "far0", LinkSettings(mtu_bytes=4200)).mtu_bytes == 4200
    assert open_link(namespace, opened, "far0", LinkSettings(mtu_bytes=99999)).mtu_bytes == 9000


def test_unknown_interface_is_an_oserror(namespace: Namespace) -> None:
    with namespace.entered(), pytest.raises(OSError):
        PlainLink(Interface(99, "absent0", bytes(6), 1500, is_up=True))


def test_closed_link_does_nothing(near: PlainLink) -> None:
    near.close()
    near.close()
    assert near.receive(1) == []
    near.refresh()
