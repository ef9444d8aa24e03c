"""What a process takes of the machine, and the control socket without a process for each question.

Must not know: any single test.
"""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ggaoe.cli.ggaoectl import ANSWER_TIMEOUT_S

GROWTH_MIB_MAX = 12.0
"""Resident memory that caches, thread stacks and the allocator may take beyond the start's."""


class Vitals(NamedTuple):
    """A process at one moment."""

    descriptors: int
    threads: int
    rss_mib: float

    @classmethod
    def of(cls, pid: int) -> Vitals:
        process = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return cls(
            len(list((process / "fd").iterdir())),
            int(status["Threads"]),
            int(status["VmRSS"].split()[0]) / 1024,
        )

    def assert_no_leak_since(self, before: Vitals) -> None:
        print(f"{before} became {self}")
        assert self.descriptors <= before.descriptors
        assert self.rss_mib <= before.rss_mib + GROWTH_MIB_MAX


@dataclass
class Refusal(Exception):  # noqa: N818 - as its counterpart in the daemon
    """An error that the control socket has answered with."""

    code: int
    message: str


class Control:
    """A connection to the control socket; blocks."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(ANSWER_TIMEOUT_S)
        self.socket.connect(str(path))
        self._lines = self.socket.makefile("rb")

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self.socket.close()

    def ask(self, method: str, **params: object) -> Any:
        """The result of `method`; raises Refusal."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        with suppress(BrokenPipeError):  # it may have answered already, and hung up
            self.socket.sendall(json.dumps(request).encode() + b"\n")
        answer = json.loads(self._lines.readline())
        if "error" in answer:
            raise Refusal(answer["error"]["code"], answer["error"]["message"])
        return answer["result"]
