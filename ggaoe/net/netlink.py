"""The machine's interfaces, now and as they change: rtnetlink links, read without any privilege.

Owns one AF_NETLINK socket and the table of interfaces made from what it says. Must not know: what
an interface is used for. Whatever a message holds, or lacks, nothing is raised for it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from ggaoe.errors import attempt
from ggaoe.net.link import Interface
from ggaoe.net.readable import Readable

DUMP_TIMEOUT_S = 5.0
"""The kernel answers within milliseconds; without a bound a start could hang."""
MESSAGE_BYTES_MAX = 1 << 16
RECEIVE_BUFFER_BYTES = 1 << 20
MESSAGES_PER_WAKE_MAX = 64

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if.h, linux/if_arp.h
_RTMGRP_LINK = 1
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTERRUPTED = 0x1, 0x300, 0x10
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_IFLA_LINKINFO, _IFLA_EXT_MASK = 18, 29
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_VLAN_ID = 1, 2, 1
_RTEXT_FILTER_SKIP_STATS = 8
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING, _IFF_LOWER_UP = 0x1, 0x8, 0x40, 0x10000
_IFF_SERVING = _IFF_UP | _IFF_RUNNING | _IFF_LOWER_UP
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772

_MESSAGE = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_WORD = struct.Struct("=I")
_HALF = struct.Struct("=H")
_KIND_MASK = 0x3FFF  # without flags


class LinkTable:
    """The interfaces by index, kept up to date from rtnetlink messages; does no I/O.

    After `begin_dump(sequence)`, the end of the dump of that sequence number tells which of the
    interfaces known before are gone.
    """

    def __init__(self) -> None:
        self.interfaces: dict[int, Interface] = {}
        self.dumping: int | None = None
        """Sequence number of the dump under way."""
        self.dump_again = False
        """The dump that has ended was not a consistent picture."""
        self._unseen: set[int] = set()

    def begin_dump(self, sequence: int) -> bytes:
        """The request to send."""
        self.dumping = sequence
        self.dump_again = False
        self._unseen = set(self.interfaces)
        body = (
            _LINK.pack(0, 0, 0, 0, 0)
            + _ATTRIBUTE.pack(_ATTRIBUTE.size + _WORD.size, _IFLA_EXT_MASK)
            + _WORD.pack(_RTEXT_FILTER_SKIP_STATS)
        )
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        length = _MESSAGE.size + len(body)
        return _MESSAGE.pack(length, _RTM_GETLINK, flags, sequence, 0) + body

    def feed(self, data: bytes) -> Iterator[tuple[Interface, bool]]:
        """Take in what one read returned; yields (interface, is it still there) per change."""
        for kind, flags, sequence, body in _messages(data):
            if sequence == self.dumping and flags & _NLM_F_DUMP_INTERRUPTED:
                self.dump_again = True
            if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                if sequence == self.dumping:
                    yield from self._end_dump(complete=kind == _NLMSG_DONE)
            elif kind == _RTM_NEWLINK:
                interface = _interface(body)
                if interface is not None:
                    self._unseen.discard(interface.index)
                    if self.interfaces.get(interface.index) != interface:
                        self.interfaces[interface.index] = interface
                        yield interface, True
            elif kind == _RTM_DELLINK:
                index = _deleted_index(body)
                gone = None if index is None else self.interfaces.pop(index, None)
                if gone is not None:
                    self._unseen.discard(gone.index)
                    yield gone, False

    def _end_dump(self, complete: bool) -> Iterator[tuple[Interface, bool]]:
        self.dumping = None
        if complete and not self.dump_again:
            for index in sorted(self._unseen):
                yield self.interfaces.pop(index), False
        self._unseen = set()


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence number, body) of each whole message."""
    offset = 0
    while offset + _MESSAGE.size <= len(data):
        length, kind, flags, sequence, _ = _MESSAGE.unpack_from(data, offset)
        if length < _MESSAGE.size or offset + length > len(data):
            return
        yield kind, flags, sequence, data[offset + _MESSAGE.size : offset + length]
        offset += _aligned(length)


def _attributes(body: bytes, offset: int = 0) -> dict[int, bytes]:
    found = {}
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size or offset + length > len(body):
            break
        found[kind & _KIND_MASK] = body[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _interface(body: bytes) -> Interface | None:
    """The interface of an RTM_NEWLINK; None for one that tells only a part, as wireless events and
    those of a bridge about its ports do."""
    if len(body) < _LINK.size:
        return None
    family, hardware, index, flags, _ = _LINK.unpack_from(body)
    attributes = _attributes(body, _LINK.size)
    name = attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0")
    mtu = attributes.get(_IFLA_MTU, b"")
    if family != socket.AF_UNSPEC or not name or len(mtu) != _WORD.size:
        return None
    mac = attributes.get(_IFLA_ADDRESS, b"")
    master = attributes.get(_IFLA_MASTER, b"")
    return Interface(
        index=index,
        name=os.fsdecode(name),
        mac=mac,
        mtu_bytes=_WORD.unpack(mtu)[0],
        is_up=flags & _IFF_SERVING == _IFF_SERVING,
        is_loopback=bool(flags & _IFF_LOOPBACK),
        is_ethernet=hardware in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK) and len(mac) == 6,
        vlan_id=_vlan_id(attributes.get(_IFLA_LINKINFO, b"")),
        master_index=_WORD.unpack(master)[0] if len(master) == _WORD.size else None,
    )


def _vlan_id(link_info: bytes) -> int | None:
    """The number that the interface's kind has, where that is a VLAN."""
    information = _attributes(link_info)
    if information.get(_IFLA_INFO_KIND, b"").rstrip(b"\0") != b"vlan":
        return None
    number = _attributes(information.get(_IFLA_INFO_DATA, b"")).get(_IFLA_VLAN_ID, b"")
    return int(_HALF.unpack(number)[0]) if len(number) == _HALF.size else None


def _deleted_index(body: bytes) -> int | None:
    """The index in an RTM_DELLINK; None where a port has merely left a bridge."""
    if len(body) < _LINK.size:
        return None
    family, _, index, _, _ = _LINK.unpack_from(body)
    return index if family == socket.AF_UNSPEC else None


class InterfaceWatcher:
    """Calls `on_change` for every interface at start and whenever one appears or changes (name,
    MTU, MAC, up or down), `on_gone` when one has disappeared. The callbacks must not raise.

    Watches the network namespace in which it was made. OSError when there is no netlink.
    """

    def __init__(
        self, on_change: Callable[[Interface], None], on_gone: Callable[[Interface], None]
    ) -> None:
        self._on_change = on_change
        self._on_gone = on_gone
        self._table = LinkTable()
        self._sequence = 0
        self._readable: Readable | None = None
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE,
        )
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            self._socket.bind((0, _RTMGRP_LINK))
        except BaseException:
            self._socket.close()
            raise

    @property
    def interfaces(self) -> Mapping[int, Interface]:
        """All interfaces by index, as last heard of."""
        return MappingProxyType(self._table.interfaces)

    def start(self) -> None:
        """Learn all interfaces, then follow them on the running loop."""
        self.read_all()
        loop = asyncio.get_running_loop()
        self._readable = Readable(loop, self._socket.fileno(), self._on_readable)

    def read_all(self) -> None:
        """Learn all interfaces before returning; TimeoutError if the kernel stays silent."""
        self._request_dump()
        deadline_s = time.monotonic() + DUMP_TIMEOUT_S
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while self._table.dumping is not None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise TimeoutError(errno.ETIMEDOUT, "the kernel does not list its interfaces")
            self._on_readable()

    def close(self) -> None:
        """Idempotent."""
        if self._readable is not None:
            self._readable.close()
        self._socket.close()

    def _on_readable(self) -> None:
        for _ in range(MESSAGES_PER_WAKE_MAX):
            try:
                data, _, _, (sender, _) = self._socket.recvmsg(MESSAGE_BYTES_MAX)
            except BlockingIOError:
                break
            except OSError:
                # ENOBUFS: events were lost, so what we know may be old.
                self._table.dump_again = True
                break
            if sender == 0:
                for interface, is_there in self._table.feed(data):
                    attempt(self._on_change if is_there else self._on_gone, interface)
        if self._table.dump_again and self._table.dumping is None:
            try:
                self._request_dump()
            except OSError:
                # Left for the next event.
                self._table.dumping = None
                self._table.dump_again = True

    def _request_dump(self) -> None:
        self._sequence += 1
        self._socket.send(self._table.begin_dump(self._sequence))


def list_interfaces() -> list[Interface]:
    """The interfaces there are now, by index."""
    watcher = InterfaceWatcher(lambda _: None, lambda _: None)
    try:
        watcher.read_all()
        return sorted(watcher.interfaces.values(), key=lambda interface: interface.index)
    finally:
        watcher.close()
