"""A Linux guest with the kernel's own AoE initiator, as an ordinary process (user-mode-linux).

Owns: the guest's file system (an initramfs made of the host's own programs), its cables, its run
from boot to power-off, and the console protocol by which its script has the host do things. Must
not know: which target serves, or what the script tests.

The initiator works only in a kernel's first network namespace, so it needs a kernel of its own.
Files of the guest are in guest/; /functions there is what scripts have at hand.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from helpers.needs import UML_MODULES
from helpers.netns import Namespace, Process, bridge, veth

MEMORY_MIB = 512
POWER_OFF_TIMEOUT_S = 15.0
VECTOR_DEPTH_FRAMES = 128
CONSOLE_READ_BYTES = 65536
QUIET_S = 5.0
HUNG_S = 45.0
"""Without a line and a frame: scripts wait for less, and Linux asks for targets each minute."""
KERNEL_WARNING = 4  # messages of this level and below it are worse than a notice
_OF_A_BUSY_MACHINE = "hrtimer: interrupt took "
"""The guest was not given a processor for a while."""

_GUEST_FILES = Path(__file__).parent / "guest"
_PROGRAMS = (
    *("mkfs.ext4", "fsck.ext4", "resize2fs"),
    *("aoe-discover", "aoe-flush", "aoe-revalidate", "aoe-stat"),
)
_BASH = Path("/bin/bash")  # aoe-stat is a script for it

Action = Callable[..., object]


class GuestError(Exception):
    """The guest did not get through its script; carries what the console showed."""


class GuestHungError(GuestError):
    """It has fallen silent in the middle of its script. It owes that to itself: whoever waits for a
    target asks again and again. Its test is repeated (see conftest.py)."""


@dataclass(frozen=True)
class Transcript:
    """What a script left: its output lines, its exit status, and the kernel's messages.

    `kernel_log` begins with the script; each line starts with its level, as in `<6>`.
    """

    output: list[str]
    status: int
    kernel_log: list[str]

    def kernel_complaints(self) -> list[str]:
        """Kernel messages of level warning or worse, but for those of a busy machine."""
        return [
            line
            for line in self.kernel_log
            if _level(line) <= KERNEL_WARNING and _OF_A_BUSY_MACHINE not in line
        ]

    def __str__(self) -> str:
        return "\n".join([*self.output, f"status {self.status}", *self.kernel_log])


class Cpio:
    """Writes an initramfs archive: cpio in the "newc" form, documented with the kernel."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._names: set[str] = set()

    def add(self, name: str, mode: int, data: bytes = b"") -> None:
        """One entry, its parent directories first; a name that is there already is left alone."""
        name = name.lstrip("/")
        if name in self._names:
            return
        parent = Path(name).parent
        if parent != Path():
            self.add(str(parent), stat.S_IFDIR | 0o755)
        self._names.add(name)
        self._write(name, mode, data)

    def add_program(self, path: Path) -> None:
        """A program of the host at its place, with the shared libraries that it loads."""
        self.add(str(path), stat.S_IFREG | 0o755, path.read_bytes())
        for library in _libraries(path):
            self.add(str(library), stat.S_IFREG | 0o755, library.read_bytes())

    def close(self) -> None:
        """Write the end mark, padded so that another archive may follow in the same file."""
        self._write("TRAILER!!!", 0, b"")
        self._out.write(bytes(-self._out.tell() % 512))

    def _write(self, name: str, mode: int, data: bytes) -> None:
        ino, owner, group, links, mtime, check = len(self._names), 0, 0, 1, 0, 0
        fields = [ino, mode, owner, group, links, mtime, len(data), 0, 0, 0, 0, len(name) + 1]
        header = b"070701" + b"".join(b"%08X" % value for value in [*fields, check])
        entry = header + name.encode() + b"\0"
        self._out.write(entry + bytes(-len(entry) % 4) + data + bytes(-len(data) % 4))


@dataclass(frozen=True)
class Images:
    """The guest's file system, assembled once: `base`, and `fio`, which is large, apart."""

    base: Path
    fio: Path

    @classmethod
    def assemble(cls, directory: Path) -> Images:
        """Write both archives into `directory`."""
        images = cls(directory / "base.cpio", directory / "fio.cpio")
        with images.base.open("wb") as out:
            archive = Cpio(out)
            archive.add("init", stat.S_IFREG | 0o755, (_GUEST_FILES / "init").read_bytes())
            archive.add(
                "functions", stat.S_IFREG | 0o644, (_GUEST_FILES / "functions").read_bytes()
            )
            archive.add("bin/busybox", stat.S_IFREG | 0o755, _program("busybox").read_bytes())
            # The kernel itself calls this name, for file systems and checksums.
            archive.add("sbin/modprobe", stat.S_IFLNK | 0o777, b"/bin/busybox")
            archive.add("etc/mtab", stat.S_IFLNK | 0o777, b"/proc/mounts")
            archive.add("etc/mke2fs.conf", stat.S_IFREG | 0o644, _read("/etc/mke2fs.conf"))
            for name in _PROGRAMS:
                archive.add_program(_program(name))
            archive.add_program(_BASH)
            _add_modules(archive, "aoe")
            archive.close()
        with images.fio.open("wb") as out:
            archive = Cpio(out)
            archive.add_program(_program("fio"))
            archive.close()
        return images


def best_transport() -> str:
    """ "tap", or "raw" (a packet socket, slower) on a machine without /dev/net/tun."""
    return "tap" if os.access("/dev/net/tun", os.R_OK | os.W_OK) else "raw"


@dataclass
class Wire:
    """One or two cables between a guest and a target, in a namespace; a context manager.

    `mtus` has one MTU in bytes per cable. The target serves on `interfaces`; the guest's ends
    are called eth0 and eth1. `transport` is how the guest gets at its own, see `best_transport`.
    """

    mtus: Sequence[int]
    transport: str = field(default_factory=best_transport)
    namespace: Namespace = field(default_factory=Namespace)

    @property
    def interfaces(self) -> list[str]:
        """The target's end of each cable."""
        return [f"target{number}" for number in range(len(self.mtus))]

    def __enter__(self) -> Wire:
        with ExitStack() as undo:
            undo.enter_context(self.namespace)
            for number, mtu_bytes in enumerate(self.mtus):
                veth(self.namespace, f"target{number}", self.namespace, f"port{number}", mtu_bytes)
                self._make_door(f"door{number}", mtu_bytes)
                ports = [f"port{number}", f"door{number}"]
                bridge(self.namespace, f"switch{number}", ports, mtu_bytes)
            undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.namespace.close()

    def _make_door(self, name: str, mtu_bytes: int) -> None:
        if self.transport == "tap":
            self.namespace.ip(f"tuntap add {name} mode tap vnet_hdr")
            self.namespace.ip(f"link set {name} mtu {mtu_bytes} up")
            return
        veth(self.namespace, name, self.namespace, f"{name}-raw", mtu_bytes)
        self.namespace.ip(f"link set {name}-raw promisc on")

    def door(self, number: int) -> str:
        """The interface that the guest itself opens."""
        return f"door{number}" if self.transport == "tap" else f"door{number}-raw"

    def frames(self) -> int:
        """How many have gone through the doors, either way."""
        rows = Path(f"/proc/{self.namespace.pid}/net/dev").read_text().splitlines()
        counts = [row.split() for row in rows if row.strip().startswith("door")]
        return sum(int(row[2]) + int(row[10]) for row in counts)

    def pull(self, number: str = "0") -> None:
        """Pull a cable out: the target's interface stays up and loses its carrier."""
        self.namespace.ip(f"link set port{number} down")

    def plug(self, number: str = "0") -> None:
        """Put the cable back."""
        self.namespace.ip(f"link set port{number} up")

    def interface_down(self, number: str = "0") -> None:
        """Take the target's interface down, as an administrator does."""
        self.namespace.ip(f"link set target{number} down")

    def interface_up(self, number: str = "0") -> None:
        """Take it up again."""
        self.namespace.ip(f"link set target{number} up")


def run_guest(
    images: Images,
    wire: Wire,
    script: str,
    *,
    with_fio: bool = False,
    files: Mapping[str, str] | None = None,
    aoe_options: Mapping[str, int] | None = None,
    actions: Mapping[str, Action] | None = None,
    timeout_s: float,
) -> Transcript:
    """Boot a guest on `wire`, run `script` in it, power it off.

    `host NAME ARGUMENT…` in the script calls `actions[NAME](*arguments)` and goes on when that
    has returned. `files` (text by name) go into the guest's root directory. `aoe_options` are the
    initiator's module parameters. GuestError with the console so far if the guest does not get to
    its end within `timeout_s`, GuestHungError if it has stopped to do anything.
    """
    options = " ".join(f"{name}={value}" for name, value in (aoe_options or {}).items())
    mtus = " ".join(map(str, wire.mtus))
    with tempfile.TemporaryDirectory(prefix="ggaoe-guest-") as directory:
        initrd = Path(directory) / "initrd"
        with initrd.open("wb") as out:
            for image in [images.base, *([images.fio] if with_fio else [])]:
                with image.open("rb") as part:
                    shutil.copyfileobj(part, out)
            archive = Cpio(out)
            setting = f"mtus='{mtus}'\naoe_options='{options}'\n"
            archive.add("guest.conf", stat.S_IFREG | 0o644, setting.encode())
            for name, text in {**(files or {}), "script": script}.items():
                archive.add(name, stat.S_IFREG | 0o644, text.encode())
            archive.close()
        # It keeps its memory in a file, which has to lie in a tmpfs; only the namespace sees it.
        memory = Path(directory) / "memory"
        memory.mkdir()
        wire.namespace.run("mount", "-t", "tmpfs", "guest", memory)
        process = _boot(wire, initrd, memory)
        try:
            transcript = _converse(process, wire, actions or {}, time.monotonic() + timeout_s)
            process.wait(POWER_OFF_TIMEOUT_S)
        finally:
            process.kill()
    return transcript


def _boot(wire: Wire, initrd: Path, memory: Path) -> Process:
    devices = [
        f"vec{number}:transport={wire.transport},ifname={wire.door(number)},"
        f"mac=02:00:00:00:01:{number:02x},depth={VECTOR_DEPTH_FRAMES},mtu={mtu_bytes}"
        for number, mtu_bytes in enumerate(wire.mtus)
    ]
    return wire.namespace.spawn(
        "linux.uml",
        f"mem={MEMORY_MIB}M",
        f"initrd={initrd}",
        f"uml_dir={memory}",
        "umid=guest",
        *("con=null", "con0=fd:0,fd:1", "ssl=null"),
        *("panic=-1", "noreboot"),
        *devices,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"TMPDIR": str(memory)},
    )


def _converse(
    process: Process, wire: Wire, actions: Mapping[str, Action], deadline_s: float
) -> Transcript:
    """Follow the console to the script's end, doing what it asks the host for."""
    assert process.stdin is not None
    assert process.stdout is not None
    seen: list[str] = []
    answer, frames, alive_s = b"", 0, time.monotonic()
    for line in _lines(process.stdout.fileno(), deadline_s):
        if line is None:
            # A guest may miss that there is something to be read, until there is more.
            os.write(process.stdin.fileno(), answer)
            before, frames = frames, wire.frames()
            if frames != before:
                alive_s = time.monotonic()
            elif time.monotonic() - alive_s > HUNG_S:
                raise GuestHungError("the guest has hung; its console:\n" + "\n".join(seen))
            continue
        seen.append(line)
        answer, alive_s = b"", time.monotonic()
        if not line.startswith("@@host "):
            continue
        _, since, name, *arguments = line.split()
        answer = f"done {since}\n".encode()
        if name != "exit":
            actions[name](*arguments)
        os.write(process.stdin.fileno(), answer)
        if name == "exit":
            return _transcript(seen, int(arguments[0]))
    state = "ended early" if process.poll() is not None else "did not finish in time"
    raise GuestError(f"the guest {state}; its console:\n" + "\n".join(seen))


def _lines(console_fd: int, deadline_s: float) -> Iterator[str | None]:
    """Lines of the console until it closes or `deadline_s` (monotonic) has passed; None whenever
    it is quiet for a while."""
    rest = b""
    while (left_s := deadline_s - time.monotonic()) > 0:
        if not select.select([console_fd], [], [], min(left_s, QUIET_S))[0]:
            yield None
            continue
        data = os.read(console_fd, CONSOLE_READ_BYTES)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.rstrip(b"\r").decode(errors="replace") for line in lines)
    yield rest.decode(errors="replace")


def _transcript(seen: list[str], status: int) -> Transcript:
    script, log, end = (seen.index(mark) for mark in ("@@script", "@@dmesg", "@@end"))
    return Transcript(seen[script + 1 : log], status, seen[log + 1 : end])


def _level(kernel_line: str) -> int:
    found = re.match(r"<(\d+)>", kernel_line)
    return int(found[1]) & 7 if found else KERNEL_WARNING


def _program(name: str) -> Path:
    path = shutil.which(name)
    if path is None:
        raise GuestError(f"{name} is not installed on this machine")
    return Path(path)


def _libraries(program: Path) -> list[Path]:
    """Shared libraries of a dynamically linked program; none of a script or a static one."""
    listing = subprocess.run(
        ["ldd", program], check=False, capture_output=True, text=True, timeout=30
    ).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", listing)]


def _add_modules(archive: Cpio, module: str) -> None:
    """A kernel module with those that it depends on, where modprobe looks for them."""
    tree = next(iter(sorted(UML_MODULES.iterdir())))
    dependencies = dict(
        line.split(":", 1) for line in (tree / "modules.dep").read_text().splitlines()
    )
    names = [name for name in dependencies if Path(name).name.split(".")[0] == module]
    names += [other for name in names for other in dependencies[name].split()]
    place = f"lib/modules/{tree.name}"
    listing = "".join(f"{name}:{dependencies[name]}\n" for name in names)
    archive.add(f"{place}/modules.dep", stat.S_IFREG | 0o644, listing.encode())
    for name in names:
        archive.add(f"{place}/{name}", stat.S_IFREG | 0o644, (tree / name).read_bytes())


def _read(path: str) -> bytes:
    return Path(path).read_bytes()
