"""Which addresses this daemon may serve where: those that no other target has.

Owns the claims on this machine, the questions to the network, and what is known of rivals. Must not
know devices' data, nor which initiator may use them.

An address is served on an interface once no other process of this machine has claimed it there and
no other target on the network has replied for it. A target that serves already goes on when another
one appears: it has the initiators. Each side knows of the other, because a target that waits
repeats its question with a tag by which the one that serves recognizes it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

from ggaoe.engine.base import CLAIM_TAG, CONFLICT_S, Engine, Port
from ggaoe.events import Event, about
from ggaoe.proto.frame import (
    BROADCAST,
    SHELF_ANY,
    SLOT_ANY,
    Command,
    Header,
    pack_request,
    padded,
)
from ggaoe.proto.query import Ccmd, pack_config
from ggaoe.server.claims import Address, Claims, PacketSocket, Process, owners
from ggaoe.units import format_mac

QUESTIONS_S = (0.05, 0.05, 0.05)
"""Pauses after each question for a new address: a frame may be lost, and a busy target is slow. One
question is for all addresses of an interface."""
RETRY_S = 1.0
"""Pause between questions for an address that somebody else has."""
SILENT_MAX = 10
"""Questions in a row without a reply, until a target that has replied is taken to be gone. One that
is merely slow must not be replaced, and an initiator waits for three minutes."""
CHECK_S = 3.0
"""Pause between two looks at rivals of what is served, and at sockets of other programs."""

_log = logging.getLogger("ggaoe.address")


class Standing(Enum):
    """Where a claim stands."""

    ASKING = "asking"
    OURS = "ours"
    TAKEN = "taken"


@dataclass(eq=False)
class _Entry:
    """One address that a device is to be served by."""

    address: Address
    port: Port
    device: str
    is_known: bool = False
    """Whether that device is there, and so replies to others that ask."""
    standing: Standing = Standing.ASKING
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it is ours or taken, or no longer wanted."""
    task: asyncio.Task[None] | None = None
    silent: int = 0
    """Questions since the last reply of another target."""
    rival: str = ""
    """Who else has it or wants it, as the end of a sentence."""
    rival_s: float = 0.0
    """When that was seen last."""

    @property
    def name(self) -> str:
        """As in e0.1."""
        return f"e{self.address.shelf}.{self.address.slot}"


@dataclass(frozen=True)
class Conflict:
    """Two targets have one address, or want it."""

    interface: str
    rival: str
    """Who else has it or wants it, as the end of a sentence."""
    is_served: bool
    """Whether this daemon serves it all the same."""

    @property
    def text(self) -> str:
        """A sentence about the device."""
        if self.is_served:
            return f"served on {self.interface}, but {self.rival}"
        return f"not served on {self.interface} because {self.rival}"


class Addresses:
    """See the module. `changed` is called when something may be served that could not be before."""

    def __init__(self, engine: Engine, changed: Callable[[], None]) -> None:
        self._engine = engine
        self._changed = changed
        self._claims = Claims()
        self._entries: dict[Address, _Entry] = {}
        self._is_change_due = False
        self._is_short = False
        """Descriptors do not suffice for all claims."""
        self._questions: set[Port] = set()
        self._holders: dict[Address, Process] = {}
        """Who had an address when it was wanted: the confinement does not let us look again."""
        self._blockers: dict[Address, tuple[int, Process]] = {}
        """Programs whose command lines say that they serve an address, and their sockets."""
        self._seen: frozenset[PacketSocket] = frozenset()
        self._foreign: frozenset[PacketSocket] = frozenset()
        """Sockets of other programs that were there at two looks in a row: tools come and go."""
        self._watch: asyncio.Task[None] | None = None

    # --- what is wanted --------------------------------------------------------------------

    def follow(self, wanted: Mapping[Address, tuple[Port, str]], known: Collection[str]) -> None:
        """Claim exactly these, each on its port for the device of that name. Devices in `known` are
        there; for one that comes later its addresses are asked for again, because nothing has
        replied to another target that has asked meanwhile."""
        for address in self._entries.keys() - wanted.keys():
            self._forget(self._entries.pop(address))
        fresh = []
        for address, (port, device) in wanted.items():
            entry = self._entries.get(address)
            if entry is None:
                entry = self._entries[address] = _Entry(address, port, device)
                fresh.append(entry)
            entry.port, entry.device = port, device
            is_late = device in known and not entry.is_known and entry.standing is Standing.OURS
            entry.is_known = device in known
            if is_late:
                self._begin(entry)
        if fresh:
            taken = {entry.address for entry in fresh if not self._take(entry)}
            self._holders |= self._claims.holders(taken)
            self._find_blockers(fresh)
        for entry in fresh:
            self._begin(entry)
        if wanted and self._watch is None:
            self._watch = asyncio.create_task(self._watch_rivals(), name="addresses")

    def _begin(self, entry: _Entry) -> None:
        entry.standing = Standing.ASKING
        entry.settled.clear()
        entry.task = asyncio.create_task(self._claim(entry), name=f"address {entry.name}")

    def _forget(self, entry: _Entry) -> None:
        if entry.task is not None:
            entry.task.cancel()
        entry.settled.set()
        self._claims.release(entry.address)

    def may_serve(self, address: Address) -> bool:
        """Whether this daemon is the one to reply for it."""
        entry = self._entries.get(address)
        return entry is not None and entry.standing is Standing.OURS

    def is_asking(self, port: Port) -> bool:
        """Whether it is not known yet who has an address on a port."""
        return any(
            entry.port is port and entry.standing is Standing.ASKING
            for entry in self._entries.values()
        )

    async def settled(self) -> None:
        """Wait until all that is new has been asked for."""
        for entry in list(self._entries.values()):
            await entry.settled.wait()

    def stop(self) -> None:
        """Ask no longer. Claims stay."""
        if self._watch is not None:
            self._watch.cancel()
        for entry in self._entries.values():
            if entry.task is not None:
                entry.task.cancel()
            entry.settled.set()

    def close(self) -> None:
        """Leave every address to others."""
        self.stop()
        self._entries.clear()
        self._claims.close()

    # --- what is known ---------------------------------------------------------------------

    def conflicts(self, device: str) -> list[Conflict]:
        """Those of one device, by interface."""
        found = [
            Conflict(entry.port.name, entry.rival, entry.standing is Standing.OURS)
            for entry in self._entries.values()
            if entry.device == device and entry.rival
        ]
        return sorted(found, key=lambda conflict: conflict.interface)

    def foreign(self, port: Port) -> list[PacketSocket]:
        """Sockets for AoE of other programs on an interface, except those of a moment."""
        return sorted(one for one in self._foreign if one.interface in (0, port.link.index))

    def answered(self, port: Port, header: Header) -> None:
        """Another target replies for an address, whether that is served here or not."""
        entry = self._entries.get(Address(port.link.index, header.shelf, header.slot))
        if entry is None or (entry.standing is Standing.OURS and not entry.is_known):
            return  # it is asked again before anything is served
        entry.silent = 0
        rival = f"{format_mac(header.source)} replies for it"
        if entry.standing is Standing.OURS:
            self._see(entry, rival)  # the engine has its conflict logged
        else:
            self._refuse(entry, rival, header.source)

    def wished(self, port: Port, header: Header) -> None:
        """Another target asks for an address that is served here, to serve it."""
        entry = self._entries.get(Address(port.link.index, header.shelf, header.slot))
        if entry is not None and entry.standing is Standing.OURS:
            self._contest(entry, f"{format_mac(header.source)} waits to serve it", header.source)

    # --- one address -----------------------------------------------------------------------

    async def _claim(self, entry: _Entry) -> None:
        """Make it ours, however long another target has it."""
        while not self._take(entry):
            holder = self._holders.get(entry.address)
            owner = holder.name if holder is not None else "another process of this machine"
            self._refuse(entry, f"{owner} has it")
            self._claims.want(entry.address)
            await asyncio.sleep(RETRY_S)
        self._holders.pop(entry.address, None)
        while (blocker := self._blocker(entry.address)) is not None:
            self._refuse(entry, f"{blocker.name} serves it")
            await asyncio.sleep(RETRY_S)
        entry.silent = SILENT_MAX  # unless a target replies
        for pause_s in QUESTIONS_S:
            self._ask_all(entry.port)
            await asyncio.sleep(pause_s)
        while entry.silent < SILENT_MAX:
            entry.silent += 1
            self._ask_for(entry)
            await asyncio.sleep(RETRY_S)
        entry.standing = Standing.OURS
        self._end(entry)
        self._tell()
        entry.settled.set()

    def _take(self, entry: _Entry) -> bool:
        try:
            return self._claims.take(entry.address)
        except OSError as error:  # out of descriptors: served all the same, as without claims
            if not self._is_short:
                self._is_short = True
                text = "not every address is claimed on this machine: %s (raise LimitNOFILE)"
                _log.warning(text, error.strerror)
            return True

    def _tell(self) -> None:
        """Have `changed` called, once for all that changes now."""

        def tell() -> None:
            self._is_change_due = False
            self._changed()

        if not self._is_change_due:
            self._is_change_due = True
            asyncio.get_running_loop().call_soon(tell)

    def _ask_all(self, port: Port) -> None:
        """Ask every target on a port for everything, once for all that ask now."""

        def ask() -> None:
            for asked in self._questions:
                self._question(asked, SHELF_ANY, SLOT_ANY)
            self._questions.clear()

        if not self._questions:
            asyncio.get_running_loop().call_soon(ask)
        self._questions.add(port)

    def _ask_for(self, entry: _Entry) -> None:
        self._question(entry.port, entry.address.shelf, entry.address.slot)

    def _question(self, port: Port, shelf: int, slot: int) -> None:
        head = pack_request(BROADCAST, port.path.mac, shelf, slot, Command.CONFIG, CLAIM_TAG)
        self._engine.send(port, padded(head + pack_config(Ccmd.READ)))

    # --- rivals ----------------------------------------------------------------------------

    def _refuse(self, entry: _Entry, rival: str, mac: bytes = b"") -> None:
        """It is not served, because of `rival`."""
        if not entry.rival:
            _log.critical(
                "%s (%s): not served on %s because %s",
                entry.device,
                entry.name,
                entry.port.name,
                rival,
                extra=_about(Event.CONFLICT, entry, mac),
            )
        entry.standing = Standing.TAKEN
        self._see(entry, rival)
        entry.settled.set()

    def _contest(self, entry: _Entry, rival: str, mac: bytes = b"") -> None:
        """It is served, and `rival` says who else has it or wants it."""
        if not entry.rival:
            _log.critical(
                "%s (%s): address conflict on %s, because %s",
                entry.device,
                entry.name,
                entry.port.name,
                rival,
                extra=_about(Event.CONFLICT, entry, mac),
            )
        self._see(entry, rival)

    def _see(self, entry: _Entry, rival: str) -> None:
        entry.rival, entry.rival_s = rival, time.monotonic()

    def _end(self, entry: _Entry) -> None:
        if not entry.rival:
            return
        entry.rival = ""
        text = "%s (%s): the address conflict on %s has ended"
        extra = _about(Event.CONFLICT_ENDED, entry)
        _log.warning(text, entry.device, entry.name, entry.port.name, extra=extra)

    def _find_blockers(self, entries: list[_Entry]) -> None:
        """Learn from command lines who serves what on the same interface of this machine: neither
        of two targets there hears the other. After the confinement there is none to be seen."""
        places = {entry.address.interface for entry in entries}
        sockets = self._claims.foreign_sockets()
        near = {one.inode: one for one in sockets if one.interface in places}
        for inode, process in owners(set(near)).items() if near else ():
            served = process.serves()
            if served is not None:
                self._blockers[Address(near[inode].interface, *served)] = (inode, process)

    def _blocker(self, address: Address) -> Process | None:
        """A program that is known to serve it, as long as its socket is there."""
        if address not in self._blockers:
            return None
        inode, process = self._blockers[address]
        if any(one.inode == inode for one in self._claims.foreign_sockets()):
            return process
        del self._blockers[address]
        return None

    async def _watch_rivals(self) -> None:
        """Look after what is served."""
        while True:
            wanted = self._claims.wanted()
            now_s = time.monotonic()
            for entry in self._entries.values():
                if entry.standing is not Standing.OURS:
                    continue
                if entry.address in wanted:
                    pid = wanted[entry.address]
                    self._contest(entry, f"process {pid} of this machine waits to serve it")
                elif entry.rival and now_s - entry.rival_s >= CONFLICT_S:
                    self._end(entry)
                elif entry.rival:
                    self._ask_for(entry)
            self._look_for_programs()
            await asyncio.sleep(CHECK_S)

    def _look_for_programs(self) -> None:
        found = frozenset(self._claims.foreign_sockets())
        lasting, self._seen = found & self._seen, found
        fresh, self._foreign = lasting - self._foreign, lasting
        for port in list(self._engine.ports.values()):
            for one in sorted(fresh):
                if one.interface in (0, port.link.index):
                    extra = about(Event.FOREIGN_TARGET, interface=port.name)
                    _log.warning("%s: %s", port.name, words_of(one), extra=extra)


def words_of(one: PacketSocket) -> str:
    """What a socket of another program may mean."""
    return (
        f"another program (user {one.user_id}, socket {one.inode}) receives AoE here; a second "
        f"target at an address of this daemon destroys data. ggaoe doctor names the program"
    )


def _about(event: Event, entry: _Entry, mac: bytes = b"") -> dict[str, str]:
    peer = format_mac(mac) if mac else ""
    return about(event, device=entry.device, interface=entry.port.name, peer=peer)
