"""A program: `flood.py INTERFACE FILE` sends the frames of FILE, a line of hexadecimal digits each,
over and over, as fast as they go, until it is ended."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path

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


def flood(interface: str, frames: list[bytes]) -> None:
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
        while os.getppid() == parent:
            at = 0
            while at < len(frames):
                rest = ctypes.byref(messages, at * ctypes.sizeof(_Message))
                sent = libc.sendmmsg(raw.fileno(), rest, len(frames) - at, 0)
                at += max(sent, 1)  # one that the kernel refuses is left out


if __name__ == "__main__":
    flood(sys.argv[1], [bytes.fromhex(line) for line in Path(sys.argv[2]).read_text().split()])
