"""What the control socket can ask: one handler for each verb of `ggaoectl`.

Owns the shape of the answers, which are part of the control protocol: raw units, stable names.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING

from ggaoe import __version__, parts
from ggaoe.config import DeviceConfig
from ggaoe.engine.base import Device, Port, sectors_of
from ggaoe.engine.counters import DeviceCounters, InitiatorCounters, Initiators
from ggaoe.engine.histogram import latencies, sizes
from ggaoe.engine.sightings import Fate, Sighting
from ggaoe.engine.trace import Traced
from ggaoe.errors import ControlError, needed
from ggaoe.net.link import LinkCounters
from ggaoe.proto.frame import SECTOR_BYTES, SHELF_ANY, SLOT_ANY, Header, unpack_header
from ggaoe.proto.operation import Operation
from ggaoe.proto.rules import EVERYBODY, Rules
from ggaoe.proto.target import Finding, Refusal, TargetState
from ggaoe.proto.words import words
from ggaoe.sched.throttle import Limits
from ggaoe.server.changes import foreseen, losses_of, unsaved, waits
from ggaoe.server.condition import Condition, condition_of
from ggaoe.server.control import (
    INVALID_PARAMS,
    PROTOCOL_VERSION,
    REFUSED,
    Handler,
    Params,
    Parts,
    flag,
    in_parts,
    matching,
    select,
    splitting,
    string_list,
)
from ggaoe.server.export import Export, limits_of
from ggaoe.server.inquiry import Inquiry, inquire, sighting_of
from ggaoe.server.why import Subject, checks
from ggaoe.units import format_mac, parse_mac

if TYPE_CHECKING:
    from ggaoe.net.link import Interface
    from ggaoe.server.app import Daemon

Json = dict[str, object]

DAEMON = "daemon"
"""What stands for the daemon among the names of devices, unless one has this name."""

TRACE_S = 10.0
TRACE_S_MAX = 3600.0
TRACE_INTERVAL_S = 0.1
TRACE_FRAMES_MAX = 1000
"""In one item, so that it is short enough."""
PIECE_CHARACTERS = 1 << 16

_REFUSALS = {refusal.value: refusal.words for refusal in Refusal}


class Verbs:
    """The handlers of one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def handlers(self) -> Mapping[str, Handler]:
        """By method name, as `ggaoectl` calls them."""
        return {
            "version": self._version,
            "reload": self._reload,
            "list": splitting(self._list),
            "show": in_parts(self._show),
            "why": in_parts(self._why),
            "stats": in_parts(self._stats),
            "events": self._events,
            "metrics": self._metrics,
            "trace": self._trace,
            "show-config": splitting(self._show_config),
            "show-macmask": splitting(self._show_macmask),
            "show-reserve": splitting(self._show_reserve),
            "clear-stats": self._clear_stats,
            "clear-config": lambda params: self._clear(params, config_string=b""),
            "clear-macmask": lambda params: self._clear(params, mask=()),
            "clear-reserve": lambda params: self._clear(params, reserved=()),
        }

    def _selected(self, params: Params, *, required: bool = False) -> tuple[list[Export], Json]:
        names, missing = self._named(params, required=required)
        exports = [self._daemon.exports[name] for name in names if name in self._daemon.exports]
        if names and not exports and params.get("names"):
            text = f"{names[0]} is stopped: 'ggaoectl start {names[0]}' begins to serve it"
            raise ControlError(REFUSED, text)
        return exports, {"missing": missing} if missing else {}

    def _named(self, params: Params, *, required: bool = False) -> tuple[list[str], list[str]]:
        """Devices that run or are stopped, in the order of the configuration."""
        return select(params, self._known(), required=required)

    def _known(self) -> list[str]:
        daemon = self._daemon
        known = daemon.exports.keys() | daemon.stopped
        return [name for name in daemon.config.devices if name in known]

    async def _version(self, params: Params) -> Json:
        daemon = self._daemon
        return {
            "name": "ggaoe",
            "version": __version__,
            "protocol": PROTOCOL_VERSION,
            "engine": daemon.engine.name,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - daemon.started_s, 3),
            "config": str(daemon.source) if daemon.source else None,
        }

    async def _events(self, params: Params) -> object:
        events = self._daemon.events
        return events.follow() if flag(params, "follow") else {"events": events.recent()}

    async def _metrics(self, params: Params) -> object:
        try:
            from ggaoe.server import metrics
        except ImportError as error:
            raise ControlError(REFUSED, needed("metrics", error)) from None
        return _pieces((await metrics.text(self._daemon)).decode())

    async def _trace(self, params: Params) -> object:
        (export, *others), _ = self._selected(params, required=True)
        if others:
            raise ControlError(INVALID_PARAMS, "one device at a time can be traced")
        seconds = params.get("seconds", TRACE_S)
        if not isinstance(seconds, int | float) or not 0 < seconds <= TRACE_S_MAX:
            text = f"seconds is no number between 0 and {TRACE_S_MAX:g}"
            raise ControlError(INVALID_PARAMS, text)
        _check_untraced(export.device)
        return self._traced(export.device, seconds)

    async def _traced(self, device: Device, seconds: float) -> AsyncGenerator[Json, None]:
        """What passes, a batch at a time, and how many frames came too fast to be kept."""
        _check_untraced(device)  # another may have come in between
        end_s = time.monotonic() + seconds
        device.watch(True)
        try:
            while device.is_watched() and time.monotonic() < end_s:
                await asyncio.sleep(min(TRACE_INTERVAL_S, max(0.0, end_s - time.monotonic())))
                records, lost = device.traced()
                for batch in _batches(records):
                    yield {
                        "frames": [
                            {
                                "time_ns": record.time_ns,
                                "interface": record.interface,
                                "length_bytes": record.length_bytes,
                                "frame": record.frame.hex(),
                            }
                            for record in batch
                        ],
                        "lost": lost,
                    }
                    lost = 0
        finally:
            device.watch(False)

    async def _reload(self, params: Params) -> Json:
        dry_run = flag(params, "dry_run")
        plan = await self._daemon.reload(dry_run=dry_run, force=flag(params, "force"))
        if dry_run:
            warnings = [f"needs --force: {why}" for why in losses_of(self._daemon, plan)]
            warnings += await foreseen(self._daemon, plan)
        else:
            warnings = waits(self._daemon, plan)
        return {
            "applied": not dry_run,
            "changes": plan.lines(),
            "plan": plan.facts(),
            "warnings": [*map(str, plan.config.warnings), *warnings],
        }

    async def _list(self, params: Params) -> Json:
        names, missing = self._named(params)
        changes, devices = unsaved(self._daemon)
        return {
            "devices": [self._row(name) for name in names],
            "interfaces": [
                *(self._interface(interface) for interface in self._daemon.interfaces.wanted()),
                *(_missing(name) for name in self._daemon.interfaces.missing()),
            ],
            "unsaved": changes,
            "unsaved_devices": devices,
            **({"missing": missing} if missing else {}),
        }

    def _row(self, name: str) -> Json:
        export = self._daemon.exports.get(name)
        if export is not None:
            return _summary(export, condition_of(self._daemon.interfaces, export))
        return _stopped(self._daemon.config.devices[name], self._daemon.unfinished(name))

    def _interface(self, interface: Interface) -> Json:
        interfaces = self._daemon.interfaces
        port = interfaces.port_of(interface.name)
        return {
            "name": interface.name,
            "mac": format_mac(interface.mac),
            "mtu_bytes": port.path.mtu_bytes if port else interface.mtu_bytes,
            "is_up": interface.is_up,
            "serving": interfaces.why_closed(interface) is None,
            "reason": interfaces.problem(interface),
            "sectors": sectors_of(port) if port else 0,
        }

    async def _show(self, params: Params) -> Parts:
        """Devices, and what is not one of them: the daemon itself, by its name in full."""
        asked = string_list(params, "names")
        head: Json = {"devices": []}
        if DAEMON not in asked or DAEMON in self._daemon.config.devices:
            names, missing = self._named(params)
        else:
            others = [name for name in asked if name != DAEMON]
            names, missing = matching(others, self._known())
            confinement = self._daemon.confinement
            facts = await self._version({})
            if self._daemon.config.metrics is not None:
                place, reason = str(self._daemon.config.metrics), self._daemon.no_metrics or None
                facts["metrics"] = {"place": place, "reason": reason}
            head = {"daemon": {**facts, **(confinement.facts() if confinement else {})}, **head}
        if missing:
            head["missing"] = missing
        # Found before the first part is told: what is refused has to be refused by then.
        exports = {name: self._daemon.exports.get(name) for name in names}
        configs = self._daemon.config.devices
        stopped = [name for name, export in exports.items() if export is None]
        kept = {name: await self._daemon.store.load(name) for name in stopped}
        unfinished = {name: self._daemon.unfinished(name) for name in stopped}

        async def tell() -> Parts:
            yield head
            for name, export in exports.items():
                detail = (
                    _detail_of_stopped(configs[name], unfinished[name], kept[name])
                    if export is None
                    else self._detail(export)
                )
                yield {"devices": [detail]}

        return tell()

    def _detail(self, export: Export) -> Json:
        backend = export.backend
        return {
            **self._row(export.name),
            "backend": export.description,
            "warnings": list(backend.warnings) if backend else [],
            **_configured(export.config),
            **_kept(export.device.target.state),
            "counters": counters_of(export),
            "initiators": _initiators(export.device.initiators),
        }

    async def _why(self, params: Params) -> Parts:
        host = _host(params)
        names, missing = self._named(params)
        inquiry = await inquire(self._daemon.engine, host, time.monotonic())
        head: Json = {
            "host": format_mac(host),
            "interfaces": inquiry.interfaces,
            "heard": [
                {"interface": name, "age_s": _age_s(inquiry, time_s)}
                for name, time_s in sorted(inquiry.heard_s.items())
            ],
            "others": inquiry.others,
            "frames": [_seen(inquiry, sighting_of(strayed)) for strayed in inquiry.strays],
            "devices": [],
            **({"missing": missing} if missing else {}),
        }

        async def tell() -> Parts:
            for part in parts.split(head):
                yield part
            for name in names:
                if name in self._daemon.config.devices:  # still
                    yield {"devices": [self._reasons(name, inquiry)]}

        return tell()

    def _reasons(self, name: str, inquiry: Inquiry) -> Json:
        """What a host may do with a device, what it has sent to it, and what each check finds."""
        export = self._daemon.exports.get(name)
        config = self._daemon.config.devices[name]
        summary = self._row(name)
        interfaces = self._daemon.interfaces
        device = export.device if export is not None else None
        subject = Subject(
            inquiry,
            config,
            str(summary["state"]),
            None if summary["reason"] is None else str(summary["reason"]),
            device,
            interfaces.wanted_by(config),
            interfaces.unserved(config),
            self._daemon.engine.conflicts_with(config.shelf, config.slot),
            interfaces.former_addresses,
        )
        seen = subject.initiator
        return {
            **{key: summary[key] for key in ("name", "address", "state", "reason", "interfaces")},
            "operations": _operations(device, inquiry.mac),
            "last_seen": None
            if seen is None
            else {
                "interface": seen.interface,
                "age_s": _age_s(inquiry, seen.last_seen_s),
                "drops": dict(seen.drops),
            },
            "frames": [_seen(inquiry, sighting) for sighting in subject.frames],
            "checks": [check._asdict() for check in checks(subject)],
        }

    def _counted(self, params: Params) -> tuple[list[Export], list[Port], Json]:
        """Devices and ports whose names match; both are counted."""
        ports = {port.name: port for port in self._daemon.engine.ports.values()}
        names, missing = select(params, [*self._daemon.exports, *ports])
        exports = [export for name, export in self._daemon.exports.items() if name in names]
        chosen = [port for name, port in ports.items() if name in names]
        return exports, chosen, {"missing": missing} if missing else {}

    async def _stats(self, params: Params) -> Parts:
        exports, ports, rest = self._counted(params)
        with_hosts = not flag(params, "without_initiators")
        head: Json = {
            "monotonic_s": round(time.monotonic(), 6),
            "devices": {},
            "interfaces": {port.name: numbers_of(port.link.refresh()) for port in ports},
            "initiators": {},
            **rest,
        }

        async def tell() -> Parts:
            yield head
            for export in exports:
                part: Json = {"devices": {export.name: counters_of(export)}}
                if with_hosts:
                    part["initiators"] = {export.name: _initiators(export.device.initiators)}
                yield part

        return tell()

    async def _clear_stats(self, params: Params) -> Json:
        exports, ports, rest = self._counted(params)
        for export in exports:
            export.device.clear_counters()
        for port in ports:
            port.link.refresh()
            port.link.counters = LinkCounters()
        names = [export.name for export in exports] + [port.name for port in ports]
        return {"cleared": names, **rest}

    async def _show_config(self, params: Params) -> Json:
        return self._shown(params, lambda export: export.device.target.state.config_string.hex())

    async def _show_macmask(self, params: Params) -> Json:
        return self._shown(params, lambda export: _texts(export.device.target.state.mask))

    async def _show_reserve(self, params: Params) -> Json:
        return self._shown(params, lambda export: _texts(export.device.target.state.reserved))

    def _shown(self, params: Params, value: Callable[[Export], object]) -> Json:
        exports, rest = self._selected(params)
        return {"devices": {export.name: value(export) for export in exports}, **rest}

    async def _clear(self, params: Params, **values: object) -> Json:
        exports, rest = self._selected(params, required=True)
        await asyncio.gather(*(export.set_state(**values) for export in exports))
        return {"cleared": [export.name for export in exports], **rest}


def _missing(name: str) -> Json:
    """The row of an interface that is configured by name and is not there."""
    return {
        "name": name,
        "mac": None,
        "mtu_bytes": None,
        "is_up": False,
        "serving": False,
        "reason": "does not exist",
        "sectors": 0,
    }


def _summary(export: Export, condition: Condition) -> Json:
    size_sectors = export.device.target.size_sectors
    failures = export.device.failures
    return {
        **_identity(export.config),
        "path": str(export.path) if export.path else f"UUID={export.config.uuid}",
        "state": condition.state.value,
        "reason": condition.reason,
        "failures": {
            "count": failures.count,
            "last": failures.last,
            "age_s": round(failures.age_s, 3) if failures.last else None,
        },
        "size_bytes": None if size_sectors is None else size_sectors * SECTOR_BYTES,
        "interfaces": sorted(port.name for port in export.device.ports),
    }


def _stopped(config: DeviceConfig, unfinished: str | None) -> Json:
    """As `_summary`, of a device that is not started."""
    reason = "stopped by the operator" if config.auto else "not started, because auto = false"
    return {
        **_identity(config),
        "state": "stopped",
        "reason": unfinished or reason,
        "failures": {"count": 0, "last": None, "age_s": None},
        "size_bytes": None,
        "interfaces": [],
    }


def _identity(config: DeviceConfig) -> Json:
    return {
        "name": config.name,
        "address": config.address,
        "shelf": config.shelf,
        "slot": config.slot,
        "path": str(config.path) if config.path else f"UUID={config.uuid}",
        "uuid": config.uuid,
        "read_only": config.read_only,
    }


def _detail_of_stopped(config: DeviceConfig, unfinished: str | None, state: TargetState) -> Json:
    """As `Verbs._detail`, of a device that is not started."""
    return {
        **_stopped(config, unfinished),
        "backend": None,
        "warnings": [],
        **_configured(config),
        **_kept(state),
        "counters": {**numbers_of(DeviceCounters()), "in_flight": 0, "waiting": 0},
        "initiators": {},
    }


def _limits(limits: Limits) -> Json:
    """The limits that are set, as they are in force."""
    return {
        name: {"per_s": limit.per_s, "burst": limit.burst}
        for name, limit in limits._asdict().items()
        if limit.per_s
    }


async def _pieces(text: str) -> AsyncGenerator[Json, None]:
    """A long text in items that are short enough; `left` tells whether it has all arrived."""
    for start in range(0, len(text), PIECE_CHARACTERS):
        end = start + PIECE_CHARACTERS
        yield {"text": text[start:end], "left": max(0, len(text) - end)}


def _batches(records: list[Traced]) -> Iterator[list[Traced]]:
    for start in range(0, max(1, len(records)), TRACE_FRAMES_MAX):
        yield records[start : start + TRACE_FRAMES_MAX]


def _configured(config: DeviceConfig) -> Json:
    return {
        "queue_length": config.queue_length,
        "limits": _limits(limits_of(config)),
        "write_cache": config.write_cache,
        "accept": None if config.accept.others else _texts(sorted(config.accept.exceptions)),
        "deny": _texts(sorted(config.deny.exceptions)),
        **{operation.value: _rules(config, operation) for operation in Operation},
    }


def _kept(state: TargetState) -> Json:
    return {
        "config_string": state.config_string.hex(),
        "mask": _texts(state.mask),
        "reserved": _texts(state.reserved),
    }


def _rules(config: DeviceConfig, operation: Operation) -> list[str] | None:
    """The members of an operation's list as they are written; None where there is no list."""
    rules: Rules = getattr(config, operation.value)
    return None if rules == EVERYBODY else [rule.text for rule in rules.rules]


def _host(params: Params) -> bytes:
    text = params.get("host")
    try:
        mac = parse_mac(text if isinstance(text, str) else "")
    except ValueError as error:
        raise ControlError(INVALID_PARAMS, f"host: {error}") from None
    if mac[0] & 1:
        raise ControlError(INVALID_PARAMS, f"{text} is a multicast address: no host sends from one")
    return mac


def _operations(device: Device | None, host: bytes) -> Json:
    """What `host` may do with a device, and what each check finds, up to the one that refuses."""
    target = device.target if device is not None and device.ports else None
    served = Finding("interfaces", target is not None, None if target else "none serves it")
    operations: Json = {}
    for operation in Operation:
        found = [served, *(target.explain(host, operation) if target is not None else ())]
        operations[operation.value] = {
            "permitted": all(finding.permits for finding in found),
            "checks": [finding._asdict() for finding in found],
        }
    return operations


def _check_untraced(device: Device) -> None:
    if device.is_watched():
        raise ControlError(REFUSED, f"{device.name} is being traced already: one at a time")


def _age_s(inquiry: Inquiry, time_s: float) -> float:
    return round(max(0.0, inquiry.now_s - time_s), 3)


def _seen(inquiry: Inquiry, sighting: Sighting) -> Json:
    header = unpack_header(sighting.head)
    return {
        "age_s": _age_s(inquiry, sighting.time_s),
        "interface": sighting.interface,
        "length_bytes": sighting.length_bytes,
        "to": _addressee(header) if header else None,
        "asks": words(sighting.head, sighting.length_bytes),
        "fate": sighting.fate.value,
        "cause": _cause(sighting),
        "times": sighting.times,
        "frame": sighting.head.hex(),
    }


def _cause(sighting: Sighting) -> str:
    """For people: of a drop its reason's name, which the counters have, too."""
    is_refusal = sighting.fate is Fate.REFUSED
    return _REFUSALS.get(sighting.cause, sighting.cause) if is_refusal else sighting.cause


def _addressee(header: Header) -> str:
    """As hosts write it; what is meant for all is a star."""
    shelf = "*" if header.shelf == SHELF_ANY else header.shelf
    return f"e{shelf}.{'*' if header.slot == SLOT_ANY else header.slot}"


def counters_of(export: Export) -> Json:
    """Of a device, with its histograms."""
    device = export.device
    counters = device.counters
    return {
        **numbers_of(counters),
        "read_latency": latencies(counters.read_latency),
        "write_latency": latencies(counters.write_latency),
        "flush_latency": latencies(counters.flush_latency),
        "read_sectors": sizes(counters.read_sectors),
        "write_sectors": sizes(counters.write_sectors),
        "in_flight": device.in_flight,
        "waiting": device.waiting,
    }


def _initiators(initiators: Initiators) -> Json:
    return {format_mac(mac): numbers_of(counters) for mac, counters in initiators.items()}


def numbers_of(counters: DeviceCounters | InitiatorCounters | LinkCounters) -> Json:
    """By their names."""
    values: Json = {field.name: getattr(counters, field.name) for field in fields(counters)}
    return {**values, "drops": {reason: n for reason, n in counters.drops.items() if n}}


def _texts(macs: object) -> list[str]:
    assert isinstance(macs, list | tuple)
    return [format_mac(mac) for mac in macs]
