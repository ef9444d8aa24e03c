"""A program: `flood.py INTERFACE FILE [RATE]` sends the frames of FILE, a line of hexadecimal
digits each, over and over, RATE of them a second or as fast as they go, until it is ended."""

from __future__ import annotations

import ctypes
import math
import os
import socket
import sys
import time
from pathlib import Path

PAUSE_S = 0.001
_IOVEC = ctypes.c_void_p * 2  # address, length


class _Message(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_bytes", ctypes.c_uint),
        ("vector", ctypes.c_void_p),
        ("vectors", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_bytes", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent_bytes", ctypes.c_uint),
    )


def flood(interface: str, frames: list[bytes], rate_per_s: float) -> None:
    """Send until the process ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffers = [ctypes.create_string_buffer(frame, len(frame)) for frame in frames]
    vectors = [_IOVEC(ctypes.addressof(buffer), len(buffer)) for buffer in buffers]
    messages = (_Message * len(frames))()
    for message, vector in zip(messages, vectors, strict=True):
        message.vector, message.vectors = ctypes.addressof(vector), 1
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.bind((interface, 0))
        parent = os.getppid()
        at = sent = 0
        began_s = time.monotonic()
        while os.getppid() == parent:
            due = min(rate_per_s * (time.monotonic() - began_s) - sent, len(frames) - at)
            if due < 1:
                time.sleep(PAUSE_S)
                continue
            rest = ctypes.byref(messages, at * ctypes.sizeof(_Message))
            done = libc.sendmmsg(raw.fileno(), rest, int(due), 0)
            done = max(done, 1)  # one that the kernel refuses is left out
            sent += done
            at = (at + done) % len(frames)


if __name__ == "__main__":
    flood(
        sys.argv[1],
        [bytes.fromhex(line) for line in Path(sys.argv[2]).read_text().split()],
        float(sys.argv[3]) if len(sys.argv) > 3 else math.inf,
    )
