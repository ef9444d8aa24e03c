"""The portable engine: the data path in plain Python, and the oracle for every other engine.

Owns a request from its frame to its reply: queue, submission, completion, durability, sending.
One wake of the loop = collect (frames or completions), then submit once per device, then send once
per link. Under load the batches grow by themselves.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import mmap
from collections import deque
from collections.abc import Sequence
from typing import ClassVar, cast

from ggaoe.backend.base import Backend, Transfer
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
from ggaoe.engine.counters import INITIATORS_MAX, Failures, InitiatorCounters
from ggaoe.engine.histogram import latency_bucket, size_bucket
from ggaoe.engine.sightings import Fate, Sighting
from ggaoe.engine.trace import Trace
from ggaoe.errors import attempt
from ggaoe.net.buffers import BufferPool, Lease
from ggaoe.net.link import Frame, Interface, Link, LinkSettings
from ggaoe.net.plain import PlainLink
from ggaoe.net.readable import Readable
from ggaoe.proto import ata
from ggaoe.proto.ata import Op
from ggaoe.proto.frame import SECTOR_BYTES, Header, unpack_header
from ggaoe.proto.target import DropReason, Io, Path, Target
from ggaoe.sched.commit import GroupCommit
from ggaoe.sched.merge import Vector, settle
from ggaoe.sched.queue import Arrival, DeviceQueue, Policy, Waiting
from ggaoe.sched.request import Request
from ggaoe.units import counted

FRAMES_PER_TURN_MAX = 64
"""Per link and wake, so that a flood cannot starve completions and the control plane."""
REPLIES_HELD_MAX = 16384
"""Per link while its transmit queue is full; beyond it the newest reply is dropped."""
SEND_PAUSE_S_MIN = 0.0001
"""After ENOBUFS: the device's queue is full, and no descriptor tells when it has room again."""
SEND_PAUSE_S_MAX = 0.001
"""As long as nothing leaves, each pause is twice the last one."""
REQUEST_BYTES = 4096
"""What a waiting request costs beside its data, in terms of the waiting budget."""

_log = logging.getLogger("ggaoe.engine")

Vectors = Sequence[bytes | memoryview]


class IoRequest(Request):
    """A request with what its reply needs; `lease` is the buffer of its data."""

    __slots__ = (
        "header",
        "initiator",
        "io",
        "lease",
        "lost",
        "path",
        "payload",
        "port",
        "received_ns",
        "sighting",
    )

    def __init__(
        self,
        io: Io,
        key: object,
        frame: Frame,
        header: Header,
        port: Port,
        initiator: InitiatorCounters,
        received_ns: int,
    ) -> None:
        is_write = io.op is Op.WRITE
        waiting_bytes = REQUEST_BYTES + io.sectors * SECTOR_BYTES
        if is_write and frame.lease is not None:
            waiting_bytes = REQUEST_BYTES + len(frame.lease.view)
        super().__init__(
            io.op, io.sector, io.sectors, header.source, key, frame.arrival_ns, waiting_bytes
        )
        self.io = io
        self.header = header
        self.port = port
        self.path: Path = port.path
        self.initiator = initiator
        self.received_ns = received_ns
        self.sighting = Sighting(received_ns / 1e9, port.name, len(frame), frame.head)
        self.lost = 0
        """The errno of a flush that failed while this write was under way, or this FLUSH waited."""
        self.lease: Lease | None = None
        self.payload: memoryview = memoryview(b"")
        if is_write:
            self.payload = frame.payload[: self.length_bytes]
            self.lease, frame.lease = frame.lease, None

    def release(self) -> None:
        """Give the data's buffer back."""
        if self.lease is not None:
            self.lease.release()
            self.lease = None


class PortableDevice(Device):
    """A device with its queue; `transfers` are those that the backend has, and `total` is what
    waits for all devices of the engine."""

    def __init__(
        self, name: str, target: Target, policy: Policy, total: Waiting, *, trace_io: bool
    ) -> None:
        super().__init__(name, target, policy, trace_io=trace_io)
        self.total = total
        self.queue = DeviceQueue(policy, total=total)
        self.commit = GroupCommit()
        self.transfers: set[Transfer] = set()
        self.is_serving = False
        self.timer: asyncio.TimerHandle | None = None
        """Asks the queue again at `timer_ns`."""
        self.timer_ns = 0
        self.fences: list[tuple[set[Request], asyncio.Future[bool]]] = []
        self.again: list[Vector] = []
        self._last_ios: dict[bytes, Sighting] = {}

    def last_io(self, mac: bytes) -> Sighting | None:
        return self._last_ios.get(mac)

    def note_io(self, request: IoRequest) -> None:
        """It is the last one of its host."""
        mac = request.header.source
        if self._last_ios.pop(mac, None) is None and len(self._last_ios) >= INITIATORS_MAX:
            del self._last_ios[next(iter(self._last_ios))]
        self._last_ios[mac] = request.sighting

    def forget_ios(self) -> None:
        self._last_ios.clear()

    @property
    def in_flight(self) -> int:
        return self.queue.in_flight

    @property
    def waiting(self) -> int:
        return self.queue.waiting


class _Lane:
    """One port's receive and transmit side in this engine."""

    def __init__(self, port: Port, readable: Readable) -> None:
        self.port = port
        self.readable = readable
        self.pool = BufferPool(port.path.mtu_bytes)
        self.received: deque[Frame] = deque()
        self.is_drained = True
        self.replies: list[Vectors] = []
        self.leases: list[Lease | None] = []
        self.pause: asyncio.TimerHandle | None = None
        """Until it ends, nothing is sent."""
        self.pause_s = 0.0
        """How long the last one was; 0: frames have left since."""

    def collect(self) -> int:
        """Take from the link what one turn may handle; how many frames it has dropped thereby."""
        wanted = FRAMES_PER_TURN_MAX - len(self.received)
        if wanted <= 0:
            return 0
        counters = self.port.link.counters
        before = counters.dropped
        frames = self.port.link.receive(wanted)
        self.received.extend(frames)
        self.is_drained = len(frames) < wanted
        return counters.dropped - before


def _straighten(received: Sequence[Frame], latest_ns: int) -> None:
    """A clock that was set back must neither turn the order of one link's frames around nor hold
    one of them: none has arrived after now, nor after the one behind it."""
    for frame in reversed(received):
        frame.arrival_ns = latest_ns = min(frame.arrival_ns, latest_ns)


def _concerns_none(lane: _Lane, others: Sequence[_Lane]) -> bool:
    """Whether the device of the first frame of `lane` is served by none of `others`."""
    header = unpack_header(lane.received[0].head)
    return header is not None and not any(
        other.port.addressed(header.shelf, header.slot) for other in others
    )


class PortableEngine(Engine):
    """See the module."""

    name: ClassVar[str] = "portable"

    def __init__(self, hooks: Hooks, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(hooks, clock)
        self._total = Waiting()
        self._lanes: dict[Port, _Lane] = {}
        self._active: dict[PortableDevice, None] = {}
        self._dirty: dict[_Lane, None] = {}
        self._push_scheduled = False
        self._turn_scheduled = False

    def start(self) -> None:
        """Ignored: everything here is done in the loop."""

    # --- links -----------------------------------------------------------------------------

    def _open_link(self, interface: Interface, settings: LinkSettings) -> Link:
        return PlainLink(interface, settings)

    def _port_opened(self, port: Port) -> None:
        readable = Readable(self._loop, port.link.fileno(), self._on_readable)
        self._lanes[port] = _Lane(port, readable)

    def _port_closed(self, port: Port) -> None:
        lane = self._lanes.pop(port)
        lane.readable.close()
        if lane.pause is not None:
            lane.pause.cancel()
        self._dirty.pop(lane, None)
        for frame in lane.received:
            frame.release()
        for lease in lane.leases:
            if lease is not None:
                lease.release()
        lane.received.clear()
        lane.replies, lane.leases = [], []

    def io_engine(self, name: str) -> None:
        """Ignored: the backend has chosen."""

    def busy_poll(self, wait_s: float) -> None:
        """Ignored: waking up is the least of what a request costs here."""

    # --- collect ---------------------------------------------------------------------------

    def _on_readable(self) -> None:
        """Frames wait on some link: take them from all, dispatch in order of arrival, push.

        Links are read one after the other: what came after the turn's beginning waits for the next
        turn, as something older may have come to a link that was read before. Where a link has more
        than one turn's worth, so does what is newer than the last frame taken from it, unless that
        link does not serve the device.
        """
        lanes = list(self._lanes.values())
        several = len(lanes) > 1
        began_ns = horizon_ns = self._clock.wall_ns()
        for lane in lanes:
            attempt(self._collect, lane)
            if several and lane.received:
                _straighten(lane.received, self._clock.wall_ns())
                if not lane.is_drained:
                    horizon_ns = min(horizon_ns, lane.received[-1].arrival_ns)
        ready: list[tuple[_Lane, Frame]] = []
        for lane in lanes:
            others = [other for other in lanes if not (other is lane or other.is_drained)]
            while lane.received and (
                not several
                or lane.received[0].arrival_ns <= horizon_ns
                or (lane.received[0].arrival_ns <= began_ns and _concerns_none(lane, others))
            ):
                ready.append((lane, lane.received.popleft()))
        if several:
            ready.sort(key=lambda item: item[1].arrival_ns)
        oldest_ns = self._clock.wall_ns() - STALE_AGE_NS
        for lane, frame in ready:
            if frame.arrival_ns < oldest_ns:
                lane.port.drop("stale", self._clock.monotonic_ns() / 1e9, frame)
            elif lane.port.is_open:
                attempt(self._dispatch, lane.port, frame)
            frame.release()
        if not self._turn_scheduled and any(lane.received for lane in lanes):
            self._turn_scheduled = True
            self._loop.call_soon(self._scheduled_turn)
        self._push()

    def _collect(self, lane: _Lane) -> None:
        dropped = lane.collect()
        if dropped:
            lane.port.guard.useless(self._clock.monotonic_ns() / 1e9, dropped)

    def _scheduled_turn(self) -> None:
        self._turn_scheduled = False
        self._on_readable()

    def _on_complete(self, transfers: Sequence[Transfer]) -> None:
        """Backends report here: settle, account, reply, push."""
        for transfer in transfers:
            if transfer.owner is None:  # given up by `detach`
                continue
            device, subject = _owner(transfer)
            device.transfers.discard(transfer)
            if subject is None:
                attempt(self._flushed, device, transfer.result)
            else:
                attempt(self._settle, device, subject, transfer.result)
            self._active[device] = None
        self._push(after_completion=True)

    # --- requests --------------------------------------------------------------------------

    def _new_device(
        self, name: str, target: Target, policy: Policy, *, trace_io: bool
    ) -> PortableDevice:
        return PortableDevice(name, target, policy, self._total, trace_io=trace_io)

    def _request(
        self,
        device: Device,
        port: Port,
        initiator: InitiatorCounters,
        header: Header,
        io: Io,
        frame: Frame,
    ) -> DropReason | None:
        assert isinstance(device, PortableDevice)
        if not device.is_serving:
            return DropReason.NOT_SERVING
        if device.trace_io:
            self._trace(device, header, io)
        key = (port, header.source, header.tag, frame.head[24:36])
        now_ns = self._clock.monotonic_ns()
        request = IoRequest(io, key, frame, header, port, initiator, now_ns)
        was_full = device.in_flight + device.waiting >= device.policy.queue_length
        arrival = device.queue.arrive(request, now_ns)
        if arrival in (Arrival.ABSORBED, Arrival.REFUSED):
            request.release()
            if arrival is Arrival.REFUSED:
                request.sighting.fate = Fate.DROPPED
                request.sighting.cause = DropReason.QUEUE_FULL.value
                device.note_io(request)
                return DropReason.QUEUE_FULL
            device.counters.absorbed += 1
            initiator.absorbed += 1
            return None
        device.note_io(request)
        initiator.in_flight += 1
        if arrival is Arrival.BEHIND:
            device.counters.overlaps += 1
        elif was_full:
            device.counters.waits += 1
            initiator.waits += 1
        self._active[device] = None
        return None

    # --- submit ----------------------------------------------------------------------------

    def _push(self, *, after_completion: bool = False) -> None:
        """Submit once per device that has news, then send once per link that has replies."""
        while self._active:
            device, _ = self._active.popitem()
            attempt(self._submit, device, after_completion)
        for lane in list(self._dirty):
            attempt(self._transmit, lane)

    def _submit(self, device: PortableDevice, after_completion: bool) -> None:
        backend = device.backend
        if backend is None:
            return
        vectors, device.again = device.again, []
        if device.is_serving and not device.is_suspended:
            now_ns = self._clock.monotonic_ns()
            fresh = device.queue.take(now_ns, after_completion=after_completion)
            vectors += fresh
            self._arm_timer(device, now_ns)
        transfers = []
        for vector in vectors:
            if vector.op is Op.FLUSH:
                device.commit.join(vector.members[0])
                continue
            try:
                transfers.append(_transfer_of(device, vector, self._lanes))
            except (MemoryError, OSError):  # no buffer: their hosts send them again
                self._forget(device, vector.members, DropReason.QUEUE_FULL)
                for request in vector.members:
                    device.queue.finish(request)
                self._active[device] = None
            else:
                device.counters.merged_requests += len(vector.members) - 1
        if device.commit.start():
            device.counters.commits += 1
            transfers.append(Transfer(Op.FLUSH, 0, [], (device, None)))
        if not transfers:
            return
        device.counters.batches += 1
        device.counters.vectors += len(transfers)
        device.counters.in_flight_sum += device.queue.in_flight
        device.transfers.update(transfers)
        backend.submit(transfers)

    def _arm_timer(self, device: PortableDevice, now_ns: int) -> None:
        wake_ns = device.queue.wake_ns
        if wake_ns is None:
            return
        if device.timer is not None:
            if device.timer_ns <= wake_ns:
                return
            device.timer.cancel()

        def wake() -> None:
            device.timer = None
            self._active[device] = None
            self._push()

        delay_s = max(0, wake_ns - now_ns) / 1e9
        device.timer = self._loop.call_later(delay_s, wake)
        device.timer_ns = wake_ns

    # --- complete --------------------------------------------------------------------------

    def _settle(self, device: PortableDevice, vector: Vector, result: int) -> None:
        finished, again = settle(vector, result)
        if again:
            device.counters.retries += 1
            device.again += again
        durable = not device.target.settings.write_cache
        for request, failure in finished:
            assert isinstance(request, IoRequest)
            if not failure and request.op is Op.WRITE:
                if durable or request.lost:
                    device.commit.join(request)
                    continue
                device.commit.answered(request.source)
            self._finish(device, request, failure or request.lost)

    def _flushed(self, device: PortableDevice, result: int) -> None:
        if result >= 0:
            for request in device.commit.done():
                assert isinstance(request, IoRequest)
                self._finish(device, request, self._lost(device, request))
            return
        device.fail("flush of the store", -result)
        failed = device.commit.failed(-result)
        for request in device.queue.active:
            if request.op is Op.FLUSH or (request.started and request.op is Op.WRITE):
                assert isinstance(request, IoRequest)
                request.lost = -result
        for request in failed:
            assert isinstance(request, IoRequest)
            self._finish(device, request, self._lost(device, request) or -result)

    def _lost(self, device: PortableDevice, request: IoRequest) -> int:
        """The errno of a flush that has failed to save what its host was promised, or is about to
        be; 0 where none has."""
        if request.op is Op.FLUSH:
            now_ns = self._clock.monotonic_ns()
            return device.commit.error_of(request.source, now_ns) or request.lost
        return request.lost

    def _finish(self, device: PortableDevice, request: Request, error_number: int) -> None:
        """Reply, account, and let those start that waited for `request`."""
        assert isinstance(request, IoRequest)
        if error_number:
            attempt(self._fail, device, request, error_number)
        else:
            attempt(self._reply, device, request)
        request.release()
        self._account(device, request)
        device.queue.finish(request)
        self._pass_fences(device, request)

    def _reply(self, device: PortableDevice, request: IoRequest) -> None:
        head = device.target.ata_head(request.header, request.io.taskfile, request.path)
        if device.trace is not None:
            self._watch_reply(device.trace, request, head)
        if request.op is Op.READ:
            lease, request.lease = request.lease, None
            self._queue_reply(request.port, [head, request.payload], lease)
        else:
            self._queue_reply(request.port, [head.ljust(60, b"\0")])
        request.sighting.fate = Fate.ANSWERED

    def _fail(self, device: PortableDevice, request: IoRequest, error_number: int) -> None:
        is_read = request.op in (Op.READ, Op.VERIFY)
        register = ata.error_register(error_number, is_read=is_read)
        size_sectors = device.target.size_sectors
        if size_sectors is not None and request.io.sector + request.io.sectors > size_sectors:
            register = ata.AtaError.IDNF  # the store has shrunk since it was admitted
        elif error_number == errno.EIO:
            device.target.is_failing = True
        what = f"{request.op.name} of sector {request.io.sector}+{request.io.sectors}"
        device.fail(what, error_number, request.header.source)
        reply = device.target.io_failure(request.header, request.io, request.path, register)
        request.sighting.fate = Fate.REFUSED
        request.sighting.cause = strerror(error_number)
        device.counters.ata_errors += 1
        request.initiator.errors += 1
        if device.trace is not None:
            self._watch_reply(device.trace, request, reply.frame)
        self._queue_reply(request.port, [reply.frame])

    def _watch_reply(self, trace: Trace, request: IoRequest, head: bytes) -> None:
        length_bytes = len(head) + len(request.payload) if request.op is Op.READ else 60
        frame = head.ljust(60, b"\0")
        trace.add(self._clock.wall_ns(), request.port.name, max(length_bytes, 60), frame)

    def _account(self, device: PortableDevice, request: IoRequest) -> None:
        counters, initiator = device.counters, request.initiator
        duration_ns = self._clock.monotonic_ns() - request.received_ns
        initiator.in_flight -= 1
        if request.throttled:
            counters.throttled += 1
            initiator.throttled += 1
        match request.op:
            case Op.READ:
                counters.read_requests += 1
                counters.read_bytes += request.length_bytes
                counters.read_ns += duration_ns
                counters.read_latency[latency_bucket(duration_ns)] += 1
                counters.read_sectors[size_bucket(request.io.sectors)] += 1
                initiator.read_requests += 1
                initiator.read_bytes += request.length_bytes
            case Op.WRITE:
                counters.write_requests += 1
                counters.write_bytes += request.length_bytes
                counters.write_ns += duration_ns
                counters.write_latency[latency_bucket(duration_ns)] += 1
                counters.write_sectors[size_bucket(request.io.sectors)] += 1
                initiator.write_requests += 1
                initiator.write_bytes += request.length_bytes
            case Op.FLUSH:
                counters.flush_requests += 1
                counters.flush_ns += duration_ns
                counters.flush_latency[latency_bucket(duration_ns)] += 1
                initiator.other_requests += 1
            case Op.VERIFY:
                counters.verify_requests += 1
                initiator.other_requests += 1

    def _pass_fences(self, device: PortableDevice, request: Request) -> None:
        for fence in device.fences:
            requests, passed = fence
            requests.discard(request)
            if not requests and not passed.done():
                passed.set_result(True)
        device.fences = [fence for fence in device.fences if fence[0]]

    # --- send ------------------------------------------------------------------------------

    def _send(self, port: Port, frame: bytes) -> None:
        self._queue_reply(port, [frame])
        if not self._push_scheduled:
            self._push_scheduled = True
            self._loop.call_soon(self._scheduled_push)

    def _scheduled_push(self) -> None:
        self._push_scheduled = False
        self._push()

    def _queue_reply(self, port: Port, vector: Vectors, lease: Lease | None = None) -> None:
        lane = self._lanes.get(port)
        if lane is None or len(lane.replies) >= REPLIES_HELD_MAX:
            if lane is not None:
                port.link.counters.drops["replies_held"] += 1
            if lease is not None:
                lease.release()
            return
        lane.replies.append(vector)
        lane.leases.append(lease)
        self._dirty[lane] = None

    def _transmit(self, lane: _Lane) -> None:
        """Send what is queued; what finds no room stays, and is tried again in every turn."""
        if lane.pause is not None:
            return
        taken = lane.port.link.send(lane.replies)
        for lease in lane.leases[:taken]:
            if lease is not None:
                lease.release()
        del lane.replies[:taken]
        del lane.leases[:taken]
        if taken:
            lane.pause_s = 0.0
        lane.readable.watch_room(bool(lane.replies) and lane.port.link.signals_room)
        if not lane.replies:
            del self._dirty[lane]
        elif not lane.port.link.signals_room:
            lane.pause_s = min(SEND_PAUSE_S_MAX, max(SEND_PAUSE_S_MIN, 2 * lane.pause_s))
            lane.pause = self._loop.call_later(lane.pause_s, self._end_pause, lane)

    def _end_pause(self, lane: _Lane) -> None:
        lane.pause = None
        if lane in self._dirty:
            self._transmit(lane)

    # --- devices ---------------------------------------------------------------------------

    def attach(self, device: Device, backend: Backend) -> None:
        assert isinstance(device, PortableDevice)
        device.queue.set_granule(backend.granule_bytes, backend.granule_origin_bytes)
        device.again = []
        device.target.physical_sector_bytes = backend.granule_bytes
        device.target.is_failing = False
        device.failures = Failures()
        backend.complete = self._on_complete
        device.backend = backend
        device.is_serving = True
        device.is_suspended = False
        self._active[device] = None
        self._push()

    def suspend(self, device: Device) -> None:
        assert isinstance(device, PortableDevice)
        device.is_suspended = device.is_serving

    def withdraw(self, device: Device) -> None:
        assert isinstance(device, PortableDevice)
        device.is_serving = device.is_suspended = False
        device.target.size_sectors = None
        self.drop_waiting(device)

    async def _detach(self, device: Device, timeout_s: float | None) -> Backend | None:
        assert isinstance(device, PortableDevice)
        started = [request for request in device.queue.active if request.started]
        try:
            async with asyncio.timeout(timeout_s):
                await self._fence(device, started)
        except TimeoutError:
            _log.error(
                "%s: given up: %s, not finished within %s s",
                device.name,
                counted(device.queue.in_flight, "request"),
                timeout_s,
            )
            self._give_up(device)
        if device.timer is not None:
            device.timer.cancel()
            device.timer = None
        backend, device.backend = device.backend, None
        return backend

    def _give_up(self, device: PortableDevice) -> None:
        """Forget the transfers of a store that does not answer. Their buffers stay out of the
        pool for ever: the kernel may still write into them."""
        for transfer in device.transfers:
            transfer.owner = None
        device.transfers = set()
        for request in device.queue.active:
            assert isinstance(request, IoRequest)
            request.lease = None
            request.initiator.in_flight -= 1
        device.forget_ios()
        for _, passed in device.fences:
            if not passed.done():
                passed.set_result(False)
        device.fences = []
        device.queue = DeviceQueue(device.policy, total=device.total)
        device.commit = GroupCommit()

    def refresh(self, device: Device) -> None:
        assert isinstance(device, PortableDevice)
        device.queue.policy = device.policy
        self._active[device] = None
        self._push()

    def drop_waiting(self, device: Device) -> None:
        assert isinstance(device, PortableDevice)
        self._forget(device, device.queue.drop_unstarted(), DropReason.NOT_SERVING)

    def drop_locked_out(self, device: Device) -> None:
        assert isinstance(device, PortableDevice)
        dropped = device.queue.drop_unstarted(device.target.is_locked_out)
        self._forget(device, dropped, DropReason.RESERVED)
        self._active[device] = None
        self._push()

    def _forget(
        self, device: PortableDevice, dropped: Sequence[Request], reason: DropReason
    ) -> None:
        for request in dropped:
            assert isinstance(request, IoRequest)
            request.release()
            request.initiator.in_flight -= 1
            request.sighting.fate = Fate.DROPPED
            request.sighting.cause = reason.value
            device.counters.drops[reason.value] += 1
            self._pass_fences(device, request)

    async def fence(self, device: Device) -> bool:
        assert isinstance(device, PortableDevice)
        return await self._fence(device, device.queue.active)

    async def _fence(self, device: PortableDevice, requests: Sequence[Request]) -> bool:
        """Wait for `requests`, as `fence` does for all."""
        if not requests:
            return True
        passed: asyncio.Future[bool] = self._loop.create_future()
        device.fences.append((set(requests), passed))
        return await passed


def _transfer_of(device: PortableDevice, vector: Vector, lanes: dict[Port, _Lane]) -> Transfer:
    """The transfer of `vector`; a READ borrows its buffers now, so that waiting costs no memory."""
    owner = (device, vector)
    if vector.op is Op.VERIFY:
        transfer = Transfer(Op.VERIFY, vector.offset_bytes, [], owner)
        transfer.length_bytes = vector.length_bytes
        return transfer
    buffers: list[memoryview] = []
    for request in vector.members:
        assert isinstance(request, IoRequest)
        if not request.payload:
            lane = lanes.get(request.port)
            if lane is not None:
                request.lease = lane.pool.borrow()
                request.payload = request.lease.view[: request.length_bytes]
            else:
                request.payload = memoryview(mmap.mmap(-1, request.length_bytes))
        buffers.append(request.payload)
    buffers[0] = buffers[0][vector.done_bytes :]
    return Transfer(vector.op, vector.offset_bytes, buffers, owner)


def _owner(transfer: Transfer) -> tuple[PortableDevice, Vector | None]:
    return cast("tuple[PortableDevice, Vector | None]", transfer.owner)
