"""One interface of the initiator: a link in the event loop, and what waits for room to be sent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ggaoe.net.link import Frame, Link
from ggaoe.net.readable import Readable
from ggaoe.proto.frame import sectors_advertised

FRAMES_PER_WAKE_MAX = 64
PENDING_FRAMES_MAX = 4096
"""Beyond it the oldest is lost, as it would be in a network; it is sent again when overdue."""
SECTORS_UNTOLD = 2
"""What a sector count of 0 in a config reply means."""

Vector = Sequence[bytes | memoryview]


class Port:
    """Hands every received frame to `on_frame`, which must not keep it."""

    def __init__(self, link: Link, on_frame: Callable[[Port, Frame], None]) -> None:
        self.link = link
        self._on_frame = on_frame
        self._pending: deque[Vector] = deque(maxlen=PENDING_FRAMES_MAX)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readable: Readable | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._readable = Readable(loop, self.link.fileno(), self.receive)

    def receive(self) -> None:
        """Hand on what has arrived; also to be called before anything is judged overdue."""
        for frame in self.link.receive(FRAMES_PER_WAKE_MAX):
            self._on_frame(self, frame)
            frame.release()

    def send(self, vectors: Sequence[Vector]) -> None:
        """Send them now, or as soon as the transmit queue has room."""
        if not self._pending:
            vectors = vectors[self.link.send(vectors) :]
            if vectors and self._loop is not None:
                self._loop.add_writer(self.link.fileno(), self._on_writable)
        self._pending.extend(vectors)

    def _on_writable(self) -> None:
        waiting = list(self._pending)
        # What a writable socket refuses is lost, as in a network: some devices refuse for good what
        # is too large for the other end.
        taken = max(1, self.link.send(waiting))
        for _ in range(taken):
            self._pending.popleft()
        if not self._pending and self._loop is not None:
            self._loop.remove_writer(self.link.fileno())

    def close(self) -> None:
        """Idempotent; what still waits to be sent is dropped."""
        if self._readable is not None and self._loop is not None:
            self._readable.close()
            self._loop.remove_writer(self.link.fileno())
            self._readable = None
        self.link.close()


@dataclass(slots=True)
class Path:
    """A way to a target: out of `port`, to `mac`, with at most `sectors_max` in a frame."""

    port: Port
    mac: bytes
    sectors_max: int
    buffer_count: int
    sectors_told: int = SECTORS_UNTOLD
    """What the target says that it takes; what we can send is not considered."""

    def learn(self, buffer_count: int, sectors: int) -> None:
        """What a config reply by this way says."""
        self.buffer_count = buffer_count
        ours = sectors_advertised(self.port.link.mtu_bytes)
        self.sectors_told = sectors or SECTORS_UNTOLD
        self.sectors_max = max(1, min(self.sectors_told, ours))
