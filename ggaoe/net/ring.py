"""A receive ring: packet slots in memory that the kernel shares with us (TPACKET_V2).

Owns the ring's geometry and its mapping. Must not know: what is in the slots; who reads them is the
native engine's core. The kernel's document is networking/packet_mmap.
"""

from __future__ import annotations

import mmap
import socket
import struct

BLOCK_BYTES = 1 << 16
"""What the kernel allocates at a time, unless a slot is larger."""
SLOT_ALIGNMENT_BYTES = 64
HEAD_BYTES = 66
"""Of a slot before the frame: TPACKET2_HDRLEN and room for the Ethernet header, aligned, less the
Ethernet header itself."""

# linux/if_packet.h
_SOL_PACKET = 263
_PACKET_RX_RING = 5
_PACKET_VERSION = 10
_TPACKET_V2 = 1
_REQUEST = struct.Struct("@IIII")


class ReceiveRing:
    """The ring of `sock`, which is not bound yet: about `size_bytes` in slots that each hold a
    frame of `frame_bytes_max`. Raises OSError where the kernel has no memory for it."""

    def __init__(self, sock: socket.socket, size_bytes: int, frame_bytes_max: int) -> None:
        wanted_bytes = HEAD_BYTES + frame_bytes_max
        self.slot_bytes = -(-wanted_bytes // SLOT_ALIGNMENT_BYTES) * SLOT_ALIGNMENT_BYTES
        self.block_bytes = BLOCK_BYTES
        while self.block_bytes < self.slot_bytes:
            self.block_bytes *= 2
        self.slots_per_block = self.block_bytes // self.slot_bytes
        blocks = max(1, size_bytes // self.block_bytes)
        sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        request = _REQUEST.pack(
            self.block_bytes, blocks, self.slot_bytes, blocks * self.slots_per_block
        )
        sock.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
        self.memory = mmap.mmap(sock.fileno(), self.block_bytes * blocks)

    def close(self) -> None:
        """Idempotent; to be called before the socket is closed, and after the core let go."""
        self.memory.close()
