"""One remote disk: its commands, split into frames, sent over its paths until answered.

Owns the paths, the window and the timer of one shelf.slot. Must not know: interfaces, discovery.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ggaoe.client.errors import MaskEditError, NoAnswerError
from ggaoe.client.exchange import AtaExchange, Exchange
from ggaoe.client.identity import RemoteIdentity, parse_identify
from ggaoe.client.port import Path, Port, Vector
from ggaoe.client.window import Timing, Window
from ggaoe.errors import ClientError
from ggaoe.net.link import Frame
from ggaoe.proto import access
from ggaoe.proto.ata import LBA28_SECTORS_MAX, SMART_KEY, Opcode
from ggaoe.proto.frame import SECTOR_BYTES, SECTORS_PER_FRAME_MAX, Command, Header
from ggaoe.proto.query import Ccmd, ConfigArgument, pack_config, unpack_config
from ggaoe.units import counted, format_mac

SILENCE_S = 1.0
"""How long a target that stays silent is listened to, where silence is an answer."""


@dataclass(frozen=True, slots=True)
class AtaReply:
    """The registers and data of a successful ATA command."""

    status: int
    error: int
    sectors: int
    """The count register: CHECK POWER MODE's answer, for one."""
    lba: bytes
    data: bytes


@dataclass(slots=True)
class DeviceCounters:
    """What the device's requests met."""

    sent: int = 0
    resent: int = 0
    answered: int = 0
    late: int = 0
    """Replies to no request of ours, or to one already answered."""
    malformed: int = 0


class _Batch:
    """Exchanges awaited together: `future` is done when all are answered or one has failed."""

    __slots__ = ("future", "left")

    def __init__(self, future: asyncio.Future[None], count: int) -> None:
        self.future = future
        self.left = count

    def settle(self, error: ClientError | None) -> None:
        self.left -= 1
        if not self.future.done():
            if error is not None:
                self.future.set_exception(error)
            elif self.left == 0:
                self.future.set_result(None)


class RemoteDevice:
    """A disk at `shelf`.`slot`. Methods raise NoAnswerError, RefusedError or, for ATA commands,
    AtaCommandError; any number may run at once. A cancelled write may still take effect.

    Made by `Initiator.open`. `paths` are used in turn, and another one for each further copy.
    """

    def __init__(
        self,
        shelf: int,
        slot: int,
        loop: asyncio.AbstractEventLoop,
        next_tag: Callable[[], int],
        timing: Timing,
        is_multipath: bool,
    ) -> None:
        self.shelf = shelf
        self.slot = slot
        self.name = f"e{shelf}.{slot}"
        self.paths: list[Path] = []
        self.counters = DeviceCounters()
        self.is_multipath = is_multipath
        self.is_closed = False
        self._loop = loop
        self._window: Window[Exchange] = Window(timing, next_tag)
        self._batches: set[_Batch] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self._turn = itertools.count()
        self._identity: RemoteIdentity | None = None

    # --- ATA -------------------------------------------------------------------------------

    async def identify(self) -> RemoteIdentity:
        """IDENTIFY DEVICE, asked anew each time."""
        reply = await self.ata(Opcode.IDENTIFY_DEVICE, count=1, read_bytes=SECTOR_BYTES)
        self._identity = parse_identify(reply.data)
        return self._identity

    async def read(self, sector: int, sectors: int) -> bytearray:
        """`sectors` sectors from `sector` on, in as many frames as it takes."""
        data = bytearray(sectors * SECTOR_BYTES)
        opcode = await self._opcode(Opcode.READ_SECTORS_EXT, Opcode.READ_SECTORS, sector + sectors)
        await self._run(self._split(opcode, sector, memoryview(data), is_write=False))
        return data

    async def write(self, sector: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data`, whole sectors, from `sector` on. The frames of one call may take effect in
        any order, and some of them although the call fails."""
        if len(data) % SECTOR_BYTES:
            raise ValueError(f"no whole number of sectors: {counted(len(data), 'byte')}")
        end = sector + len(data) // SECTOR_BYTES
        opcode = await self._opcode(Opcode.WRITE_SECTORS_EXT, Opcode.WRITE_SECTORS, end)
        await self._run(self._split(opcode, sector, memoryview(data), is_write=True))

    async def verify(self, sector: int, sectors: int) -> None:
        """READ VERIFY: read on the target's side, without transfer."""
        opcode = await self._opcode(Opcode.READ_VERIFY_EXT, Opcode.READ_VERIFY, sector + sectors)
        await self._run(
            [
                AtaExchange(opcode, at, min(SECTORS_PER_FRAME_MAX, sector + sectors - at))
                for at in range(sector, sector + sectors, SECTORS_PER_FRAME_MAX)
            ]
        )

    async def flush(self) -> None:
        """FLUSH CACHE in the form that the disk claims to have."""
        identity = self._identity or await self.identify()
        is_old = identity.flush and not identity.flush_ext
        await self.ata(Opcode.FLUSH_CACHE if is_old else Opcode.FLUSH_CACHE_EXT)

    async def check_power_mode(self) -> int:
        """0xFF where the disk is active or idle."""
        return (await self.ata(Opcode.CHECK_POWER_MODE)).sectors

    async def smart(
        self, feature: int, log: int = 0, count: int = 0, read_bytes: int = 0, data: bytes = b""
    ) -> AtaReply:
        """SMART subcommand `feature`; `data` makes it a write."""
        sector = log | int.from_bytes(SMART_KEY, "little") << 8
        return await self.ata(Opcode.SMART, sector, count, feature, read_bytes, data)

    async def ata(
        self,
        opcode: int,
        sector: int = 0,
        count: int = 0,
        feature: int = 0,
        read_bytes: int = 0,
        data: bytes = b"",
    ) -> AtaReply:
        """Any ATA command of one frame: `data` travels to the disk, or else `read_bytes` of data
        are expected from it."""
        view = memoryview(data if data else bytearray(read_bytes))
        exchange = AtaExchange(
            opcode, sector, count, view or None, is_write=bool(data), feature=feature
        )
        await self._run([exchange])
        registers = exchange.taskfile
        assert registers is not None
        received = b"" if data else bytes(view)
        return AtaReply(
            registers.command, registers.feature, registers.sectors, registers.lba, received
        )

    # --- config, mask, reservation -----------------------------------------------------------

    async def query(
        self, ccmd: int = Ccmd.READ, text: bytes = b"", silence_s: float = SILENCE_S
    ) -> ConfigArgument | None:
        """Command 1. None where a test found no match, which targets tell by `silence_s` seconds of
        silence; an occupied string refuses SET with code CONFIG_PRESENT."""
        exchange = Exchange(Command.CONFIG, pack_config(ccmd, text))
        if ccmd not in (Ccmd.TEST, Ccmd.PREFIX):
            await self._run([exchange])
        else:
            try:
                async with asyncio.timeout(silence_s):
                    await self._run([exchange])
            except TimeoutError:
                return None
        return unpack_config(exchange.reply)

    async def ping(self, timeout_s: float = SILENCE_S) -> float:
        """Seconds until a single config query was answered; it is not repeated."""
        exchange = Exchange(Command.CONFIG, pack_config(Ccmd.READ), once_s=timeout_s)
        await self._run([exchange])
        return time.monotonic() - exchange.sent_s

    async def probe_outward(self, path: Path, frame_bytes: int, timeout_s: float) -> bool:
        """Whether a frame of `frame_bytes` gets to the target by `path`: IDENTIFY, filled with
        zeros, which targets leave alone. It is sent once."""
        page = memoryview(bytearray(SECTOR_BYTES))
        exchange = AtaExchange(Opcode.IDENTIFY_DEVICE, count=1, data=page)
        exchange.frame_bytes = frame_bytes
        return await self._probe(exchange, path, timeout_s)

    async def probe_inward(self, path: Path, sectors: int, timeout_s: float) -> bool:
        """Whether a reply with `sectors` sectors, the first ones of the disk, comes back by `path`;
        the request is sent once."""
        opcode = await self._opcode(Opcode.READ_SECTORS_EXT, Opcode.READ_SECTORS, sectors)
        data = memoryview(bytearray(sectors * SECTOR_BYTES))
        return await self._probe(AtaExchange(opcode, 0, sectors, data), path, timeout_s)

    async def _probe(self, exchange: AtaExchange, path: Path, timeout_s: float) -> bool:
        exchange.path = path
        exchange.once_s = timeout_s
        try:
            await self._run([exchange])
        except NoAnswerError:
            return False
        return True

    async def read_mask(self) -> access.MacList:
        """The MAC mask list: who may talk to the target; empty means everybody."""
        return await self._mask(access.Mcmd.READ, ())

    async def edit_mask(self, directives: Sequence[tuple[int, bytes]]) -> access.MacList:
        """Apply (dcmd, MAC) in order; the new list. MaskEditError at the first failure."""
        edits = tuple(access.Directive(dcmd, mac) for dcmd, mac in directives)
        return await self._mask(access.Mcmd.EDIT, edits)

    async def _mask(
        self, mcmd: access.Mcmd, directives: tuple[access.Directive, ...]
    ) -> access.MacList:
        exchange = Exchange(Command.MASK, access.pack_mask(mcmd, directives))
        await self._run([exchange])
        argument = access.unpack_mask(exchange.reply)
        if argument is None:
            raise ClientError(f"{self.name}: the mask list is longer than the reply")
        if argument.error:
            raise MaskEditError(self.name, argument.error, argument.entries)
        return tuple(directive.mac for directive in argument.directives)

    async def read_reservation(self) -> access.MacList:
        """The MACs that hold the reservation; empty means nobody."""
        return await self._reserve(access.Rcmd.READ, ())

    async def reserve(self, macs: Sequence[bytes], *, force: bool = False) -> access.MacList:
        """Make `macs` the holders; none of them releases."""
        return await self._reserve(access.Rcmd.FORCE if force else access.Rcmd.SET, tuple(macs))

    async def _reserve(self, rcmd: access.Rcmd, macs: access.MacList) -> access.MacList:
        exchange = Exchange(Command.RESERVE, access.pack_reserve(rcmd, macs))
        await self._run([exchange])
        argument = access.unpack_reserve(exchange.reply)
        if argument is None:
            raise ClientError(f"{self.name}: the reservation is longer than the reply")
        return argument.macs

    # --- what the initiator tells ------------------------------------------------------------

    def learn_path(self, port: Port, mac: bytes, config: ConfigArgument) -> None:
        """A config reply came by this way."""
        path = next((known for known in self.paths if (known.port, known.mac) == (port, mac)), None)
        if path is None:
            if self.paths and not self.is_multipath:
                return
            path = Path(port, mac, 0, 0)
            self.paths.append(path)
        path.learn(config.buffer_count, config.sectors)
        self._window.offer(min(known.buffer_count for known in self.paths))

    def receive(self, header: Header, frame: Frame) -> None:
        """A reply from our address."""
        exchange = self._window.find(header.tag)
        if exchange is None or exchange.command != header.command:
            self.counters.late += 1
            return
        if not exchange.take_reply(self.name, header, frame):
            self.counters.malformed += 1
            return
        self.counters.answered += 1
        self._window.answered(header.tag, time.monotonic())
        exchange.settle(exchange.error)
        self._pump()

    def close(self) -> None:
        """Whatever is under way fails."""
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for batch in self._batches:
            batch.settle(ClientError(f"{self.name} was closed"))

    # --- frames ------------------------------------------------------------------------------

    async def _opcode(self, wide: Opcode, narrow: Opcode, end_sector: int) -> Opcode:
        identity = self._identity or await self.identify()
        if identity.lba48:
            return wide
        if end_sector > LBA28_SECTORS_MAX:
            raise ClientError(f"{self.name} has 28-bit addresses: no sector {end_sector - 1}")
        return narrow

    def _split(
        self, opcode: int, sector: int, data: memoryview, *, is_write: bool
    ) -> list[Exchange]:
        frame_bytes = min(path.sectors_max for path in self.paths) * SECTOR_BYTES
        exchanges: list[Exchange] = []
        for at in range(0, len(data), frame_bytes):
            part = data[at : at + frame_bytes]
            count = len(part) // SECTOR_BYTES
            where = sector + at // SECTOR_BYTES
            exchanges.append(AtaExchange(opcode, where, count, part, is_write=is_write))
        return exchanges

    async def _run(self, exchanges: Sequence[Exchange]) -> None:
        if self.is_closed:
            raise ClientError(f"{self.name} was closed")
        if not exchanges:
            return
        batch = _Batch(self._loop.create_future(), len(exchanges))
        for exchange in exchanges:
            exchange.settle = batch.settle
            self._window.submit(exchange)
        self._batches.add(batch)
        self._pump()
        try:
            await batch.future
        finally:
            self._batches.discard(batch)
            if batch.left:
                for exchange in exchanges:
                    self._window.withdraw(exchange)
                self._pump()

    def _pump(self) -> None:
        """Send what the window lets through, and arm the timer for what will be overdue."""
        if self.is_closed:
            return
        now_s = time.monotonic()
        vectors: dict[Port, list[Vector]] = defaultdict(list)
        for tag, exchange in self._window.take(now_s):
            path = exchange.path or self._path(exchange.sectors)
            source = path.port.link.mac
            vectors[path.port].append(exchange.pack(path.mac, source, self.shelf, self.slot, tag))
            self.counters.sent += 1
            self.counters.resent += exchange.copies > 1
        for port, batch in vectors.items():
            port.send(batch)
        self._arm()

    def _path(self, sectors: int) -> Path:
        fitting = [path for path in self.paths if path.sectors_max >= sectors] or self.paths
        return fitting[next(self._turn) % len(fitting)]

    def _arm(self) -> None:
        when_s = self._window.next_event_s()
        if self._timer is not None:
            if when_s is not None and self._timer_s <= when_s:
                return  # it wakes early, finds nothing overdue and arms itself again
            self._timer.cancel()
            self._timer = None
        if when_s is not None:
            # Not by the loop's clock: uvloop's stands still during a turn.
            delay_s = max(0.0, when_s - time.monotonic())
            self._timer = self._loop.call_later(delay_s, self._on_timer)
            self._timer_s = when_s

    def _on_timer(self) -> None:
        self._timer = None
        # Nothing is overdue that has merely not been read yet.
        for port in {path.port for path in self.paths}:
            port.receive()
        for exchange in self._window.expire(time.monotonic()):
            exchange.settle(self._no_answer(exchange))
        self._pump()

    def _no_answer(self, exchange: Exchange) -> NoAnswerError:
        ways = ", ".join(f"{path.port.link.name} to {format_mac(path.mac)}" for path in self.paths)
        malformed = f", {self.counters.malformed} malformed" if self.counters.malformed else ""
        return NoAnswerError(
            f"{self.name} does not answer {exchange.command.name} requests:"
            f" {exchange.copies} sent over {ways}{malformed}"
        )
