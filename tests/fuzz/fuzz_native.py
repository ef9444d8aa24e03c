"""Frames against the native engine's compiled core, without its threads, beside the portable one.

Invariant: all of `fuzz_engine`'s, and both engines send the same replies to each burst, byte for
byte, leave the same disks, and count the same frames, drops, errors and hosts.
"""

from __future__ import annotations

from fuzz.loop import run
from fuzz.session import play
from ggaoe.testing.engine import PortableOnMemory
from ggaoe.testing.native import NativeOnMemory

CORPUS = "session"
MAX_BYTES = 8192


def one_input(data: bytes) -> None:
    twin = run(play(NativeOnMemory, data))
    oracle = run(play(PortableOnMemory, data))
    for number, replies in enumerate(oracle.replies):
        assert twin.replies[number] == replies, f"burst {number}"
    assert twin.disks == oracle.disks
    assert twin.counted == oracle.counted
