"""Checks of the configuration as a whole, the process's privilege, and the kernel's features."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ggaoe.engine.select import ENGINES, live_engine
from ggaoe.errors import StartError
from ggaoe.server import capabilities, landlock, seccomp
from ggaoe.server.capabilities import Capability
from ggaoe.server.doctor.base import Finding, Situation, read_line, read_number
from ggaoe.units import counted

_FS = Path("/proc/sys/fs")
_KERNEL = Path("/proc/sys/kernel")
_IO_URING_SETUP = 425  # the same on all architectures
_IO_URING_PARAMETERS_BYTES = 120


def configuration(situation: Situation) -> Iterator[Finding]:
    config = situation.config
    for problem in config.warnings:
        where = f"{problem.file}:{problem.line}" if problem.line else problem.file
        yield Finding("warning", where, problem.message)
    if not config.devices:
        remedy = "add a section with path, shelf and slot"
        yield Finding("warning", str(situation.source), "no device is configured", remedy)
    for name, device in config.devices.items():
        if device.write_cache:
            yield Finding(
                "warning",
                name,
                "write-cache = true: a power cut loses writes that hosts believe safe",
                "remove the option, unless what is on the device can be lost",
            )
    if not config.warnings and config.devices:
        yield Finding("ok", str(situation.source), counted(len(config.devices), "device"))


def privilege(situation: Situation) -> Iterator[Finding]:
    if situation.config.user is not None:
        try:
            capabilities.user_called(situation.config.user)
        except StartError as error:
            yield Finding("error", "user", str(error))
    if Capability.NET_RAW in situation.capabilities:
        yield Finding("ok", capabilities.user_name(), "may send and receive Ethernet frames")
    elif situation.live is None:
        yield Finding(
            "error",
            capabilities.user_name(),
            "CAP_NET_RAW is missing: a daemon that starts like this cannot send frames",
            "run it as root, or give the unit AmbientCapabilities=CAP_NET_RAW",
        )
    else:
        text = "CAP_NET_RAW is missing: what takes packet sockets was not examined"
        yield Finding("note", capabilities.user_name(), text, "run doctor as root")


def engine(situation: Situation) -> Iterator[Finding]:
    try:
        name = live_engine(situation.config.engine)
    except StartError as error:
        yield Finding("error", "engine", str(error))
        return
    if "native" in ENGINES:
        yield Finding("ok", name, "this installation has the native engine")
    else:
        yield Finding(
            "note",
            name,
            "the native engine is not built, and the portable one is several times slower",
            "install a C compiler and Python's headers, and install ggaoe again",
        )


def confinement(situation: Situation) -> Iterator[Finding]:
    """Landlock and seccomp, where the configuration wants them."""
    config = situation.config
    if config.landlock:
        try:
            yield Finding("ok", "Landlock", f"ABI {landlock.abi()}")
        except OSError as error:
            why = "is not in this kernel" if error.errno == errno.ENOSYS else "is not active"
            yield Finding(
                "warning",
                "Landlock",
                f"{why}: the daemon could reach the whole file system",
                "boot with landlock in the list of the kernel's option lsm=, "
                "or set landlock = false to accept it",
            )
    if config.seccomp:
        actions = read_line(_KERNEL / "seccomp/actions_avail") or ""
        if "errno" in actions.split() and seccomp.has_list():
            yield Finding("ok", "seccomp", "filters are available")
        else:
            text = "no filter for this kernel and machine: the daemon keeps every system call"
            yield Finding("warning", "seccomp", text, "set seccomp = false to accept it")


def asynchronous_io(situation: Situation) -> Iterator[Finding]:
    config = situation.config
    refusal = _io_uring_refusal()
    if refusal is None:
        yield Finding("ok", "io_uring", "is available")
    else:
        wanted = config.io_engine == "uring"
        remedy = "take another io-engine" if wanted else ""
        yield Finding("warning" if wanted else "note", "io_uring", refusal, remedy)
    used, most = read_number(_FS / "aio-nr"), read_number(_FS / "aio-max-nr")
    if used is None or most is None:
        text = "is not in this kernel: worker threads do direct I/O, more slowly"
        yield Finding("warning", "Linux AIO", text, "take a kernel with CONFIG_AIO")
        return
    try:
        needed = 0 if situation.live else _aio_events(situation)
    except (ImportError, OSError):
        text = "the system's libaio is missing: worker threads do what AIO could"
        yield Finding(
            "warning", "Linux AIO", text, "install libaio (Debian: libaio1 or libaio1t64)"
        )
        return
    where = "fs.aio-max-nr"
    if used + needed > most:
        yield Finding(
            "warning",
            where,
            f"{used} of {most} requests are taken, and this configuration asks for {needed} more: "
            "devices that get none use worker threads",
            f"sysctl -w fs.aio-max-nr={max(2 * most, used + 2 * needed)}, and in /etc/sysctl.d",
        )
    else:
        text = f"{used} of {most} requests are taken"
        yield Finding("ok", where, f"{text}, {needed} more are needed" if needed else text)


def _aio_events(situation: Situation) -> int:
    """What a daemon with this configuration asks the system for. ImportError or OSError where
    there is no libaio."""
    from ggaoe.backend.aio import IN_FLIGHT_MAX

    config = situation.config
    events = IN_FLIGHT_MAX * sum(device.direct_io for device in config.devices.values())
    if live_engine(config.engine) == "native":
        from ggaoe.engine.native.core import AIO_EVENTS_MAX

        events += AIO_EVENTS_MAX
    return events


def _io_uring_refusal() -> str | None:
    """Why there is none; a ring is made and closed to find out."""
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(_IO_URING_PARAMETERS_BYTES)
    ring = libc.syscall(ctypes.c_long(_IO_URING_SETUP), 1, parameters)
    if ring >= 0:
        os.close(ring)
        return None
    number = ctypes.get_errno()
    if number == errno.ENOSYS:
        return "is not in this kernel"
    if number == errno.EPERM:
        return "is forbidden: by sysctl kernel.io_uring_disabled, or by a container's filter"
    if number == errno.ENOMEM:
        return "has no memory for its rings: see ulimit -l (LimitMEMLOCK in a unit)"
    return f"cannot be used: {os.strerror(number)}"
