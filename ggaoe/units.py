"""Parse and format sizes, durations and addresses, and count things; the only place where "4MiB"
becomes a number.

Errors: every parser raises ValueError with a text fit to be shown to a person.
"""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+)\s*([KMGTPE]?)(i?)(B?)", re.IGNORECASE)
_DURATION = re.compile(r"((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*(us|µs|ms|s|min|h)?")
_DURATION_S = {None: 1.0, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_MAC = re.compile(r"[0-9a-fA-F]{1,2}(?::[0-9a-fA-F]{1,2}){5}")
_ADDRESS = re.compile(r"e?(\d+)\.(\d+)")


def parse_size_bytes(text: str) -> int:
    """Bytes from `512`, `4k`, `4KiB`, `1G`; every prefix is a power of 1024, except with a plain
    `B` (`4kB` = 4000), as coreutils read them."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a size: write bytes or a unit, as in 512, 64k, 4MiB, 1G")
    number, prefix, binary, byte = found.groups()
    if binary and not prefix:
        raise ValueError(f"{text!r} is not a size: 'i' needs a prefix, as in 4MiB")
    base = 1000 if prefix and byte and not binary else 1024
    factor: int = base ** " KMGTPE".index(prefix.upper() or " ")
    return int(number) * factor


def format_size(size_bytes: int) -> str:
    """`size_bytes` in IEC units with at most one decimal: `512 B`, `1.5 GiB`."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        value /= 1024
        if value < 1023.95 or unit == "EiB":
            break
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def counted(count: int, noun: str) -> str:
    """`1 device`, `2 devices`, `3 addresses`, `4 entries`: `noun` ends with what is counted."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}es" if noun.endswith("s") else f"{count} {noun}s"


def ago(age_s: float) -> str:
    """An age for people, as in `12 s ago`; nothing is in the future."""
    seconds = max(0.0, age_s)
    for limit, unit, divisor in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} days ago"


def parse_duration_s(text: str) -> float:
    """Seconds from `0.001`, `5ms`, `50us`, `2min`; a bare number is seconds."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a duration: write seconds or a unit, as in 0.001, 5ms")
    return float(found[1]) * _DURATION_S[found[2]]


def parse_mac(text: str) -> bytes:
    """Six bytes from `02:00:00:00:00:01`."""
    if _MAC.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a MAC address: write it as 02:00:00:00:00:01")
    return bytes(int(part, 16) for part in text.split(":"))


def format_mac(mac: bytes) -> str:
    """`02:00:00:00:00:01` from six bytes."""
    return mac.hex(":")


def parse_address(text: str) -> tuple[int, int]:
    """(shelf, slot) from `1.0` or `e1.0`."""
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found[1]) > 0xFFFF or int(found[2]) > 0xFF:
        raise ValueError(f"{text!r} is not a shelf.slot address: write it as e1.0")
    return int(found[1]), int(found[2])


def printable(text: str) -> str:
    """`text` on one line for a log or a terminal: what cannot be printed is written as escapes."""
    if text.isprintable():
        return text
    # Not by a codec: it would be loaded when it is first used, which a confined daemon cannot.
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
