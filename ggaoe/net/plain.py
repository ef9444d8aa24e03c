"""The portable link: one non-blocking AF_PACKET socket, a system call for each frame.

Owns the socket, its kernel filter and the buffers it receives into. Must not know: any command's
meaning, devices, the event loop.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

from ggaoe.net import filters
from ggaoe.net.buffers import BufferPool
from ggaoe.net.filters import Role
from ggaoe.net.link import HEAD_BYTES, Frame, Interface, Link, LinkCounters, LinkSettings
from ggaoe.net.strays import Stray, Strays
from ggaoe.proto.frame import ETHERNET_BYTES, ETHERTYPE, FRAME_BYTES_MIN

RECEIVE_BUFFER_BYTES = 32 << 20
"""Unless configured: room for thousands of jumbo frames while we are busy with something else."""
SEND_BUFFER_BYTES = 512 << 10
"""Unless configured. The kernel allows twice as much, of which a frame of 8 KiB takes 12 KiB: room
for 88 such frames, or half a millisecond at 10 Gbit/s. More would gain nothing there, and at
1 Gbit/s frames would wait for so long that queue disciplines such as CoDel drop them."""
VLAN_TAG_BYTES = 4
LINK_NAME = "ggaoe/link/{}"
"""Name of a Unix socket beside each packet socket, with that one's inode: other processes tell
from it that the packet socket is of ggaoe, which claims what it serves."""
DROPS_PER_CALL_MAX = 1024
"""A flood of frames for others cannot keep `receive` busy."""

# linux/if_packet.h and asm-generic/socket.h, where the socket module lacks them.
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_AUXDATA = 8
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_TP_STATUS_VLAN_VALID = 1 << 4
_STATISTICS = struct.Struct("@II")
_TIMESPEC = struct.Struct("@ll")
_AUXDATA = struct.Struct("@II")
_AUXDATA_BYTES = 20
_ANCILLARY_BYTES = socket.CMSG_SPACE(_TIMESPEC.size) + socket.CMSG_SPACE(_AUXDATA_BYTES)

_log = logging.getLogger("ggaoe.net")

_NOTHING_LEFT = (errno.EAGAIN, errno.EBADF)
REFUSED_S_MAX = 0.02
"""A device that has no room says ENOBUFS, and so do some of a frame that they will never take, as
a veth of one that is larger than its peer's MTU. After so long such a frame is lost: it must not
hold up those behind it."""


class PlainLink(Link):
    """AoE frames of one interface; needs CAP_NET_RAW to open, nothing afterwards.

    The link is of the interface as it was when opened: after an MTU change open a new one.
    """

    def __init__(
        self,
        interface: Interface,
        settings: LinkSettings | None = None,
        role: Role = Role.TARGET,
    ) -> None:
        settings = settings or LinkSettings()
        self.name = interface.name
        self.index = interface.index
        self.master_index = interface.master_index
        self.mac = interface.mac
        self.is_loopback = interface.is_loopback
        self.mtu_bytes = min(interface.mtu_bytes, settings.mtu_bytes or interface.mtu_bytes)
        self.counters = LinkCounters()
        self.strays = Strays()
        self.frame_bytes_max = interface.mtu_bytes + ETHERNET_BYTES + VLAN_TAG_BYTES
        self._pool = BufferPool(max(1, self.frame_bytes_max - HEAD_BYTES))
        self._lease = self._pool.borrow()
        self._head = bytearray(HEAD_BYTES)
        self._refused_since_s: float | None = None
        """The first frame that is to be sent."""
        # Protocol 0 receives nothing: no frame gets in before filter and options are in place.
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0
        )
        self._mark: socket.socket | None = None
        try:
            self._set_up(settings, role)
            self._mark = _marked(self._socket)
        except BaseException:
            self.close()
            raise

    def _set_up(self, settings: LinkSettings, role: Role) -> None:
        receive_bytes = settings.receive_buffer_bytes or RECEIVE_BUFFER_BYTES
        has_bytes = _set_buffer(self._socket, _SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_bytes)
        if has_bytes < receive_bytes and role is Role.TARGET and not self._receives_otherwise:
            self._warn_of_buffer("receive", has_bytes, receive_bytes, "rmem_max")
        send_bytes = settings.send_buffer_bytes or SEND_BUFFER_BYTES
        has_bytes = _set_buffer(self._socket, _SO_SNDBUFFORCE, socket.SO_SNDBUF, send_bytes)
        if has_bytes < send_bytes and settings.send_buffer_bytes:
            self._warn_of_buffer("send", has_bytes, send_bytes, "wmem_max")
        self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._filter(filters.for_role(role))
        self._socket.bind((self.name, ETHERTYPE))

    def _filter(self, program: filters.Program) -> None:
        own = {self.index, self.master_index or self.index}
        filters.attach(self._socket, filters.within(own, program))

    @property
    def _receives_otherwise(self) -> bool:
        """No frame waits in the socket's own buffer."""
        return False

    def _warn_of_buffer(self, kind: str, has_bytes: int, wanted_bytes: int, sysctl: str) -> None:
        _log.warning(
            "%s: a %s buffer of %d KiB instead of %d KiB: raise sysctl net.core.%s, since only "
            "links that are open when the daemon starts as root can exceed it",
            self.name,
            kind,
            has_bytes >> 10,
            wanted_bytes >> 10,
            sysctl,
        )

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, frames_max: int) -> list[Frame]:
        frames: list[Frame] = []
        receive_into = self._socket.recvmsg_into
        buffers: list[bytearray | memoryview] = [self._head, self._lease.view]
        size_bytes = 0
        for _ in range(frames_max + DROPS_PER_CALL_MAX):
            try:
                length, ancillary, flags, address = receive_into(buffers, _ANCILLARY_BYTES)
            except OSError as error:
                if error.errno in _NOTHING_LEFT:
                    break
                continue  # a pending error such as "link went down", which reading clears
            arrival_ns = 0
            status, whole_bytes = 0, length
            for _, kind, value in ancillary:
                if kind == _SO_TIMESTAMPNS:
                    seconds, nanoseconds = _TIMESPEC.unpack(value)
                    arrival_ns = seconds * 1_000_000_000 + nanoseconds
                elif kind == _PACKET_AUXDATA:
                    status, whole_bytes = _AUXDATA.unpack_from(value)
            if address[2] >= socket.PACKET_OTHERHOST or status & _TP_STATUS_VLAN_VALID:
                self._stray(length, "vlan" if self._is_tagged(status) else "foreign_host")
            elif flags & socket.MSG_TRUNC:
                self._stray(whole_bytes, "truncated")
            else:
                size_bytes += length
                frames.append(self._frame(length, arrival_ns or time.time_ns()))
                if len(frames) == frames_max:
                    break
                buffers[1] = self._lease.view
        if frames:
            self.counters.rx_batches += 1
            self.counters.rx_frames += len(frames)
            self.counters.rx_bytes += size_bytes
        return frames

    def _is_tagged(self, status: int) -> bool:
        """Of what the kernel has shown as another host's. It takes the tag of a VLAN that has no
        interface here away before a socket of one protocol sees the frame, and says that the frame
        is another's: of one that is for us, or for everybody, that is how it shows."""
        head = self._head
        return bool(status & _TP_STATUS_VLAN_VALID or head[0] & 1 or head[:6] == self.mac)

    def _stray(self, length: int, reason: str) -> None:
        self.counters.drops[reason] += 1
        head = bytes(self._head[: min(length, HEAD_BYTES)])
        self.strays.add(Stray(time.monotonic(), length, head, reason))

    def _frame(self, length: int, arrival_ns: int) -> Frame:
        """What was just received; its buffer goes with it, unless it holds nothing but padding."""
        if length <= FRAME_BYTES_MIN:
            head = bytes(self._head[:length])
            rest = bytes(self._lease.view[: max(0, length - HEAD_BYTES)])
            return Frame(head, memoryview(rest), arrival_ns)
        lease = self._lease
        self._lease = self._pool.borrow()
        return Frame(bytes(self._head), lease.view[: length - HEAD_BYTES], arrival_ns, lease)

    def send(self, frames: Sequence[Sequence[bytes | memoryview]]) -> int:
        taken = refused = size_bytes = 0
        send_vector = self._socket.sendmsg
        for frame in frames:
            try:
                size_bytes += send_vector(frame)
            except OSError as error:
                if error.errno == errno.EAGAIN or self._may_be_full(error):
                    self.signals_room = error.errno == errno.EAGAIN
                    self.counters.tx_held += 1
                    break
                refused += 1
            self._refused_since_s = None
            taken += 1
        if taken > refused:
            self.counters.tx_batches += 1
            self.counters.tx_frames += taken - refused
            self.counters.tx_bytes += size_bytes
        self.counters.drops["tx_refused"] += refused
        return taken

    def _may_be_full(self, error: OSError) -> bool:
        """Whether there may soon be room for the frame at the head of the queue."""
        if error.errno != errno.ENOBUFS:
            return False
        now_s = time.monotonic()
        if self._refused_since_s is None:
            self._refused_since_s = now_s
        return now_s - self._refused_since_s < REFUSED_S_MAX

    def narrow(self, addresses: Collection[tuple[int, int]], shed: Collection[bytes]) -> None:
        self.counters.narrowed += 1
        with suppress(OSError):  # where the kernel has no memory for it, everything comes to us
            self._filter(filters.narrow(addresses, shed))

    def widen(self) -> None:
        with suppress(OSError):
            self._filter(filters.for_role(Role.TARGET))

    def refresh(self) -> LinkCounters:
        with suppress(OSError):
            # Reading them sets the kernel's counters to zero.
            statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
            self.counters.dropped_by_kernel += _STATISTICS.unpack(statistics)[1]
        return self.counters

    def close(self) -> None:
        self._socket.close()
        if self._mark is not None:
            self._mark.close()


def _marked(packets: socket.socket) -> socket.socket | None:
    """The socket whose name says that `packets` is of ggaoe; None where there can be none."""
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mark.bind(b"\0" + LINK_NAME.format(os.fstat(packets.fileno()).st_ino).encode())
    except OSError:
        mark.close()
        return None
    return mark


def _set_buffer(sock: socket.socket, force_option: int, option: int, size_bytes: int) -> int:
    """`size_bytes`, or as near as the system lets an unprivileged process come; what it is now."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, force_option, size_bytes)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, option, size_bytes)
    return sock.getsockopt(socket.SOL_SOCKET, option) // 2  # the kernel doubles it, for overhead
