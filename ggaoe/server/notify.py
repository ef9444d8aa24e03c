"""What the service manager is told: ready, reloading, stopping, alive, and a line of status.

Owns the notification socket, the messages and the pace of the watchdog. Must not know what the
daemon does. Where no service manager listens, nothing is sent and no timer runs. A service manager
that takes no messages stops nobody: changes of state wait in a queue. The socket is connected when
this is made, so that it still works when the daemon has confined itself. Source:
sd_notify(3), "Type=notify-reload" in systemd.service(5).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

RETRY_S = 0.1
"""A change of state that was not taken is sent again so much later; a sign of life never is."""
WAITING_MAX = 16
"""Changes of state that wait; the oldest is dropped."""
CLOSE_TIMEOUT_S = 1.0
"""The end of the process waits so long for the last changes of state to be taken."""
STATUS_INTERVAL_S = 5.0
"""A status that has changed by itself is told so late at most."""
STATUS_CHARACTERS_MAX = 512

_log = logging.getLogger("ggaoe.notify")


class ServiceManager:
    """The one that `environment` names in NOTIFY_SOCKET, if any; `status` makes the line that it
    shows about a daemon that serves."""

    def __init__(
        self, status: Callable[[], str], environment: Mapping[str, str] = os.environ
    ) -> None:
        self._status = status
        self._shown = ""
        self._is_ready = False
        self._is_stopping = False
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._waiting: deque[tuple[str, str]] = deque(maxlen=WAITING_MAX)
        self._socket = _connected(environment.get("NOTIFY_SOCKET", ""))
        self._watchdog_s = _watchdog_s(environment)

    def ready(self) -> None:
        """The daemon serves; from now on, in a running event loop, it is also said to be alive."""
        if self._socket is None:
            return
        self._is_ready = True
        self._tell("READY=1", self._status())
        self._again()

    def reloading(self) -> None:
        """A reload begins; `reloaded` follows."""
        if self._is_ready and not self._is_stopping:
            self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self, refusal: str = "") -> None:
        """It has ended; `refusal` says why nothing has changed, and is shown until something else
        is to be said."""
        if self._is_ready and not self._is_stopping:
            self._tell("READY=1", refusal or self._status())
            self._shown = self._status()

    def stopping(self) -> None:
        """The daemon finishes what it has begun, and ends."""
        if self._socket is not None and not self._is_stopping:
            self._is_stopping = True
            self._tell("STOPPING=1", "finishing requests")

    def close(self) -> None:
        """Send what waits, for CLOSE_TIMEOUT_S at most, and nothing more. Idempotent."""
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        if self._socket is not None:
            end_s = time.monotonic() + CLOSE_TIMEOUT_S
            while self._waiting and (left_s := end_s - time.monotonic()) > 0:
                self._socket.settimeout(left_s)
                self._send(*self._waiting.popleft())
            self._socket.close()
            self._socket = None

    def _again(self) -> None:
        interval_s = min(STATUS_INTERVAL_S, self._watchdog_s / 2 or STATUS_INTERVAL_S)
        self._timer = asyncio.get_running_loop().call_later(interval_s, self._beat)

    def _beat(self) -> None:
        """The event loop goes round: that is what the watchdog watches."""
        status = self._shown if self._is_stopping else self._status()
        if status == self._shown or self._waiting:  # what waits says another status later
            status = ""
        self._send("WATCHDOG=1" if self._watchdog_s else "", status)
        self._again()

    def _tell(self, state: str, status: str = "") -> None:
        """Send a change of state, after those that wait."""
        if self._socket is not None:
            self._waiting.append((state, status))
            if self._retry is None:
                self._send_waiting()

    def _send_waiting(self) -> None:
        self._retry = None
        while self._waiting:
            if not self._send(*self._waiting[0]):
                self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._send_waiting)
                return
            self._waiting.popleft()

    def _send(self, state: str, status: str) -> bool:
        """Send one message; False where it is not taken now, but may be later."""
        lines = [line for line in (state, status and f"STATUS={_one_line(status)}") if line]
        if self._socket is None or not lines:
            return True
        try:
            self._socket.send("\n".join(lines).encode(errors="replace"))
        except (BlockingIOError, TimeoutError):
            return False
        except OSError as error:
            _log.debug("the service manager does not listen: %s", error)
        else:
            self._shown = status or self._shown
        return True


def _connected(address: str) -> socket.socket | None:
    """A socket that sends to `address`, a path or an abstract name; None where nobody is there."""
    if not address.startswith(("/", "@")):
        return None  # none, or of another family, which only virtual machines' first process gets
    name = "\0" + address[1:] if address[0] == "@" else address
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    sender.setblocking(False)
    try:
        sender.connect(name)
    except OSError as error:
        sender.close()
        _log.warning("NOTIFY_SOCKET %s: %s: nobody is told", address, error.strerror or error)
        return None
    return sender


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """How often the service manager wants to hear of this process at least; 0 for never."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    with suppress(ValueError):
        return max(0, int(environment.get("WATCHDOG_USEC", "0"))) / 1e6
    return 0.0


def _one_line(text: str) -> str:
    return "; ".join(text.splitlines())[:STATUS_CHARACTERS_MAX]
