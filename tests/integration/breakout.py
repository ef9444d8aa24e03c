"""Tries to break out of a confinement: a program, started by test_confine.py.

Reads from stdin a JSON object: `limits` (arguments of `Limits`; paths as text, a device is its
path), and `places`, on which the attempts are made. Makes each attempt before it confines itself,
afterwards, and afterwards in a new thread; prints the errors' names by attempt as JSON, "done" for
what succeeded. Before, everything should.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ggaoe.config import from_mapping
from ggaoe.server.confine import Limits, confine

_libc = ctypes.CDLL(None, use_errno=True)

# (x86_64, generic). Called with arguments that cannot work, so that nothing happens to the machine
# where they are permitted: any error but EPERM says that the call was there.
_CALLS = {
    "bpf": (321, 280),
    "chroot": (161, 51),
    "execveat": (322, 281),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "mount": (165, 40),
    "open_by_handle_at": (304, 265),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "ptrace": (101, 117),
    "setns": (308, 268),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}


def system_call(name: str) -> Callable[[], None]:
    number = _CALLS[name][platform.machine() != "x86_64"]

    def call() -> None:
        everything = ctypes.c_long(-1)
        if _libc.syscall(ctypes.c_long(number), *[everything] * 6) < 0:
            code = ctypes.get_errno()
            if code == errno.EPERM:
                raise OSError(code, name)

    return call


def opened(path: str, flags: int) -> Callable[[], None]:
    def call() -> None:
        os.close(os.open(path, flags, 0o600))

    return call


def run_program() -> None:
    """In a child, so that nothing is replaced."""
    child = os.fork()
    if child == 0:
        try:
            os.execv("/bin/true", ["true"])
        except OSError as error:
            os._exit(error.errno)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise OSError(status, "exec")


def signal_parent() -> None:
    os.kill(os.getppid(), 0)


def socket_of(family: int, kind: int = socket.SOCK_DGRAM) -> Callable[[], None]:
    def call() -> None:
        socket.socket(family, kind).close()

    return call


def connected(path: str, kind: int = socket.SOCK_STREAM) -> Callable[[], None]:
    """What D-Bus, systemd and container engines take commands on."""

    def call() -> None:
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.connect(path)

    return call


def connected_pair(path: str) -> Callable[[], None]:
    """A pair can be made, and an end of it connected to nothing else: EISCONN at any time."""

    def call() -> None:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ends[0], ends[1]:
            ends[0].connect(path)

    return call


def low_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 80))


def any_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))


def host_name() -> None:
    """Takes CAP_SYS_ADMIN, and changes nothing."""
    socket.sethostname(socket.gethostname())


def attempts(places: dict[str, str]) -> dict[str, Callable[[], None]]:
    create = os.O_RDWR | os.O_CREAT | os.O_EXCL
    made = places["directory"] + f"/made-{os.urandom(8).hex()}"
    return {
        "read outside": opened(places["outside"], os.O_RDONLY),
        "write outside": opened(places["outside"], os.O_WRONLY),
        "read the device": opened(places["device"], os.O_RDONLY),
        "write the device": opened(places["device"], os.O_RDWR),
        "truncate the device": opened(places["device"], os.O_RDWR | os.O_TRUNC),
        "create beside it": opened(made, create),
        "create a state": opened(places["state"] + f"/{os.urandom(8).hex()}", create),
        "list the root": opened("/", os.O_RDONLY | os.O_DIRECTORY),
        "read of another user": opened(places["foreign"], os.O_RDONLY),
        "run a program": run_program,
        "signal another process": signal_parent,
        "IPv4": socket_of(socket.AF_INET),
        "IPv6": socket_of(socket.AF_INET6),
        "packets": socket_of(socket.AF_PACKET, socket.SOCK_RAW),
        "connect to a service": connected(places["service"]),
        "connect an end of a pair": connected_pair(places["service"]),
        "send to a log": connected(places["log"], socket.SOCK_DGRAM),
        "bind a TCP port": any_port,
        "bind a low port": low_port,
        "set the host name": host_name,
        **{name: system_call(name) for name in _CALLS},
    }


def outcomes(tries: dict[str, Callable[[], None]]) -> dict[str, str]:
    found = {}
    for name, attempt in tries.items():
        try:
            attempt()
        except OSError as error:
            found[name] = errno.errorcode[error.errno or 0]
        else:
            found[name] = "done"
    return found


def limits_from(given: dict[str, object]) -> Limits:
    devices = from_mapping(
        {
            "devices": {
                f"device {slot}": {"path": path, "shelf": 0, "slot": slot}
                for slot, path in enumerate(given.pop("devices"))  # type: ignore[arg-type]
            }
        },
        "/test",
    ).devices
    state = Path(str(given.pop("state_directory")))
    return Limits(devices=tuple(devices.values()), state_directory=state, **given)  # type: ignore[arg-type]


def main() -> None:
    given = json.load(sys.stdin)
    tries = attempts(given["places"])
    result = {"before": outcomes(tries)}
    confinement = confine(limits_from(given["limits"]))
    tries = attempts(given["places"])
    result["after"] = outcomes(tries)

    def in_thread() -> None:
        result["in a thread"] = outcomes(attempts(given["places"]))

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    print(json.dumps({"outcomes": result, "facts": confinement.facts()}))


if __name__ == "__main__":
    main()
