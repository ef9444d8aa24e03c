"""The link contract: AoE frames in and out of one interface, in batches, without waiting.

A link lends buffers: a received frame's payload lies in a pool buffer that is aligned for direct
I/O, belongs to whoever holds the frame, and goes back with `Frame.release()`; a frame to be sent
is a vector of buffers. So a write travels from the socket to the disk, and a read from the disk
to the socket, without a copy of ours, and a ring or zero-copy link fits the same contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ggaoe.net.buffers import Lease
from ggaoe.net.strays import Strays
from ggaoe.proto.frame import ATA_HEADER_BYTES

HEAD_BYTES = ATA_HEADER_BYTES
"""Where a received frame is split: what follows is sector data of an ATA command."""


@dataclass(frozen=True, slots=True)
class Interface:
    """What the kernel says of one interface now."""

    index: int
    name: str
    mac: bytes
    mtu_bytes: int
    is_up: bool
    """Administratively up, with carrier."""
    is_loopback: bool = False
    is_ethernet: bool = True
    vlan_id: int | None = None
    """Of a VLAN's interface, whose frames carry this tag on the interface below."""
    master_index: int | None = None
    """Of a bond or bridge that it is a part of, to which the kernel counts its frames."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """How one link is to be opened; 0 means the link's default, and no ring."""

    mtu_bytes: int | None = None
    ring_buffer_bytes: int = 0
    send_buffer_bytes: int = 0
    receive_buffer_bytes: int = 0


DROP_REASONS = (
    "vlan",  # tagged, and no VLAN interface here has it
    "foreign_host",  # for another host (promiscuous mode)
    "truncated",  # longer than the buffer
    "tx_refused",  # refused by the kernel for good
    "stale",  # waited in the socket for too long
    "malformed",  # no AoE header
    "source",  # from a group address, or our own frame looped back
    "address",  # for a shelf.slot that is not served here
    "conflict",  # another target's claim to an address of ours
    "rate_limited",  # beyond what all hosts together may ask: replies, or transfers by wildcard
    "replies_held",  # a reply for which there was no room
    "slow_path_full",  # neither READ, WRITE, VERIFY nor FLUSH, or refused; more than Python handles
)
"""Keys of `LinkCounters.drops`."""


@dataclass(slots=True)
class LinkCounters:
    """What a link has done since it was opened; plain integers that only grow."""

    rx_frames: int = 0
    rx_bytes: int = 0
    rx_batches: int = 0
    tx_frames: int = 0
    tx_bytes: int = 0
    tx_batches: int = 0
    tx_held: int = 0
    """How often the transmit queue was full."""
    dropped_by_kernel: int = 0
    """Frames for which the receive buffer had no room; as of the last `Link.refresh`."""
    narrowed: int = 0
    """How often the kernel was told to throw away what a flood consists of, uncounted."""
    drops: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROP_REASONS, 0))

    @property
    def dropped(self) -> int:
        """Of all reasons."""
        return sum(self.drops.values())


class Frame:
    """One received frame: `head` is its first 36 bytes or fewer, `payload` the rest (borrowed)."""

    __slots__ = ("arrival_ns", "head", "lease", "payload")

    def __init__(
        self, head: bytes, payload: memoryview, arrival_ns: int, lease: Lease | None = None
    ) -> None:
        self.head = head
        self.payload = payload
        self.arrival_ns = arrival_ns
        self.lease = lease

    def __len__(self) -> int:
        return len(self.head) + len(self.payload)

    def __bytes__(self) -> bytes:
        return self.head + bytes(self.payload)

    def release(self) -> None:
        """Give the payload's buffer back; `payload` must not be used afterwards."""
        if self.lease is not None:
            self.lease.release()
            self.lease = None


class Link(ABC):
    """One open packet link. Errors of opening are OSError; afterwards nothing raises."""

    name: str
    index: int
    mac: bytes
    mtu_bytes: int
    """The smaller of the interface's MTU and the configured one."""
    is_loopback: bool
    master_index: int | None = None
    """As it was when the link was opened."""
    counters: LinkCounters
    strays: Strays
    """Frames that no device has got to see."""
    signals_room: bool = False
    """Whether the descriptor becomes writable once there is room for what the last `send` left."""

    @abstractmethod
    def fileno(self) -> int:
        """The descriptor that becomes readable when frames wait, writable when replies fit; watched
        for reading with `net.readable.Readable`, as `add_reader` of uvloop gives up on errors."""

    @abstractmethod
    def receive(self, frames_max: int) -> list[Frame]:
        """Up to `frames_max` frames in order of arrival; fewer means that none is left, but under
        a flood of frames that are dropped: the descriptor stays readable while any wait."""

    @abstractmethod
    def send(self, frames: Sequence[Sequence[bytes | memoryview]]) -> int:
        """Send frames (each a vector of buffers) in order; returns how many were taken. Fewer than
        given means that the queue is full, and the caller keeps the rest; a frame that the
        kernel refuses for good (link down, too long) counts as taken and as a drop."""

    @abstractmethod
    def narrow(self, addresses: Collection[tuple[int, int]], shed: Collection[bytes]) -> None:
        """A hint: until `widen`, only frames for `addresses` (shelf, slot) or by wildcard are of
        use, and of the hosts `shed` (6 bytes each) only what reads or writes. Never raises."""

    @abstractmethod
    def widen(self) -> None:
        """Take the hint back."""

    def refresh(self) -> LinkCounters:
        """`counters`, after what the kernel counts has been added to them."""
        return self.counters

    @abstractmethod
    def close(self) -> None:
        """Idempotent."""
