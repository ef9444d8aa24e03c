"""Which interfaces are served, and which device by which of them, as the kernel changes them.

Owns the ports' lives: up, down, MTU, rename, hot-plug. Knows patterns and the kernel's events;
knows no frames, and asks `addresses` whether another target is in the way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from ggaoe.config import Config, DeviceConfig, InterfaceConfig
from ggaoe.engine.base import Device, Engine, Port
from ggaoe.errors import StartError
from ggaoe.events import Event, about
from ggaoe.net.link import Interface, LinkSettings
from ggaoe.net.netlink import InterfaceWatcher, list_interfaces
from ggaoe.net.plain import SEND_BUFFER_BYTES
from ggaoe.server.addresses import Addresses, Conflict, words_of
from ggaoe.server.claims import Address
from ggaoe.units import format_mac

_log = logging.getLogger("ggaoe.interfaces")

GLOB_CHARACTERS = frozenset("*?[")
RING_BYTES_MAX = 16 << 20
"""Of a receive ring whose size is not configured."""
RING_BYTES_MIN = 1 << 20
RINGS_BYTES_MAX = 256 << 20
"""Of all such rings, beside RING_BYTES_MIN for each of those that come when it is used up."""
SEND_BUFFERS_BYTES_MAX = 32 << 20
"""Of all send buffers whose size is not configured, likewise."""
SEND_BUFFER_BYTES_MIN = 128 << 10
FORMER_ADDRESSES_MAX = 64
"""Of interfaces whose address has changed; the oldest gives way."""


class Interfaces:
    """Opens and closes the engine's links to match `config` and the kernel's interfaces.

    `served` is called with a device and the ports that it has gained, to advertise it there.
    `is_stopped` tells of a device by name whether it leaves its address to others.
    """

    def __init__(
        self,
        engine: Engine,
        config: Config,
        served: Callable[[Device, frozenset[Port]], None],
        is_stopped: Callable[[str], bool],
    ) -> None:
        self._engine = engine
        self._config = config
        self._served = served
        self._is_stopped = is_stopped
        self.addresses = Addresses(engine, self.bind)
        self._watcher = InterfaceWatcher(self._on_change, self._on_gone)
        self.refused: dict[str, str] = {}
        """Why an interface that should be served is not, by name."""
        self.former_addresses: dict[bytes, FormerAddress] = {}
        """Addresses by which interfaces served before theirs changed; the newest at the end."""
        self._addresses: dict[str, bytes] = {}
        """By which an interface was served last, by name."""
        self._settings: dict[Port, LinkSettings] = {}
        """How the open links were opened."""
        self._listed: dict[int, Interface] = {}
        """At the start: the interfaces by index that the watcher is about to report."""

    @property
    def known(self) -> list[Interface]:
        """All interfaces of the system, by index."""
        return sorted(self._watcher.interfaces.values(), key=lambda interface: interface.index)

    def wanted(self) -> list[Interface]:
        """Those that a device is to be served on, up or not."""
        devices = self._config.devices.values()
        return [one for one in self.known if any(wants(device, one) for device in devices)]

    def start(self) -> None:
        """Learn the interfaces and open those that are wanted and up, then follow the kernel.

        Raises StartError where a configured name (no pattern) does not exist.
        """
        self._listed = {interface.index: interface for interface in list_interfaces()}
        names = {interface.name for interface in self._listed.values()}
        for name in self.named():
            if name not in names:
                raise StartError(
                    f"interface {name} does not exist (there are: {', '.join(sorted(names))}): "
                    f"correct the name, or write a pattern such as {name}* to wait for it"
                )
        self._watcher.start()
        self._listed = {}

    def named(self) -> list[str]:
        """The interfaces that are configured by name rather than by pattern."""
        devices = self._config.devices.values()
        return list(dict.fromkeys(name for device in devices for name in _named(device)))

    def missing(self) -> list[str]:
        """Those of them that are not there now."""
        names = {interface.name for interface in self.known}
        return [name for name in self.named() if name not in names]

    def wanted_by(self, device: DeviceConfig) -> list[Interface]:
        """Those of the system on which a device is to be served."""
        return [interface for interface in self.known if wants(device, interface)]

    def unserved(self, device: DeviceConfig) -> dict[str, str]:
        """Why such an interface serves nothing, by name."""
        conflicts = self.addresses.conflicts(device.name)
        reasons = {one.interface: one.rival for one in conflicts if not one.is_served}
        for interface in self.wanted_by(device):
            reason = self.why_closed(interface)
            if reason is not None:
                reasons[interface.name] = reason
        names = {interface.name for interface in self.known}
        missing = sorted(set(_named(device)) - names)
        return reasons | dict.fromkeys(missing, "does not exist")

    def why_unserved(self, device: DeviceConfig) -> str:
        """Why no interface serves a device that is to be served."""
        if unserved := self.unserved(device):
            return "; ".join(f"{name}: {reason}" for name, reason in unserved.items())
        if wanted := self.wanted_by(device):
            names = ", ".join(interface.name for interface in wanted)
            return f"{device.address} on {names} is that of a device before it in the configuration"
        patterns = ", ".join(device.interfaces)
        nothing = (
            f"no interface matches {patterns}" if patterns else "no Ethernet interface is there"
        )
        others = ", ".join(one.name for one in self.known if not one.is_loopback)
        return f"{nothing}; {f'there are {others}' if others else 'there is no other'}"

    def why_closed(self, interface: Interface) -> str | None:
        """None where it serves."""
        if interface.name in self.refused:
            return self.refused[interface.name]
        port = self.port_of(interface.name)
        if port is not None:
            return "asking who has its addresses" if self.addresses.is_asking(port) else None
        return "starting" if interface.is_up else "link is down"

    def problem(self, interface: Interface) -> str | None:
        """Why it does not serve, or what is wrong with it all the same."""
        reason, port = self.why_closed(interface), self.port_of(interface.name)
        if reason is None and port is not None:
            return next(map(words_of, self.addresses.foreign(port)), None)
        return reason

    def port_of(self, name: str) -> Port | None:
        """The open port on the interface called `name`."""
        return next((port for port in self._engine.ports.values() if port.name == name), None)

    # --- the kernel's events ---------------------------------------------------------------

    def _on_change(self, interface: Interface) -> None:
        port = before = self._engine.ports.get(interface.index)
        wanted = interface.is_up and any(
            wants(device, interface) for device in self._config.devices.values()
        )
        if port is not None and (not wanted or self._is_outdated(port, interface)):
            extra = about(Event.INTERFACE_CLOSED, interface=port.name)
            _log.info("%s: closed%s", port.name, "" if wanted else _reason(interface), extra=extra)
            self._engine.close_link(port)
            port = None
        if wanted and port is None:
            self._open(interface)
        else:
            self.refused.pop(interface.name, None)
        if self._engine.ports.get(interface.index) is not before:
            self.bind()

    def _on_gone(self, interface: Interface) -> None:
        self.refused.pop(interface.name, None)
        port = self._engine.ports.get(interface.index)
        if port is not None:
            extra = about(Event.INTERFACE_CLOSED, interface=port.name)
            _log.warning("%s: interface has gone", port.name, extra=extra)
            self._engine.close_link(port)
            self.bind()

    def _is_outdated(self, port: Port, interface: Interface) -> bool:
        configured = self._config.interface(interface.name).mtu_bytes or interface.mtu_bytes
        return (
            port.name != interface.name
            or port.path.mac != interface.mac
            or port.link.master_index != interface.master_index
            or port.path.mtu_bytes != min(interface.mtu_bytes, configured)
        )

    def _open(self, interface: Interface) -> None:
        config = self._config.interface(interface.name)
        settings = link_settings(config, self._link_memory(interface))
        try:
            port = self._engine.open_link(interface, settings)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.refused[interface.name] = reason or str(error)
            extra = about(Event.INTERFACE_REFUSED, interface=interface.name)
            text = self.refused[interface.name]
            _log.error("%s: not served: %s", interface.name, text, extra=extra)
            return
        self._settings[port] = settings
        self.refused.pop(interface.name, None)
        extra = about(Event.INTERFACE_SERVING, interface=port.name)
        _log.info("%s: serving, MTU %d", port.name, port.path.mtu_bytes, extra=extra)
        self._notice_address(port)

    def _notice_address(self, port: Port) -> None:
        """`port` is new: has its interface served by another address before?"""
        mac, before = port.path.mac, self._addresses.get(port.name)
        self._addresses[port.name] = mac
        self.former_addresses.pop(mac, None)
        if before is None or before == mac:
            return
        self.former_addresses.pop(before, None)
        self.former_addresses[before] = FormerAddress(port.name, time.monotonic())
        while len(self.former_addresses) > FORMER_ADDRESSES_MAX:
            del self.former_addresses[next(iter(self.former_addresses))]
        _log.warning(
            "%s: the address changed from %s to %s and is announced; "
            "Linux initiators resend to the old one for about 11 s",
            port.name,
            format_mac(before),
            format_mac(mac),
            extra=about(Event.INTERFACE_SERVING, interface=port.name),
        )

    def _link_memory(self, interface: Interface) -> LinkMemory:
        """The share of `interface`, whose link is not open."""
        self._settings = {
            port: settings for port, settings in self._settings.items() if port.is_open
        }
        others = [
            one
            for one in {**self._listed, **self._watcher.interfaces}.values()
            if one.is_up
            and one.index not in self._engine.ports
            and one.index != interface.index
            and any(wants(device, one) for device in self._config.devices.values())
        ]
        return LinkMemory.of(
            [self._config.interface(one.name) for one in (interface, *others)],
            sum(settings.ring_buffer_bytes for settings in self._settings.values()),
            sum(settings.send_buffer_bytes for settings in self._settings.values()),
        )

    # --- devices ---------------------------------------------------------------------------

    def bind(self) -> None:
        """Serve every device by the ports that its patterns name, and advertise what is new.

        Where patterns give one address to several devices, it is that of the first one in the
        configuration, even while that is not there: hosts must not find one disk after another."""
        claims: dict[Address, tuple[Port, str]] = {}
        wanted: dict[str, set[Port]] = {}
        for name, config in self._config.devices.items():
            device = self._engine.devices.get(name)
            wanted[name] = set()
            for port in self._engine.ports.values():
                interface = self._watcher.interfaces.get(port.link.index)
                if interface is None or not wants(config, interface):
                    continue
                address = Address(port.link.index, config.shelf, config.slot)
                _, owner = claims.setdefault(address, (port, name))
                if owner == name:
                    wanted[name].add(port)
                elif device is not None and device.is_known:
                    _log.error(
                        "%s: not served on %s: %s, which the configuration has first, has %s there",
                        name,
                        port.name,
                        owner,
                        config.address,
                        extra=about(Event.DEVICE_UNSERVED, device=name, interface=port.name),
                    )
        self.addresses.follow(
            {address: claim for address, claim in claims.items() if not self._is_stopped(claim[1])},
            {name for name, device in self._engine.devices.items() if device.is_known},
        )
        for name, ports in wanted.items():
            self._serve(name, self._config.devices[name], ports)

    def _serve(self, name: str, config: DeviceConfig, wanted: set[Port]) -> None:
        """Serve a device by those of its ports on which no other target has its address."""
        device = self._engine.devices.get(name)
        if device is None or not device.is_known:
            return
        shelf, slot = config.shelf, config.slot
        may_serve = self.addresses.may_serve
        ports = {port for port in wanted if may_serve(Address(port.link.index, shelf, slot))}
        gained = ports - device.ports
        if ports != device.ports:
            self._engine.set_ports(device, ports)
        if gained:
            self._served(device, frozenset(gained))

    def reconfigure(self, config: Config) -> None:
        """Follow `config` from now on: open, close and bind what differs."""
        changed = {
            port.name
            for port in self._engine.ports.values()
            if self._config.interface(port.name) != config.interface(port.name)
        }
        self._config = config
        for interface in self.known:
            port = self._engine.ports.get(interface.index)
            if port is not None and interface.name in changed:
                self._engine.close_link(port)
            self._on_change(interface)
        self.bind()
        for name in self.missing():
            _log.warning("interface %s does not exist: it will be served when it appears", name)

    def conflicts(self, name: str) -> list[Conflict]:
        """Where another target has the address of a device, or wants it."""
        return self.addresses.conflicts(name)

    def close(self) -> None:
        """Stop following the kernel; ports and claims stay as they are."""
        self._watcher.close()
        self.addresses.stop()


def _named(device: DeviceConfig) -> list[str]:
    """The interfaces that it names, rather than by a pattern."""
    return [pattern for pattern in device.interfaces if not GLOB_CHARACTERS & set(pattern)]


def wants(device: DeviceConfig, interface: Interface) -> bool:
    """Whether `device` is to be served on `interface`."""
    return is_meant(interface, device.interfaces)


def is_meant(interface: Interface, patterns: Collection[str]) -> bool:
    """Whether `patterns` mean an interface: by its name, by a pattern if it is an Ethernet
    interface, or as such where there are none."""
    if interface.name in patterns:
        return True
    if not interface.is_ethernet or interface.is_loopback:
        return False
    return not patterns or any(fnmatchcase(interface.name, pattern) for pattern in patterns)


class FormerAddress(NamedTuple):
    """What is known of an address that an interface no longer has."""

    interface: str
    changed_s: float
    """When the interface was served by another one, on the monotonic clock."""


class LinkMemory(NamedTuple):
    """What a link may use where its configuration names no size."""

    ring_bytes: int
    send_buffer_bytes: int

    @classmethod
    def of(
        cls,
        links: Sequence[InterfaceConfig],
        rings_bytes: int = 0,
        send_buffers_bytes: int = 0,
    ) -> LinkMemory:
        """The share of each of `links`, which are to be opened while other rings and buffers use
        so much."""
        rings_kib = [link.ring_buffer_size_kib for link in links]
        buffers_kib = [link.send_buffer_size_kib for link in links]
        rings_bytes += sum(kib for kib in rings_kib if kib != "auto") << 10
        send_buffers_bytes += sum(buffers_kib) << 10
        ring_bytes = (RINGS_BYTES_MAX - rings_bytes) // max(1, rings_kib.count("auto"))
        buffer_bytes = (SEND_BUFFERS_BYTES_MAX - send_buffers_bytes) // max(1, buffers_kib.count(0))
        return cls(
            min(RING_BYTES_MAX, max(RING_BYTES_MIN, ring_bytes)),
            min(SEND_BUFFER_BYTES, max(SEND_BUFFER_BYTES_MIN, buffer_bytes)),
        )


def link_settings(config: InterfaceConfig, memory: LinkMemory) -> LinkSettings:
    """The engine's view of an interface's configuration."""
    ring_kib, buffer_kib = config.ring_buffer_size_kib, config.send_buffer_size_kib
    return LinkSettings(
        mtu_bytes=config.mtu_bytes,
        ring_buffer_bytes=memory.ring_bytes if ring_kib == "auto" else ring_kib << 10,
        send_buffer_bytes=buffer_kib << 10 or memory.send_buffer_bytes,
        receive_buffer_bytes=config.receive_buffer_size_kib << 10,
    )


def _reason(interface: Interface) -> str:
    return ": no device is served there any more" if interface.is_up else ": link is down"
