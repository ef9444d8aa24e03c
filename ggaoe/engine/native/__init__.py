"""The native engine: requests are carried by the compiled core, in threads of its own and without a
Python object per request; every other frame goes the same way as in the portable engine.

Owns what joins the two: which devices the core serves and how, what it admits, and what comes back.
Importing it raises ImportError where the core was not built.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from operator import add
from typing import ClassVar

from ggaoe.backend.base import Backend, FileAccess, Transfer
from ggaoe.engine import limit
from ggaoe.engine.base import (
    STALE_AGE_NS,
    SYSTEM_CLOCK,
    Clock,
    Device,
    Engine,
    Hooks,
    Port,
    strerror,
)
from ggaoe.engine.counters import DeviceCounters, Failures, InitiatorCounters, Initiators
from ggaoe.engine.native.core import Core, CoreDevice, CoreLink
from ggaoe.engine.sightings import Fate, Sighting
from ggaoe.engine.trace import Traced
from ggaoe.errors import attempt
from ggaoe.net.filters import Role
from ggaoe.net.link import Frame, Interface, Link, LinkCounters, LinkSettings
from ggaoe.net.plain import PlainLink
from ggaoe.net.ring import ReceiveRing
from ggaoe.net.strays import Stray, Strays
from ggaoe.proto.ata import Op
from ggaoe.proto.frame import ATA_HEADER_BYTES, Header, sectors_that_fit
from ggaoe.proto.target import DropReason, Io, Target
from ggaoe.sched.queue import Policy
from ggaoe.units import counted

GRANULE_BYTES_MAX = 512
"""Requests that are not whole blocks of the store need read-modify-write: the backend does that."""
IO_ENGINES = ("aio", "uring", "threads")
"""The quickest first; by measurement."""
INTERFACES_NAMED_MAX = 512
"""More than can be served at a time; the one that was served longest ago gives way."""
COLLECT_INTERVAL_S = 0.1
"""What hosts have done is asked of the core no more often, unless somebody wants to know."""
COMMIT = 4
"""The core's name for the flush that answers writes, in failures."""

_FATES = (
    (Fate.UNDER_WAY, ""),
    (Fate.ANSWERED, ""),
    (Fate.REFUSED, ""),
    (Fate.DROPPED, DropReason.QUEUE_FULL.value),
    (Fate.DROPPED, DropReason.NOT_SERVING.value),
    (Fate.DROPPED, DropReason.RESERVED.value),
)
"""As the core counts them (structs.pxi)."""

_log = logging.getLogger("ggaoe.engine")


class NativeLink(PlainLink):
    """A packet socket whose frames the core carries; `core` is set once the port is open."""

    core: CoreLink
    ring: ReceiveRing | None = None
    """None: the core receives by system calls."""

    def _set_up(self, settings: LinkSettings, role: Role) -> None:
        if settings.ring_buffer_bytes:
            try:
                self.ring = ReceiveRing(
                    self._socket, settings.ring_buffer_bytes, self.frame_bytes_max
                )
            except OSError as error:
                _log.warning(
                    "%s: no receive ring of %d KiB, plain sockets instead: %s",
                    self.name,
                    settings.ring_buffer_bytes >> 10,
                    error.strerror,
                )
        super()._set_up(settings, role)

    @property
    def _receives_otherwise(self) -> bool:
        return self.ring is not None

    def close(self) -> None:
        if self.ring is not None:
            self.ring.close()
        super().close()

    def refresh(self) -> LinkCounters:
        counters = super().refresh()
        values, drops = self.core.counters()
        for name, value in values.items():
            setattr(counters, name, getattr(counters, name) + value)
        for reason, count in drops.items():
            counters.drops[reason] += count
        return counters


class CoreStrays(Strays):
    """With those that the core has dropped; it is asked for them where somebody reads, since adding
    one is to stay cheap in a flood."""

    def __init__(self, core: CoreLink) -> None:
        super().__init__()
        self._core = core

    def items(self) -> list[tuple[bytes, Stray]]:
        self.merge(Stray(*stray) for stray in self._core.strays())
        return super().items()


class NativeDevice(Device):
    """A device that the core serves; `transfers` are what its backend has, if it is no file."""

    def __init__(
        self, core: Core, name: str, target: Target, policy: Policy, *, trace_io: bool
    ) -> None:
        self.core = CoreDevice(core)
        self.is_serving = False
        self.transfers: set[Transfer] = set()
        self._interfaces: dict[int, str] = {}
        self._collected_s = 0.0
        super().__init__(name, target, policy, trace_io=trace_io)

    @property
    def in_flight(self) -> int:
        return self.core.load[0]

    @property
    def waiting(self) -> int:
        return self.core.load[1]

    @property
    def counters(self) -> DeviceCounters:
        values, queue_full, histograms = self.core.counters()
        for name, value in values.items():
            if value:
                setattr(self._counters, name, getattr(self._counters, name) + value)
        for name, counts in (histograms or {}).items():
            sums: list[int] = getattr(self._counters, name)
            sums[:] = map(add, sums, counts)
        if queue_full:
            self._counters.drops[DropReason.QUEUE_FULL.value] += queue_full
        return self._counters

    @counters.setter
    def counters(self, counters: DeviceCounters) -> None:
        self.core.counters()
        self._counters = counters

    @property
    def own_counters(self) -> DeviceCounters:
        return self._counters

    def heard(self, mac: bytes, interface: str, now_s: float) -> InitiatorCounters:
        if now_s - self._collected_s >= COLLECT_INTERVAL_S:
            self._collected_s = now_s
            return self.initiators.seen(mac, interface, now_s)
        return self._initiators.seen(mac, interface, now_s)

    @property
    def initiators(self) -> Initiators:
        for last_seen_ns, mac, index, active, values, dropped in self.core.initiators():
            name = self._interfaces.get(index, "")
            initiator = self._initiators.seen(mac, name, last_seen_ns / 1e9)
            initiator.in_flight = active
            for key, value in values.items():
                setattr(initiator, key, getattr(initiator, key) + value)
            if dropped:
                initiator.drops[DropReason.QUEUE_FULL.value] += dropped
        return self._initiators

    @initiators.setter
    def initiators(self, initiators: Initiators) -> None:
        self._initiators = initiators

    def last_io(self, mac: bytes) -> Sighting | None:
        found = self.core.last_io(mac)
        if found is None:
            return None
        time_ns, index, length_bytes, head, state, error = found
        fate, cause = _FATES[state]
        name = self._interfaces.get(index, "")
        return Sighting(
            time_ns / 1e9, name, length_bytes, head, fate, strerror(error) if error else cause
        )

    def watch(self, wanted: bool) -> None:
        super().watch(wanted)
        self.core.watch(wanted)

    def traced(self) -> tuple[list[Traced], int]:
        found, lost = super().traced()
        records, more_lost = self.core.traced()
        for time_ns, index, length_bytes, frame in records:
            found.append(Traced(time_ns, self._interfaces.get(index, ""), length_bytes, frame))
        return sorted(found), lost + more_lost

    def give_up(self, core: Core) -> None:
        """Begin anew, without what is still under way."""
        for transfer in self.transfers:
            transfer.owner = None
        self.transfers = set()
        for _, initiator in self.initiators.items():
            initiator.in_flight = 0
        self._counters = self.counters
        self.core.give_up()
        self.core = CoreDevice(core)
        self.core.watch(self.trace is not None)

    def name_interfaces(self) -> None:
        """Remember what the ports' interfaces are called, for what is told of them later, too."""
        for port in self.ports:
            self._interfaces.pop(port.link.index, None)
            self._interfaces[port.link.index] = port.name
        while len(self._interfaces) > INTERFACES_NAMED_MAX:
            del self._interfaces[next(iter(self._interfaces))]


class NativeEngine(Engine):
    """See the module."""

    name: ClassVar[str] = "native"

    def __init__(self, hooks: Hooks, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(hooks, clock)
        self._core = Core(STALE_AGE_NS, len(os.sched_getaffinity(0)) == 1)
        self._core_links: dict[Port, CoreLink] = {}
        self._ports_of_links: dict[CoreLink, Port] = {}
        self._devices_of_core: dict[CoreDevice, NativeDevice] = {}
        self._io_engine = "threads"
        self._is_refused = False
        """Of the frame that is being dispatched: when it came, no device would have queued it."""
        self._replies: dict[CoreLink, list[bytes]] | None = None
        """Of the frames that are being dispatched; None: none is."""
        self._meeting: asyncio.TimerHandle | None = None
        self._fences: list[tuple[NativeDevice, int | None, asyncio.Future[bool]]] = []
        self._loop.add_reader(self._core.python_fd, self._on_event)

    def start(self) -> None:
        self._core.start()

    def io_engine(self, name: str) -> None:
        for candidate in dict.fromkeys(IO_ENGINES if name == "auto" else (name, *IO_ENGINES)):
            if candidate == "threads":
                refusal = None
            else:
                refusal = self._core.open_aio() if candidate == "aio" else self._core.open_uring()
            if refusal is None:
                _log.info("direct I/O by %s", candidate)
                self._io_engine = candidate
                return
            _log.warning("no direct I/O by %s: %s", candidate, refusal)

    def busy_poll(self, wait_s: float) -> None:
        self._core.busy_poll(round(wait_s * 1e9))

    def close(self) -> None:
        super().close()
        if self._meeting is not None:
            self._meeting.cancel()
        self._loop.remove_reader(self._core.python_fd)
        self._core.close()

    # --- links -----------------------------------------------------------------------------

    def _open_link(self, interface: Interface, settings: LinkSettings) -> Link:
        return NativeLink(interface, settings)

    def _open_core_link(self, link: Link) -> CoreLink:
        assert isinstance(link, NativeLink)
        ring = link.ring
        link.core = self._core.open_link(
            link.fileno(),
            link.index,
            link.mac,
            sectors_that_fit(link.mtu_bytes),
            link.frame_bytes_max - ATA_HEADER_BYTES,
            (ring.memory, ring.slot_bytes, ring.slots_per_block, ring.block_bytes)
            if ring is not None
            else None,
            limit.WILDCARD_RATE,
            limit.REFUSED_RATE,
        )
        return link.core

    def _port_opened(self, port: Port) -> None:
        link = self._open_core_link(port.link)
        port.link.strays = CoreStrays(link)
        self._core_links[port] = link
        self._ports_of_links[link] = port

    def _port_closed(self, port: Port) -> None:
        port.link.refresh()
        link = self._core_links.pop(port)
        del self._ports_of_links[link]
        self._core.close_link(link)

    def set_ports(self, device: Device, ports: Iterable[Port]) -> None:
        before = device.ports
        super().set_ports(device, ports)
        assert isinstance(device, NativeDevice)
        device.name_interfaces()
        self.refresh(device)
        self._route(before | device.ports)

    def _route(self, ports: Iterable[Port]) -> None:
        """Tell the core which devices these ports serve."""
        for port in ports:
            if port in self._core_links:
                self._core_links[port].route(
                    [
                        (address, device.core)
                        for address, device in port.devices.items()
                        if isinstance(device, NativeDevice)
                    ]
                )

    def _send(self, port: Port, frame: bytes) -> None:
        link = self._core_links.get(port)
        if link is None:
            return
        if self._replies is not None:
            self._replies.setdefault(link, []).append(frame)
            return
        link.send([frame])
        self._core.kick()

    # --- what the core leaves to Python ----------------------------------------------------

    def _on_event(self) -> None:
        slow, transfers, attention = self._core.take()
        if attention:
            for device in list(self._devices_of_core.values()):
                attempt(self._report_failures, device)
            if self._meeting is None and self._core.has_newcomers:
                self._meeting = self._loop.call_later(COLLECT_INTERVAL_S, self._meet)
        if transfers:
            attempt(self._carry_out, transfers)
        if slow:
            self._dispatch_all(slow)
        if self._fences:
            self._pass_fences()

    def _meet(self) -> None:
        """Hosts have come that were not known: log them. A flood may have any number of addresses,
        so those of a while are asked for together."""
        self._meeting = None
        self._core.meet()
        for device in self.devices.values():
            attempt(lambda device=device: device.initiators)

    def _dispatch_all(
        self, slow: Sequence[tuple[CoreLink, bytes, int, bool, tuple[int, int] | None]]
    ) -> None:
        """Their replies leave together: each visit to the core makes the leader wait."""
        self._replies = {}
        for link, frame, arrival_ns, self._is_refused, address in slow:
            port = self._ports_of_links.get(link)
            if port is not None:
                payload = memoryview(frame)[ATA_HEADER_BYTES:]
                head = Frame(frame[:ATA_HEADER_BYTES], payload, arrival_ns)
                attempt(self._dispatch, port, head, address)
        self._is_refused = False
        replies, self._replies = self._replies, None
        for link, frames in replies.items():
            attempt(link.send, frames)
        self._core.kick()

    def _carry_out(
        self, given: Sequence[tuple[CoreDevice, int, int, int, int, list[memoryview]]]
    ) -> None:
        """Give backends their transfers, one batch each."""
        batches: dict[NativeDevice, list[Transfer]] = {}
        for core, handle, op, offset_bytes, length_bytes, buffers in given:
            device = self._devices_of_core.get(core)
            if device is None or device.backend is None:
                continue
            transfer = Transfer(Op(op), offset_bytes, buffers, (device, handle))
            transfer.length_bytes = length_bytes
            batches.setdefault(device, []).append(transfer)
        for device, transfers in batches.items():
            assert device.backend is not None
            device.transfers.update(transfers)
            attempt(device.backend.submit, transfers)

    def _on_complete(self, transfers: Sequence[Transfer]) -> None:
        results = []
        for transfer in transfers:
            if isinstance(transfer.owner, tuple):  # otherwise it was given up
                device, handle = transfer.owner
                device.transfers.discard(transfer)
                results.append((handle, transfer.result))
        self._core.complete(results)

    def _report_failures(self, device: NativeDevice) -> None:
        failures, lost = device.core.failures()
        for op, sector, sectors, error_number, mac in failures:
            if op == COMMIT:
                device.fail("flush of the store", error_number)
            else:
                what = f"{Op(op).name} of sector {sector}+{sectors}"
                device.fail(what, error_number, mac)
        if lost:
            device.failures.count += lost
            _log.error("%s: %s failed", device.name, counted(lost, "more request"))
        device.target.is_failing = device.target.is_failing or device.core.medium_failed

    def _request(
        self,
        device: Device,
        port: Port,
        initiator: InitiatorCounters,
        header: Header,
        io: Io,
        frame: Frame,
    ) -> DropReason | None:
        assert isinstance(device, NativeDevice)
        # What the core has refused and is flawless by now came before others that have been queued.
        if not device.is_serving or self._is_refused:
            return DropReason.NOT_SERVING
        if device.trace_io:
            self._trace(device, header, io)
        self._core.submit(
            device.core,
            self._core_links[port],
            frame.head,
            frame.arrival_ns,
            io.op,
            io.sector,
            io.sectors,
            frame.payload,
        )
        return None

    # --- devices ---------------------------------------------------------------------------

    def _new_device(
        self, name: str, target: Target, policy: Policy, *, trace_io: bool
    ) -> NativeDevice:
        device = NativeDevice(self._core, name, target, policy, trace_io=trace_io)
        self._devices_of_core[device.core] = device
        return device

    def attach(self, device: Device, backend: Backend) -> None:
        assert isinstance(device, NativeDevice)
        device.target.physical_sector_bytes = backend.granule_bytes
        device.target.is_failing = False
        device.failures = Failures()
        device.backend = backend
        self.refresh(device)
        access = _file_of(backend)
        if access is None:
            backend.complete = self._on_complete
            device.core.attach_to_python(backend.granule_bytes, backend.granule_origin_bytes)
        else:
            device.core.attach(
                access.fd,
                access.offset_bytes,
                access.is_direct,
                access.knows_nowait and self._io_engine == "aio",
                backend.granule_bytes,
                backend.granule_origin_bytes,
            )
        device.is_serving = True
        device.is_suspended = False
        self._devices_of_core[device.core] = device
        self._route(device.ports)
        self._core.kick()

    def describe(self, backend: Backend) -> str:
        access = _file_of(backend)
        if access is None:
            return super().describe(backend)
        return f"direct I/O, {self._io_engine}" if access.is_direct else "buffered"

    def suspend(self, device: Device) -> None:
        assert isinstance(device, NativeDevice)
        device.is_suspended = device.is_serving
        if device.is_suspended:
            device.core.suspend()

    def withdraw(self, device: Device) -> None:
        assert isinstance(device, NativeDevice)
        device.is_serving = device.is_suspended = False
        device.target.size_sectors = None
        device.core.stop()
        self.drop_waiting(device)

    async def _detach(self, device: Device, timeout_s: float | None) -> Backend | None:
        assert isinstance(device, NativeDevice)
        try:
            async with asyncio.timeout(timeout_s):
                if device.in_flight:
                    await self._fence(device, None)
        except TimeoutError:
            _log.error(
                "%s: given up: %s, not finished within %s s",
                device.name,
                counted(device.in_flight, "request"),
                timeout_s,
            )
            self._give_up(device)
        else:
            if not device.is_suspended:
                self.drop_waiting(device)  # a VERIFY may have been between two pieces
            device.core.detach()
        self._route(device.ports)
        if self.devices.get(device.name) is not device:
            self._devices_of_core.pop(device.core, None)
        backend, device.backend = device.backend, None
        return backend

    def _give_up(self, device: NativeDevice) -> None:
        """Forget what a store does not answer. The buffers stay with it for ever: the kernel may
        still write into them."""
        del self._devices_of_core[device.core]
        device.give_up(self._core)
        self._devices_of_core[device.core] = device
        for other, _, passed in self._fences:
            if other is device and not passed.done():
                passed.set_result(False)
        self._forget_passed_fences()

    def refresh(self, device: Device) -> None:
        assert isinstance(device, NativeDevice)
        settings, state = device.target.settings, device.target.state
        device.core.admit(
            settings.shelf,
            settings.slot,
            [
                (settings.accept.exceptions, settings.accept.others),
                (settings.deny.exceptions, settings.deny.others),
                (state.mask, not state.mask),
                (state.reserved, not state.reserved),
                (settings.read.exceptions, settings.read.others),
                (settings.write.exceptions, settings.write.others),
                (settings.discover.exceptions, settings.discover.others),
                (settings.change.exceptions, settings.change.others),
            ],
            settings.read_only,
            settings.write_cache,
            not device.trace_io,
        )
        if device.target.size_sectors is not None:  # what drains is still within the size it had
            device.core.resize(device.target.size_sectors * 512)
        policy = device.policy
        device.core.limit(policy.queue_length, policy.max_delay_ns, policy.merge_delay_ns)
        device.core.throttle(policy.limits)
        self._core.kick()

    def drop_waiting(self, device: Device) -> None:
        self._drop(device, False, DropReason.NOT_SERVING)

    def drop_locked_out(self, device: Device) -> None:
        self._drop(device, True, DropReason.RESERVED)

    def _drop(self, device: Device, only_locked_out: bool, reason: DropReason) -> None:
        assert isinstance(device, NativeDevice)
        dropped = device.core.drop_waiting(only_locked_out)
        if dropped:
            device.counters.drops[reason.value] += dropped
        self._pass_fences()
        self._core.kick()

    async def fence(self, device: Device) -> bool:
        assert isinstance(device, NativeDevice)
        if device.core.oldest is None:
            return True
        return await self._fence(device, self._core.sequence)

    async def _fence(self, device: NativeDevice, sequence: int | None) -> bool:
        """Wait for what was taken in up to `sequence`, or (None) for all that has started."""
        passed: asyncio.Future[bool] = self._loop.create_future()
        self._fences.append((device, sequence, passed))
        self._core.is_fenced(True)
        return await passed

    def _pass_fences(self) -> None:
        for device, sequence, passed in self._fences:
            if sequence is None:
                is_over = not device.in_flight
            else:
                oldest = device.core.oldest
                is_over = oldest is None or oldest > sequence
            if is_over and not passed.done():
                passed.set_result(True)
        self._forget_passed_fences()

    def _forget_passed_fences(self) -> None:
        self._fences = [fence for fence in self._fences if not fence[2].done()]
        if not self._fences:
            self._core.is_fenced(False)


def _file_of(backend: Backend) -> FileAccess | None:
    """The file that the core can reach by itself; None: transfers are the backend's."""
    access = backend.file_access()
    if access is not None and access.is_direct and backend.granule_bytes > GRANULE_BYTES_MAX:
        return None
    return access
