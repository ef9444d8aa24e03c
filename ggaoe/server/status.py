"""What is served by HTTP: a page for people, what that draws, and metrics for Prometheus.

Owns the paths, their contents, and what the page may do in a browser. Must not know HTTP itself.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ggaoe.server import metrics
from ggaoe.server.http import Response, Route
from ggaoe.server.verbs import counters_of, numbers_of
from ggaoe.units import format_mac

if TYPE_CHECKING:
    from ggaoe.engine.counters import InitiatorCounters
    from ggaoe.server.app import Daemon
    from ggaoe.server.control import Handler

PAGE = Path(__file__).with_name("page.html")
KEPT_S = 0.2
"""Whoever asks more often gets the same again, and so does who asks within the time that making it
has taken: asking must not become work for the daemon."""
EVENTS_MAX = 50
HOSTS_MAX = 500
"""Pairs of a host and a device, those that transfer data or have done so lately: each host that
looks for disks is seen by every device."""


def routes(daemon: Daemon, handlers: Mapping[str, Handler]) -> dict[str, Route]:
    """By path; `handlers` are those of the control socket."""
    page = _page(PAGE.read_text(encoding="utf-8"))

    async def show() -> Response:
        return page

    async def status() -> Response:
        found = {
            "version": await handlers["version"]({}),
            "list": await handlers["list"]({}),
            "events": daemon.events.recent()[-EVENTS_MAX:],
            "time_s": time.time(),
        }
        members = ",".join(f'"{name}":{_json(value)}' for name, value in found.items())
        text = f'{{{members},"stats":{await _stats(daemon)}}}'
        return Response("application/json", text.encode("ascii"))

    async def scraped() -> Response:
        return Response(metrics.CONTENT_TYPE, await metrics.text(daemon))

    return {"/": show, "/metrics": _kept(scraped), "/status.json": _kept(status)}


async def _stats(daemon: Daemon) -> str:
    """What `ggaoectl stats --json` says, with HOSTS_MAX hosts and how many there are, in JSON; the
    event loop goes round meanwhile."""
    ports = daemon.engine.ports.values()
    interfaces = {port.name: numbers_of(port.link.refresh()) for port in ports}
    monotonic_s = round(time.monotonic(), 6)
    devices: list[str] = []
    shown: list[_Host] = []
    hosts = 0
    for name, export in list(daemon.exports.items()):
        devices.append(f"{_json(name)}:{_json(counters_of(export))}")
        seen = [_Host(name, mac, one) for mac, one in export.device.initiators.items()]
        hosts += len(seen)
        shown = nlargest(HOSTS_MAX, [*shown, *seen], key=_Host.rank)
        await asyncio.sleep(0)
    initiators: dict[str, dict[str, object]] = {name: {} for name in daemon.exports}
    for host in shown:
        initiators.setdefault(host.device, {})[format_mac(host.mac)] = numbers_of(host.counters)
    return (
        f'{{"monotonic_s":{monotonic_s},"hosts":{hosts},"devices":{{{",".join(devices)}}},'
        f'"interfaces":{_json(interfaces)},"initiators":{_json(initiators)}}}'
    )


class _Host(NamedTuple):
    """One at one device."""

    device: str
    mac: bytes
    counters: InitiatorCounters

    def rank(self) -> tuple[bool, float]:
        counters = self.counters
        return counters.read_requests + counters.write_requests > 0, counters.last_seen_s


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def _kept(make: Callable[[], Awaitable[Response]]) -> Route:
    kept: Response | None = None
    until_s = 0.0
    making = asyncio.Lock()

    async def route() -> Response:
        nonlocal kept, until_s
        async with making:
            if kept is None or time.monotonic() >= until_s:
                began_s = time.monotonic()
                kept = await make()
                ended_s = time.monotonic()
                until_s = ended_s + max(KEPT_S, ended_s - began_s)
            return kept

    return route


def _page(text: str) -> Response:
    """The page, which may run and look like what is in it, and ask nobody but us."""
    policy = [
        "default-src 'none'",
        "connect-src 'self'",
        "img-src data:",
        *(f"{kind}-src {_hashes(kind, text)}" for kind in ("script", "style")),
        *(f"{what} 'none'" for what in ("base-uri", "form-action", "frame-ancestors")),
    ]
    headers = (("Content-Security-Policy", "; ".join(policy)),)
    return Response("text/html; charset=utf-8", text.encode(), headers=headers)


def _hashes(element: str, text: str) -> str:
    """Of what stands in the elements of one kind, as a policy names it."""
    parts = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
    digests = (hashlib.sha256(part.encode()).digest() for part in parts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
