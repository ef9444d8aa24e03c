"""The daemon put together: start, reload, stop. Everything else is in the parts' own files."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggaoe.backend import stacking
from ggaoe.config import Config, DeviceConfig, ReloadPlan, diff, load_async
from ggaoe.config.endpoint import Endpoint
from ggaoe.engine.base import Device, Hooks, Port
from ggaoe.engine.select import create_engine
from ggaoe.errors import (
    ConfigError,
    ControlError,
    GgaoeError,
    StartError,
    limit_reached,
    needed,
    report_end,
)
from ggaoe.events import Event, about
from ggaoe.proto.frame import Header
from ggaoe.server import logs
from ggaoe.server.advertise import Advertiser
from ggaoe.server.changes import Changes, losses_of
from ggaoe.server.condition import condition_of
from ggaoe.server.confine import Confinement, confine, limits_of
from ggaoe.server.control import REFUSED, ControlServer
from ggaoe.server.events import Events
from ggaoe.server.export import FIRST_ATTEMPT_TIMEOUT_S, Export, State, rules_of
from ggaoe.server.failures import Failures
from ggaoe.server.interfaces import Interfaces
from ggaoe.server.notify import ServiceManager
from ggaoe.server.process import Readiness
from ggaoe.server.state import StateStore
from ggaoe.server.verbs import Verbs
from ggaoe.units import counted, format_mac

if TYPE_CHECKING:
    from ggaoe.server.http import HttpServer

STOP_TIMEOUT_S = 10.0
"""Whoever stops a device is told within this time whether its disk may be taken away."""
RELOAD_DRAIN_TIMEOUT_S = 5.0
"""A reload waits so long for devices to finish what other rules have let in, or what they do before
they are removed; slower ones finish what has started behind it."""
LOOK_TIMEOUT_S = 2.0
"""A reload waits so long to learn what is at the devices' paths."""
STOP_DRAIN_TIMEOUT_S = 30.0
"""Requests that a store has not finished by then are given up at the end of the process."""

_log = logging.getLogger("ggaoe")


class Daemon:
    """One daemon. `source` is the file that a reload reads again, None where there is none;
    `removed` are the files and directories that are removed after its end."""

    def __init__(
        self,
        config: Config,
        *,
        source: Path | None,
        state_directory: Path,
        control_socket: Path | None,
        removed: Iterable[Path],
    ) -> None:
        self.config = config
        self.filed = config
        """What the file says: as `config`, less what was changed without the file."""
        self.source = source
        self.reads = 0
        """How often a reload has taken over what the file says."""
        self.confinement: Confinement | None = None
        endpoint = config.metrics
        self._limits = limits_of(
            config,
            source=source,
            state_directory=state_directory,
            control_socket=control_socket,
            removed=[*removed, *([endpoint.path] if endpoint and endpoint.path else [])],
        )
        self.started_s = time.monotonic()
        self.started_at_s = time.time()
        """The same, since 1970."""
        self.exports: dict[str, Export] = {}
        self.stopped: set[str] = set()
        """Devices of the configuration that are no exports now, by the operator's will."""
        self._leaving: dict[str, list[Export]] = {}
        """What is being closed, until its end; where its data may be lost, until its name is served
        again."""
        self.store = StateStore(state_directory)
        self.engine = create_engine(
            config.engine,
            Hooks(
                changed=self._changed,
                conflict=self._conflict,
                answered=self._answered,
                wished=self._wished,
            ),
        )
        self.engine.busy_poll(config.busy_poll_s)
        self.advertiser = Advertiser(self.engine, config.advertise_interval_s)
        self.interfaces = Interfaces(self.engine, config, self._served, self._has_left)
        self.events = Events()
        self._handlers = {**Verbs(self).handlers(), **Changes(self).handlers()}
        self._control = ControlServer(control_socket, self._handlers) if control_socket else None
        self._http: HttpServer | None = None
        self.no_metrics = ""
        """Why nobody listens where `metrics` says."""
        self._manager = ServiceManager(self._status)
        self.changing = asyncio.Lock()
        """Held by whoever changes what is exported."""
        self._behind: set[asyncio.Task[None]] = set()
        self._stop_signals = 0
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()

    # --- life ------------------------------------------------------------------------------

    async def run(self, readiness: Readiness) -> None:
        """Serve until a signal says stop; raises StartError and StateError before ready."""
        Failures().watch(asyncio.get_running_loop())
        self.store.check()
        self.store.lock()
        self._handle_signals()
        try:
            await self._start()
            readiness.ready()
            self._manager.ready()
            _log.info(
                "ready: %s, %s, engine %s",
                counted(len(self.exports), "device"),
                counted(len(self.engine.ports), "interface"),
                self.engine.name,
                extra=about(Event.STARTED),
            )
            await self._stopping.wait()
        finally:
            self._manager.stopping()
            await self._stop()
            self._manager.close()
        _log.info("stopped")

    async def _start(self) -> None:
        async with self.changing:  # a reload waits until there is something to change
            # Looks for its library by running programs: not possible later.
            try:
                import_module("ggaoe.backend.aio")
            except (ImportError, OSError) as error:  # the native engine does without the library
                if self.engine.name == "portable":
                    _log.warning("no Linux AIO, worker threads do all direct I/O: %s", error)
            with suppress(ImportError):  # where it is missing, who asks for it hears it
                import_module("ggaoe.server.metrics")
            if self._control is not None:
                await self._control.start()
            if self.config.metrics is not None:
                await self._start_http(self.config.metrics)
            self.interfaces.start()
            self.engine.io_engine(self.config.io_engine)
            self._confine()
            for problem in self.config.warnings:
                _log.warning("%s", problem)
            await self._remember_slots(self.config)
            await self._until_served(self._add(self._automatic(self.config.devices)))
            self._warn_unserved()

    def _warn_unserved(self) -> None:
        """Tell of the devices that no interface serves."""
        for name, export in self.exports.items():
            state, reason = condition_of(self.interfaces, export)
            if state is State.NO_INTERFACE:
                extra = about(Event.DEVICE_UNSERVED, device=name)
                address = export.config.address
                _log.warning("%s (%s): not served: %s", name, address, reason, extra=extra)

    async def _start_http(self, endpoint: Endpoint) -> None:
        """Where it cannot be, disks are served all the same."""
        try:
            from ggaoe.server import http, status

            server = http.HttpServer(endpoint, status.routes(self, self._handlers))
            await server.start()
        except ImportError as error:
            self.no_metrics = needed("metrics", error)
        except StartError as error:
            self.no_metrics = str(error)
        if self.no_metrics:
            _log.error("no metrics, no status page: %s", self.no_metrics)
            return
        self._http = server
        if not endpoint.is_local:
            _log.warning(
                "metrics %s: whoever can reach this address sees devices and hosts, without a "
                "password: 127.0.0.1, [::1] or a Unix socket are reached from this machine only",
                endpoint,
            )

    def _confine(self) -> None:
        """Give up every privilege that is not needed any more: what needed more is open now, and
        no thread is there yet."""
        stacking.keep_open()
        self.confinement = confine(self._limits)
        self.confinement.log()
        logs.write_in_thread()
        self.store.check()  # as the user that we are now
        try:
            self.engine.start()
        except OSError as error:
            reason = limit_reached(error) or error.strerror
            raise StartError(f"engine {self.engine.name}: {reason}") from None

    def _status(self) -> str:
        """The line that a service manager shows."""
        states = [condition_of(self.interfaces, one).state for one in self.exports.values()]
        serving = states.count(State.SERVING)
        devices = counted(len(self.exports), "device")
        return f"serving {serving} of {devices} on {counted(len(self.engine.ports), 'interface')}"

    def _handle_signals(self) -> None:
        """Signals that are ignored stay so, as for a job that a script has put in the background.
        Without a file to read again, SIGHUP says that the terminal has closed."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_stop, signal.SIGTERM)
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            if number is signal.SIGHUP and self.source is not None:
                loop.add_signal_handler(number, self._on_hangup)
            elif signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_stop, number)

    def _on_stop(self, number: signal.Signals) -> None:
        self._stop_signals += 1
        if self._stop_signals == 1:
            name = signal.Signals(number).name
            _log.info("%s: finishing requests, then leaving", name, extra=about(Event.STOPPING))
            self._stopping.set()
        else:
            _log.warning("%s again: leaving at once", signal.Signals(number).name)
            self._hurry.set()

    def _on_hangup(self) -> None:
        self._follow(asyncio.create_task(self._reload_by_signal()))

    async def _reload_by_signal(self) -> None:
        try:
            await self.reload()
        except ConfigError as error:
            for problem in error.problems:
                _log.error("%s", problem)
            refused = about(Event.RELOAD_REFUSED)
            text = "reload refused: the configuration has errors, the old one stays"
            _log.error(text, extra=refused)
        except (GgaoeError, OSError, RuntimeError) as error:
            reason = error if isinstance(error, GgaoeError) else limit_reached(error)
            if reason is None:
                raise
            _log.error("reload refused: %s", reason, extra=about(Event.RELOAD_REFUSED))

    async def _stop(self) -> None:
        """Requests that have started are finished, the rest is dropped; a second signal hurries."""
        self.interfaces.close()
        self.advertiser.close()
        if self._http is not None:
            await self._http.close()
        if self._control is not None:
            await self._control.close()
        closing = [
            asyncio.create_task(export.close(STOP_DRAIN_TIMEOUT_S))
            for export in self.exports.values()
        ]
        await self._wait_or_hurry([*closing, *self._behind])
        self.engine.close()
        self.interfaces.addresses.close()
        self.store.close()
        self.events.close()

    async def _wait_or_hurry(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        hurry = asyncio.create_task(self._hurry.wait())
        pending: set[asyncio.Task[Any]] = {*tasks}
        while pending and not hurry.done():
            _, pending = await asyncio.wait({*pending, hurry}, return_when=asyncio.FIRST_COMPLETED)
            pending.discard(hurry)
        for task in (*pending, hurry):
            task.cancel()

    def _follow(self, task: asyncio.Task[None]) -> None:
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)
        task.add_done_callback(report_end)

    # --- devices ---------------------------------------------------------------------------

    def _add(self, names: Iterable[str]) -> list[Export]:
        """Begin to open the devices `names` of the configuration."""
        added = []
        for name in names:
            config = self.config.devices[name]
            for export in [one for one in self._leaving.get(name, ()) if one.closed.is_set()]:
                self._left(name, export)
            self.advertiser.set_broadcast(name, config.broadcast)
            export = Export(self.engine, self.store, config, self._announce, self._explain)
            self.exports[name] = export
            added.append(export)
        return added

    def _explain(self, config: DeviceConfig, error: GgaoeError) -> str:
        return self.confinement.explain(config, error) if self.confinement else str(error)

    def is_held_back(self, export: Export) -> bool:
        """Whether another target has the address of a device somewhere, so that it is not served
        there."""
        return any(not conflict.is_served for conflict in self.interfaces.conflicts(export.name))

    def obstacle(self, export: Export) -> str | None:
        """What keeps a device from being served now; None where it is served."""
        if self.is_held_back(export):
            reason = condition_of(self.interfaces, export).reason
            return f"{export.name} ({export.config.address}): {reason}"
        return export.reason

    async def _until_served(self, exports: Iterable[Export]) -> None:
        """Wait for the first attempts of new devices, and for the questions who has their
        addresses."""
        self.interfaces.bind()
        await _first_attempts(exports)
        await self.interfaces.addresses.settled()

    def _has_left(self, name: str) -> bool:
        """Whether a device leaves its address to others: it is stopped, and nothing of it is under
        way."""
        return name in self.stopped and name not in self._leaving

    def _served(self, device: Device, gained: frozenset[Port]) -> None:
        self.advertiser.announce(device, None if gained == device.ports else gained)

    def _announce(self, device: Device) -> None:
        self.interfaces.bind()
        if device.ports:  # those that it gains later advertise it then
            self.advertiser.announce(device)

    def _changed(self, device: Device, port: Port, header: Header, frame: bytes) -> None:
        export = self.exports.get(device.name)
        if export is not None and export.device is device:
            export.change(port, header, frame)

    def _answered(self, port: Port, header: Header) -> None:
        self.interfaces.addresses.answered(port, header)

    def _wished(self, port: Port, header: Header) -> None:
        self.interfaces.addresses.wished(port, header)

    def _conflict(self, port: Port, header: Header) -> None:
        _log.critical(
            "%s: %s answers for e%d.%d, too, which is served here: unless both are the same "
            "storage, hosts will corrupt their data: give one of them another shelf or slot",
            port.name,
            format_mac(header.source),
            header.shelf,
            header.slot,
            extra=about(
                Event.CONFLICT,
                device=port.devices[header.shelf, header.slot].name,
                interface=port.name,
                peer=format_mac(header.source),
            ),
        )

    def _automatic(self, names: Iterable[str]) -> list[str]:
        """Of new devices those to begin with; the others are stopped."""
        chosen = list(names)
        self.stopped.update(name for name in chosen if not self.config.devices[name].auto)
        return [name for name in chosen if name not in self.stopped]

    async def start(self, names: Iterable[str]) -> None:
        """Serve stopped devices; `changing` is held."""
        chosen = list(names)
        self.stopped.difference_update(chosen)
        for name in chosen:
            _log.info("start %s (%s)", name, self.config.devices[name].address)
        await self._until_served(self._add(chosen))

    def stop(self, names: Iterable[str]) -> None:
        """Begin to drain devices, to make their data stable, and to let go of their backing until
        they are started, whatever is reloaded; hosts get no answer. `changing` is held."""
        for name in names:
            self.stopped.add(name)
            _log.info("stop %s (%s)", name, self.config.devices[name].address)
            self._follow(self._leave(name, flush=True))

    def _leave(self, name: str, *, flush: bool) -> asyncio.Task[None]:
        """Begin to close what serves the device; with `flush` what served it before, too, makes its
        data stable."""
        self.advertiser.set_broadcast(name, False)
        export = self.exports.pop(name)
        leaving = self._leaving.setdefault(name, [])
        for earlier in leaving:
            earlier.flushes_at_end |= flush
        leaving.append(export)

        async def close() -> None:
            await export.close(None, flush=flush)
            if export.unfinished is None:
                self._left(name, export)
                self.interfaces.bind()

        return asyncio.create_task(close())

    def _left(self, name: str, export: Export) -> None:
        self._leaving[name].remove(export)
        if not self._leaving[name]:
            del self._leaving[name]

    async def have_stopped(self, names: Iterable[str]) -> dict[str, str]:
        """Wait for stopped devices, but no longer than STOP_TIMEOUT_S; of those that must not lose
        their disk yet, why: others may start, stop and remove them meanwhile."""
        awaited = {name: [*self._leaving.get(name, ())] for name in names}
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                for exports in awaited.values():
                    for export in exports:
                        await export.closed.wait()
        found = {name: self._unfinished(name, exports) for name, exports in awaited.items()}
        again = "was started again meanwhile: do not take its disk away"
        found.update((name, again) for name in awaited if name in self.exports)
        return {name: reason for name, reason in found.items() if reason is not None}

    def unfinished(self, name: str) -> str | None:
        """Why a stopped or removed device must not lose its disk; None where it may."""
        return self._unfinished(name, [])

    def _unfinished(self, name: str, awaited: Sequence[Export]) -> str | None:
        for export in [*awaited, *self._leaving.get(name, [])]:
            reason = export.unfinished
            if reason is None:
                continue
            if export.closed.is_set():
                return reason
            known = name in self.config.devices
            when = f"'ggaoectl stop {name}' waits again" if known else "the log says when it has"
            return f"{reason}; {when}"
        return None

    # --- reload ----------------------------------------------------------------------------

    async def reload(self, *, dry_run: bool = False, force: bool = False) -> ReloadPlan:
        """Read the file again and change what differs; raises ConfigError, and then nothing has
        changed. Devices that the difference does not name do not notice. What takes away disks that
        are used, or all of them, is refused without `force`."""
        if self.source is None:
            raise ControlError(REFUSED, "there is no configuration file to read again")
        async with self.changing:
            if dry_run:
                return await self._plan(self.source)
            return await self.read_again(self.source, force=force)

    async def read_again(self, source: Path, *, force: bool) -> ReloadPlan:
        """A reload; `changing` is held."""
        self._manager.reloading()
        refusal = ""
        try:
            plan = await self._plan(source)
            if not force and (losses := losses_of(self, plan)):
                text = f"{'; '.join(losses)}: 'ggaoectl reload --force' does it all the same"
                raise ControlError(REFUSED, text)
            await self.apply(plan)
            self.filed = self.config
            self.reads += 1
        except GgaoeError as error:
            refusal = f"reload refused: {error}"
            raise
        finally:
            self._manager.reloaded(refusal)
        return plan

    async def _plan(self, source: Path) -> ReloadPlan:
        new = await load_async(source, state_directory=self.store.directory)
        return diff(self.config, new).reopening(await self.replaced())

    async def replaced(self) -> list[str]:
        """The devices whose paths have come to mean another store; those that do not say are not
        waited for."""
        asked = {
            asyncio.create_task(export.is_replaced()): name for name, export in self.exports.items()
        }
        if not asked:
            return []
        done, pending = await asyncio.wait(asked, timeout=LOOK_TIMEOUT_S)
        for task in pending:
            task.cancel()
        return [asked[task] for task in done if task.result()]

    async def apply(self, plan: ReloadPlan, cause: str = "reload") -> None:
        """Change what a plan says; `changing` is held. Raises StateError, and then nothing has
        changed."""
        if self._stopping.is_set():
            return
        await self._remember_slots(plan.config)
        for line in plan.lines():
            _log.info("%s: %s", cause, line)
        for problem in plan.config.warnings:
            _log.warning("%s", problem)
        self.config = plan.config
        for device in plan.removed:
            self.stopped.discard(device.name)
        changed = [change for change in plan.changed if change.name not in self.stopped]
        replaced = [change for change in changed if change.how == "replace"]
        reopened = [change for change in changed if change.how == "reopen"]
        removed = [device.name for device in plan.removed if device.name in self.exports]
        leaving = removed + [change.name for change in replaced]
        busy = [self._leave(name, flush=name in removed) for name in leaving]
        for change in changed:
            self.advertiser.set_broadcast(change.name, change.new.broadcast)
            if change.how == "live":
                self.exports[change.name].apply(change.new)
        busy += [
            asyncio.create_task(self.exports[change.name].reopen(change.new)) for change in reopened
        ]
        await self._drain(busy, cause)
        if self._stopping.is_set():
            return
        added = self._automatic(device.name for device in plan.added)
        opening = self._add(added + [change.name for change in replaced])
        opening += [self.exports[change.name] for change in reopened]
        self.engine.busy_poll(plan.config.busy_poll_s)
        if any(change.key == "advertise-interval" for change in plan.daemon):
            self.advertiser.set_interval(plan.config.advertise_interval_s)
        self.interfaces.reconfigure(plan.config)
        settling = [
            self.exports[change.name]
            for change in changed
            if change not in replaced and rules_of(change.old) != rules_of(change.new)
        ]
        await self._settle(settling, cause)
        await self._until_served(opening)
        self._warn_unserved()
        _log.info("%s: done", cause, extra=about(Event.RELOADED))

    async def _remember_slots(self, config: Config) -> None:
        """Before hosts can see who has which."""
        if config.slots is not None:
            await self.store.save_slots(config.slots)

    async def _settle(self, exports: Iterable[Export], cause: str) -> None:
        """Nothing that other rules have let in is begun after a reload has been reported."""
        settling = {asyncio.create_task(export.settle()): export for export in exports}
        for task in await self._drain(settling, cause):
            settling[task].drop_waiting()

    async def _drain(
        self, tasks: Collection[asyncio.Task[None]], cause: str
    ) -> set[asyncio.Task[None]]:
        """Wait a while; returns those that go on behind the reload."""
        if not tasks:
            return set()
        for task in tasks:
            self._follow(task)
        _, pending = await asyncio.wait(tasks, timeout=RELOAD_DRAIN_TIMEOUT_S)
        if pending:
            _log.warning("%s: still finishing requests: %s", cause, counted(len(pending), "device"))
        return pending


async def _first_attempts(exports: Iterable[Export]) -> None:
    attempts = [asyncio.create_task(export.first_attempt.wait()) for export in exports]
    if attempts:
        _, pending = await asyncio.wait(attempts, timeout=FIRST_ATTEMPT_TIMEOUT_S)
        for attempt in pending:
            attempt.cancel()
