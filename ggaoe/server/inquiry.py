"""What is known of one host: where it has been heard, with what, and who else is.

Owns how the engine's records are put together. Judges nothing.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from ggaoe.engine.base import Device, Engine, Port
from ggaoe.engine.sightings import Fate, Sighting
from ggaoe.net.strays import Stray
from ggaoe.units import ago


class Strayed(NamedTuple):
    """A frame that has come to no device, and by which link."""

    port: Port
    stray: Stray


async def inquire(engine: Engine, mac: bytes, now_s: float) -> Inquiry:
    """About the host with the address `mac`, at `now_s` of the monotonic clock; a device in each
    turn of the loop, as there may be many, each with many hosts."""
    inquiry = Inquiry(mac, now_s, sorted(port.name for port in engine.ports.values()))
    for device in list(engine.devices.values()):
        inquiry.ask(device)
        await asyncio.sleep(0)
    for port in engine.ports.values():
        inquiry.ask_strays(port)
    inquiry.strays.sort(key=lambda strayed: strayed.stray.time_s)
    return inquiry


class Inquiry:
    """What has been found of one host."""

    def __init__(self, mac: bytes, now_s: float, interfaces: list[str]) -> None:
        self.mac = mac
        self.now_s = now_s
        self.interfaces = interfaces
        """That serve something."""
        self.heard_s: dict[str, float] = {}
        """When it was heard last, by interface."""
        self.strays: list[Strayed] = []
        """The last of its frames that has come to no device, of each interface; oldest first."""
        self._others: dict[str, set[bytes]] = {}

    def ask(self, device: Device) -> None:
        for source, initiator in device.initiators.items():
            self._heard(source, initiator.interface, initiator.last_seen_s)
        for seen in device.last_frames(self.mac):
            self._heard(self.mac, seen.interface, seen.time_s)

    def ask_strays(self, port: Port) -> None:
        for source, stray in port.link.strays.items():
            self._heard(source, port.name, stray.time_s)
            if source == self.mac:
                self.strays.append(Strayed(port, stray))

    def _heard(self, source: bytes, interface: str, time_s: float) -> None:
        if source == self.mac:
            self.heard_s[interface] = max(time_s, self.heard_s.get(interface, time_s))
        else:
            self._others.setdefault(interface, set()).add(source)

    @property
    def others(self) -> dict[str, int]:
        """How many other hosts have been heard, by interface."""
        return {name: len(macs) for name, macs in sorted(self._others.items())}

    def ago(self, time_s: float) -> str:
        """How long ago, for people."""
        return ago(self.now_s - time_s)


def sighting_of(strayed: Strayed) -> Sighting:
    """A stray as a sighting: it was dropped."""
    stray = strayed.stray
    return Sighting(
        stray.time_s,
        strayed.port.name,
        stray.length_bytes,
        stray.head,
        Fate.DROPPED,
        stray.reason,
    )
