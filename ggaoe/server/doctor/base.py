"""What a check gets to see, and what it says.

Owns the shape of findings, which `ggaoe doctor --json` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ggaoe.config import Config, DeviceConfig
from ggaoe.net.link import Interface
from ggaoe.server.interfaces import wants

Severity = Literal["error", "warning", "note", "ok"]
"""It does not serve, or not safely; it may not, or not well; worth to know; all is well."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One result; `remedy` is what to do, empty where nothing has to be done."""

    severity: Severity
    where: str
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Live:
    """What a running daemon answered, as the control protocol has it."""

    listing: Mapping[str, Any]
    devices: tuple[Mapping[str, Any], ...]
    daemon: Mapping[str, Any]
    stats: Mapping[str, Any]
    changes: tuple[str, ...] | None
    """What a reload would do; None: it would be refused."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What is examined: a configuration on this machine, and the daemon if it runs."""

    config: Config
    source: Path
    interfaces: tuple[Interface, ...]
    """All of this network namespace."""
    capabilities: frozenset[int]
    """Ours, not the daemon's."""
    live: Live | None
    unreachable: str = ""
    """Why there is no daemon to ask."""

    def served(self) -> list[Interface]:
        """Those that some device wants."""
        devices = self.config.devices.values()
        return [one for one in self.interfaces if any(wants(device, one) for device in devices)]

    def addresses(self, interface: Interface) -> dict[tuple[int, int], DeviceConfig]:
        """The devices that are served there, by shelf and slot."""
        devices = self.config.devices.values()
        return {(one.shelf, one.slot): one for one in devices if wants(one, interface)}


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table: findings with severity ok say what is well."""

    name: str
    examine: Callable[[Situation], Iterable[Finding]]
    needs_config: bool = True
    """It has nothing to say where the configuration cannot be read."""


def read_line(path: Path) -> str | None:
    """A small file of the kernel's; None where there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def read_number(path: Path) -> int | None:
    text = read_line(path)
    return int(text) if text is not None and text.isdecimal() else None
