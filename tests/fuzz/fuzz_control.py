"""Bytes on the control socket of a daemon that serves two devices.

Invariant: each line is answered in order by one JSON-RPC 2.0 object of one line, but for
notifications; or the connection is closed. The server lives on and serves the next client, devices
keep a state that can be saved, and no handler fails in an unforeseen way.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from fuzz.loop import run
from ggaoe.config import ReloadPlan, diff, load_async
from ggaoe.engine.base import Hooks
from ggaoe.net.link import Interface, LinkSettings
from ggaoe.server import control
from ggaoe.server.changes import Changes
from ggaoe.server.control import ControlServer
from ggaoe.server.export import Export
from ggaoe.server.state import StateStore, decode, encode
from ggaoe.server.verbs import Verbs
from ggaoe.testing.engine import PortableOnMemory

CORPUS = "control"
MAX_BYTES = 4096
DEADLINE_S = 30.0
CONFIG = """\
[disk]
path = disk
shelf = 1
slot = 0
direct-io = false
[gone]
path = gone
shelf = 1
slot = 1
"""
WORDS = (
    *('"jsonrpc":"2.0"', '"id":', '"method":', '"params":{', '"names":["', '"dry_run":true'),
    *("version", "reload", "list", "show", "stats", "show-config", "show-macmask", "show-reserve"),
    *("clear-stats", "clear-config", "clear-macmask", "clear-reserve", "disk", "gone", "eth0"),
    *("add", "remove", "start", "stop", "set", "diff", '"name":"disk"', '"persisted":true'),
    *('"options":{"', "queue-length", "slot", "auto", '"settings":{"devices":{', "defaults"),
    *("why", '"host":"02:00:00:00:00:01"', '"device":"disk"'),
    *("NaN", "1e999", "null", "\\ud800", "[!-]", "}\n{"),
)
KNOWN_CODES = {
    control.PARSE_ERROR, control.INVALID_REQUEST, control.METHOD_NOT_FOUND, control.INVALID_PARAMS,
    control.NOT_FOUND, control.REFUSED, control.CONFIG_INVALID, control.ANSWER_TOO_LONG,
}  # fmt: skip
"""All but BUSY, since nobody else is there, and INTERNAL_ERROR."""
VERSION = b'{"jsonrpc":"2.0","id":7,"method":"version"}\n'


class _Daemon(SimpleNamespace):
    """As much of a daemon as the verbs need: real devices, an engine whose links are in memory."""

    async def reload(self, *, dry_run: bool) -> ReloadPlan:
        return diff(self.config, await load_async(self.source))

    async def apply(self, plan: ReloadPlan, cause: str) -> None:
        """Plans are made, and not carried out."""

    async def start(self, names: list[str]) -> None:
        assert set(names) <= self.stopped

    def stop(self, names: list[str]) -> None:
        assert set(names) <= set(self.exports)

    async def have_stopped(self, names: list[str]) -> dict[str, str]:
        return {}

    def unfinished(self, name: str) -> str | None:
        return None

    def handlers(self) -> Mapping[str, control.Handler]:
        changes = dict(Changes(self).handlers())  # type: ignore[arg-type]
        del changes["swap"]  # opens whatever file is named
        return {**Verbs(self).handlers(), **changes}  # type: ignore[arg-type]


async def _started() -> tuple[_Daemon, ControlServer]:
    kept = tempfile.TemporaryDirectory(prefix="ggaoe-fuzz-")
    directory = Path(kept.name)
    (directory / "ggaoed.conf").write_text(CONFIG)
    (directory / "disk").write_bytes(bytes(1 << 16))
    engine = PortableOnMemory(Hooks(changed=lambda *_: None, conflict=lambda *_: None))
    interface = Interface(1, "eth0", bytes(6), 1500, is_up=True)
    port = engine.open_link(interface, LinkSettings())
    config = await load_async(directory / "ggaoed.conf")
    daemon = _Daemon(
        config=config,
        filed=config,
        stopped=set(),
        confinement=None,
        store=StateStore(directory),
        changing=asyncio.Lock(),
        source=directory / "ggaoed.conf",
        started_s=time.monotonic(),
        engine=engine,
        interfaces=SimpleNamespace(
            known=[interface],
            refused={},
            missing=list,
            port_of=lambda _: port,
            wanted=lambda: [interface],
            wanted_by=lambda _: [interface],
            unserved=lambda _: {},
            why_closed=lambda _: None,
        ),
        kept=kept,
    )
    daemon.exports = {
        name: Export(engine, daemon.store, config, lambda _: None)
        for name, config in daemon.config.devices.items()
    }
    for export in daemon.exports.values():
        await export.first_attempt.wait()
        engine.set_ports(export.device, [port])
    server = ControlServer(directory / "socket", daemon.handlers())
    await server.start()
    return daemon, server


@cache
def _daemon() -> tuple[_Daemon, ControlServer]:
    return run(_started())


async def _exchange(path: Path, data: bytes) -> bytes:
    """What is answered to `data` and the end of the stream."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        async with asyncio.timeout(DEADLINE_S):
            writer.write(data)
            writer.write_eof()
            return await reader.read()
    finally:
        writer.transport.abort()


def _check_answer(line: bytes) -> None:
    answer = json.loads(line)
    assert answer["jsonrpc"] == "2.0"
    assert answer.keys() in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"})
    if "error" in answer:
        assert answer["error"]["code"] in KNOWN_CODES, answer
        assert answer["error"]["message"]


def one_input(data: bytes) -> None:
    daemon, server = _daemon()
    *answers, rest = run(_exchange(server.path, data)).split(b"\n")
    assert rest == b""
    assert len(answers) <= data.count(b"\n")
    for answer in answers:
        _check_answer(answer)
    assert b'"result":{"name":"ggaoe"' in run(_exchange(server.path, VERSION))
    for export in daemon.exports.values():
        state = export.device.target.state
        assert decode(encode(state)) == state
