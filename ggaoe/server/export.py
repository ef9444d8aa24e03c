"""The life of one exported device: waiting for its backing, serving, draining, and its changes.

Owns the backing's opening and retrying, its size, and the order in which initiators' changes of
state are stored. Knows no other device.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path

from ggaoe import __version__
from ggaoe.backend.base import Backend
from ggaoe.backend.file import FileSpec, open_file
from ggaoe.backend.origin import Place
from ggaoe.backend.workers import in_thread
from ggaoe.config import DeviceConfig
from ggaoe.engine.base import Device, Engine, Port
from ggaoe.engine.sightings import Fate
from ggaoe.errors import BackendError, GgaoeError, StateError, limit_reached, report_end
from ggaoe.events import Event, about
from ggaoe.proto.ata import serial_of
from ggaoe.proto.frame import SECTOR_BYTES, Header
from ggaoe.proto.target import Change, Dropped, DropReason, Reply, Settings, Target, TargetState
from ggaoe.sched.queue import Policy
from ggaoe.sched.throttle import Limits, rate
from ggaoe.server.state import StateStore
from ggaoe.units import counted, format_mac, format_size

RETRY_S_MIN = 1.0
RETRY_S_MAX = 30.0
SIZE_POLL_S = 2.0
CHANGES_WAITING_MAX = 64
"""State changes that hosts asked for and that are being stored; a newer one is dropped."""
REOPENING_S_MAX = 5.0
"""A reopening keeps requests waiting for so long: a backend that takes longer is really away."""
FIRST_ATTEMPT_TIMEOUT_S = 10.0
"""A start or reload waits so long for devices to open; slower ones are ready later."""
MODEL = "ggaoe"

_log = logging.getLogger("ggaoe.device")


class State(Enum):
    """What `ggaoectl list` shows."""

    WAITING = "waiting"
    SERVING = "serving"
    NO_INTERFACE = "no-interface"
    """It would serve, and no interface does; see `condition`."""
    DRAINING = "draining"
    CONFLICT = "conflict"
    """Another target has the address, or wants it; see `condition`."""


class Export:
    """One device of the configuration. `announce` is called when hosts should hear of it: it has
    become known, serves, or has changed. `explain` says why it cannot be opened."""

    def __init__(
        self,
        engine: Engine,
        store: StateStore,
        config: DeviceConfig,
        announce: Callable[[Device], None],
        explain: Callable[[DeviceConfig, GgaoeError], str] = lambda _, error: str(error),
    ) -> None:
        self.config = config
        self.state = State.WAITING
        self.reason: str | None = "starting"
        """Why it does not serve; where it does, what is wrong with it all the same."""
        self.first_attempt = asyncio.Event()
        """Set once it serves, or waits for a known reason."""
        self._engine = engine
        self._store = store
        self._announce = announce
        self._explain = explain
        self._has_state = False
        """What initiators have set is known."""
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()
        self._ends = 0
        """How often `close` and `reopen` were called."""
        self.closed = asyncio.Event()
        """Set once `close` has come to its end."""
        self.flushes_at_end = False
        """Whether `close` makes stable what is in the store before it lets go of it."""
        self._letting_go = asyncio.Lock()
        """Held by a `reopen` until it has closed the store."""
        self._lost: str | None = None
        self._overdue: asyncio.TimerHandle | None = None
        """Ends the waiting of requests for a reopening."""
        self.device = engine.add_device(
            config.name, Target(settings_of(config)), policy_of(config), trace_io=config.trace_io
        )
        self._life = self._begin_life()

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def path(self) -> Path | None:
        """Where its backend is: as configured, or where its UUID was found."""
        backend = self.backend
        if self.config.path is None and backend is not None and backend.origin is not None:
            return backend.origin.path
        return self.config.path

    @property
    def backend(self) -> Backend | None:
        return self.device.backend

    # --- the backing -----------------------------------------------------------------------

    def _begin_life(self) -> asyncio.Task[None]:
        life = asyncio.create_task(self._live(), name=f"device {self.name}")
        life.add_done_callback(report_end)
        return life

    async def _live(self) -> None:
        """Open the backing, as often as it takes, then watch its size."""
        retry_s = RETRY_S_MIN
        while True:
            try:
                backend = await self._opened()
            except (BackendError, StateError) as error:
                self._wait(self._explain(self.config, error))
            except Exception as error:
                limit = limit_reached(error)
                if limit is None:
                    _log.exception("%s: cannot be opened", self.name)
                self._wait(limit or "internal error, see the log")
            else:
                self._serve(backend)
                break
            await asyncio.sleep(retry_s)
            retry_s = min(retry_s * 2, RETRY_S_MAX)
        while True:
            await asyncio.sleep(SIZE_POLL_S)
            try:
                await self._watch_size(backend)
                await self.is_replaced()
            except Exception:
                _log.exception("%s: cannot be watched", self.name)

    async def _opened(self) -> Backend:
        """One attempt, which is left to itself where the store does not answer."""
        overdue = asyncio.get_running_loop().call_later(
            FIRST_ATTEMPT_TIMEOUT_S, self._wait, "the store does not answer"
        )
        try:
            if not self._has_state:
                self.device.target.state = await self._store.load(self.name)
                self._has_state = True
            return await self._open()
        finally:
            overdue.cancel()

    async def _open(self) -> Backend:
        """The store, opened; raises BackendError."""
        return await open_file(file_spec_of(self.config))

    def _wait(self, reason: str) -> None:
        if reason != self.reason:
            extra = about(Event.DEVICE_WAITING, device=self.name)
            _log.error("%s: waiting: %s", self.name, reason, extra=extra)
        self.reason = reason
        self._withdraw()
        self.first_attempt.set()
        # Not before the first attempt: hosts need not notice a restart, and would get errors.
        if self._has_state and not self.device.is_known:
            self.device.is_known = True
            self._announce(self.device)

    def _serve(self, backend: Backend) -> None:
        for warning in backend.warnings:
            _log.warning("%s: %s", self.name, warning)
        self.device.target.size_sectors = backend.size_bytes // SECTOR_BYTES
        self._engine.attach(self.device, backend)
        self._stop_timer()
        self.device.is_known = True
        self.state, self.reason = State.SERVING, None
        self.first_attempt.set()
        _log.info(
            "%s (%s): opened %s, %s, %s",
            self.name,
            self.config.address,
            self.path if self.config.uuid is None else f"{self.path} (UUID {self.config.uuid})",
            format_size(backend.size_bytes),
            self.description,
            extra=about(Event.DEVICE_SERVING, device=self.name),
        )
        self._announce(self.device)

    @property
    def description(self) -> str | None:
        """How the store is reached, for people; None while there is none."""
        return self._engine.describe(self.backend) if self.backend is not None else None

    async def _watch_size(self, backend: Backend) -> None:
        before_bytes = backend.size_bytes
        try:
            now_bytes = await backend.refresh_size_bytes()
        except OSError as error:
            _log.error("%s: its size cannot be read: %s", self.name, error.strerror)
            return
        if now_bytes == before_bytes:
            return
        shrunk = now_bytes < before_bytes
        _log.log(
            logging.WARNING if shrunk else logging.INFO,
            "%s: size changed from %s to %s; hosts that use it must run: aoe-revalidate %s",
            self.name,
            format_size(before_bytes),
            format_size(now_bytes),
            self.config.address,
            extra=about(Event.DEVICE_RESIZED, device=self.name),
        )
        self.device.target.size_sectors = now_bytes // SECTOR_BYTES
        self._engine.refresh(self.device)
        self._announce(self.device)

    async def is_replaced(self) -> bool:
        """Whether another store is now where ours was opened; says so, too, where nothing is.

        Ours is served on, as it has what was acknowledged; nobody else may have it any more."""
        backend = self.backend
        if backend is None or backend.origin is None or self.state is not State.SERVING:
            return False
        try:
            place = await in_thread(backend.origin.look)
        except OSError:  # no thread for it now
            return False
        if backend is not self.backend or self.state is not State.SERVING:
            return False
        self._tell(backend.origin.path, place)
        return place is Place.ANOTHER

    def _tell(self, path: Path, place: Place) -> None:
        if place is Place.ANOTHER:
            reason = (
                f"{path} is not what is served any more: the old one is served until a reload "
                "(ggaoectl reload) or restart, which gives it up with all that was written to it"
            )
        elif place is Place.NOTHING:
            reason = (
                f"{path} is gone: what was there is served on until the daemon ends, and may be "
                f"lost then: put it back, or save it with: ggaoe copy {self.config.address} FILE"
            )
        else:
            reason = None
        if reason == self.reason:
            return
        self.reason = reason
        if reason is None:
            _log.info("%s: %s is what is served again", self.name, path)
        else:
            _log.error("%s: %s", self.name, reason)

    @property
    def unfinished(self) -> str | None:
        """After `close` has begun, why the store must not be taken away; None once it may be."""
        if self.closed.is_set():
            return self._lost
        what = "all of its data"
        if self.device.in_flight:
            what = counted(self.device.in_flight, "request")
        return f"its store has not finished {what}: do not take it away yet"

    async def close(self, timeout_s: float | None, *, flush: bool = False) -> None:
        """Stop serving: drop what has not started, finish what has, and close the backing; with
        `flush` after everything in it has become stable, whatever hosts were promised."""
        self._ends += 1
        self.flushes_at_end = flush
        self._stop_timer()
        await self._stop_life()
        self.state, self.reason = State.DRAINING, "finishing requests"
        backend = await self._engine.remove_device(self.device, timeout_s)
        await self._finish_changes()
        await self._let_go(backend)
        async with self._letting_go:  # a `reopen` may have the store
            self.closed.set()
        extra = about(Event.DEVICE_STOPPED, device=self.name)
        _log.info("%s: not served any more", self.name, extra=extra)

    async def _let_go(self, backend: Backend | None) -> None:
        if backend is None:
            return
        if self.flushes_at_end and not backend.read_only:
            try:
                await backend.flush()
            except OSError as error:
                self._lost = f"what was written last may be lost: flush failed: {error.strerror}"
                extra = about(Event.DEVICE_FAILED, device=self.name)
                _log.error("%s: %s", self.name, self._lost, extra=extra)
        await backend.close()

    async def reopen(self, config: DeviceConfig) -> None:
        """Drain, close, and open again as `config` says; requests wait meanwhile, and what would
        wait longer than REOPENING_S_MAX gets an error, until it serves again.

        Where the draining takes long, another `reopen` or `close` may come and then has the say."""
        self._ends += 1
        end = self._ends
        await self._stop_life()
        becomes_read_only = config.read_only and not self.config.read_only
        self.apply(config)
        self.state, self.reason = State.DRAINING, "finishing requests"
        self._engine.suspend(self.device)
        if becomes_read_only:  # what waits may be a write
            self._engine.drop_waiting(self.device)
        if self.device.is_suspended and self._overdue is None:
            loop = asyncio.get_running_loop()
            self._overdue = loop.call_later(REOPENING_S_MAX, self._give_up_reopening)
        async with self._letting_go:
            await self._let_go(await self._engine.detach(self.device, None))
        if end != self._ends:
            return
        self.state, self.reason = State.WAITING, "reopening"
        self.first_attempt.clear()
        self._life = self._begin_life()

    def _give_up_reopening(self) -> None:
        extra = about(Event.DEVICE_WAITING, device=self.name)
        _log.error(
            "%s: not reopened within %g s (%s): its requests are rejected until it serves again",
            self.name,
            REOPENING_S_MAX,
            self.reason,
            extra=extra,
        )
        self._withdraw()

    def _withdraw(self) -> None:
        """Requests wait no longer for a reopening: those that wait are dropped, others rejected."""
        self._stop_timer()
        self._engine.withdraw(self.device)

    def _stop_timer(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    async def _stop_life(self) -> None:
        self._life.cancel()
        await asyncio.wait((self._life,))

    # --- configuration ---------------------------------------------------------------------

    def apply(self, config: DeviceConfig) -> None:
        """Put those options of `config` in force that need no reopening."""
        old, self.config = self.config, config
        device = self.device
        device.target.settings = settings_of(config)
        device.policy = policy_of(config)
        device.trace_io = config.trace_io
        self._engine.refresh(device)
        if _told(old) != _told(config):
            self._announce(device)

    async def settle(self) -> None:
        """Wait until all that hosts have asked for until now is done, refused or dropped: the next
        that begins is one that the configuration of now permits."""
        await self._engine.fence(self.device)
        await self._finish_changes()

    def drop_waiting(self) -> None:
        """Drop what hosts have asked of the store and has not begun; they will ask again."""
        self._engine.drop_waiting(self.device)

    # --- state set by initiators -----------------------------------------------------------

    def change(self, port: Port, header: Header, frame: bytes) -> None:
        """A host asks for a change: store it, put it in force, then reply. In order of arrival."""
        if not self.device.is_known or len(self._changes) >= CHANGES_WAITING_MAX:
            self._drop(header, "changes_waiting")
            return
        task = asyncio.create_task(self._change(port, header, frame), name=f"change of {self.name}")
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        task.add_done_callback(report_end)

    async def _change(self, port: Port, header: Header, frame: bytes) -> None:
        target = self.device.target
        async with self._changing:
            # What was asked for before may have changed the answer.
            outcome = target.receive(header, frame, port.path)
            if isinstance(outcome, Reply):
                self._reply(port, header, outcome)
            if isinstance(outcome, Dropped):
                self._settle(header, Fate.DROPPED, outcome.reason.value)
            if not isinstance(outcome, Change):
                return
            if outcome.state != target.state and not self._store.may_change():
                self._drop(header, DropReason.RATE_LIMITED.value)
                return
            try:
                await self._put_in_force(outcome.state)
            except StateError as error:
                _log.error(
                    "%s: change by %s refused: %s", self.name, format_mac(header.source), error
                )
                self._reply(port, header, target.io_unavailable(header, frame, port.path))
                return
        if outcome.fence:
            # Limits may delay it for long, and nobody is to wait for what its host may not do.
            self._engine.drop_locked_out(self.device)
            if not await self._engine.fence(self.device):
                self._drop(header, DropReason.NOT_SERVING.value)
                return
        self._reply(port, header, Reply(outcome.frame))

    def _drop(self, header: Header, reason: str) -> None:
        self.device.counters.drops[reason] += 1
        self._settle(header, Fate.DROPPED, reason)

    def _reply(self, port: Port, header: Header, reply: Reply) -> None:
        self._settle(header, Fate.REFUSED if reply.is_error else Fate.ANSWERED, reply.cause)
        self._engine.send(port, reply.frame)

    def _settle(self, header: Header, fate: Fate, cause: str) -> None:
        self.device.sightings.settle(header.source, header.tag, fate, cause)

    async def set_state(self, **fields: object) -> None:
        """The administrator changes `fields` of the state; raises StateError."""
        if not self.device.is_known:
            raise StateError(f"{self.name}: its saved state is not known: {self.reason}")
        async with self._changing:
            state: TargetState = replace(self.device.target.state, **fields)  # type: ignore[arg-type]
            await self._put_in_force(state)

    async def _put_in_force(self, state: TargetState) -> None:
        if state == self.device.target.state:
            return
        await self._store.save(self.name, state)
        self.device.target.state = state
        self._engine.refresh(self.device)

    async def _finish_changes(self) -> None:
        if self._changes:
            await asyncio.wait(self._changes)


def settings_of(config: DeviceConfig) -> Settings:
    """The protocol's view of a device's configuration."""
    return Settings(
        shelf=config.shelf,
        slot=config.slot,
        serial=serial_of(config.name),
        model=MODEL,
        firmware=__version__,
        buffer_count=limits_of(config).announced(config.queue_length),
        read_only=config.read_only,
        write_cache=config.write_cache,
        accept=config.accept,
        deny=config.deny,
        discover=config.discover,
        read=config.read,
        write=config.write,
        change=config.change,
    )


def rules_of(config: DeviceConfig) -> tuple[object, ...]:
    """What decides about who may do what, and is changed while the device serves."""
    return (
        config.accept,
        config.deny,
        config.discover,
        config.read,
        config.write,
        config.change,
        config.interfaces,
    )


def policy_of(config: DeviceConfig) -> Policy:
    """The scheduler's view of a device's configuration."""
    return Policy(
        queue_length=config.queue_length,
        max_delay_ns=round(config.max_delay_s * 1e9),
        merge_delay_ns=round(config.merge_delay_s * 1e9),
        limits=limits_of(config),
    )


def limits_of(config: DeviceConfig) -> Limits:
    """The same, of what hosts may use."""
    return Limits(
        rate(config.iops_limit, config.iops_burst),
        rate(config.bandwidth_limit_bytes_per_s, config.bandwidth_burst_bytes),
        rate(config.initiator_iops_limit),
        rate(config.initiator_bandwidth_limit_bytes_per_s),
    )


def _told(config: DeviceConfig) -> tuple[object, ...]:
    """What hosts learn by an announcement, and who gets it."""
    buffers = limits_of(config).announced(config.queue_length)
    return buffers, config.accept, config.deny, config.discover, config.broadcast


def file_spec_of(config: DeviceConfig) -> FileSpec:
    """The backend's view of a device's configuration."""
    return FileSpec(
        path=config.path,
        uuid=config.uuid,
        offset_bytes=config.offset_bytes,
        length_bytes=config.length_bytes,
        read_only=config.read_only,
        direct_io=config.direct_io,
        exact_size=config.exact_size,
        name=config.name,
    )
