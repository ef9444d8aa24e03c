"""Captures that Wireshark reads: pcapng (IETF draft-ietf-opsawg-pcapng), one section.

Owns the file's format. Knows no protocol.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_LINKTYPE_ETHERNET = 1
_BYTE_ORDER = 0x1A2B3C4D
_VERSION = (1, 0)
_LENGTH_UNKNOWN = -1
_OPTION_END, _OPTION_NAME, _OPTION_RESOLUTION = 0, 2, 9
_NANOSECONDS = bytes([9])


class Capture:
    """A capture written to `file`, which stays the caller's; OSError as of `file`."""

    def __init__(self, file: BinaryIO, snap_bytes: int) -> None:
        self._file = file
        self._snap_bytes = snap_bytes
        self._interfaces: dict[str, int] = {}
        self._block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, *_VERSION, _LENGTH_UNKNOWN))

    def add(self, time_ns: int, interface: str, length_bytes: int, frame: bytes) -> None:
        """One frame of `length_bytes`, of which `frame` is the beginning."""
        number = self._interfaces.get(interface)
        if number is None:
            number = self._interfaces[interface] = len(self._interfaces)
            options = (
                _option(_OPTION_NAME, interface.encode(errors="replace"))
                + _option(_OPTION_RESOLUTION, _NANOSECONDS)
                + _option(_OPTION_END, b"")
            )
            head = struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, self._snap_bytes)
            self._block(_INTERFACE, head + options)
        stamp = (time_ns >> 32, time_ns & 0xFFFFFFFF)
        head = struct.pack("<IIIII", number, *stamp, len(frame), length_bytes)
        self._block(_PACKET, head + _whole_words(frame))

    def _block(self, kind: int, body: bytes) -> None:
        length_bytes = struct.pack("<I", 12 + len(body))
        self._file.write(struct.pack("<I", kind) + length_bytes + body + length_bytes)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _whole_words(value)


def _whole_words(data: bytes) -> bytes:
    return data.ljust((len(data) + 3) // 4 * 4, b"\0")
