"""Bytes on the control socket of a daemon that serves two devices.

Invariant: each line is answered in order by one JSON-RPC 2.0 object of one line, but for
notifications; or the connection is closed. The server lives on and serves the next client, devices
keep a state that can be saved, and no handler fails in an unforeseen way.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from unittest.mock import patch

from fuzz.loop import run
from ggaoe.config import ReloadPlan, load_async
from ggaoe.net.link import Interface
from ggaoe.server import app, control, interfaces
from ggaoe.server.app import Daemon
from ggaoe.server.changes import Changes
from ggaoe.server.control import ControlServer
from ggaoe.server.state import decode, encode
from ggaoe.server.verbs import Verbs
from ggaoe.testing.engine import PortableOnMemory

CORPUS = "control"
MAX_BYTES = 4096
DEADLINE_S = 30.0
CONFIG = """\
[defaults]
interfaces = eth*
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


class _Daemon(Daemon):
    """The real one, but that plans are made and not carried out: they name any file."""

    async def apply(self, plan: ReloadPlan, cause: str = "reload") -> None:
        pass

    def handlers(self) -> Mapping[str, control.Handler]:
        changes = dict(Changes(self).handlers())
        del changes["swap"]  # opens whatever file is named
        return {**Verbs(self).handlers(), **changes}


class _OneInterface:
    """The kernel's interfaces, where there is only one."""

    def __init__(self, on_change: Callable[[Interface], None], on_gone: object) -> None:
        self._on_change = on_change
        self.interfaces = {1: Interface(1, "eth0", bytes(6), 1500, is_up=True)}

    def start(self) -> None:
        for interface in self.interfaces.values():
            self._on_change(interface)


async def _started() -> tuple[_Daemon, ControlServer, tempfile.TemporaryDirectory[str]]:
    kept = tempfile.TemporaryDirectory(prefix="ggaoe-fuzz-")
    directory = Path(kept.name)
    (directory / "ggaoed.conf").write_text(CONFIG)
    (directory / "disk").write_bytes(bytes(1 << 16))
    with (
        patch.object(app, "create_engine", lambda _, hooks: PortableOnMemory(hooks)),
        patch.object(interfaces, "InterfaceWatcher", _OneInterface),
    ):
        daemon = _Daemon(
            await load_async(directory / "ggaoed.conf"),
            source=directory / "ggaoed.conf",
            state_directory=directory,
            control_socket=None,
            removed=(),
        )
    daemon.interfaces.start()
    await daemon.start(daemon.config.devices)
    server = ControlServer(directory / "socket", daemon.handlers())
    await server.start()
    return daemon, server, kept


@cache
def _daemon() -> tuple[_Daemon, ControlServer, tempfile.TemporaryDirectory[str]]:
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
    daemon, server, _ = _daemon()
    *answers, rest = run(_exchange(server.path, data)).split(b"\n")
    assert rest == b""
    assert len(answers) <= data.count(b"\n")
    for answer in answers:
        _check_answer(answer)
    assert b'"result":{"name":"ggaoe"' in run(_exchange(server.path, VERSION))
    for export in daemon.exports.values():
        state = export.device.target.state
        assert decode(encode(state)) == state
    if daemon.stopped:
        run(daemon.start(sorted(daemon.stopped)))
