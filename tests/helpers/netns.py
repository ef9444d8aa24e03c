"""Namespaces and links for tests: every frame stays on interfaces that the test made itself.

Owns: an anonymous network + mount + pid namespace per `Namespace`, the processes started in it,
and veth pairs. Must not know: AoE, the daemon, pytest.

Nothing can be left behind: the namespace is held by a process that reads a pipe of ours and is
process 1 of its pid namespace. When the pipe closes (the test ended, or the test run was killed),
it ends, and the kernel ends all the rest with it: processes, mounts, links.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO

COMMAND_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
POLL_INTERVAL_S = 0.01
CLONE_NEWNET = 0x40000000

_UNSHARE = ["unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child=KILL"]

# Without IPv6 a new link is silent: only what the test sends is ever on it.
_HOLD = """
echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6 2> /dev/null || :
ip link set lo up && echo ready && exec cat > /dev/null
"""

_libc = ctypes.CDLL(None, use_errno=True)


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll `condition` until it holds; TimeoutError naming `what` after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(POLL_INTERVAL_S)


class Process:
    """A program running in a namespace; `pid` is the program's own, as the test sees it."""

    def __init__(self, wrapper: subprocess.Popen[bytes]) -> None:
        # nsenter has to fork to get into a pid namespace: the program is its only child.
        self._wrapper = wrapper
        self._was_stopped = False
        self.stdin: IO[bytes] | None = wrapper.stdin
        self.stdout: IO[bytes] | None = wrapper.stdout
        self.pid = 0
        children = Path(f"/proc/{wrapper.pid}/task/{wrapper.pid}/children")

        def started() -> bool:
            self.pid = int(children.read_text() or 0)
            return self.pid != 0 or wrapper.poll() is not None

        wait_until(started, COMMAND_TIMEOUT_S, f"start of {wrapper.args!r}")

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._wrapper.poll()

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Exit status once it has ended; subprocess.TimeoutExpired after `timeout_s`."""
        if self._was_stopped:
            # nsenter stops itself when it notices that its child has, which may be late.
            deadline_s = time.monotonic() + timeout_s
            while self._wrapper.poll() is None and time.monotonic() < deadline_s:
                self._wrapper.send_signal(signal.SIGCONT)
                with suppress(subprocess.TimeoutExpired):
                    self._wrapper.wait(0.1)
        return self._wrapper.wait(0 if self._was_stopped else timeout_s)

    def signal(self, number: int) -> None:
        """Send a signal to the program itself; nothing happens if it has ended."""
        self._was_stopped |= number == signal.SIGSTOP
        if self._wrapper.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self) -> int:
        """SIGTERM; its exit status. subprocess.TimeoutExpired if it does not obey in time."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> int:
        """SIGKILL, and wait until it is gone; its exit status."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def close(self) -> None:
        """Wait for its end, which somebody else has brought about, and close our ends of pipes."""
        self.wait()
        for pipe in (self.stdin, self.stdout):
            if pipe is not None:
                pipe.close()


class Namespace:
    """A network, mount and pid namespace of its own; a context manager. Needs root."""

    def __init__(self) -> None:
        self._processes: list[Process] = []

    def __enter__(self) -> Namespace:
        self._holder = subprocess.Popen(
            [*_UNSHARE, "sh", "-c", _HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert self._holder.stdout is not None
            if self._holder.stdout.readline() != b"ready\n":
                raise RuntimeError("no namespace: unshare or ip failed, see its message above")
            children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
            self.pid = int(children.read_text())
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
        """End everything in it and wait until it is gone."""
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait(STOP_TIMEOUT_S)
        for process in self._processes:
            process.close()

    def spawn(
        self,
        *argv: str | os.PathLike[str],
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Process:
        """Start a program inside; `env` is added to ours. It ends with the namespace at latest."""
        wrapper = subprocess.Popen(
            ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid"]
            + ([f"--wd={cwd}"] if cwd else [])
            + ["--", *argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **(env or {})},
        )
        process = Process(wrapper)
        self._processes.append(process)
        return process

    def run(self, *argv: str | os.PathLike[str]) -> str:
        """Run a program inside to its end; its output. CalledProcessError if it fails."""
        return subprocess.run(
            ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid", "--"]
            + [os.fspath(part) for part in argv],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=COMMAND_TIMEOUT_S,
            text=True,
        ).stdout

    def ip(self, arguments: str) -> str:
        """`ip ARGUMENTS` on the links of this namespace, as in `ip("link set eth0 up")`."""
        # Not in its pid namespace: another namespace is named by its process id as we see it.
        return subprocess.run(
            ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", "ip", *arguments.split()],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=COMMAND_TIMEOUT_S,
            text=True,
        ).stdout

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread's network is the namespace's meanwhile: sockets made here stay in it."""
        with Path("/proc/thread-self/ns/net").open() as home:
            with Path(f"/proc/{self.pid}/ns/net").open() as there:
                _set_network(there.fileno())
            try:
                yield
            finally:
                _set_network(home.fileno())

    def has_carrier(self, interface: str) -> bool:
        """Up, its peer, too, and ready to send."""
        return self.ip(f"-brief link show dev {interface}").split()[1] == "UP"

    def mac(self, interface: str) -> bytes:
        """Six bytes: the address of an interface."""
        fields = self.ip(f"-brief link show dev {interface}").split()
        return bytes.fromhex(fields[2].replace(":", ""))


def veth(
    left: Namespace, left_name: str, right: Namespace, right_name: str, mtu_bytes: int = 1500
) -> None:
    """A pair of joined Ethernet interfaces, both up; `left` and `right` may be the same."""
    left.ip(
        f"link add {left_name} mtu {mtu_bytes} type veth"
        f" peer name {right_name} mtu {mtu_bytes} netns {right.pid}"
    )
    left.ip(f"link set {left_name} up")
    right.ip(f"link set {right_name} up")
    # The kernel drops what is sent until it has noticed the carrier, which it does in its own time.
    for namespace, name in ((left, left_name), (right, right_name)):
        ready = partial(namespace.has_carrier, name)
        wait_until(ready, COMMAND_TIMEOUT_S, f"carrier of {name}")


def bridge(namespace: Namespace, name: str, ports: list[str], mtu_bytes: int = 1500) -> None:
    """A switch joining `ports`, up, forwarding from the first frame on."""
    # The bridge's own MTU goes first: a port that is larger than its bridge drops frames.
    namespace.ip(f"link add {name} mtu {mtu_bytes} type bridge forward_delay 0 mcast_snooping 0")
    for port in ports:
        namespace.ip(f"link set {port} master {name}")
    namespace.ip(f"link set {name} up")


def _set_network(namespace_fd: int) -> None:
    if _libc.setns(namespace_fd, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), "setns")
