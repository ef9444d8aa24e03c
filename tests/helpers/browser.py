"""Debian's Chromium without a window, driven over a pipe: pages, scripts, screenshots.

Owns the process and its protocol (Chrome DevTools, JSON ended by zero bytes). Must not know: any
page.
"""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from helpers.netns import Namespace, wait_until

ANSWER_TIMEOUT_S = 60.0
_ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--hide-scrollbars", "--remote-debugging-pipe"),
]


class Browser:
    """One page in the network of `namespace`; a context manager."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self._namespace = namespace
        self._directory = directory
        self._next_id = 0
        self._buffer = b""
        self._session = ""
        self.complaints: list[str] = []
        """What the console says beyond information: errors, refusals of the page's policy."""

    def __enter__(self) -> Browser:
        theirs_in, self._writing = os.pipe()
        self._reading, theirs_out = os.pipe()
        log = (self._directory / "chromium.log").open("wb")
        # The protocol's descriptors are 3 and 4.
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        network = f"--net=/proc/{self._namespace.pid}/ns/net"
        self._process = subprocess.Popen(
            [
                *("nsenter", network, "--", "bash", "-c", script, "bash"),
                *("chromium", *_ARGUMENTS, f"--user-data-dir={self._directory}/chromium"),
            ],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        for descriptor in (theirs_in, theirs_out):
            os.close(descriptor)
        log.close()
        try:
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self._call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._reading)
        os.close(self._writing)

    def look(self, width: int, height: int, *, dark: bool, scale: float = 1) -> None:
        """The size of the window in CSS pixels, and which colours its user prefers."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)
        self.wait_for(f"location.href == {json.dumps(url)} && document.readyState == 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, condition: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        wait_until(lambda: bool(self.run(condition)), timeout_s, condition)

    def screenshot(self, path: Path) -> None:
        """A PNG of what the window shows."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _call(self, method: str, **params: object) -> dict[str, Any]:
        self._next_id += 1
        message: dict[str, Any] = {"id": self._next_id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive(method)
            if answer.get("id") == self._next_id:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._hear(answer)

    def _hear(self, event: dict[str, Any]) -> None:
        params: Any = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] != "log":
            self.complaints.append(str(params["args"]))
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] != "info":
            self.complaints.append(params["entry"]["text"])

    def _receive(self, what: str) -> dict[str, Any]:
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while b"\0" not in self._buffer:
            left_s = max(0.0, deadline_s - time.monotonic())
            ready: Sequence[int] = select.select([self._reading], [], [], left_s)[0]
            if not ready:
                raise TimeoutError(f"{what}: see {self._directory}/chromium.log")
            piece = os.read(self._reading, 1 << 16)
            if not piece:
                raise RuntimeError((self._directory / "chromium.log").read_text())
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message
