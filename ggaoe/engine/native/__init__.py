"""The native engine: devices that are files are served by the compiled core, in threads of its own
and without a Python object per request; everything else goes the portable engine's way, by the same
code as there.

Owns what joins the two: which devices the core may serve, what it admits, and what comes back.
Importing it raises ImportError where the core was not built.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from typing import ClassVar

from ggaoe.backend.base import Backend
from ggaoe.engine.base import STALE_AGE_NS, Device, Hooks, Port
from ggaoe.engine.counters import DeviceCounters, InitiatorCounters, Initiators
from ggaoe.engine.native.core import Core, CoreDevice, CoreLink
from ggaoe.engine.portable import PortableDevice, PortableEngine, Vectors, strerror
from ggaoe.net.buffers import Lease
from ggaoe.net.link import Frame, Interface, Link, LinkCounters, LinkSettings
from ggaoe.net.plain import PlainLink, Role
from ggaoe.net.ring import ReceiveRing
from ggaoe.proto.ata import Op
from ggaoe.proto.frame import ATA_HEADER_BYTES, Header, sectors_that_fit
from ggaoe.proto.target import DropReason, Io, Target
from ggaoe.sched.queue import Policy

GRANULE_BYTES_MAX = 512
"""Requests that are not whole blocks of the store need read-modify-write: the backend does that."""

IO_ENGINES = ("aio", "uring", "threads")
"""The quickest first; by measurement."""

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


class NativeDevice(PortableDevice):
    """A device that the core serves while `is_native`; its counters are the core's and ours."""

    def __init__(
        self, core: Core, name: str, target: Target, policy: Policy, *, trace_io: bool
    ) -> None:
        self.core = CoreDevice(core)
        self.is_native = False
        self._interfaces: dict[int, str] = {}
        super().__init__(name, target, policy, trace_io=trace_io)

    @property
    def in_flight(self) -> int:
        return self.core.load[0] + super().in_flight

    @property
    def waiting(self) -> int:
        return self.core.load[1] + super().waiting

    @property
    def counters(self) -> DeviceCounters:
        values, queue_full = self.core.counters()
        for name, value in values.items():
            if value:
                setattr(self._counters, name, getattr(self._counters, name) + value)
        if queue_full:
            self._counters.drops[DropReason.QUEUE_FULL.value] += queue_full
        return self._counters

    @counters.setter
    def counters(self, counters: DeviceCounters) -> None:
        self.core.counters()
        self._counters = counters

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

    def name_interfaces(self) -> None:
        """Remember what the ports' interfaces are called."""
        self._interfaces = {port.link.index: port.name for port in self.ports}


class NativeEngine(PortableEngine):
    """See the module."""

    name: ClassVar[str] = "native"

    def __init__(self, hooks: Hooks) -> None:
        super().__init__(hooks)
        self._core = Core(STALE_AGE_NS, len(os.sched_getaffinity(0)) == 1)
        self._core_links: dict[Port, CoreLink] = {}
        self._ports_of_links: dict[CoreLink, Port] = {}
        self._has_aio = False
        self._waiting_fences: list[tuple[NativeDevice, int, asyncio.Future[bool]]] = []
        self._loop.add_reader(self._core.python_fd, self._on_event)

    # --- links -----------------------------------------------------------------------------

    def _open_link(self, interface: Interface, settings: LinkSettings) -> Link:
        return NativeLink(interface, settings)

    def _port_opened(self, port: Port) -> None:
        link = port.link
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
        )
        self._core_links[port] = link.core
        self._ports_of_links[link.core] = port

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
        self._route(before | device.ports)

    def _route(self, ports: Iterable[Port]) -> None:
        """Tell the core which of its devices these ports serve."""
        for port in ports:
            if port in self._core_links:
                self._core_links[port].route(
                    [
                        (address, device.core)
                        for address, device in port.devices.items()
                        if isinstance(device, NativeDevice) and device.is_native
                    ]
                )

    def io_engine(self, name: str) -> None:
        for candidate in dict.fromkeys(IO_ENGINES if name == "auto" else (name, *IO_ENGINES)):
            if candidate == "threads":
                refusal = None
            else:
                refusal = self._core.open_aio() if candidate == "aio" else self._core.open_uring()
            if refusal is None:
                _log.info("direct I/O by %s", candidate)
                self._has_aio = candidate == "aio"
                return
            _log.warning("no direct I/O by %s: %s", candidate, refusal)

    def busy_poll(self, wait_s: float) -> None:
        self._core.busy_poll(round(wait_s * 1e9))

    def close(self) -> None:
        super().close()
        self._loop.remove_reader(self._core.python_fd)
        self._core.close()

    # --- what the core leaves to Python -----------------------------------------------------

    def _on_event(self) -> None:
        slow, attention = self._core.take()
        for link, frame, arrival_ns in slow:
            port = self._ports_of_links.get(link)
            if port is not None:
                payload = memoryview(frame)[ATA_HEADER_BYTES:]
                self._dispatch(port, Frame(frame[:ATA_HEADER_BYTES], payload, arrival_ns))
        if slow:
            super()._push()
            self._core.resume()
        if attention:
            for device in self.devices.values():
                assert isinstance(device, NativeDevice)
                if device.is_native:
                    self._look_after(device)
        if self._waiting_fences:
            self._pass_waiting_fences()

    def _push(self, *, after_completion: bool = False) -> None:
        super()._push(after_completion=after_completion)
        self._core.kick()

    def _look_after(self, device: NativeDevice) -> None:
        failures, lost = device.core.failures()
        for op, sector, sectors, error_number in failures:
            _log.error(
                "%s: %s of sector %d+%d failed: %s",
                device.name,
                Op(op).name,
                sector,
                sectors,
                strerror(error_number),
            )
        if lost:
            _log.error("%s: %d more requests failed", device.name, lost)
        device.target.is_failing = device.target.is_failing or device.core.medium_failed

    # --- requests and replies of the portable way ------------------------------------------

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
        if not device.is_native:
            return super()._request(device, port, initiator, header, io, frame)
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

    def _queue_reply(self, port: Port, vector: Vectors, lease: Lease | None = None) -> None:
        link = self._core_links.get(port)
        if link is not None:
            link.send(b"".join(vector))
        if lease is not None:
            lease.release()

    # --- devices ---------------------------------------------------------------------------

    def _new_device(
        self, name: str, target: Target, policy: Policy, *, trace_io: bool
    ) -> PortableDevice:
        return NativeDevice(self._core, name, target, policy, trace_io=trace_io)

    def attach(self, device: Device, backend: Backend) -> None:
        assert isinstance(device, NativeDevice)
        access = backend.file_access()
        if access is None or (access.is_direct and backend.granule_bytes > GRANULE_BYTES_MAX):
            super().attach(device, backend)
            return
        device.target.physical_sector_bytes = backend.granule_bytes
        device.target.is_failing = False
        device.backend = backend
        device.core.attach(
            access.fd,
            access.offset_bytes,
            access.is_direct,
            access.knows_nowait and self._has_aio,
            backend.granule_bytes,
            backend.granule_origin_bytes,
        )
        device.is_native = True
        self.refresh(device)
        self._route(device.ports)

    async def detach(self, device: Device, timeout_s: float | None) -> Backend | None:
        assert isinstance(device, NativeDevice)
        if not device.is_native:
            return await super().detach(device, timeout_s)
        device.target.size_sectors = None
        dropped = device.core.stop()
        device.counters.drops[DropReason.NOT_SERVING.value] += dropped
        self._pass_waiting_fences()
        try:
            async with asyncio.timeout(timeout_s):
                await self.fence(device)
        except TimeoutError:
            _log.error(
                "%s: %d requests did not finish within %s s and were given up",
                device.name,
                device.core.load[0],
                timeout_s,
            )
            self._give_up_fences(device)
        else:
            device.core.detach()
        device.is_native = False
        self._route(device.ports)
        backend, device.backend = device.backend, None
        return backend

    def refresh(self, device: Device) -> None:
        assert isinstance(device, NativeDevice)
        if not device.is_native:
            super().refresh(device)
            return
        settings, state = device.target.settings, device.target.state
        device.core.admit(
            settings.shelf,
            settings.slot,
            settings.accept,
            settings.deny,
            state.mask,
            state.reserved,
            settings.read_only,
            settings.write_cache,
            not device.trace_io,
        )
        device.core.resize((device.target.size_sectors or 0) * 512)
        policy = device.policy
        device.core.limit(policy.queue_length, policy.max_delay_ns, policy.merge_delay_ns)
        self._push()

    async def fence(self, device: Device) -> bool:
        assert isinstance(device, NativeDevice)
        if not device.is_native or device.core.oldest is None:
            return await super().fence(device)
        passed: asyncio.Future[bool] = self._loop.create_future()
        self._waiting_fences.append((device, self._core.sequence, passed))
        self._core.is_fenced(True)
        return await passed

    def _give_up_fences(self, device: NativeDevice) -> None:
        for other, _, passed in self._waiting_fences:
            if other is device and not passed.done():
                passed.set_result(False)
        self._forget_passed_fences()

    def _pass_waiting_fences(self) -> None:
        for device, sequence, passed in self._waiting_fences:
            oldest = device.core.oldest
            if not passed.done() and (oldest is None or oldest > sequence):
                passed.set_result(True)
        self._forget_passed_fences()

    def _forget_passed_fences(self) -> None:
        self._waiting_fences = [f for f in self._waiting_fences if not f[2].done()]
        if not self._waiting_fences:
            self._core.is_fenced(False)
