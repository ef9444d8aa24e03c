"""Which process of this machine serves an address on an interface: claims, and who else is there.

Owns the claims of this process, and what the kernel tells of the sockets of others. Must not know
what follows from a claim that is refused.

A claim is the name of a Unix datagram socket on which nothing is ever sent. The kernel gives a name
in a network namespace to one socket only, whichever user, container or program asks, and takes it
back when the process ends, however it ends. It needs no file and no privilege, so that a claim can
be made after the confinement. The price: any local user can take a name and so keep a device from
being served; nobody can take one that is in use.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import socket
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ggaoe.net.plain import LINK_NAME
from ggaoe.proto.frame import ETHERTYPE

DESCRIPTORS_SHARE_MAX = 0.5
"""Part of the process's descriptors that claims may use; devices and connections need the rest."""

_CLAIM = "ggaoe/address/{0.interface}/{0.shelf}.{0.slot}"
_WANT = "ggaoe/wanted/{0.interface}/{0.shelf}.{0.slot}/{1}"
_WANTED = re.compile(r"ggaoe/wanted/(\d{1,10})/(\d{1,5})\.(\d{1,3})/(\d{1,10})")
_LINK = re.compile(LINK_NAME.format(r"(\d{1,10})"))
_NAMES, _PACKETS = Path("/proc/net/unix"), Path("/proc/net/packet")
_TABLE_BYTES_MAX = 1 << 24
_WITH_VALUE = "bmol"
"""Options of vblade."""


class Address(NamedTuple):
    """A shelf and slot on the interface with a number."""

    interface: int
    shelf: int
    slot: int


class PacketSocket(NamedTuple):
    """A socket for AoE frames, on every interface where `interface` is 0."""

    interface: int
    user_id: int
    inode: int


class Process(NamedTuple):
    """A process, and the arguments it was started with."""

    pid: int
    arguments: tuple[str, ...]

    @property
    def program(self) -> str:
        """What runs: for an interpreter, the script or module."""
        name, *rest = self.arguments or ("a program",)
        if name.rpartition("/")[2].startswith("python") and rest:
            name = rest[1].rpartition(".")[2] if rest[0] == "-m" and rest[1:] else rest[0]
        return name.rpartition("/")[2]

    @property
    def name(self) -> str:
        """As in `vblade, process 4711`."""
        return f"{self.program}, process {self.pid}"

    @property
    def is_initiator(self) -> bool:
        """Whether it is one of aoetools, which ask and do not reply."""
        return self.program.startswith("aoe")

    def serves(self) -> tuple[int, int] | None:
        """The shelf and slot on vblade's command line; None for any other program."""
        if self.program != "vblade":
            return None
        words = list(self.arguments[1:])
        while words and words[0].startswith("-"):
            letters = words.pop(0)[1:]
            with_value = next((i for i, c in enumerate(letters) if c in _WITH_VALUE), None)
            if with_value == len(letters) - 1 and words:
                words.pop(0)
        with suppress(ValueError, IndexError):
            return int(words[0]), int(words[1])
        return None


class Claims:
    """The addresses that this process has claimed. The tables of the kernel stay open, so that they
    can be read after the confinement."""

    def __init__(self) -> None:
        self._held: dict[Address, socket.socket] = {}
        self._wanted: dict[Address, socket.socket] = {}
        self._names = _Table(_NAMES)
        self._packets = _Table(_PACKETS)

    def take(self, address: Address) -> bool:
        """Whether the address is this process's, from now until `release`; OSError where the
        process has no more descriptors."""
        if address in self._held:
            return True
        if len(self._held) >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] * DESCRIPTORS_SHARE_MAX:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        claim = _bound(_CLAIM.format(address))
        if claim is None:
            return False
        self._held[address] = claim
        if address in self._wanted:
            self._wanted.pop(address).close()
        return True

    def want(self, address: Address) -> None:
        """Let the process that has the address know that this one waits for it."""
        if address not in self._wanted:
            with suppress(OSError):
                wish = _bound(_WANT.format(address, os.getpid()))
                if wish is not None:
                    self._wanted[address] = wish

    def release(self, address: Address) -> None:
        """Leave the address to others."""
        for sockets in (self._held, self._wanted):
            if address in sockets:
                sockets.pop(address).close()

    def wanted(self) -> dict[Address, int]:
        """The addresses of this process that another one waits for, and the process's number."""
        found = {}
        for name, _ in self._names.names():
            match = _WANTED.fullmatch(name)
            if match is not None:
                interface, shelf, slot, pid = map(int, match.groups())
                address = Address(interface, shelf, slot)
                if address in self._held:
                    found[address] = pid
        return found

    def holders(self, addresses: Collection[Address]) -> dict[Address, Process]:
        """Who has these addresses, as far as this process may look."""
        if not addresses:
            return {}
        wanted = {_CLAIM.format(address): address for address in addresses}
        inodes = {inode: wanted[name] for name, inode in self._names.names() if name in wanted}
        return {inodes[inode]: process for inode, process in owners(inodes.keys()).items()}

    def foreign_sockets(self) -> list[PacketSocket]:
        """Sockets for AoE frames of all programs but this one's kind."""
        rows = list(self._packets.packet_sockets())
        if not rows:
            return []
        ours = {
            int(match[1]) for name, _ in self._names.names() if (match := _LINK.fullmatch(name))
        }
        return [row for row in rows if row.inode not in ours]

    def close(self) -> None:
        """Idempotent."""
        for sockets in (self._held, self._wanted):
            while sockets:
                sockets.popitem()[1].close()
        self._names.close()
        self._packets.close()


def is_claimed(address: Address) -> bool:
    """Whether a process of this machine has an address."""
    claim = _bound(_CLAIM.format(address))
    if claim is not None:
        claim.close()
    return claim is None


def programs() -> list[tuple[PacketSocket, Process | None]]:
    """Programs other than ggaoe that receive AoE on this machine now; None for one that this
    process may not look at."""
    claims = Claims()
    try:
        sockets = claims.foreign_sockets()
    finally:
        claims.close()
    known = owners({one.inode for one in sockets}) if sockets else {}
    return [(one, known.get(one.inode)) for one in sockets]


def _bound(name: str) -> socket.socket | None:
    """A socket of that name; None where another one has it."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        made.bind(b"\0" + name.encode())
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return made


class _Table:
    """A table below /proc/net, of the network namespace in which it was opened; empty where it
    cannot be read."""

    def __init__(self, path: Path) -> None:
        self._handle = -1
        with suppress(OSError):
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _rows(self) -> Iterator[list[str]]:
        content = b""
        with suppress(OSError):
            while len(content) < _TABLE_BYTES_MAX:
                part = os.pread(self._handle, 1 << 16, len(content))
                if not part:
                    break
                content += part
        for line in content.decode("ascii", "replace").splitlines()[1:]:
            yield line.split()

    def names(self) -> Iterator[tuple[str, int]]:
        """Abstract names of Unix sockets, and the sockets' inodes."""
        for row in self._rows():
            if len(row) == 8 and row[7].startswith("@ggaoe/") and row[6].isdecimal():
                yield row[7][1:], int(row[6])

    def packet_sockets(self) -> Iterator[PacketSocket]:
        for row in self._rows():
            if len(row) >= 9 and row[3] == f"{ETHERTYPE:04x}":
                yield PacketSocket(int(row[4]), int(row[7]), int(row[8]))

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def owners(inodes: Collection[int]) -> dict[int, Process]:
    """The processes that have these sockets, as far as this one may look."""
    found: dict[int, Process] = {}
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    places: list[Path] = []
    with suppress(OSError):
        places += Path("/proc").glob("[0-9]*")
    for place in places:
        with suppress(OSError):
            for handle in (place / "fd").iterdir():
                with suppress(OSError):
                    inode = wanted.get(str(handle.readlink()))
                    if inode is not None:
                        words = (place / "cmdline").read_bytes().split(b"\0")[:-1]
                        found[inode] = Process(int(place.name), tuple(map(os.fsdecode, words)))
    return found
