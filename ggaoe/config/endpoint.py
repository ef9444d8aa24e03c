"""Where a server listens: an address and port of TCP, or the path of a Unix socket.

Owns how one is written. Opens nothing.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Either `path`, or `host`, an IP address, and `port`."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.path is not None or ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """ValueError where `text` is neither ADDRESS:PORT, [ADDRESS]:PORT nor an absolute path."""
    if text.startswith("/"):
        return Endpoint(path=Path(text))
    host, colon, port = text.rpartition(":")
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address
        if host.startswith("[") and host.endswith("]"):
            address = ipaddress.IPv6Address(host[1:-1])
        else:
            address = ipaddress.IPv4Address(host)
    except ValueError:
        colon = ""
    if not colon or not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) < 1 << 16:
        raise ValueError(
            f"{text!r} is no place to listen: write 127.0.0.1:9882, [::1]:9882 or the absolute "
            f"path of a Unix socket"
        )
    return Endpoint(str(address), int(port))
