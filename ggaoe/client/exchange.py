"""What the initiator's requests are about: the frame to send, and what counts as its answer.

Sans-I/O. An exchange takes its reply, or declines it as malformed, whatever bytes a peer sends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ggaoe.client.errors import AtaCommandError, RefusedError
from ggaoe.client.window import Request
from ggaoe.errors import ClientError
from ggaoe.net.link import Frame
from ggaoe.proto.ata import AFLAG_EXTENDED, AFLAG_WRITE, LBA28, OP_OF_OPCODE, Op, Status
from ggaoe.proto.frame import (
    ATA_HEADER_BYTES,
    CONFIG_HEADER_BYTES,
    FRAME_BYTES_MIN,
    MASK_HEADER_BYTES,
    RESERVE_HEADER_BYTES,
    SECTOR_BYTES,
    Command,
    Header,
    Taskfile,
    pack_request,
    pack_taskfile,
    unpack_taskfile,
)

if TYPE_CHECKING:
    from ggaoe.client.port import Path

_FAILED = Status.BSY | Status.DF | Status.DRQ | Status.ERR
_LBA_MODE = 0xE0
"""Top of lba3 in 28-bit commands, as ATA's device register had it."""
_HEADER_BYTES = {
    Command.ATA: ATA_HEADER_BYTES,
    Command.CONFIG: CONFIG_HEADER_BYTES,
    Command.MASK: MASK_HEADER_BYTES,
    Command.RESERVE: RESERVE_HEADER_BYTES,
}


def _ignore(_: ClientError | None) -> None:
    pass


class Exchange(Request):
    """A request with its answer: `reply` is the whole frame, `error` what went wrong instead.

    `settle` is called once, when it is answered or given up.
    """

    __slots__ = ("argument", "command", "data", "error", "frame_bytes", "path", "reply", "settle")

    def __init__(
        self,
        command: Command,
        argument: bytes,
        data: memoryview | None = None,
        once_s: float | None = None,
    ) -> None:
        super().__init__(once_s)
        self.command = command
        self.argument = argument
        self.data = data
        self.path: Path | None = None
        """Where given: the only way by which it is sent."""
        self.frame_bytes = FRAME_BYTES_MIN
        """Shorter frames are filled with zeros up to it."""
        self.reply = b""
        self.error: ClientError | None = None
        self.settle: Callable[[ClientError | None], None] = _ignore

    @property
    def sectors(self) -> int:
        """Sectors that travel in one frame, in either direction."""
        return 0 if self.data is None else len(self.data) // SECTOR_BYTES

    def pack(
        self, destination: bytes, source: bytes, shelf: int, slot: int, tag: int
    ) -> list[bytes | memoryview]:
        """The frame as a vector; short ones are padded, as 9front's target demands."""
        head = pack_request(destination, source, shelf, slot, self.command, tag) + self.argument
        return [head.ljust(self.frame_bytes, b"\0")]

    def take_reply(self, device: str, header: Header, frame: Frame) -> bool:
        """Store what `frame` says; False where it cannot be the answer."""
        if len(frame) < _HEADER_BYTES[self.command]:
            return False
        self.reply = bytes(frame)
        if header.is_error:
            self.error = RefusedError(device, header.error)
        return True


class AtaExchange(Exchange):
    """Command 0; `data` is where read data goes, or where data to be written lies."""

    __slots__ = ("is_write", "opcode", "sector", "taskfile")

    def __init__(
        self,
        opcode: int,
        sector: int = 0,
        count: int = 0,
        data: memoryview | None = None,
        *,
        is_write: bool = False,
        feature: int = 0,
    ) -> None:
        self.opcode = opcode
        self.sector = sector
        self.is_write = is_write
        self.taskfile: Taskfile | None = None
        """The reply's registers."""
        lba = bytearray(sector.to_bytes(6, "little"))
        aflags = AFLAG_WRITE if is_write else 0
        if opcode in LBA28:
            lba[3] |= _LBA_MODE
        elif OP_OF_OPCODE.get(opcode, Op.FLUSH) != Op.FLUSH:
            aflags |= AFLAG_EXTENDED
        argument = pack_taskfile(aflags, feature, count, opcode, bytes(lba))
        super().__init__(Command.ATA, argument, data)

    def pack(
        self, destination: bytes, source: bytes, shelf: int, slot: int, tag: int
    ) -> list[bytes | memoryview]:
        if not self.is_write or self.data is None:
            return super().pack(destination, source, shelf, slot, tag)
        head = pack_request(destination, source, shelf, slot, Command.ATA, tag) + self.argument
        return [head, self.data]

    def take_reply(self, device: str, header: Header, frame: Frame) -> bool:
        if len(frame.head) < ATA_HEADER_BYTES:
            return False
        taskfile = unpack_taskfile(frame.head)
        if header.is_error:
            self.error = RefusedError(device, header.error)
        elif taskfile.command & _FAILED:
            self.error = AtaCommandError(
                device, self.opcode, self.sector, taskfile.command, taskfile.feature
            )
        elif self.data is not None and not self.is_write:
            if len(frame.payload) < len(self.data):
                return False
            self.data[:] = frame.payload[: len(self.data)]
        self.taskfile = taskfile
        return True
