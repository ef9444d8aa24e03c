"""Checks of the interfaces that serve devices, of the memory for their frames, and of the segment.

What /sys says of an interface counts only where it is about the same interface: after a change of
the network namespace it shows another one's.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import socket
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

from ggaoe.client import Found, Initiator
from ggaoe.engine.select import live_engine
from ggaoe.errors import ClientError, StartError
from ggaoe.net.link import Interface
from ggaoe.net.plain import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES
from ggaoe.net.ring import BLOCK_BYTES, ReceiveRing
from ggaoe.proto.frame import MTU_BYTES_MIN, sectors_advertised
from ggaoe.server import claims
from ggaoe.server.capabilities import Capability
from ggaoe.server.claims import PacketSocket
from ggaoe.server.doctor.base import Finding, Severity, Situation, read_line, read_number
from ggaoe.server.interfaces import GLOB_CHARACTERS, LinkMemory, link_settings
from ggaoe.units import counted, format_mac, format_size

LISTEN_S = 1.0
JUMBO_MTU_BYTES = 9000
RING_SHARE_MAX = 0.25
"""Of the memory that is available; more than that is hardly meant."""

_CLASS = Path("/sys/class/net")
_RMEM_MAX = Path("/proc/sys/net/core/rmem_max")
_WMEM_MAX = Path("/proc/sys/net/core/wmem_max")
_MEMORY = Path("/proc/meminfo")
_IFF_PROMISC = 0x100  # linux/if.h
# linux/sockios.h, linux/ethtool.h
_SIOCETHTOOL = 0x8946
_ETHTOOL_GFLAGS = 0x25
_FLAG_RX_VLAN = 1 << 8


def interfaces(situation: Situation) -> Iterator[Finding]:
    served = situation.served()
    yield from _missing(situation)
    for interface in served:
        found = [*_state(situation, interface), *_surroundings(situation, interface)]
        yield from found
        if all(one.severity == "note" for one in found):
            text = f"up, MTU {interface.mtu_bytes}, {format_mac(interface.mac)}"
            yield Finding("ok", interface.name, text)
    if situation.config.devices and not any(one.is_up for one in served):
        remedy = "ip link set NAME up, or correct interfaces ="
        yield Finding("error", "interfaces", "none that would serve a device is up", remedy)


def _missing(situation: Situation) -> Iterator[Finding]:
    there = {interface.name for interface in situation.interfaces}
    wanted = (name for one in situation.config.devices.values() for name in one.interfaces)
    for name in dict.fromkeys(wanted):
        if name not in there and not GLOB_CHARACTERS & set(name):
            text = f"does not exist (there are: {', '.join(sorted(there))})"
            remedy = f"correct the name, or write a pattern such as {name}* to wait for it"
            yield Finding("error", name, text, remedy)


def _state(situation: Situation, interface: Interface) -> Iterator[Finding]:
    name, mtu_bytes = interface.name, interface.mtu_bytes
    if not interface.is_ethernet:
        yield Finding("error", name, "is no Ethernet interface", "take it out of interfaces")
        return
    if not interface.is_up:
        remedy = f"ip link set {name} up, or look at the cable"
        yield Finding("warning", name, "is down, or has no carrier", remedy)
    if mtu_bytes < MTU_BYTES_MIN:
        text = f"MTU {mtu_bytes}: not even two sectors fit into a frame"
        yield Finding("error", name, text, f"ip link set {name} mtu 1500")
    elif mtu_bytes < JUMBO_MTU_BYTES and not interface.is_loopback:
        ours, most = sectors_advertised(mtu_bytes), sectors_advertised(JUMBO_MTU_BYTES)
        yield Finding(
            "note",
            name,
            f"MTU {mtu_bytes}: {ours} sectors in a frame, {most} with an MTU of {JUMBO_MTU_BYTES}",
            f"ip link set {name} mtu {JUMBO_MTU_BYTES}, if hosts and switches have it, too; "
            "ggaoe sancheck on a host shows what gets through",
        )
    configured = situation.config.interface(name).mtu_bytes
    if configured is not None and configured > mtu_bytes:
        text = f"mtu = {configured} has no effect: the interface has {mtu_bytes}"
        yield Finding("warning", name, text, f"ip link set {name} mtu {configured}")


def _surroundings(situation: Situation, interface: Interface) -> Iterator[Finding]:
    """Bridge, VLAN, duplex and promiscuity, where /sys tells of them."""
    name, place = interface.name, _CLASS / interface.name
    if read_number(place / "ifindex") != interface.index:
        text = "bridges, VLANs and offloads could not be examined: /sys is another namespace's"
        yield Finding("note", name, text)
        return
    master = place / "master"
    if master.exists():
        above = master.resolve().name
        yield Finding(
            "warning",
            name,
            f"belongs to {above}, which gets its frames first",
            f"name {above} in interfaces instead of {name}",
        )
    if read_line(place / "duplex") == "half":
        text = "half duplex: frames collide, and hosts send them again"
        yield Finding("warning", name, text, f"look at the cable and at ethtool {name}")
    flags = int(read_line(place / "flags") or "0", 16)
    if flags & _IFF_PROMISC:
        text = "is promiscuous: frames for others are received, and dropped by us"
        yield Finding("note", name, text, "somebody listens (tcpdump), or bridges")
    if "DEVTYPE=vlan" in (read_line(place / "uevent") or "").split():
        for lower in place.glob("lower_*"):
            yield from _vlan(situation, interface, lower.resolve())


def _vlan(situation: Situation, interface: Interface, parent: Path) -> Iterator[Finding]:
    mtu_bytes = read_number(parent / "mtu")
    if mtu_bytes is not None and mtu_bytes < interface.mtu_bytes:
        yield Finding(
            "error",
            interface.name,
            f"MTU {interface.mtu_bytes}, but {parent.name} below it has {mtu_bytes}: "
            f"large frames are lost",
            f"ip link set {parent.name} mtu {interface.mtu_bytes}",
        )
    parents = [one for one in situation.interfaces if one.name == parent.name]
    if any(situation.addresses(one).keys() & situation.addresses(interface) for one in parents):
        yield Finding(
            "note",
            interface.name,
            f"is a VLAN of {parent.name}, which serves the same devices: hosts of both see them",
            "name the VLAN alone in interfaces if it is to keep hosts apart",
        )
    flags = _ethtool_flags(parent.name)
    if flags is not None and not flags & _FLAG_RX_VLAN:
        text = f"{parent.name} does not take off VLAN tags: the kernel does it for each frame"
        yield Finding("note", interface.name, text, f"ethtool -K {parent.name} rxvlan on")


def _ethtool_flags(name: str) -> int | None:
    """ETHTOOL_GFLAGS of an interface; None where the driver does not say."""
    value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_GFLAGS, 0), 8)
    request = struct.pack("@16sP16x", name.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
        except OSError:
            return None
    return int(struct.unpack_from("=I", value, 4)[0])


# --- memory for frames -------------------------------------------------------------------------


def frame_memory(situation: Situation) -> Iterator[Finding]:
    """Rings are the kernel's memory: neither ulimit -l nor a cgroup's limit counts them."""
    try:
        has_rings = live_engine(situation.config.engine) == "native"
    except StartError:
        return
    configured = [situation.config.interface(one.name) for one in situation.served()]
    memory = LinkMemory.of(configured)
    settings = [link_settings(one, memory) for one in configured]
    rings_bytes = [one.ring_buffer_bytes if has_rings else 0 for one in settings]
    available = _available_bytes()
    total_bytes = sum(rings_bytes)
    if total_bytes and Capability.NET_RAW in situation.capabilities:
        yield from _ring()
    if total_bytes and available is not None:
        text = f"{format_size(total_bytes)} of {format_size(available)} that are available"
        if not situation.live and total_bytes > RING_SHARE_MAX * available:
            remedy = "make ring-buffer-size smaller, or name fewer interfaces"
            severity: Severity = "error" if total_bytes > available else "warning"
            yield Finding(severity, "rings", text, remedy)
        else:
            yield Finding("ok", "rings", f"{text}, for {counted(len(rings_bytes), 'interface')}")
    most = read_number(_RMEM_MAX)
    if 0 in rings_bytes and most is not None and most < RECEIVE_BUFFER_BYTES:
        yield Finding(
            "note",
            "net.core.rmem_max",
            f"is {most >> 10} KiB: an interface that comes back while the daemon runs gets no "
            f"larger receive buffer, instead of {RECEIVE_BUFFER_BYTES >> 10} KiB",
            f"sysctl -w net.core.rmem_max={RECEIVE_BUFFER_BYTES}, and in /etc/sysctl.d",
        )
    yield from _send_buffers(max((one.send_buffer_bytes for one in settings), default=0))


def _send_buffers(wanted_bytes: int) -> Iterator[Finding]:
    most = read_number(_WMEM_MAX)
    if most is None or most >= wanted_bytes:
        return
    yield Finding(
        "note" if wanted_bytes <= SEND_BUFFER_BYTES else "warning",
        "net.core.wmem_max",
        f"is {most >> 10} KiB: a daemon without CAP_NET_ADMIN gets no larger send buffer, instead "
        f"of {wanted_bytes >> 10} KiB; on fast links the wire may be idle between replies",
        f"sysctl -w net.core.wmem_max={wanted_bytes}, and in /etc/sysctl.d; restart the daemon",
    )


def _ring() -> Iterator[Finding]:
    """A small ring is made of a socket that receives nothing, and given back."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_PACKET, kind, 0) as packets:
        try:
            ReceiveRing(packets, BLOCK_BYTES, 1514).close()
        except OSError as error:
            text = f"the kernel makes no receive ring: {error.strerror}; plain sockets are slower"
            yield Finding("warning", "TPACKET_V2", text, "set ring-buffer-size = 0 to accept it")
        else:
            yield Finding("ok", "TPACKET_V2", "receive rings can be made")


def _available_bytes() -> int | None:
    for line in (read_line(_MEMORY) or "").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return None


# --- the segment -------------------------------------------------------------------------------


def duplicate_addresses(situation: Situation) -> Iterator[Finding]:
    """Asks on every interface who has our addresses. A target that does not answer this host,
    because of its access list, is not found."""
    asked = [one for one in situation.served() if one.is_up and situation.addresses(one)]
    if not asked or Capability.NET_RAW not in situation.capabilities:
        return
    before = {one for one, _ in claims.programs()}
    try:
        found = asyncio.run(_discover([one.name for one in asked]))
    except ClientError as error:
        yield Finding("warning", "segment", f"could not be asked: {error}")
        return
    ours = {one.mac for one in situation.interfaces}
    by_name = {one.name: one for one in asked}
    nearby = [*_programs(situation, before), *_claims(situation)]
    yield from nearby
    is_clean = not nearby
    for one in found:
        device = situation.addresses(by_name[one.interface]).get((one.shelf, one.slot))
        if device is not None and one.mac not in ours:
            is_clean = False
            yield Finding(
                "error",
                device.name,
                f"{device.address} is answered on {one.interface} by {format_mac(one.mac)}, too: "
                "hosts take two disks for one, and destroy data",
                "stop that target, or give one of the two another shelf or slot",
            )
    if is_clean:
        yield Finding("ok", ", ".join(by_name), "nobody else answers for our addresses")


def _programs(situation: Situation, before: Collection[PacketSocket]) -> Iterator[Finding]:
    """Targets on the same interface of this machine, which no question reaches. What was not there
    a second ago is a tool that asks and ends."""
    for one, process in claims.programs():
        if one not in before or (process is not None and process.is_initiator):
            continue
        served = process.serves() if process is not None else None
        who = process.name if process is not None else f"a program of user {one.user_id}"
        for interface in situation.served():
            if one.interface not in (0, interface.index):
                continue
            device = situation.addresses(interface).get(served) if served is not None else None
            if device is not None:
                text = f"{device.address} is served on {interface.name} by {who} as well"
                remedy = "stop one of the two, or give it another shelf or slot"
                yield Finding("error", device.name, text, remedy)
            elif served is None:
                text = f"{who} receives AoE here, and may serve an address of this daemon"
                remedy = "if it is a target, compare its shelf and slot with ggaoectl list"
                yield Finding("warning", interface.name, text, remedy)


def _claims(situation: Situation) -> Iterator[Finding]:
    """Addresses that a daemon would not get. One that runs has claimed its own."""
    if situation.live is not None:
        return
    table = claims.Claims()
    try:
        for interface in situation.served():
            for (shelf, slot), device in situation.addresses(interface).items():
                address = claims.Address(interface.index, shelf, slot)
                if claims.is_claimed(address):
                    holder = table.holders([address]).get(address)
                    who = holder.name if holder is not None else "another process"
                    text = f"{device.address} is claimed on {interface.name} by {who}"
                    remedy = "stop that process, or use another shelf or slot"
                    yield Finding("error", device.name, text, remedy)
    finally:
        table.close()


async def _discover(names: list[str]) -> list[Found]:
    async with Initiator(names) as initiator:
        return await initiator.discover(LISTEN_S)
