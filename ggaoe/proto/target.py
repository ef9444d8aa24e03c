"""One served device as initiators see it: which frame gets which answer (AoE r11).

Owns the order of checks, who may do what and why, the lists and the strings. Sans-I/O: a frame goes
in, an outcome comes out; who reads, writes, stores state and sends is somebody else. A native
engine answers only flawless READ, WRITE, VERIFY and FLUSH by itself and hands everything else to
`Target.receive`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from operator import attrgetter
from typing import NamedTuple, TypeAlias

from ggaoe.proto import access, ata, query
from ggaoe.proto.ata import AtaError, Op, Opcode
from ggaoe.proto.frame import (
    ATA_HEADER_BYTES,
    CONFIG_HEADER_BYTES,
    ETHERNET_BYTES,
    HEADER_BYTES,
    MASK_HEADER_BYTES,
    RESERVE_HEADER_BYTES,
    SECTOR_BYTES,
    SECTORS_PER_FRAME_MAX,
    SHELF_ANY,
    SLOT_ANY,
    VERSION,
    Buffer,
    Command,
    Error,
    Header,
    Taskfile,
    pack_advertisement,
    pack_response,
    pack_taskfile,
    padded,
    sectors_advertised,
    sectors_that_fit,
    unpack_taskfile,
)
from ggaoe.proto.operation import Operation, operation_of
from ggaoe.proto.rules import EVERYBODY, Rules
from ggaoe.units import format_mac

FIRMWARE_VERSION = 0x0001
"""Of the config reply: what aoe-stat and sysfs show as the target's firmware."""


class DropReason(Enum):
    """Why a frame got no answer; the values are the counters' names."""

    ACCESS_LIST = "access_list"
    MASK_LIST = "mask_list"
    DISCOVER_LIST = "discover_list"
    CONFIG_MISMATCH = "config_mismatch"
    MTU = "mtu"
    QUEUE_FULL = "queue_full"
    NOT_SERVING = "not_serving"
    RESERVED = "reserved"
    RATE_LIMITED = "rate_limited"


class Refusal(Enum):
    """Why a request got an error; the values are what logs and counters call it."""

    READ_LIST = "read_list"
    WRITE_LIST = "write_list"
    CHANGE_LIST = "change_list"
    RESERVATION = "reservation"
    READ_ONLY = "read_only"
    SECTOR_COUNT = "sector_count"
    MTU = "mtu"
    NO_SECTORS = "no_sectors"
    BEYOND_END = "beyond_end"
    SHORT_ARGUMENT = "short_argument"
    SHORT_DATA = "short_data"
    WILDCARD_WRITE = "wildcard_write"
    VERSION = "version"
    COMMAND = "command"
    ARGUMENT = "argument"
    OPCODE = "opcode"
    SMART = "smart"
    CONFIG_PRESENT = "config_present"
    MASK_EDIT = "mask_edit"
    STORE_AWAY = "store_away"
    STORE_FAILED = "store_failed"

    @property
    def words(self) -> str:
        """For people."""
        return _WORDS[self]


REFUSALS_OF_HOSTS = frozenset(
    {
        Refusal.READ_LIST,
        Refusal.WRITE_LIST,
        Refusal.CHANGE_LIST,
        Refusal.RESERVATION,
        Refusal.READ_ONLY,
        Refusal.SECTOR_COUNT,
    }
)
"""Those that last, because of who asks, or of what it believes about the target."""
_WORDS = {
    Refusal.READ_LIST: "a list does not permit it",
    Refusal.WRITE_LIST: "a list does not permit it",
    Refusal.CHANGE_LIST: "a list does not permit it",
    Refusal.RESERVATION: "it is reserved for other hosts",
    Refusal.READ_ONLY: "it is read-only",
    Refusal.SECTOR_COUNT: "asks for more sectors than a frame has room for",
    Refusal.MTU: "no frame has room for its reply since the MTU was lowered",
    Refusal.NO_SECTORS: "asks for no sectors",
    Refusal.BEYOND_END: "beyond the end",
    Refusal.SHORT_ARGUMENT: "the frame ends before its argument does",
    Refusal.SHORT_DATA: "the frame ends before its data do",
    Refusal.WILDCARD_WRITE: "a write for every device at once",
    Refusal.VERSION: "no version of AoE that is known here",
    Refusal.COMMAND: "no command of AoE that is known here",
    Refusal.ARGUMENT: "the argument makes no sense",
    Refusal.OPCODE: "not known here, or not so",
    Refusal.SMART: "SMART does not do that here",
    Refusal.CONFIG_PRESENT: "it has another config string already",
    Refusal.MASK_EDIT: "a directive that cannot be done",
    Refusal.STORE_AWAY: "the store is not usable now",
    Refusal.STORE_FAILED: "the store has failed",
}
_REFUSAL_OF_ERROR = {
    Error.COMMAND: Refusal.COMMAND,
    Error.ARGUMENT: Refusal.ARGUMENT,
    Error.UNAVAILABLE: Refusal.STORE_AWAY,
    Error.CONFIG_PRESENT: Refusal.CONFIG_PRESENT,
    Error.VERSION: Refusal.VERSION,
    Error.RESERVED: Refusal.RESERVATION,
}


class Finding(NamedTuple):
    """What one check finds about a host; `rule` is what it goes by, None where nothing is set."""

    check: str
    permits: bool
    rule: str | None


@dataclass(frozen=True, slots=True)
class Path:
    """The link a frame came by, as far as replies depend on it."""

    mac: bytes
    mtu_bytes: int
    sectors_offered_max: int = 0
    """Most sectors ever advertised here: hosts may not yet know of a smaller MTU."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Send `frame` (at least 60 bytes) back by the link it came from."""

    frame: bytes
    refusal: Refusal | None = None
    """Of an error: why."""

    @property
    def is_error(self) -> bool:
        return self.refusal is not None

    @property
    def cause(self) -> str:
        """The value of the refusal; empty where it is none."""
        return self.refusal.value if self.refusal is not None else ""


@dataclass(frozen=True, slots=True)
class Dropped:
    reason: DropReason


@dataclass(frozen=True, slots=True)
class Io:
    """A checked request for the medium; `taskfile` is what the reply echoes."""

    op: Op
    sector: int
    sectors: int
    taskfile: Taskfile


@dataclass(frozen=True, slots=True)
class TargetState:
    """What initiators have set, and what survives a restart."""

    config_string: bytes = b""
    mask: access.MacList = ()
    reserved: access.MacList = ()
    smart_enabled: bool = True
    smart_logs: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """Store `state` durably, put it in force, finish what others had started (`fence`), and only
    then send `frame`."""

    state: TargetState
    frame: bytes
    fence: bool = False


Outcome: TypeAlias = Reply | Dropped | Io | Change


@dataclass(frozen=True, slots=True)
class Settings:
    """What the administrator decides of a target."""

    shelf: int
    slot: int
    serial: str
    model: str
    firmware: str
    buffer_count: int
    read_only: bool = False
    write_cache: bool = False
    accept: Rules = EVERYBODY
    deny: Rules = EVERYBODY
    discover: Rules = EVERYBODY
    read: Rules = EVERYBODY
    write: Rules = EVERYBODY
    change: Rules = EVERYBODY


class Target:
    """The semantic machine of one shelf.slot.

    `size_sectors` is None while the backing store is not usable; `mtu_bytes_min` is the smallest
    MTU of the links that serve it, which bounds the lists; `is_failing` answers SMART.
    """

    def __init__(self, settings: Settings, state: TargetState | None = None) -> None:
        self.settings = settings
        self.state = state or TargetState()
        self.size_sectors: int | None = None
        self.physical_sector_bytes = SECTOR_BYTES
        self.mtu_bytes_min = 1500
        self.is_failing = False
        self._identify: tuple[object, bytes] = (None, b"")

    # --- addressing and admission ----------------------------------------------------------

    def is_addressed(self, shelf: int, slot: int) -> bool:
        """Shelf and slot match independently, each by value or wildcard."""
        return shelf in (self.settings.shelf, SHELF_ANY) and slot in (self.settings.slot, SLOT_ANY)

    def permits(self, source: bytes, operation: Operation) -> bool:
        """Whether `source` may do `operation` now."""
        return self._refusing(CHECKS[operation], source) is None

    def explain(self, source: bytes, operation: Operation) -> list[Finding]:
        """What each check of `operation` finds, up to the one that refuses."""
        findings = []
        refusing = self._refusing(CHECKS[operation], source)
        for check in CHECKS[operation]:
            is_last = check is refusing
            findings.append(Finding(check.name, not is_last, check.rule(self, source)))
            if is_last:
                break
        return findings

    def _refusing(self, checks: tuple[Check, ...], source: bytes) -> Check | None:
        """The first of `checks` that refuses `source`."""
        for check in checks:
            if check.refuses(self, source):
                return check
        return None

    def is_locked_out(self, source: bytes) -> bool:
        """Another host holds the reservation."""
        return bool(self.state.reserved) and source not in self.state.reserved

    def receive(self, header: Header, frame: Buffer, path: Path) -> Outcome:
        """The outcome of one request addressed to this target.

        `header` is the unpacked header of `frame` (everything from the destination address on);
        response flag, source and address were checked by the caller. The order of checks: access
        list, mask list, `discover` where the operation is not permitted without it, version,
        command, argument, the operation's list, and what the command needs.
        """
        refusing = self._refusing(_ADMISSION, header.source)
        if refusing is not None:
            is_mask = refusing is _MASK
            return Dropped(DropReason.MASK_LIST if is_mask else DropReason.ACCESS_LIST)
        handle, argument_bytes = _HANDLERS.get(header.command, (None, HEADER_BYTES))
        is_known = header.version == VERSION and handle is not None
        is_whole = is_known and len(frame) >= argument_bytes
        operation = operation_of(header.command, frame) if is_whole else Operation.DISCOVER
        is_permitted = self._refusing(_LISTS[operation], header.source) is None
        if not is_permitted and _DISCOVER.refuses(self, header.source):
            # For a host that may not discover the target it is not there.
            return Dropped(DropReason.DISCOVER_LIST)
        if header.version != VERSION:
            return Reply(padded(self._respond(header, path, Error.VERSION)), Refusal.VERSION)
        if handle is None:
            reply = padded(self._respond(header, path, Error.COMMAND))
            return Reply(reply, Refusal.COMMAND)
        if not is_whole:
            reply = padded(self._respond(header, path, Error.ARGUMENT))
            return Reply(reply, Refusal.SHORT_ARGUMENT)
        if not is_permitted:
            return self._not_permitted(header, frame, path, _REFUSAL_OF[operation])
        outcome = handle(self, header, frame, path)
        frame_bytes_max = path.mtu_bytes + ETHERNET_BYTES
        if isinstance(outcome, Reply | Change) and len(outcome.frame) > frame_bytes_max:
            # A list from the days of a larger MTU: what cannot be answered changes nothing.
            return Dropped(DropReason.MTU)
        return outcome

    def _not_permitted(self, header: Header, frame: Buffer, path: Path, refusal: Refusal) -> Reply:
        """Such a refusal lasts, and hosts give an ATA error to their users at once."""
        if header.command != Command.ATA:
            return self._error(header, frame, path, Error.ARGUMENT, refusal)
        return self._refuse(header, unpack_taskfile(frame), path, refusal)

    # --- replies ---------------------------------------------------------------------------

    def _respond(self, header: Header, path: Path, error: Error | None = None) -> bytes:
        return pack_response(header, path.mac, self.settings.shelf, self.settings.slot, error)

    def _error(
        self,
        header: Header,
        frame: Buffer,
        path: Path,
        error: Error,
        refusal: Refusal | None = None,
    ) -> Reply:
        """An AoE error keeps the request's argument, without its data and what counts them: strict
        readers take a reply that counts what it does not carry for one that was cut off."""
        match header.command:
            case Command.ATA:
                file = unpack_taskfile(frame)
                argument = pack_taskfile(
                    file.aflags, file.feature, file.sectors, file.command, file.lba
                )
            case Command.CONFIG:
                ccmd = frame[HEADER_BYTES + 5] & 0x0F
                argument = self._config_argument(path, ccmd, self.state.config_string)
            case Command.MASK:
                argument = access.pack_mask(frame[HEADER_BYTES + 1])
            case _:
                argument = access.pack_reserve(frame[HEADER_BYTES])
        reply = padded(self._respond(header, path, error) + argument)
        return Reply(reply, refusal or _REFUSAL_OF_ERROR[error])

    def ata_head(
        self,
        header: Header,
        taskfile: Taskfile,
        path: Path,
        *,
        error: int = 0,
        count: int = 0,
        lba: bytes | None = None,
    ) -> bytes:
        """The 36 bytes of an ATA reply; success where `error` is 0."""
        argument = pack_taskfile(
            taskfile.aflags,
            error,
            count,
            ata.STATUS_ERROR if error else ata.STATUS_OK,
            taskfile.lba if lba is None else lba,
        )
        return self._respond(header, path) + argument

    def _ata_reply(
        self,
        header: Header,
        taskfile: Taskfile,
        path: Path,
        *,
        count: int = 0,
        lba: bytes | None = None,
        data: bytes = b"",
    ) -> Reply:
        return Reply(padded(self.ata_head(header, taskfile, path, count=count, lba=lba) + data))

    def _refuse(
        self,
        header: Header,
        taskfile: Taskfile,
        path: Path,
        refusal: Refusal,
        error: int = AtaError.ABRT,
        count: int | None = None,
    ) -> Reply:
        """A refusal that lasts: an ATA error, with the request's count unless another is given. To
        SMART it carries a sector, as success does: aoeping says nothing about less."""
        count = taskfile.sectors if count is None else count
        head = self.ata_head(header, taskfile, path, error=error, count=count)
        data = bytes(SECTOR_BYTES) if taskfile.command == Opcode.SMART else b""
        return Reply(padded(head + data), refusal)

    def io_failure(self, header: Header, io: Io, path: Path, error: int) -> Reply:
        """The reply to a request whose transfer failed with ATA error register `error`."""
        return self._refuse(header, io.taskfile, path, Refusal.STORE_FAILED, error)

    def unfit_read(self, header: Header, frame: Buffer, path: Path) -> Reply:
        """The reply to a read for which no frame has had room for too long."""
        return self._refuse(header, unpack_taskfile(frame), path, Refusal.MTU)

    def io_unavailable(self, header: Header, frame: Buffer, path: Path) -> Reply:
        """The reply while the backing store is not usable: hosts wait and ask again."""
        return self._error(header, frame, path, Error.UNAVAILABLE)

    # --- command 0: ATA --------------------------------------------------------------------

    def _receive_ata(self, header: Header, frame: Buffer, path: Path) -> Outcome:
        taskfile = unpack_taskfile(frame)
        opcode = taskfile.command
        if opcode != Opcode.IDENTIFY_DEVICE and _RESERVATION.refuses(self, header.source):
            return self._error(header, frame, path, Error.RESERVED)
        if _STORE.refuses(self, header.source):
            return self._error(header, frame, path, Error.UNAVAILABLE)
        op = ata.OP_OF_OPCODE.get(opcode)
        if op is None:
            return self._no_transfer(header, frame, taskfile, path)
        if op is Op.FLUSH:
            return Io(Op.FLUSH, 0, 0, taskfile)
        return self._transfer(op, header, taskfile, path, len(frame))

    def _transfer(
        self, op: Op, header: Header, taskfile: Taskfile, path: Path, frame_bytes: int
    ) -> Outcome:
        def abort(refusal: Refusal, error: AtaError = AtaError.ABRT) -> Reply:
            return self._refuse(header, taskfile, path, refusal, error)

        count = taskfile.sectors
        assert self.size_sectors is not None
        if not 1 <= count <= SECTORS_PER_FRAME_MAX:
            return abort(Refusal.SECTOR_COUNT if count else Refusal.NO_SECTORS)
        if op is Op.READ and count > sectors_that_fit(path.mtu_bytes):
            # Initiators learned of a larger MTU from us: `unfit_read` is for what stays hopeless.
            if count <= path.sectors_offered_max:
                return Dropped(DropReason.MTU)
            return abort(Refusal.SECTOR_COUNT)
        if op is Op.WRITE and frame_bytes < ATA_HEADER_BYTES + count * SECTOR_BYTES:
            return abort(Refusal.SHORT_DATA)
        sector = ata.lba_sector(taskfile.command, taskfile.lba)
        if sector + count > self.size_sectors:
            return abort(Refusal.BEYOND_END, AtaError.IDNF)
        if op is Op.WRITE and _READ_ONLY.refuses(self, header.source):
            return abort(Refusal.READ_ONLY)
        if op is Op.WRITE and header.is_wildcard:
            return abort(Refusal.WILDCARD_WRITE)
        return Io(op, sector, count, taskfile)

    def _no_transfer(
        self, header: Header, frame: Buffer, taskfile: Taskfile, path: Path
    ) -> Outcome:
        opcode = taskfile.command
        if opcode == Opcode.IDENTIFY_DEVICE and taskfile.sectors <= 1:
            return self._ata_reply(header, taskfile, path, data=self.identify_page())
        if opcode == Opcode.CHECK_POWER_MODE:
            return self._ata_reply(header, taskfile, path, count=ata.POWER_MODE_ACTIVE)
        if opcode == Opcode.SET_FEATURES and taskfile.feature in ata.FEATURES_ACCEPTED:
            return self._ata_reply(header, taskfile, path)
        if opcode in ata.POWER_NO_OPS:
            return self._ata_reply(header, taskfile, path)
        if opcode == Opcode.SMART:
            return self._smart(header, frame, taskfile, path)
        return self._refuse(header, taskfile, path, Refusal.OPCODE, count=0)

    def identify_page(self) -> bytes:
        """IDENTIFY now; hosts ask by the hundred after a broadcast, so the page is kept."""
        settings = self.settings
        identity = ata.Identity(
            serial=settings.serial,
            model=settings.model,
            firmware=settings.firmware,
            write_cache=settings.write_cache,
            smart_enabled=self.state.smart_enabled,
            physical_sector_bytes=self.physical_sector_bytes,
        )
        key = (identity, self.size_sectors)
        if self._identify[0] != key:
            self._identify = (key, ata.identify_page(identity, self.size_sectors or 0))
        return self._identify[1]

    def _smart(self, header: Header, frame: Buffer, taskfile: Taskfile, path: Path) -> Outcome:
        """Every success carries a sector of data, wanted or not: aoeping calls less a failure."""
        log = taskfile.lba[0]
        lba = taskfile.lba
        state = self.state
        page: bytes | None = bytes(SECTOR_BYTES)
        if lba[1:3] != ata.SMART_KEY:
            page = None
        elif taskfile.feature in (ata.Smart.ENABLE, ata.Smart.DISABLE):
            state = replace(state, smart_enabled=taskfile.feature == ata.Smart.ENABLE)
        elif not state.smart_enabled:
            page = None
        elif taskfile.feature == ata.Smart.READ_DATA:
            page = ata.smart_data_page()
        elif taskfile.feature == ata.Smart.READ_LOG and taskfile.sectors == 1:
            page = ata.smart_log_page(log, state.smart_logs)
        elif taskfile.feature == ata.Smart.RETURN_STATUS:
            key = ata.SMART_KEY_FAILING if self.is_failing else ata.SMART_KEY
            lba = lba[:1] + key + lba[3:]
        elif taskfile.feature == ata.Smart.WRITE_LOG and taskfile.sectors == 1:
            data = bytes(frame[ATA_HEADER_BYTES : ATA_HEADER_BYTES + SECTOR_BYTES])
            if log in ata.SMART_HOST_LOGS and len(data) == SECTOR_BYTES:
                state = replace(state, smart_logs={**state.smart_logs, log: data})
            else:
                page = None
        elif taskfile.feature != ata.Smart.OFFLINE_IMMEDIATE or log != 0:
            page = None
        if page is None or (state is not self.state and header.is_wildcard):
            return self._refuse(header, taskfile, path, Refusal.SMART, count=0)
        reply = self._ata_reply(header, taskfile, path, lba=lba, data=page)
        return reply if state == self.state else Change(state, reply.frame)

    # --- command 1: config -----------------------------------------------------------------

    def _config_argument(self, path: Path, ccmd: int, text: bytes) -> bytes:
        return query.pack_config(
            ccmd,
            text,
            buffer_count=self.settings.buffer_count,
            firmware=FIRMWARE_VERSION,
            sectors=sectors_advertised(path.mtu_bytes),
        )

    def advertisement(self, destination: bytes, path: Path) -> bytes:
        """An unsolicited config response to `destination`, by the link `path`."""
        head = pack_advertisement(destination, path.mac, self.settings.shelf, self.settings.slot)
        return padded(head + self._config_argument(path, query.Ccmd.READ, self.state.config_string))

    def _receive_config(self, header: Header, frame: Buffer, path: Path) -> Outcome:
        argument = query.unpack_config(frame)
        if argument is None:
            return self._error(header, frame, path, Error.ARGUMENT)
        current = self.state.config_string
        answer = query.evaluate(argument.ccmd, argument.text, current)
        if answer is None or (answer is query.Answer.STORE and header.is_wildcard):
            return self._error(header, frame, path, Error.ARGUMENT)
        if answer is query.Answer.SILENCE:
            return Dropped(DropReason.CONFIG_MISMATCH)
        error = Error.CONFIG_PRESENT if answer is query.Answer.PRESENT else None
        text = argument.text if answer is query.Answer.STORE else current
        reply = padded(
            self._respond(header, path, error) + self._config_argument(path, argument.ccmd, text)
        )
        if answer is query.Answer.STORE:
            return Change(replace(self.state, config_string=text), reply)
        return Reply(reply, None if error is None else _REFUSAL_OF_ERROR[error])

    # --- commands 2 and 3: access ----------------------------------------------------------

    def _receive_mask(self, header: Header, frame: Buffer, path: Path) -> Outcome:
        argument = access.unpack_mask(frame)
        if argument is None or argument.mcmd not in (access.Mcmd.READ, access.Mcmd.EDIT):
            return self._error(header, frame, path, Error.ARGUMENT)
        macs, error, index = self.state.mask, access.MaskError.NONE, 0
        if argument.mcmd == access.Mcmd.EDIT:
            if header.is_wildcard:
                return self._error(header, frame, path, Error.ARGUMENT)
            entries_max = access.mask_entries_max(min(path.mtu_bytes, self.mtu_bytes_min))
            macs, error, index = access.edit_mask(macs, argument.directives, entries_max)
        if error:
            body = access.pack_mask_error(argument.mcmd, error, index)
        else:
            body = access.pack_mask_list(argument.mcmd, macs)
        reply = padded(self._respond(header, path) + body)
        if macs != self.state.mask:
            return Change(replace(self.state, mask=macs), reply)
        return Reply(reply, Refusal.MASK_EDIT if error else None)

    def _receive_reserve(self, header: Header, frame: Buffer, path: Path) -> Outcome:
        argument = access.unpack_reserve(frame)
        if argument is None or argument.rcmd not in tuple(access.Rcmd):
            return self._error(header, frame, path, Error.ARGUMENT)
        macs = self.state.reserved
        if argument.rcmd != access.Rcmd.READ:
            entries_max = access.reserve_entries_max(min(path.mtu_bytes, self.mtu_bytes_min))
            if header.is_wildcard or len(argument.macs) > entries_max:
                return self._error(header, frame, path, Error.ARGUMENT)
            is_held = argument.rcmd == access.Rcmd.SET and self.is_locked_out(header.source)
            # A host may reserve for others only; its retransmission finds the list it has set.
            if is_held and argument.macs != macs:
                return self._error(header, frame, path, Error.RESERVED)
            macs = argument.macs
        reply = padded(self._respond(header, path) + access.pack_reserve(argument.rcmd, macs))
        if argument.rcmd == access.Rcmd.READ:
            return Reply(reply)
        # Also an unchanged set is fenced: its first reply may have been lost before the fence held.
        return Change(replace(self.state, reserved=macs), reply, fence=True)


_Handler: TypeAlias = Callable[[Target, Header, Buffer, Path], Outcome]
_HANDLERS: dict[int, tuple[_Handler, int]] = {
    Command.ATA: (Target._receive_ata, ATA_HEADER_BYTES),
    Command.CONFIG: (Target._receive_config, CONFIG_HEADER_BYTES),
    Command.MASK: (Target._receive_mask, MASK_HEADER_BYTES),
    Command.RESERVE: (Target._receive_reserve, RESERVE_HEADER_BYTES),
}


@dataclass(frozen=True, slots=True)
class Check:
    """What can keep a host from an operation; `rule` is what it goes by for that host."""

    name: str
    refuses: Callable[[Target, bytes], bool]
    rule: Callable[[Target, bytes], str | None]


def _list(name: str) -> Check:
    """That of an access list of the settings."""
    rules = attrgetter(f"settings.{name}")
    return Check(
        name,
        lambda target, mac: not rules(target).permits(mac),
        lambda target, mac: rules(target).reason(mac),
    )


def _entry(mac: bytes, macs: access.MacList, otherwise: str) -> str | None:
    if not macs:
        return None
    return format_mac(mac) if mac in macs else otherwise


_MASK = Check(
    "mask list",
    lambda target, mac: bool(target.state.mask) and mac not in target.state.mask,
    lambda target, mac: _entry(mac, target.state.mask, "not in the list"),
)
_RESERVATION = Check(
    "reservation",
    Target.is_locked_out,
    lambda target, mac: _entry(
        mac, target.state.reserved, ", ".join(map(format_mac, target.state.reserved))
    ),
)
_STORE = Check(
    "store",
    lambda target, _: target.size_sectors is None,
    lambda target, _: "not usable" if target.size_sectors is None else None,
)
_READ_ONLY = Check(
    "read-only",
    lambda target, _: target.settings.read_only,
    lambda target, _: "yes" if target.settings.read_only else None,
)
_PARTLY_RESERVED = Check(
    "reservation",
    lambda *_: False,
    lambda target, mac: (
        f"held by {_RESERVATION.rule(target, mac)}: no SMART, and no reservation but by force"
        if _RESERVATION.refuses(target, mac)
        else None
    ),
)
"""Of what is a change, a reservation for others keeps a host from a part."""
_LIST_OF = {operation: _list(operation.value) for operation in Operation}
_DISCOVER = _LIST_OF[Operation.DISCOVER]
_LISTS = {
    Operation.DISCOVER: (_DISCOVER,),
    Operation.READ: (_LIST_OF[Operation.READ],),
    Operation.WRITE: (_LIST_OF[Operation.WRITE],),
    Operation.CHANGE: (_DISCOVER, _LIST_OF[Operation.CHANGE]),
}
_REFUSAL_OF = {
    Operation.READ: Refusal.READ_LIST,
    Operation.WRITE: Refusal.WRITE_LIST,
    Operation.CHANGE: Refusal.CHANGE_LIST,
}
"""Whoever may not discover a target gets no reply."""
_ADMISSION = (_list("accept"), _list("deny"), _MASK)
CHECKS: dict[Operation, tuple[Check, ...]] = {
    operation: (*_ADMISSION, *_LISTS[operation], *others)
    for operation, others in (
        (Operation.DISCOVER, ()),
        (Operation.READ, (_RESERVATION, _STORE)),
        (Operation.WRITE, (_RESERVATION, _STORE, _READ_ONLY)),
        (Operation.CHANGE, (_PARTLY_RESERVED,)),
    )
}
"""What a host has to pass that wants to do something, in this order."""
