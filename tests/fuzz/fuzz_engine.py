"""Frames against the portable engine.

Invariant: any sequence of frames, of any length and from any addresses, in bursts or one by one,
leads to replies, drops and counters, and never to an exception. A reply answers a frame that was
sent, and has the length, flags and addresses of the protocol. Nothing but a valid write changes a
disk, and what was acknowledged is what the disk then holds. What a device keeps is bounded by what
was sent, and nothing is left in flight.
"""

from __future__ import annotations

from fuzz.loop import run
from fuzz.session import play
from ggaoe.testing.engine import PortableOnMemory

CORPUS = "session"
MAX_BYTES = 8192


def one_input(data: bytes) -> None:
    run(play(PortableOnMemory, data))
