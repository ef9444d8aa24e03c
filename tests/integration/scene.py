"""What the integration tests play with: the daemon as a process, its operator, and frames by hand.

Owns: configuration files, start and stop, ggaoectl, and a raw link at the host's end. Must not
know: any single test.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ggaoe.cli import ggaoectl
from ggaoe.client import Initiator, Timing
from ggaoe.engine.base import CLAIM_TAG
from ggaoe.proto.ata import Opcode
from ggaoe.proto.frame import (
    BROADCAST,
    CONFIG_HEADER_BYTES,
    ETHERTYPE,
    SECTOR_BYTES,
    Command,
    Header,
    pack_request,
    pack_taskfile,
    padded,
    unpack_header,
)
from ggaoe.proto.query import ConfigArgument, unpack_config
from helpers.needs import requires_program
from helpers.netns import Namespace, Process, wait_until
from helpers.targets import REPOSITORY

DEADLINE_S = 40.0
"""For whatever is awaited: longer than any of it takes (a reload waits 22 s for disks that do not
answer), and a hang still fails."""
PATIENT = Timing(first_timeout_s=10.0, timeout_min_s=10.0, timeout_max_s=10.0, deadline_s=60.0)
"""Nothing is sent twice unless it was lost, however slow the machine."""
USUAL = Timing(deadline_s=DEADLINE_S)
"""Where frames are lost, or a daemon is away for a while."""
COMMAND_TIMEOUT_S = 30.0
LEASE_BREAK_S_MIN = 30
"""Longer than a reload waits for a store."""
MIB = 1 << 20
DISK_BYTES = 4 * MIB
DISK_SECTORS = DISK_BYTES // SECTOR_BYTES
GGAOE = (sys.executable, "-m", "ggaoe.cli.ggaoe")
GGAOECTL = (sys.executable, "-m", "ggaoe.cli.ggaoectl")

_FRAME_BYTES_MAX = 1 << 17
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35  # asm-generic/socket.h
_TIMESPEC = struct.Struct("@ll")

# Relative paths start at the configuration file's directory.
_DEFAULTS = """
[defaults]
interfaces = far*
state-directory = state
control-socket = ctl
pid-file = pid
"""


def device(name: str = "disk", slot: int = 1, **options: object) -> str:
    """A device's section of a key file; `path` is a file called like the device unless given."""
    options = {"path": name, "shelf": 0, "slot": slot, **options}
    lines = [
        f"{key.replace('_', '-')} = {str(value).lower() if isinstance(value, bool) else value}"
        for key, value in options.items()
        if value is not None
    ]
    return "\n".join([f"[{name}]", *lines, ""])


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def _to_end(*argv: str | os.PathLike[str]) -> Outcome:
    done = subprocess.run(
        argv,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        text=True,
        cwd=REPOSITORY,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@dataclass
class Scene:
    """A host's and a target's namespace; files of the test are in `directory`."""

    host: Namespace
    target: Namespace
    directory: Path
    mtu_bytes: int = 1500
    logs: list[Path] = field(default_factory=list)

    def disk(self, name: str = "disk", size_bytes: int = DISK_BYTES) -> Path:
        """A sparse file."""
        path = self.directory / name
        with path.open("wb") as file:
            file.truncate(size_bytes)
        return path

    def daemon(self, *sections: str, name: str = "ggaoe") -> Daemon:
        """A daemon that serves `sections`, not started yet."""
        daemon = Daemon(self.target, self.directory, name)
        self.logs.append(daemon.log)
        daemon.configure(*sections)
        return daemon

    @contextmanager
    def serving(self, *sections: str) -> Iterator[Daemon]:
        """A daemon that runs meanwhile, and obeys at the end."""
        daemon = self.daemon(*sections)
        daemon.start()
        yield daemon
        assert daemon.stop() == 0

    @contextmanager
    def slow_disk(self) -> Iterator[SlowDisk]:
        """A file that can be held, called slow/disk."""
        for program in ("mkfs.ext4", "fsfreeze"):
            requires_program(program)
        image, mounted = self.disk("image", 16 * MIB), self.directory / "slow"
        mounted.mkdir()
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        try:
            self.target.run("mount", "-o", "loop", image, mounted)
        except subprocess.CalledProcessError:
            pytest.skip("needs loop devices and ext4")
        disk = SlowDisk(self.target, mounted)
        with disk.path.open("wb") as file:
            file.truncate(DISK_BYTES)
        try:
            yield disk
        finally:
            disk.release()

    def run(self, *argv: str | os.PathLike[str]) -> Outcome:
        """A command to its end, in the target's network."""
        return _to_end("nsenter", f"--net=/proc/{self.target.pid}/ns/net", "--", *argv)

    def ggaoe(self, *argv: str | os.PathLike[str]) -> Outcome:
        """`ggaoe ARGV` to its end, in the target's network."""
        return self.run(*GGAOE, *argv)

    def initiator(
        self,
        *interfaces: str,
        namespace: Namespace | None = None,
        timing: Timing = PATIENT,
    ) -> Initiator:
        """Our own client, in the host's namespace unless another is given."""
        with (namespace or self.host).entered():
            return Initiator(list(interfaces) or ["near0"], timing)

    @contextmanager
    def wire(self, interface: str = "near0", namespace: Namespace | None = None) -> Iterator[Wire]:
        """Frames by hand, at the host's end."""
        namespace = namespace or self.host
        with (
            namespace.entered(),
            socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETHERTYPE)
            ) as raw,
        ):
            raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 * MIB)
            raw.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            raw.bind((interface, ETHERTYPE))
            yield Wire(raw, namespace.mac(interface))

    def print_logs(self) -> None:
        for log in self.logs:
            if log.exists():
                print(f"{log.name}:", log.read_text(), sep="\n")


class SlowDisk:
    """A file on a file system of its own. While that is frozen, writes to the file wait: serve it
    with `direct_io=False`, since the portable engine hands direct writes to the kernel itself."""

    def __init__(self, namespace: Namespace, mounted: Path) -> None:
        self._namespace = namespace
        self._mounted = mounted
        self._is_held = False

    @property
    def path(self) -> Path:
        """The file as we see it; the daemon sees it below the configuration's directory."""
        return Path(f"/proc/{self._namespace.pid}/root{self._mounted}/disk")

    def hold(self) -> None:
        """From now on no write to it comes to an end."""
        self._namespace.run("fsfreeze", "--freeze", self._mounted)
        self._is_held = True

    def release(self) -> None:
        """Idempotent."""
        if self._is_held:
            self._namespace.run("fsfreeze", "--unfreeze", self._mounted)
            self._is_held = False


@contextmanager
def leased(path: Path) -> Iterator[None]:
    """Who opens `path` meanwhile waits, as for a store that does not answer."""
    if int(Path("/proc/sys/fs/lease-break-time").read_text()) < LEASE_BREAK_S_MIN:
        pytest.skip("needs leases that hold: fs.lease-break-time is too small")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # tells us that somebody waits
    lease = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    finally:
        os.close(lease)
        signal.signal(signal.SIGIO, before)


async def round_trip(
    initiator: Initiator, disk: Path, shelf: int = 0, slot: int = 1, base_bytes: int = 0
) -> None:
    """Random data written all over a device come back, and are in its file from `base_bytes` on."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    remote = await initiator.open(shelf, slot)
    size_sectors = (await remote.identify()).size_sectors
    expected = bytearray(await remote.read(0, size_sectors))
    for _ in range(20):
        sectors = rng.randint(1, min(600, size_sectors))
        at = rng.randrange(size_sectors - sectors + 1)
        data = rng.randbytes(sectors * SECTOR_BYTES)
        await remote.write(at, data)
        expected[at * SECTOR_BYTES : (at + sectors) * SECTOR_BYTES] = data
    assert await remote.read(0, size_sectors) == expected
    await remote.flush()
    with disk.open("rb") as file:
        file.seek(base_bytes)
        assert file.read(len(expected)) == expected


class Daemon:
    """`ggaoe -c FILE` in the foreground; start, stop and kill may follow each other."""

    wrapper: Sequence[str] = ()
    """What runs it, as an argument vector that the daemon's own follows."""
    command: Sequence[str] = GGAOE

    def __init__(self, namespace: Namespace, directory: Path, name: str = "ggaoe") -> None:
        self.namespace = namespace
        self.directory = directory
        self.config = directory / f"{name}.conf"
        self.log = directory / f"{name}.log"
        self.process: Process | None = None
        self._log_starts_at = 0
        (directory / "state").mkdir(exist_ok=True)

    def configure(self, *sections: str) -> None:
        """Write the configuration file; a `[defaults]` among the sections overrides ours."""
        new = self.config.with_suffix(".new")
        new.write_text(_DEFAULTS + "".join(sections))
        new.replace(self.config)  # a daemon that reads it just now reads a whole one

    @property
    def running(self) -> Process:
        assert self.process is not None
        return self.process

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        self.launch()
        self.wait_for_log("ready: ")

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        self._log_starts_at = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = self.namespace.spawn(
                *self.wrapper,
                *self.command,
                "-c",
                self.config,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
            )

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        return self.running.stop()

    def kill(self) -> None:
        self.running.kill()

    def hang_up(self) -> None:
        """SIGHUP, and wait until the configuration has been read and applied, or refused."""
        done = ("reload: done", "reload refused")
        before = sum(self.log_text().count(line) for line in done)
        self.running.signal(signal.SIGHUP)
        wait_until(
            lambda: sum(self.log_text().count(line) for line in done) > before, DEADLINE_S, "reload"
        )

    def reconfigure(self, *sections: str) -> None:
        """A new configuration, by SIGHUP."""
        self.configure(*sections)
        self.hang_up()

    def log_text(self) -> str:
        """What this run has logged."""
        with self.log.open("rb") as file:
            file.seek(self._log_starts_at)
            return file.read().decode()

    def wait_for_log(self, text: str) -> None:
        def found() -> bool:
            if text in self.log_text():
                return True
            if self.running.poll() is not None:
                raise RuntimeError(f"the daemon has ended: {self.log_text()}")
            return False

        wait_until(found, DEADLINE_S, f"{text!r} in the log")

    # --- ggaoectl --------------------------------------------------------------------------

    def ctl(self, *argv: str) -> Outcome:
        """`ggaoectl ARGV` to its end."""
        return _to_end(*GGAOECTL, "-c", self.config, *argv)

    def ask(self, *argv: str) -> Any:
        """The result of a verb that has to succeed."""
        outcome = self.ctl("--json", *argv)
        assert outcome.status == 0, outcome
        return outcome.json

    def look(self, verb: str, *names: str) -> Any:
        """As `ask`, for what is looked at often: without a process for each look."""
        socket_path = ggaoectl.control_socket(self.config)
        return ggaoectl.ask(socket_path, verb, {"names": list(names)})

    def listed(self, name: str) -> dict[str, Any]:
        """A device's row in `ggaoectl list`."""
        found: dict[str, Any] = next(
            row for row in self.look("list")["devices"] if row["name"] == name
        )
        return found

    def interface(self, name: str) -> dict[str, Any] | None:
        """An interface's row in `ggaoectl list`, None where it is not listed."""
        return next((row for row in self.look("list")["interfaces"] if row["name"] == name), None)

    def counters(self, name: str = "disk") -> dict[str, Any]:
        found: dict[str, Any] = self.look("stats", name)["devices"][name]
        return found

    def drops(self, interface: str = "far0") -> dict[str, int]:
        """What was dropped on an interface, by reason."""
        found: dict[str, int] = self.look("stats", interface)["interfaces"][interface]["drops"]
        return found

    def wait_for_state(self, name: str, state: str) -> None:
        wait_until(lambda: self.listed(name)["state"] == state, DEADLINE_S, f"{name} is {state}")

    def wait_for_interface(self, name: str, *, serving: bool) -> None:
        def reached() -> bool:
            row = self.interface(name)
            return (row is not None and row["serving"]) == serving

        wait_until(reached, DEADLINE_S, f"{name} serving: {serving}")


@dataclass(frozen=True)
class Received:
    """A frame that was received, what is in it, and when the kernel had it."""

    header: Header
    frame: bytes
    arrival_ns: int

    @property
    def address(self) -> tuple[int, int]:
        return self.header.shelf, self.header.slot

    @property
    def config(self) -> ConfigArgument:
        assert self.header.command == Command.CONFIG
        argument = unpack_config(self.frame)
        assert argument is not None
        return argument

    @property
    def is_advertisement(self) -> bool:
        """A config response that nobody has asked for."""
        header = self.header
        return (
            header.is_response
            and header.command == Command.CONFIG
            and header.tag == 0
            and len(self.frame) >= CONFIG_HEADER_BYTES
        )


class Wire:
    """Exact frames out of and into one interface."""

    def __init__(self, raw: socket.socket, mac: bytes) -> None:
        self._socket = raw
        self.mac = mac

    def send(self, *frames: bytes) -> None:
        """Send frames as they are, as fast as they go."""
        for frame in frames:
            self._socket.send(frame)

    def pending(self) -> list[Received]:
        """What has arrived by now, whoever it was for, without a target's questions who else serves
        its addresses."""
        found = []
        with suppress(BlockingIOError):
            while True:
                try:
                    frame, ((_, _, stamp),), _, address = self._socket.recvmsg(
                        _FRAME_BYTES_MAX, socket.CMSG_SPACE(_TIMESPEC.size)
                    )
                except OSError as error:
                    if error.errno != errno.ENETDOWN:
                        raise
                    continue
                header = unpack_header(frame)
                assert header is not None
                is_question = header.tag == CLAIM_TAG and not header.is_response
                if address[2] != socket.PACKET_OUTGOING and not is_question:
                    seconds, nanoseconds = _TIMESPEC.unpack(stamp)
                    found.append(Received(header, frame, seconds * 10**9 + nanoseconds))
        return found

    def collect(
        self, is_enough: Callable[[list[Received]], bool], what: str = "frames"
    ) -> list[Received]:
        """Everything that arrives until `is_enough` of it has; TimeoutError otherwise."""
        found: list[Received] = []
        deadline_s = time.monotonic() + DEADLINE_S
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while not is_enough(found):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"{what}: only {found}")
            with suppress(InterruptedError):
                poll.poll(left_s * 1000)
            found += self.pending()
        return found

    def wait_for(self, condition: Callable[[Received], bool], what: str = "a frame") -> Received:
        """The first frame that satisfies `condition`; those before it are lost."""
        return next(filter(condition, self.collect(lambda got: any(map(condition, got)), what)))

    def wait_for_reply(self, tag: int) -> Received:
        return self.wait_for(lambda got: got.header.is_response and got.header.tag == tag)

    def request(
        self,
        command: int,
        argument: bytes,
        tag: int,
        *,
        slot: int = 1,
        shelf: int = 0,
        destination: bytes = BROADCAST,
        source: bytes | None = None,
    ) -> bytes:
        """A request's frame."""
        head = pack_request(destination, source or self.mac, shelf, slot, command, tag)
        return padded(head + argument)

    def write(self, sector: int, data: bytes, tag: int, **fields: Any) -> bytes:
        """WRITE SECTORS EXT of `data`."""
        return self.request(
            Command.ATA, _ata(Opcode.WRITE_SECTORS_EXT, sector, data), tag, **fields
        )

    def read(self, sector: int, sectors: int, tag: int, **fields: Any) -> bytes:
        """READ SECTORS EXT."""
        taskfile = pack_taskfile(
            0x40, 0, sectors, Opcode.READ_SECTORS_EXT, sector.to_bytes(6, "little")
        )
        return self.request(Command.ATA, taskfile, tag, **fields)


def _ata(opcode: int, sector: int, data: bytes) -> bytes:
    sectors = len(data) // SECTOR_BYTES
    return pack_taskfile(0x41, 0, sectors, opcode, sector.to_bytes(6, "little")) + data
