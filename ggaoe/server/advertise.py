"""Advertisement: telling hosts that a device is there, without being asked (AoE r11, config).

Owns who is told, how often and how fast. A host that nobody tells may need a minute to ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from ggaoe.engine.base import Device, Engine, Port
from ggaoe.errors import attempt
from ggaoe.proto.frame import BROADCAST
from ggaoe.proto.operation import Operation

REPEAT_AFTER_S = (0.0, 1.0, 3.0, 10.0, 30.0)
"""A switch port that has just come up swallows what comes first (spanning tree: 30 s)."""
FRAMES_PER_TURN_MAX = 256
"""Unicast advertisements to a long access list are sent in parts of so many."""


class Advertiser:
    """Sends advertisements by `engine`; `interval_s` 0 means only after changes."""

    def __init__(self, engine: Engine, interval_s: float = 0.0) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._broadcasting: set[str] = set()
        self._timers: dict[tuple[Device, frozenset[Port] | None], asyncio.TimerHandle] = {}
        self._interval_timer: asyncio.TimerHandle | None = None
        self.set_interval(interval_s)

    def set_interval(self, interval_s: float) -> None:
        """Advertise everything every `interval_s` from now on; 0: never."""
        if self._interval_timer is not None:
            self._interval_timer.cancel()
            self._interval_timer = None
        if interval_s > 0:
            self._interval_timer = self._loop.call_later(interval_s, self._periodic, interval_s)

    def _periodic(self, interval_s: float) -> None:
        for device in self._engine.devices.values():
            attempt(self._send, device, device.ports)
        self.set_interval(interval_s)

    def set_broadcast(self, device_name: str, broadcast: bool) -> None:
        """Whether a device with an access list is announced to everybody all the same."""
        if broadcast:
            self._broadcasting.add(device_name)
        else:
            self._broadcasting.discard(device_name)

    def announce(self, device: Device, ports: Iterable[Port] | None = None) -> None:
        """Tell hosts of `device` now and a few times more, by `ports` or all that serve it.

        What is left of an announcement by no other ports is given up: hosts answer every one."""
        chosen = None if ports is None else frozenset(ports)
        for key in list(self._timers):
            if key[0] is device and chosen in (None, key[1]):
                self._timers.pop(key).cancel()
        self._after(0.0, device, chosen, REPEAT_AFTER_S)

    def _after(
        self, now_s: float, device: Device, ports: frozenset[Port] | None, times_s: Sequence[float]
    ) -> None:
        """Send at each of `times_s`, counted from the announcement, as `now_s` is."""

        def fire() -> None:
            del self._timers[device, ports]
            if self._engine.devices.get(device.name) is not device:
                return
            attempt(self._send, device, device.ports if ports is None else device.ports & ports)
            if len(times_s) > 1:
                self._after(times_s[0], device, ports, times_s[1:])

        self._timers[device, ports] = self._loop.call_later(times_s[0] - now_s, fire)

    def _send(self, device: Device, ports: Iterable[Port]) -> None:
        """Devices that cannot serve now are not announced: hosts would wait for them."""
        if device.target.size_sectors is None:
            return
        for port in ports:
            self._send_some(device, port, self._destinations(device))

    def _send_some(self, device: Device, port: Port, destinations: Iterator[bytes]) -> None:
        for count, destination in enumerate(destinations, start=1):
            self._engine.send(port, device.target.advertisement(destination, port.path))
            if count == FRAMES_PER_TURN_MAX:
                self._loop.call_soon(self._send_some, device, port, destinations)
                return

    def _destinations(self, device: Device) -> Iterator[bytes]:
        """Everybody, or each host that may discover it where a list says who that is; nobody where
        a list says only who may not, since a broadcast would reach them."""
        target, settings = device.target, device.target.settings
        named = [settings.accept, settings.discover]
        hosts = next((rules.exceptions for rules in named if not rules.others), None)
        if hosts is None and target.state.mask:
            hosts = frozenset(target.state.mask)
        is_open = hosts is None and not settings.discover.exceptions
        if is_open or device.name in self._broadcasting:
            return iter((BROADCAST,))
        may = Operation.DISCOVER
        return iter([mac for mac in sorted(hosts or ()) if target.permits(mac, may)])

    def close(self) -> None:
        """No advertisement from now on."""
        self.set_interval(0)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
