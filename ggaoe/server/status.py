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
from pathlib import Path
from typing import TYPE_CHECKING

from ggaoe.server import metrics
from ggaoe.server.http import Response, Route

if TYPE_CHECKING:
    from ggaoe.server.app import Daemon
    from ggaoe.server.control import Handler

PAGE = Path(__file__).with_name("page.html")
KEPT_S = 0.2
"""Whoever asks more often gets the same again: asking must not become work for the daemon."""
EVENTS_MAX = 50

_SHOWN = ("version", "list", "stats")


def routes(daemon: Daemon, handlers: Mapping[str, Handler]) -> dict[str, Route]:
    """By path; `handlers` are those of the control socket."""
    page = _page(PAGE.read_text(encoding="utf-8"))

    async def show() -> Response:
        return page

    async def status() -> Response:
        found: dict[str, object] = {name: await handlers[name]({}) for name in _SHOWN}
        found["events"] = daemon.events.recent()[-EVENTS_MAX:]
        found["time_s"] = time.time()
        text = json.dumps(found, allow_nan=False, separators=(",", ":"))
        return Response("application/json", text.encode("ascii"))

    async def scraped() -> Response:
        return Response(metrics.CONTENT_TYPE, await metrics.text(daemon))

    return {"/": show, "/metrics": _kept(scraped), "/status.json": _kept(status)}


def _kept(make: Callable[[], Awaitable[Response]]) -> Route:
    kept: Response | None = None
    until_s = 0.0
    making = asyncio.Lock()

    async def route() -> Response:
        nonlocal kept, until_s
        async with making:
            if kept is None or time.monotonic() >= until_s:
                kept = await make()
                until_s = time.monotonic() + KEPT_S
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
