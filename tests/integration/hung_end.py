"""A program: `hung_end.py FILE` has the native engine write to FILE, which does not take it, and
ends the engine while the call has just begun. It prints "begun" and "ended"."""

from __future__ import annotations

import os
import sys
import time

from ggaoe.engine.native import core

SECTOR_BYTES = 512
SIZE_BYTES = 1 << 20
MAC = bytes.fromhex("020000000001")
LISTS = 8
NO_RATE = (0, 0)
WRITE = 0x34
STALE_AGE_NS = 60_000_000_000


def frame() -> bytes:
    """A WRITE of the first sector of e1.1."""
    head = bytes(6) + bytes.fromhex("020000000002") + b"\x88\xa2\x10\0" + b"\0\1\1" + bytes(5)
    return head + bytes([0x41, 0, 1, WRITE]) + bytes(8) + bytes(SECTOR_BYTES)


def main(path: str) -> None:
    """Hold nothing that waits for the interpreter's end: a thread stays behind."""
    engine = core.Core(STALE_AGE_NS, False)
    link = engine.open_link(-1, 1, MAC, 2, 2 * SECTOR_BYTES, None, NO_RATE, NO_RATE)
    device = core.CoreDevice(engine)
    device.admit(1, 1, [((), True)] * LISTS, False, True, True)
    device.limit(64, 0, 0)
    device.resize(SIZE_BYTES)
    device.attach(os.open(path, os.O_RDWR), 0, False, False, SECTOR_BYTES, 0)
    link.route([((1, 1), device)])
    engine.start()
    link.deliver(frame(), time.time_ns())
    while device.load[0] == 0:
        pass
    print("begun", flush=True)
    device.give_up()
    engine.close_link(link)
    engine.close()
    print("ended", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
