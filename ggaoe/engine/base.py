"""The engine contract: who owns links and stores, and everything that is the same in every engine.

An engine carries frames between links and backends. The server above it decides which interfaces
and devices exist; `proto` decides what an answer is; `sched` decides when a request starts. An
implementation adds the data path: `_open_link`, `_request`, and how batches are submitted.

All calls are made in the event loop's thread. Nothing a peer sends raises.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from ggaoe.backend.base import Backend
from ggaoe.engine import limit
from ggaoe.engine.counters import DeviceCounters, Failures, InitiatorCounters, Initiators
from ggaoe.engine.flood import FloodGuard
from ggaoe.engine.sightings import Fate, Sighting, Sightings
from ggaoe.engine.trace import SNAP_BYTES, Trace, Traced
from ggaoe.engine.unfit import UnfitReads
from ggaoe.errors import attempt
from ggaoe.events import Event, about
from ggaoe.net.link import Frame, Interface, Link, LinkSettings
from ggaoe.net.strays import Stray
from ggaoe.proto.ata import is_transfer
from ggaoe.proto.frame import (
    ATA_HEADER_BYTES,
    MTU_BYTES_MIN,
    SHELF_ANY,
    SLOT_ANY,
    ZERO_MAC,
    Buffer,
    Command,
    Header,
    sectors_advertised,
    sectors_that_fit,
    unpack_header,
)
from ggaoe.proto.target import (
    REFUSALS_OF_HOSTS,
    Change,
    Dropped,
    DropReason,
    Io,
    Outcome,
    Path,
    Refusal,
    Reply,
    Target,
)
from ggaoe.sched.queue import Policy
from ggaoe.sched.throttle import Meter
from ggaoe.units import counted, format_mac

STALE_AGE_NS = 5_000_000_000
"""A frame that waited longer in a socket is thrown away: its host has sent it again or given up."""
CONFLICTS_REMEMBERED_MAX = 256
CONFLICT_S = 10.0
"""Another target that has not been heard for so long is taken to be gone. The server above asks for
an address that is in conflict more often."""
CLAIM_TAG = 0x67676165
"""Of a query for an address by a target that is about to serve it."""
SILENT_REFUSALS = (DropReason.ACCESS_LIST, DropReason.MASK_LIST, DropReason.DISCOVER_LIST)
"""What is dropped because of its sender: told of once for each, as is what it gets errors for."""

_log = logging.getLogger("ggaoe.engine")
_trace = logging.getLogger("ggaoe.trace")


class Port:
    """One link in service, with the devices that it serves."""

    def __init__(self, link: Link, path: Path) -> None:
        self.link = link
        self.path = path
        self.devices: dict[tuple[int, int], Device] = {}
        self.limit = limit.Bucket(limit.LINK_RATE_PER_S, limit.LINK_BURST)
        """Of answers to all sources."""
        self._wildcards = Meter(limit.WILDCARD_RATE)
        self.guard = FloodGuard(link, self.devices.keys)
        self.is_open = True

    @property
    def name(self) -> str:
        return self.link.name

    def addressed(self, shelf: int, slot: int) -> list[Device]:
        """The devices that a frame to shelf.slot is for; wildcards match each part by itself."""
        if shelf == SHELF_ANY or slot == SLOT_ANY:
            return [d for d in self.devices.values() if d.target.is_addressed(shelf, slot)]
        device = self.devices.get((shelf, slot))
        return [device] if device is not None else []

    def may_spread(self, count: int, now_ns: int) -> bool:
        """Whether one transfer by wildcard may go to `count` devices now."""
        if self._wildcards.free_ns(count, now_ns) > now_ns:
            return False
        self._wildcards.use(count)
        return True

    def drop(self, reason: str, now_s: float, frame: Frame) -> None:
        """`frame` comes to no device, for `reason`, a key of `LinkCounters.drops`."""
        self.link.counters.drops[reason] += 1
        self.link.strays.add(Stray(now_s, len(frame), bytes(frame.head), reason))


class Device:
    """One served device; without a backend it answers that it is not available."""

    def __init__(self, name: str, target: Target, policy: Policy, *, trace_io: bool) -> None:
        self.name = name
        self.target = target
        self.address = (target.settings.shelf, target.settings.slot)
        """By which `ports` know the device."""
        self.policy = policy
        self.trace_io = trace_io
        self.is_known = False
        """What initiators have set of it is known, and its store has been tried; before, no port
        serves it."""
        self.backend: Backend | None = None
        self.is_suspended = False
        """Requests are taken in, and wait for a backend."""
        self.ports: frozenset[Port] = frozenset()
        self.counters = DeviceCounters()
        self.failures = Failures()
        self.initiators = Initiators(self._greet)
        self.sightings = Sightings()
        self.limit = limit.SourceLimit()
        self.unfit_reads = UnfitReads()
        self.trace: Trace | None = None
        self._news = limit.Bucket(limit.NEWS_RATE_PER_S, limit.NEWS_BURST)

    @property
    def in_flight(self) -> int:
        """Requests that have started and are not answered."""
        return 0

    @property
    def waiting(self) -> int:
        """Requests that have arrived and not started."""
        return 0

    @property
    def own_counters(self) -> DeviceCounters:
        """Where to count; `counters` may have more, which has to be collected."""
        return self.counters

    def heard(self, mac: bytes, interface: str, now_s: float) -> InitiatorCounters:
        """A host has sent something by `interface`; returns its counters, to count in."""
        return self.initiators.seen(mac, interface, now_s)

    def last_io(self, mac: bytes) -> Sighting | None:
        """The last request of a host that reads, writes, flushes or verifies and was taken in, or
        found no room."""
        return None

    def last_frames(self, mac: bytes) -> list[Sighting]:
        """What a host has sent last, oldest first."""
        found = self.sightings.of(mac)
        last_io = self.last_io(mac)
        if last_io is not None:
            found.append(last_io)
        return sorted(found, key=lambda sighting: sighting.time_s)

    def _greet(self, mac: bytes, interface: str, now_s: float) -> None:
        if self._news.take(now_s):
            peer = format_mac(mac)
            extra = about(Event.HOST_SEEN, device=self.name, interface=interface, peer=peer)
            text = "%s: %s has been seen for the first time, on %s"
            _log.info(text, self.name, peer, interface, extra=extra)

    def refuse(
        self, mac: bytes, interface: str, now_s: float, reason: DropReason | Refusal
    ) -> None:
        """Tell of a host that is refused, by silence or by an error."""
        if self._news.take(now_s):
            peer = format_mac(mac)
            extra = about(Event.HOST_REFUSED, device=self.name, interface=interface, peer=peer)
            text = "%s: %s is refused, %s: to see why: ggaoectl why %s %s"
            _log.info(text, self.name, peer, reason.value, peer, self.name, extra=extra)

    def fail(self, what: str, error_number: int, mac: bytes | None = None) -> None:
        """Count and tell that the backend has failed `what`, which the host `mac` has asked for."""
        text = f"{what} failed: {strerror(error_number)}"
        self.failures.add(text)
        peer = {"peer": format_mac(mac)} if mac is not None else {}
        extra = about(Event.DEVICE_FAILED, device=self.name, **peer)
        _log.error("%s: %s", self.name, text, extra=extra)

    def is_watched(self) -> bool:
        return self.trace is not None

    def watch(self, wanted: bool) -> None:
        """Keep frames from and to the device from now on, or keep none."""
        self.trace = Trace() if wanted else None

    def traced(self) -> tuple[list[Traced], int]:
        """(frames since the last call while it is watched, in order, how many more were lost)."""
        return self.trace.take() if self.trace is not None else ([], 0)

    def clear_counters(self) -> None:
        self.counters = DeviceCounters()
        self.failures = Failures()
        self.initiators.clear()


@dataclass(frozen=True, slots=True)
class Clock:
    """Where an engine has the time from; frames are stamped in time of the wall."""

    monotonic_ns: Callable[[], int] = time.monotonic_ns
    wall_ns: Callable[[], int] = time.time_ns


SYSTEM_CLOCK = Clock()


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the engine tells the server; both are called from the loop and must not raise."""

    changed: Callable[[Device, Port, Header, bytes], None]
    """A host asks for a change of state: check again with `Target.receive`, store it,
    `Engine.refresh`, `Engine.fence` where the outcome says so, and `Engine.send` the reply."""
    conflict: Callable[[Port, Header], None]
    """Another target answers for an address of ours on the same network."""
    answered: Callable[[Port, Header], None] = lambda *_: None
    """Another target replies for any address; told of each reply, and before `conflict`."""
    wished: Callable[[Port, Header], None] = lambda *_: None
    """Another target asks for an address of ours, to serve it."""


class Engine(ABC):
    """See the module. One engine serves all links and devices of a daemon."""

    name: ClassVar[str]

    def __init__(self, hooks: Hooks, clock: Clock = SYSTEM_CLOCK) -> None:
        self._hooks = hooks
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self.ports: dict[int, Port] = {}
        self.devices: dict[str, Device] = {}
        self._sectors_offered_max: dict[bytes, int] = {}
        """By the address that hosts send to, which outlives an interface taken away and added."""
        self._conflicts: dict[tuple[bytes, int, int], float] = {}
        """When other targets have answered last for a shelf and slot of ours; the latest at the
        end."""
        self._limit_logged_s = -limit.LOG_PAUSE_S

    @abstractmethod
    def start(self) -> None:
        """From now on there may be threads, and devices that are attached; before, links can be
        opened. Raises OSError where the system has no more threads."""

    # --- links -----------------------------------------------------------------------------

    def open_link(self, interface: Interface, settings: LinkSettings) -> Port:
        """Open a link on `interface` and receive from now on; raises OSError, or ValueError where
        the MTU is too small to carry two sectors. Open it anew after a change of MTU or name."""
        mtu_bytes = min(interface.mtu_bytes, settings.mtu_bytes or interface.mtu_bytes)
        if mtu_bytes < MTU_BYTES_MIN:
            raise ValueError(
                f"MTU {mtu_bytes} is too small: two sectors need {MTU_BYTES_MIN} bytes"
            )
        link = self._open_link(interface, settings)
        offered = max(
            self._sectors_offered_max.get(link.mac, 0), sectors_advertised(link.mtu_bytes)
        )
        self._sectors_offered_max[link.mac] = offered
        port = Port(link, Path(link.mac, link.mtu_bytes, offered))
        try:
            self._port_opened(port)
        except OSError:
            link.close()
            raise
        self.ports[link.index] = port
        return port

    def close_link(self, port: Port) -> None:
        """Stop receiving; requests in flight finish, and their replies are thrown away."""
        if not port.is_open:
            return
        port.is_open = False
        port.guard.close()
        self._port_closed(port)
        for device in list(port.devices.values()):
            self.set_ports(device, device.ports - {port})
        self.ports.pop(port.link.index, None)
        port.link.close()

    @abstractmethod
    def _open_link(self, interface: Interface, settings: LinkSettings) -> Link:
        """The engine's kind of link; raises OSError."""

    @abstractmethod
    def _port_opened(self, port: Port) -> None:
        """Start receiving."""

    @abstractmethod
    def _port_closed(self, port: Port) -> None:
        """Stop receiving, forget replies that are held."""

    def send(self, port: Port, frame: bytes) -> None:
        """Send one frame (at least 60 bytes) soon; thrown away where the port has closed."""
        header = unpack_header(frame)
        device = port.devices.get((header.shelf, header.slot)) if header is not None else None
        if device is not None and device.trace is not None:
            device.trace.add(self._clock.wall_ns(), port.name, len(frame), frame)
        self._send(port, frame)

    @abstractmethod
    def _send(self, port: Port, frame: bytes) -> None:
        """The same."""

    # --- devices ---------------------------------------------------------------------------

    def add_device(self, name: str, target: Target, policy: Policy, *, trace_io: bool) -> Device:
        """A new device, without ports and backend yet."""
        device = self._new_device(name, target, policy, trace_io=trace_io)
        self.devices[name] = device
        return device

    def set_ports(self, device: Device, ports: Iterable[Port]) -> None:
        """Serve `device` by exactly these ports from now on."""
        for port in device.ports:
            if port.devices.get(device.address) is device:
                del port.devices[device.address]
        before, device.ports = device.ports, frozenset(ports)
        device.address = (device.target.settings.shelf, device.target.settings.slot)
        for port in device.ports:
            port.devices[device.address] = device
        for port in before | device.ports:
            port.guard.widen()
        if device.ports:
            device.target.mtu_bytes_min = min(port.path.mtu_bytes for port in device.ports)

    @abstractmethod
    def _new_device(self, name: str, target: Target, policy: Policy, *, trace_io: bool) -> Device:
        """The engine's kind of device."""

    @abstractmethod
    def attach(self, device: Device, backend: Backend) -> None:
        """Serve from `backend`, whose size `target.size_sectors` was set to before."""

    def describe(self, backend: Backend) -> str:
        """How `backend` is reached once it is attached, for people."""
        return backend.description

    @abstractmethod
    def suspend(self, device: Device) -> None:
        """Start nothing more, but take in requests as before: they start, in order of arrival, once
        `attach` has been called, unless `withdraw` drops them. For a device that serves."""

    @abstractmethod
    def withdraw(self, device: Device) -> None:
        """Drop what has not started, and answer ATA commands as not available from now on."""

    async def detach(self, device: Device, timeout_s: float | None) -> Backend | None:
        """Finish what has started, and take the backend off; the caller closes it. A device that is
        not suspended is withdrawn first.

        What did not finish within `timeout_s` is given up: only for a process that is about to
        end, since a write that is still under way may land at any later time."""
        if not device.is_suspended:
            self.withdraw(device)
        return await self._detach(device, timeout_s)

    @abstractmethod
    async def _detach(self, device: Device, timeout_s: float | None) -> Backend | None:
        """Detach a device that starts nothing more."""

    @abstractmethod
    def refresh(self, device: Device) -> None:
        """The target's settings, state or size, or the device's policy have changed."""

    @abstractmethod
    async def fence(self, device: Device) -> bool:
        """Wait until every request that is active now has been answered or dropped; False where one
        was given up instead, and so may still take effect."""

    @abstractmethod
    def drop_waiting(self, device: Device) -> None:
        """Drop every request that has not started."""

    @abstractmethod
    def drop_locked_out(self, device: Device) -> None:
        """Drop those of hosts that are locked out by a reservation."""

    async def remove_device(self, device: Device, timeout_s: float | None) -> Backend | None:
        """Forget `device`, so that nobody puts it on a port again, and detach it."""
        self.set_ports(device, ())
        device.watch(False)
        self.withdraw(device)
        if self.devices.get(device.name) is device:
            del self.devices[device.name]
        return await self.detach(device, timeout_s)

    @abstractmethod
    def io_engine(self, name: str) -> None:
        """How direct I/O of files is to reach the kernel: auto, aio, uring or threads; to be called
        before a device is attached."""

    @abstractmethod
    def busy_poll(self, wait_s: float) -> None:
        """Look for the next frame for `wait_s` after each batch before sleeping."""

    def close(self) -> None:
        """Close every link; devices have been removed before."""
        for port in list(self.ports.values()):
            self.close_link(port)

    # --- frames ----------------------------------------------------------------------------

    @abstractmethod
    def _request(
        self,
        device: Device,
        port: Port,
        initiator: InitiatorCounters,
        header: Header,
        io: Io,
        frame: Frame,
    ) -> DropReason | None:
        """Queue a checked request, of which `Device.last_io` tells from then on; takes
        `frame.lease` over where it keeps the payload. Returns why it was dropped, or None."""

    def _dispatch(self, port: Port, frame: Frame, address: tuple[int, int] | None = None) -> None:
        """What one received frame leads to; the caller releases the frame afterwards. `address` is
        that of the one device that is to have it, where the engine has spread it over several."""
        header = unpack_header(frame.head)
        now_ns = self._clock.monotonic_ns()
        now_s = now_ns / 1e9
        if header is None:
            _drop_on(port, "malformed", now_s, frame)
            return
        if header.is_response:
            self._notice_conflict(port, header, now_s)
            port.guard.useless(now_s)
            return
        source = header.source
        if source[0] & 1 or (source == port.path.mac and source != ZERO_MAC):
            _drop_on(port, "source", now_s, frame)
            return
        devices = port.addressed(*(address or (header.shelf, header.slot)))
        if not devices:
            _drop_on(port, "address", now_s, frame)
            return
        if (
            address is None
            and header.is_wildcard
            and is_transfer(header, frame.head)
            and not port.may_spread(len(devices), now_ns)
        ):
            _drop_on(port, "rate_limited", now_s, frame)
            return
        raw = bytes(frame) if frame.payload else frame.head
        if header.tag == CLAIM_TAG and header.command == Command.CONFIG:
            self._reply_to_target(devices, port, header, raw, now_s)
            return
        for device in devices:
            if device.trace is not None:
                device.trace.add(frame.arrival_ns, port.name, len(raw), bytes(raw[:SNAP_BYTES]))
            attempt(self._dispatch_to, device, port, header, frame, raw, now_s)

    def _reply_to_target(
        self, devices: Iterable[Device], port: Port, header: Header, raw: bytes, now_s: float
    ) -> None:
        """Reply to a target that asks who has an address. It is no initiator, and not counted as
        one; it may know of the devices that an initiator at its address may know of."""
        if not header.is_wildcard:
            self._hooks.wished(port, header)
        for device in devices:
            outcome = device.target.receive(header, raw, port.path)
            if isinstance(outcome, Reply) and self._is_within_rate(
                device, port, header.source, now_s
            ):
                self.send(port, outcome.frame)

    def _dispatch_to(
        self, device: Device, port: Port, header: Header, frame: Frame, raw: bytes, now_s: float
    ) -> None:
        """The same for one of the devices that the frame is addressed to; `raw` is all of it."""
        source = header.source
        initiator = device.heard(source, port.name, now_s)
        outcome: Outcome = device.target.receive(header, raw, port.path)
        if outcome == Dropped(DropReason.MTU) and header.command == Command.ATA:
            outcome = self._unfit_read(device, port, header, raw, now_s)

        def note(fate: Fate, cause: str = "") -> None:
            sighting = Sighting(now_s, port.name, len(raw), bytes(frame.head), fate, cause)
            device.sightings.add(source, sighting)

        is_limited = not isinstance(outcome, Dropped | Io)
        if is_limited and not self._is_within_rate(device, port, source, now_s):
            note(Fate.DROPPED, DropReason.RATE_LIMITED.value)
            _count_drop(device, initiator, DropReason.RATE_LIMITED)
        elif isinstance(outcome, Io):
            reason = self._request(device, port, initiator, header, outcome, frame)
            if reason is not None:
                _count_drop(device, initiator, reason)
            if reason is DropReason.NOT_SERVING:
                note(Fate.DROPPED, reason.value)
        elif isinstance(outcome, Dropped):
            if outcome.reason in SILENT_REFUSALS and not initiator.drops[outcome.reason.value]:
                device.refuse(source, port.name, now_s, outcome.reason)
            note(Fate.DROPPED, outcome.reason.value)
            _count_drop(device, initiator, outcome.reason)
            port.guard.useless(now_s)
        else:
            device.own_counters.other_requests += 1
            initiator.other_requests += 1
            if isinstance(outcome, Change):
                note(Fate.UNDER_WAY)
                self._hooks.changed(device, port, header, raw)
            else:
                note(Fate.REFUSED if outcome.is_error else Fate.ANSWERED, outcome.cause)
                if outcome.refusal in REFUSALS_OF_HOSTS:
                    if not initiator.refusals[outcome.refusal.value]:
                        device.refuse(source, port.name, now_s, outcome.refusal)
                    initiator.refusals[outcome.refusal.value] += 1
                self._answer(device, port, initiator, header, outcome)

    def _unfit_read(
        self, device: Device, port: Port, header: Header, raw: Buffer, now_s: float
    ) -> Outcome:
        """Of a read whose reply does not fit since the MTU was lowered."""
        sectors, taskfile = raw[26], bytes(raw[26:ATA_HEADER_BYTES])
        fits_elsewhere = any(
            sectors <= sectors_that_fit(other.path.mtu_bytes) for other in device.ports
        )
        if not device.unfit_reads.is_hopeless(
            header.source, taskfile, now_s, fits_elsewhere=fits_elsewhere
        ):
            return Dropped(DropReason.MTU)
        if count := device.unfit_reads.count_once(header.source):
            _log.warning(
                "%s: rejecting %s of %s: %s has an MTU of %d now, and no reply can carry what was "
                "asked for before; stop I/O before lowering an MTU",
                device.name,
                counted(count, "read"),
                format_mac(header.source),
                port.name,
                port.path.mtu_bytes,
                extra=about(
                    Event.HOST_REFUSED,
                    device=device.name,
                    interface=port.name,
                    peer=format_mac(header.source),
                ),
            )
        return device.target.unfit_read(header, raw, port.path)

    def _is_within_rate(self, device: Device, port: Port, source: bytes, now_s: float) -> bool:
        """Whether `source` may have one more answer of what no engine answers by itself."""
        is_source = not device.limit.take(source, now_s)
        if not is_source and port.limit.take(now_s):
            return True
        if not is_source:
            port.link.counters.drops[DropReason.RATE_LIMITED.value] += 1
        port.guard.useless(now_s, source=source if is_source else None)
        if now_s - self._limit_logged_s >= limit.LOG_PAUSE_S:
            self._limit_logged_s = now_s
            _log.warning(
                "%s: more is asked of %s in the name of %s than is answered; what is dropped is "
                "counted as rate_limited",
                port.name,
                device.name,
                format_mac(source) if is_source and source in device.limit else "many hosts",
                extra=about(Event.RATE_LIMITED, device=device.name, interface=port.name),
            )
        return False

    def _answer(
        self, device: Device, port: Port, initiator: InitiatorCounters, header: Header, reply: Reply
    ) -> None:
        if reply.is_error:
            initiator.errors += 1
            if header.command == Command.ATA and not reply.frame[14] & 0x04:
                device.own_counters.ata_errors += 1
            else:
                device.own_counters.aoe_errors += 1
        self.send(port, reply.frame)

    def _notice_conflict(self, port: Port, header: Header, now_s: float) -> None:
        """Two different disks at one address corrupt data without an error anywhere."""
        address = header.shelf, header.slot
        ours = {other.path.mac for other in self.ports.values() if address in other.devices}
        if header.command != Command.CONFIG or header.source in ours:
            return
        self._hooks.answered(port, header)
        if address not in port.devices:
            return
        port.link.counters.drops["conflict"] += 1
        key = (header.source, header.shelf, header.slot)
        is_known = self._is_fresh(key, now_s)
        self._conflicts.pop(key, None)
        if len(self._conflicts) >= CONFLICTS_REMEMBERED_MAX:
            oldest = next(iter(self._conflicts))
            if self._is_fresh(oldest, now_s):
                return
            del self._conflicts[oldest]
        self._conflicts[key] = now_s
        if not is_known:
            self._hooks.conflict(port, header)

    def _is_fresh(self, key: tuple[bytes, int, int], now_s: float) -> bool:
        return now_s - self._conflicts.get(key, -math.inf) < CONFLICT_S

    def conflicts_with(self, shelf: int, slot: int) -> dict[bytes, float]:
        """MAC addresses of other targets that have replied for this address of late, with the
        seconds since each was last heard."""
        now_s = self._clock.monotonic_ns() / 1e9
        return {
            key[0]: now_s - heard_s
            for key, heard_s in self._conflicts.items()
            if key[1:] == (shelf, slot) and self._is_fresh(key, now_s)
        }

    def _trace(self, device: Device, header: Header, io: Io) -> None:
        _trace.info(
            "%s: %s sector %d+%d from %s tag %08x",
            device.name,
            io.op.name,
            io.sector,
            io.sectors,
            format_mac(header.source),
            header.tag,
        )


def _drop_on(port: Port, reason: str, now_s: float, frame: Frame) -> None:
    port.drop(reason, now_s, frame)
    port.guard.useless(now_s)


def _count_drop(device: Device, initiator: InitiatorCounters, reason: DropReason) -> None:
    device.own_counters.drops[reason.value] += 1
    initiator.drops[reason.value] += 1


def sectors_of(port: Port) -> int:
    """Sectors per frame that are advertised on `port`."""
    return min(sectors_advertised(port.path.mtu_bytes), sectors_that_fit(port.path.mtu_bytes))


def strerror(error_number: int) -> str:
    return f"{os.strerror(error_number)} ({errno.errorcode.get(error_number, error_number)})"
