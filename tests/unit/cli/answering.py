"""A control server with results in the daemon's shapes, and ggaoectl as a process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggaoe.errors import BackendError, ConfigError, Problem
from ggaoe.server import control
from ggaoe.server.control import ControlServer, Params, flag, select, splitting

TIMEOUT_S = 30.0
REPOSITORY = Path(__file__).parents[3]

DEVICE_COUNTERS = (
    "read_requests read_bytes read_ns write_requests write_bytes write_ns verify_requests "
    "flush_requests flush_ns other_requests merged_requests vectors batches in_flight_sum waits "
    "overlaps absorbed commits retries ata_errors aoe_errors in_flight waiting"
)
INTERFACE_COUNTERS = (
    "rx_frames rx_bytes rx_batches tx_frames tx_bytes tx_batches tx_held dropped_by_kernel"
)
INITIATOR_COUNTERS = (
    "read_requests read_bytes write_requests write_bytes other_requests errors absorbed waits "
    "in_flight"
)
HOST = "02:00:00:00:00:01"


def counters(names: str, **values: object) -> dict[str, Any]:
    return {**dict.fromkeys(names.split(), 0), "drops": {}, **values}


def device(name: str, slot: int, **values: object) -> dict[str, Any]:
    return {
        "name": name,
        "address": f"e0.{slot}",
        "shelf": 0,
        "slot": slot,
        "state": "serving",
        "reason": None,
        "size_bytes": 3 << 29,
        "path": f"/srv/{name}",
        "read_only": False,
        "interfaces": ["eth0"],
        **values,
    }


def asked(params: Params) -> Params:
    """What a verb asks; ggaoectl understands every answer in parts."""
    return {key: value for key, value in params.items() if key != "parts"}


@dataclass
class Daemon:
    """Two devices and an interface; each `stats` finds the clock 2 s later."""

    path: Path
    devices: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {
            "disk": device("disk", 1),
            "late": device(
                "late",
                2,
                state="waiting",
                reason="No such file\nor directory",
                size_bytes=None,
                read_only=True,
                interfaces=[],
            ),
        }
    )
    calls: list[tuple[str, Params]] = field(default_factory=list)
    polls: int = 0

    async def version(self, params: Params) -> object:
        return {
            "name": "ggaoe",
            "version": "0.1.0",
            "protocol": control.PROTOCOL_VERSION,
            "engine": "portable",
            "pid": 4711,
            "uptime_s": 93784.5,
            "config": "/etc/ggaoed.conf",
        }

    async def reload(self, params: Params) -> object:
        self.calls.append(("reload", asked(params)))
        changes = ["add device new", "device disk: queue-length 64 to 32, in place"]
        return {
            "applied": not flag(params, "dry_run"),
            "changes": changes,
            "warnings": ["ggaoed.conf:3:1: warning: option 'buffers' is obsolete"],
        }

    async def list(self, params: Params) -> dict[str, object]:
        interface = {
            "name": "eth0",
            "mac": "02:00:00:00:00:aa",
            "mtu_bytes": 9000,
            "is_up": True,
            "serving": True,
            "reason": None,
            "sectors": 17,
        }
        return {"devices": list(self.devices.values()), "interfaces": [interface]}

    async def show(self, params: Params) -> dict[str, object]:
        names, missing = select(params, self.devices)
        more = {
            "backend": "direct I/O, Linux AIO",
            "warnings": ["no O_DIRECT: buffered"],
            "queue_length": 64,
            "limits": {
                "iops": {"per_s": 500, "burst": 50},
                "initiator_bandwidth": {"per_s": 10 << 20, "burst": 1 << 20},
            },
            "write_cache": False,
            "accept": None,
            "deny": [HOST],
            "discover": None,
            "read": [],
            "write": ["!guests", "lab"],
            "change": [HOST],
            "config_string": b"host\\ \xff\n".hex(),
            "mask": [],
            "reserved": [HOST],
            "counters": counters(DEVICE_COUNTERS, read_requests=12, drops={"mask": 3}),
            "initiators": self.initiators(),
        }
        return _partly({"devices": [{**self.devices[name], **more} for name in names]}, missing)

    async def why(self, params: Params) -> object:
        """What a daemon of before the checks says, and beyond that what one of now does."""
        before = await self.why_before_checks(params)
        frame = {
            "age_s": 61.5,
            "interface": "eth0",
            "length_bytes": 60,
            "to": "e0.1",
            "asks": "READ_SECTORS_EXT 0+20",
            "fate": "refused",
            "cause": "too\nmuch",
            "times": 3,
            "frame": "",
        }
        checks = [
            {"check": "VLAN", "verdict": "ok", "text": "untagged", "remedy": None},
            {"check": "MTU", "verdict": "not ok", "text": "small", "remedy": "more\x1b of it"},
        ]
        for number, one in enumerate(before["devices"]):
            one.update(checks=checks, frames=[] if number else [frame])
        stray = {**frame, "to": None, "fate": "dropped", "cause": "vlan", "times": 1}
        return {
            **before,
            "interfaces": ["eth0", "eth1"],
            "heard": [{"interface": "eth0", "age_s": 61.5}],
            "others": {"eth1": 3},
            "frames": [stray],
        }

    async def why_before_checks(self, params: Params) -> dict[str, Any]:
        names, missing = select(params, self.devices)
        self.calls.append(("why", asked(params)))
        may = {
            "discover": _operation(accept="lab\n", discover=None),
            "read": _operation(accept=None, read=None),
            "write": _operation(accept="lab", write="!guests", refuses=True),
            "change": _operation(interfaces="none serves it", refuses=True),
        }
        seen = {"interface": "eth0", "age_s": 61.5, "drops": {}}
        devices = [
            {**self.devices[name], "operations": may, "last_seen": seen if name == "disk" else None}
            for name in names
        ]
        return _partly({"host": params["host"], "devices": devices}, missing)

    async def stats(self, params: Params) -> dict[str, object]:
        names, missing = select(params, [*self.devices, "eth0"])
        self.polls += 1
        poll = self.polls
        disk = counters(
            DEVICE_COUNTERS,
            read_requests=100 * poll,
            read_bytes=100 * poll * 8192,
            read_ns=100 * poll * 250_000,
            batches=10 * poll,
            in_flight_sum=40 * poll,
            drops={"mask": 4 * poll},
        )
        devices = {"disk": disk, "late": counters(DEVICE_COUNTERS)}
        eth0 = counters(INTERFACE_COUNTERS, rx_frames=60 * poll, rx_batches=20 * poll)
        result = {
            "monotonic_s": 1000.0 + 2 * poll,
            "devices": {name: devices[name] for name in names if name in devices},
            "interfaces": {"eth0": eth0} if "eth0" in names else {},
            "initiators": {"disk": self.initiators()} if "disk" in names else {},
        }
        return _partly(result, missing)

    def initiators(self) -> dict[str, Any]:
        seen = {"first_seen_s": 900.0, "last_seen_s": 999.0, "interface": "eth0"}
        return {HOST: counters(INITIATOR_COUNTERS, write_requests=5, write_bytes=5 << 10, **seen)}

    async def show_config(self, params: Params) -> dict[str, object]:
        names, missing = select(params, self.devices)
        text = {"disk": b"\x1b[2Jrack 3".hex(), "late": ""}
        return _partly({"devices": {name: text[name] for name in names}}, missing)

    async def show_hosts(self, params: Params) -> object:
        names, missing = select(params, self.devices)
        macs = {"disk": [HOST, "02:00:00:00:00:02"], "late": []}
        return _partly({"devices": {name: macs[name] for name in names}}, missing)

    async def clear(self, params: Params) -> object:
        names, missing = select(params, self.devices)
        self.calls.append(("clear", asked(params)))
        return _partly({"cleared": names}, missing)


def _operation(*, refuses: bool = False, **rules: str | None) -> dict[str, Any]:
    """An operation of `why`; the last of the checks refuses, or all permit."""
    checks = [{"check": check, "permits": True, "rule": rule} for check, rule in rules.items()]
    checks[-1]["permits"] = not refuses
    return {"permitted": not refuses, "checks": checks}


def _partly(result: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    return {**result, "missing": missing} if missing else result


async def invalid(params: Params) -> object:
    """A `reload` of a configuration with errors."""
    raise ConfigError(
        [
            Problem("/etc/ggaoed.conf", 3, 1, "unknown option 'pth': did you mean 'path'?"),
            Problem("/etc/ggaoed.conf", 0, 0, "nothing is exported", warning=True),
        ]
    )


async def before_operations(params: Params) -> object:
    """`show` of a daemon from before there were lists for each operation."""
    result: Any = await Daemon(Path()).show(params)
    for one in result["devices"]:
        for operation in ("discover", "read", "write", "change"):
            del one[operation]
    return result


async def refused(params: Params) -> object:
    raise BackendError("cannot now:\nbusy")


async def broken(params: Params) -> object:
    return {"unexpected": "shape"}


@contextmanager
def answering(path: Path, others: dict[str, control.Handler]) -> Iterator[Daemon]:
    """A daemon served by a thread of its own, with other handlers than usual for some methods."""
    daemon = Daemon(path)
    handlers: dict[str, control.Handler] = {
        "version": daemon.version,
        "reload": daemon.reload,
        "list": splitting(daemon.list),
        "show": splitting(daemon.show),
        "why": splitting(daemon.why),
        "stats": splitting(daemon.stats),
        "show-config": splitting(daemon.show_config),
        "show-macmask": daemon.show_hosts,
        "show-reserve": daemon.show_hosts,
        "clear-stats": daemon.clear,
        "clear-config": daemon.clear,
        "clear-macmask": daemon.clear,
        "clear-reserve": daemon.clear,
        **others,
    }
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        server = ControlServer(daemon.path, handlers)
        await server.start()
        stop = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        await server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    loop, stop = started.result(TIMEOUT_S)
    try:
        yield daemon
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT_S)


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def ggaoectl(*words: str | Path, **environment: str) -> Ran:
    """Run ggaoectl to its end; the terminal's wishes are those of `environment` only."""
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    ran = subprocess.run(
        [sys.executable, "-m", "ggaoe.cli.ggaoectl", *map(str, words)],
        env={**plain, "PYTHONPATH": str(REPOSITORY), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)
