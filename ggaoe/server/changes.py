"""What the operator changes while the daemon runs, without the file: the verbs that do so.

Owns the shape of their parameters and answers, and what stands in the file and what does not. There
is one way to change anything: the configuration is made anew, with the change, from the document
that was read last, and the difference is applied as that of a reload. The file itself is written by
`ggaoectl`: who may write it is for the file's permissions to say, and a confined daemon cannot.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ggaoe.backend.file import examine, open_file
from ggaoe.backend.workers import in_thread
from ggaoe.config import Config, DeviceConfig, Edit, ReloadPlan, diff, edit, from_mapping, keyfile
from ggaoe.config.document import near
from ggaoe.config.read import ETHERS, load_hosts, unsearchable
from ggaoe.errors import BackendError, ConfigError, ControlError
from ggaoe.proto.frame import SECTOR_BYTES
from ggaoe.server.condition import condition_of
from ggaoe.server.control import (
    INVALID_PARAMS,
    NOT_FOUND,
    REFUSED,
    Handler,
    Params,
    flag,
    select,
    string_list,
)
from ggaoe.server.export import FIRST_ATTEMPT_TIMEOUT_S, Export, State, file_spec_of
from ggaoe.units import format_mac, format_size

if TYPE_CHECKING:
    from ggaoe.server.app import Daemon

Json = dict[str, object]

ACTIVE_S = 300.0
"""An initiator that has read or written, and was heard in this time, misses a device that goes.
Linux asks for devices every minute, also while it holds one that is mounted and idle."""


def waits(daemon: Daemon, plan: ReloadPlan) -> list[str]:
    """Why those devices do not serve that `plan` has added or changed, and why those that it has
    removed must not lose their disks yet."""
    concerned = {device.name for device in plan.added} | {one.name for one in plan.changed}
    waiting = [f"{name} waits: {reason}" for name, reason in _waiting(daemon, concerned).items()]
    for name, export in daemon.exports.items():
        state, reason = condition_of(daemon.interfaces, export)
        if name in concerned and state is State.NO_INTERFACE:
            waiting.append(f"{name} is not served: {reason}")
    removed = {device.name: daemon.unfinished(device.name) for device in plan.removed}
    return waiting + [f"{name}: {reason}" for name, reason in removed.items() if reason]


def losses_of(daemon: Daemon, plan: ReloadPlan) -> list[str]:
    """Why initiators would miss what a plan removes or gives another address; nothing where none
    would."""
    if len(plan.removed) == len(plan.old.devices) > 0 and not plan.added:
        return [f"every device would be removed ({len(plan.removed)})"]
    lost = [(device, "it would be removed") for device in plan.removed]
    for change in plan.changed:
        if change.how == "replace":
            lost.append((change.old, f"its address would become {change.new.address}"))
    found = []
    for device, fate in lost:
        if device.name not in daemon.exports:
            continue
        initiators = daemon.exports[device.name].device.initiators
        for mac, counters in initiators.items():
            age_s = time.monotonic() - counters.last_seen_s
            if age_s < ACTIVE_S and counters.read_requests + counters.write_requests > 0:
                used = f"{format_mac(mac)} has used {device.name} ({device.address})"
                found.append(f"{used}, was heard {age_s:.0f} s ago, and {fate}")
                break
    return found


async def foreseen(daemon: Daemon, plan: ReloadPlan) -> list[str]:
    """Which of the devices that `plan` adds or gives another file would wait, and why: each file is
    looked at as the daemon can see it now."""
    concerned = [device for device in plan.added if device.auto]
    for change in plan.changed:
        keys = {option.key for option in change.options}
        if change.name in daemon.exports and keys & {"path", "uuid", "read-only"}:
            concerned.append(change.new)
    looks = {device.name: _look(daemon, device) for device in concerned}
    reasons = await asyncio.gather(*looks.values())
    return [f"{name} would wait: {why}" for name, why in zip(looks, reasons, strict=True) if why]


async def _look(daemon: Daemon, device: DeviceConfig) -> str | None:
    """Why a device cannot be opened; nothing where it can, as far as can be seen."""
    confinement = daemon.confinement
    try:
        async with asyncio.timeout(FIRST_ATTEMPT_TIMEOUT_S):
            await in_thread(lambda: examine(file_spec_of(device)))
    except TimeoutError:
        return "the store does not answer"
    except BackendError as error:
        return confinement.explain(device, error) if confinement else str(error)
    return confinement.why_closed(device) if confinement else None


def _waiting(daemon: Daemon, names: Collection[str]) -> dict[str, str]:
    """Why those of the devices `names` wait that do."""
    return {
        name: str(condition_of(daemon.interfaces, export).reason)
        for name, export in daemon.exports.items()
        if name in names and (export.state is State.WAITING or daemon.is_held_back(export))
    }


_BACKING = frozenset({"path", "uuid"})
SEARCHED_MAX = 1000
"""Directories of one request in which the daemon tries to look."""


class Changes:
    """The handlers of one daemon. With `dry_run` they only tell; with `persisted` the caller says
    that the file has, or is about to have, the same change. `reads` in an answer, and then in the
    parameters, tells whether a reload has read the file meanwhile, and with it maybe the change."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def handlers(self) -> Mapping[str, Handler]:
        """By method name, as `ggaoectl` calls them."""
        return {
            "add": self._add,
            "remove": self._remove,
            "set": self._set,
            "swap": self._swap,
            "start": self._start,
            "stop": self._stop,
            "diff": self._diff,
        }

    async def _add(self, params: Params) -> Json:
        change = Edit("add", _text(params, "name"), _options(params))
        return await self._change(params, [change])

    async def _set(self, params: Params) -> Json:
        name, options = _text(params, "name"), _options(params)
        change = Edit("set", name, options)
        return await self._change(params, [change], name if options.keys() & _BACKING else None)

    async def _remove(self, params: Params) -> Json:
        if self._is_read_meanwhile(params):
            return await self._change(params, [])
        names, missing = select(params, self._daemon.config.devices, required=True)
        result = await self._change(params, [Edit("remove", name) for name in names])
        return {**result, **({"missing": missing} if missing else {})}

    async def _change(
        self, params: Params, changes: Sequence[Edit], opened: str | None = None
    ) -> Json:
        """Carry out changes; with `opened` the backing that this device gets has to be there."""
        daemon = self._daemon
        async with daemon.changing:
            if self._is_read_meanwhile(params) and daemon.source is not None:
                plan = await daemon.read_again(daemon.source, force=True)
            else:
                plan, filed = await self._planned(params, changes)
                if opened is not None and opened in plan.config.devices and plan.changed:
                    await self._check_backing(opened, plan.config, force=False)
                if not flag(params, "dry_run"):
                    await self._carry_out(plan, filed)
        return self._answer(params, plan)

    def _is_read_meanwhile(self, params: Params) -> bool:
        """Whether the file, which has the change, is what counts: a device that a reload has added
        cannot be added again."""
        reads = params.get("reads")
        if not isinstance(reads, int | None):
            raise ControlError(INVALID_PARAMS, "reads is no number")
        is_done = flag(params, "persisted") and not flag(params, "dry_run")
        return is_done and reads not in (None, self._daemon.reads)

    def _answer(self, params: Params, plan: ReloadPlan) -> Json:
        """As that of a reload; warnings are of the change and of the devices that it is about."""
        warnings = [str(problem) for problem in plan.config.warnings if not problem.line]
        return {
            "applied": not flag(params, "dry_run"),
            "changes": plan.lines(),
            "plan": plan.facts(),
            "warnings": [*warnings, *waits(self._daemon, plan)],
            "reads": self._daemon.reads,
            "saved": self._is_saved(plan),
        }

    def _is_saved(self, plan: ReloadPlan) -> bool:
        """Whether a reload would keep the changes of `plan`, which are in force."""
        lines, devices = unsaved(self._daemon)
        names = {device.name for device in (*plan.added, *plan.removed)}
        names.update(change.name for change in plan.changed)
        is_lost = bool(names.intersection(devices) if names else lines)
        return self._daemon.source is None or not is_lost

    async def _planned(
        self, params: Params, changes: Sequence[Edit]
    ) -> tuple[ReloadPlan, Config | None]:
        """What changes, and what the file says then, if it is to have the changes."""
        daemon = self._daemon
        directory = daemon.store.directory
        filed, in_file = None, flag(params, "persisted")
        if in_file:
            filed = await asyncio.to_thread(_in_file, daemon.filed, changes, directory)
        new = await asyncio.to_thread(
            edit, daemon.config, changes, state_directory=directory, in_file=in_file
        )
        return diff(daemon.config, new), filed

    async def _carry_out(self, plan: ReloadPlan, filed: Config | None) -> None:
        await self._daemon.apply(plan, "change")
        if filed is not None:
            self._daemon.filed = filed

    async def _swap(self, params: Params) -> Json:
        name, path = _text(params, "name"), _text(params, "path")
        daemon = self._daemon
        async with daemon.changing:
            if name not in daemon.config.devices:
                text = f"there is no device {name!r}{near(name, daemon.config.devices)}"
                raise ControlError(NOT_FOUND, text)
            change = Edit("set", name, {"path": keyfile.escape(path), "uuid": None})
            plan, filed = await self._planned(params, [change])
            await self._check_backing(name, plan.config, force=flag(params, "force"))
            if name in daemon.exports:  # the path may be the old one, with another file there
                plan = plan.reopening([name])
            if not flag(params, "dry_run"):
                await self._carry_out(plan, filed)
        return self._answer(params, plan)

    async def _check_backing(self, name: str, config: Config, *, force: bool) -> None:
        """ControlError where the new backing cannot take the place of what is served now."""
        daemon = self._daemon
        device = config.devices[name]
        export = daemon.exports.get(name)
        try:
            async with asyncio.timeout(FIRST_ATTEMPT_TIMEOUT_S):  # others wait to change something
                is_served = await _is_served(export, device.path)
                backend = await open_file(file_spec_of(device), is_exclusive=not is_served)
        except TimeoutError:
            text = f"nothing was changed: {device.path}: the store does not answer"
            raise ControlError(REFUSED, text) from None
        except BackendError as error:
            why = daemon.confinement.explain(device, error) if daemon.confinement else str(error)
            raise ControlError(REFUSED, f"nothing was changed: {why}") from None
        new_bytes = backend.size_bytes
        await backend.close()
        size_sectors = export.device.target.size_sectors if export is not None else None
        if size_sectors is None or force or new_bytes >= size_sectors * SECTOR_BYTES:
            return
        raise ControlError(
            REFUSED,
            f"nothing was changed: {device.path} has {format_size(new_bytes)}, and hosts know "
            f"{name} with {format_size(size_sectors * SECTOR_BYTES)}: what is beyond would be "
            f"gone for them; 'ggaoectl swap --force' does it all the same",
        )

    async def _start(self, params: Params) -> Json:
        return await self._start_or_stop(params, start=True)

    async def _stop(self, params: Params) -> Json:
        return await self._start_or_stop(params, start=False)

    async def _start_or_stop(self, params: Params, *, start: bool) -> Json:
        """Start or stop devices; in the file that is `auto`."""
        daemon = self._daemon
        async with daemon.changing:
            names, missing = select(params, daemon.config.devices, required=True)
            changes = []
            if flag(params, "persisted"):
                value = "true" if start else "false"
                changes = [Edit("set", name, {"auto": value}) for name in names]
            plan, filed = await self._planned(params, changes)
            concerned = [name for name in names if (name in daemon.stopped) == start]
            if not flag(params, "dry_run"):
                if changes:
                    await self._carry_out(plan, filed)
                if start:
                    await daemon.start(concerned)
                else:
                    daemon.stop(concerned)
        # Nobody else has to wait for the disk, too: nothing is held now.
        applied = not flag(params, "dry_run")
        unfinished = await daemon.have_stopped(names) if applied and not start else {}
        waiting = _waiting(daemon, names) if applied and start else {}
        done = [name for name in names if name not in unfinished]
        return {
            "applied": applied,
            "started" if start else "stopped": [name for name in done if name in concerned],
            "already": [name for name in done if name not in concerned],
            **({"unfinished": unfinished} if unfinished else {}),
            **({"waiting": waiting} if waiting else {}),
            "changes": plan.lines(),
            **({"missing": missing} if missing else {}),
        }

    async def _diff(self, params: Params) -> Json:
        """What a reload would do if the file had `settings`, in the form of TOML."""
        settings, source = params.get("settings"), _text(params, "source")
        if not isinstance(settings, dict):
            raise ControlError(INVALID_PARAMS, "settings is no object")
        hosts = await asyncio.to_thread(load_hosts, ETHERS)
        directory = self._daemon.store.directory
        async with self._daemon.changing:
            new = await asyncio.to_thread(
                from_mapping, settings, source, hosts=hosts, state_directory=directory
            )
            plan = diff(self._daemon.config, new).reopening(await self._daemon.replaced())
        warnings = [*await _unsearchable(string_list(params, "searched"))]
        warnings += [f"needs --force: {why}" for why in losses_of(self._daemon, plan)]
        warnings += await foreseen(self._daemon, plan)
        return {"changes": plan.lines(), "plan": plan.facts(), "warnings": warnings}


async def _unsearchable(directories: Sequence[str]) -> list[str]:
    """Those in which a reload could not look for files, and would therefore be refused."""

    def look() -> list[str]:
        found = []
        for directory in directories[:SEARCHED_MAX]:
            try:
                os.scandir(directory).close()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                found.append(f"a reload would be refused: {unsearchable(Path(directory), error)}")
        return found

    return await in_thread(look)


async def _is_served(export: Export | None, path: Path | None) -> bool:
    """Whether `path` is another name of what the device has open, and has locked."""
    origin = export.backend.origin if export is not None and export.backend is not None else None
    if origin is None or path is None:
        return False
    return await in_thread(lambda: origin.is_at(path))


def _in_file(filed: Config, changes: Sequence[Edit], directory: Path) -> Config:
    try:
        return edit(filed, changes, state_directory=directory, in_file=True)
    except ConfigError as error:
        why = " (in the file, which does not have what was changed without --persist)"
        problems = [one._replace(message=one.message + why) for one in error.problems]
        raise ConfigError(problems) from None


def unsaved(daemon: Daemon) -> tuple[list[str], list[str]]:
    """What a reload would take back since it is not in the file, and the devices concerned."""
    plan = replace(diff(daemon.filed, daemon.config), restart=())
    names = [device.name for device in (*plan.removed, *plan.added)]
    return plan.lines(), [*names, *(change.name for change in plan.changed)]


def _text(params: Params, key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise ControlError(INVALID_PARAMS, f"{key} is no text")
    return value


def _options(params: Params) -> dict[str, str | None]:
    """Values as a key file has them; null sets the default."""
    options = params.get("options")
    if not isinstance(options, dict) or not options:
        raise ControlError(INVALID_PARAMS, "options are required: an object of texts, or null")
    for key, value in options.items():
        if not isinstance(value, str | None):
            raise ControlError(INVALID_PARAMS, f"option {key!r} is neither a text nor null")
        if value is not None and any(character in value for character in "\0\r\n"):
            raise ControlError(INVALID_PARAMS, f"option {key!r} has more than one line")
    return options
