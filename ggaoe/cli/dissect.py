"""Traced frames: one line each, requests and replies beside each other.

Owns the lines. Must not know where the frames come from. Frames may be cut off behind the argument.
"""

from __future__ import annotations

import time

from ggaoe.engine.trace import Traced
from ggaoe.proto.frame import Header, unpack_header
from ggaoe.proto.words import words
from ggaoe.units import format_mac

PENDING_MAX = 65536
"""Requests without a reply that are remembered, to say how long replies took."""


class Dissector:
    """Lines of one trace."""

    def __init__(self) -> None:
        self._asked_ns: dict[tuple[bytes, int], int] = {}

    def line(self, passed: Traced) -> str:
        """What `passed` says, and of a reply how long it took."""
        seconds, ns = divmod(passed.time_ns, 1_000_000_000)
        stamp = f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{ns // 1000:06d}"
        header = unpack_header(passed.frame)
        said = words(passed.frame, passed.length_bytes)
        if header is None:
            return f"{stamp} {passed.interface} {said}"
        if not header.is_response:
            self._remember(header, passed.time_ns)
            way, peer = "<", header.source
        else:
            way, peer = ">", header.destination
        line = f"{stamp} {passed.interface} {way} {format_mac(peer)} tag {header.tag:08x} {said}"
        asked_ns = self._asked_ns.pop((peer, header.tag), None) if header.is_response else None
        if asked_ns is None:
            return line
        return f"{line}, {max(0, passed.time_ns - asked_ns) / 1000:.0f} µs"

    def _remember(self, header: Header, time_ns: int) -> None:
        if len(self._asked_ns) >= PENDING_MAX:
            del self._asked_ns[next(iter(self._asked_ns))]
        self._asked_ns[header.source, header.tag] = time_ns
