"""The configuration as the rest of the program sees it: immutable, comparable, every value final.

Owns the effective values of each device and interface, and the questions that follow from them
alone. Knows neither files nor defaults; `load` makes these objects from the option table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

from ggaoe.config.acl import AccessList
from ggaoe.config.endpoint import Endpoint
from ggaoe.config.overlay import Overlays
from ggaoe.config.read import Document
from ggaoe.config.schema import Value
from ggaoe.config.slots import Memory
from ggaoe.errors import Problem
from ggaoe.proto.rules import Rules

Engine = Literal["auto", "portable", "native"]
IoEngine = Literal["auto", "aio", "uring", "threads"]


class Setting(NamedTuple):
    """A value as configured, and where from: `file:line` or `default`."""

    value: Value
    origin: str


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    """How one network interface is used."""

    name: str
    mtu_bytes: int | None  # lowers the interface's own; None: the interface's own
    ring_buffer_size_kib: int | Literal["auto"]  # 0: no ring; auto: what `Interfaces` chooses
    send_buffer_size_kib: int  # 0: what `Interfaces` chooses
    receive_buffer_size_kib: int  # 0: what the link chooses


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """One exported device; exactly one of `path` and `uuid` is set."""

    name: str
    path: Path | None
    uuid: str | None
    shelf: int
    slot: int
    auto: bool  # begin to serve it when it is added
    offset_bytes: int  # whole sectors
    length_bytes: int | None  # whole sectors; None: up to the end
    exact_size: bool  # False: the size is rounded down to a multiple of 4096 bytes
    read_only: bool
    accept: Rules
    deny: Rules
    discover: Rules
    read: Rules
    write: Rules
    change: Rules
    broadcast: bool
    interfaces: tuple[str, ...]  # glob patterns; empty: every Ethernet interface that is up
    queue_length: int
    direct_io: bool
    write_cache: bool
    max_delay_s: float
    merge_delay_s: float
    iops_limit: int  # per second; of this and the other limits 0: none
    iops_burst: int  # 0: as the limit has it
    bandwidth_limit_bytes_per_s: int
    bandwidth_burst_bytes: int  # 0: as the limit has it
    initiator_iops_limit: int
    initiator_bandwidth_limit_bytes_per_s: int
    trace_io: bool

    @property
    def address(self) -> str:
        """`e1.0`, as initiators call it."""
        return f"e{self.shelf}.{self.slot}"

    def permits(self, mac: bytes) -> bool:
        """Whether a host may use the device: accepted first, then not denied."""
        return self.accept.permits(mac) and self.deny.permits(mac)

    def uses(self, interface: str) -> bool:
        """Whether the device's patterns name this interface (of those that serve at all)."""
        return not self.interfaces or any(
            fnmatchcase(interface, pattern) for pattern in self.interfaces
        )


class Template(NamedTuple):
    """Where devices come from that have no section of their own."""

    name: str
    pattern: Path  # absolute
    read_only: bool


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration. `settings` keeps, by (section, option), every value as it was written
    and its origin; it, the warnings and how the rest came about do not take part in comparisons.
    """

    document: Document = field(compare=False, repr=False)
    overlays: Overlays = field(compare=False, repr=False)  # changes that are in no file
    templates: tuple[Template, ...] = field(compare=False)
    slots: Memory | None = field(compare=False)  # what is to be remembered; None: no reason to
    engine: Engine
    pid_file: Path
    control_socket: Path
    state_directory: Path
    advertise_interval_s: float  # 0: only changes are advertised
    busy_poll_s: float  # 0: never
    io_engine: IoEngine
    metrics: Endpoint | None  # None: nothing is served by HTTP
    user: str | None  # None: the user who starts it
    landlock: bool
    seccomp: bool
    default_interface_patterns: tuple[str, ...]  # empty: every Ethernet interface that is up
    default_interface: InterfaceConfig  # its name is empty
    acls: Mapping[str, AccessList] = field(hash=False)
    interfaces: Mapping[str, InterfaceConfig] = field(hash=False)  # those with a section
    devices: Mapping[str, DeviceConfig] = field(hash=False)
    settings: Mapping[tuple[str, str], Setting] = field(compare=False, repr=False)
    warnings: tuple[Problem, ...] = field(compare=False)

    @property
    def source(self) -> str:
        """The file, or what else the settings are from."""
        return self.document.source

    def interface(self, name: str) -> InterfaceConfig:
        """What holds for an interface, with or without a section of its own."""
        return self.interfaces.get(name) or replace(self.default_interface, name=name)


def may_share_interface(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two lists of patterns name a common interface as far as the patterns alone tell:
    one is empty (every interface), two are equal, or one matches the text of the other."""
    if not one or not other:
        return True
    return any(fnmatchcase(a, b) or fnmatchcase(b, a) or a == b for a in one for b in other)
